//! A decoder for the JPEGs that data sets consist of, made to decode a part of them.
//!
//! Sequential, Huffman-coded, 8 bits, gray or YCbCr with chroma of full, half width, half height or both: what
//! cameras and Pillow write. [`Jpeg::parse`] gives `None` for everything else (progressive, arithmetic, CMYK,
//! RGB, broken), and `decode` goes on with the general decoder. A random crop needs a part of the image alone:
//! rows below it are not read, blocks beside it are stepped over without arithmetic.
//!
//! An image may be decoded at 1/2, 1/4 or 1/8 of its size: a sample is then the mean of what it replaces, rounded
//! once, and costs a part of the arithmetic (`kernels::image::jpeg::reduced`); the entropy code is read all the same.
//!
//! The result is that of libjpeg and so of Pillow in every bit, at every scale (`kernels::image::jpeg`; `tests/jpeg.rs`
//! compares). After ITU T.81. `header` reads the markers, `huffman` the entropy code.

mod header;
mod huffman;

use kernels::image::jpeg::reduced::{inverse_dct_2, inverse_dct_4};
use kernels::image::jpeg::{
    between_rows, double_row, inverse_dct, inverse_dct_constant, ycc_to_rgb,
};
use kernels::isa::Isa;

use crate::jpeg::header::{Codes, Component};
use crate::jpeg::huffman::{Bits, Table};
use crate::resize::Region;

/// Pixels that become one, in each direction, when an image is decoded smaller.
pub const SHRINKS: [usize; 4] = [1, 2, 4, 8];

/// The place in natural order of each coefficient in the order of the file (T.81, figure A.6).
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A file that [`Jpeg::parse`] has understood.
#[derive(Debug)]
pub struct Jpeg<'a> {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// The body of the first EXIF segment, from its TIFF header on.
    pub exif: Option<&'a [u8]>,
    components: Vec<Component>,
    quantisation: [[u16; 64]; 4],
    /// Lengths and symbols: DC tables 0 to 3, AC tables 0 to 3.
    codes: [Option<Codes<'a>>; 8],
    restart_interval: usize,
    /// The entropy-coded bytes, and whatever follows them.
    scan: &'a [u8],
}

/// The entropy code is damaged or ends too early.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

impl Jpeg<'_> {
    /// Height and width of the image decoded at 1/`shrink`: what does not fill a pixel is one too.
    #[must_use]
    pub fn size(&self, shrink: usize) -> [usize; 2] {
        [self.height.div_ceil(shrink), self.width.div_ceil(shrink)]
    }

    /// Decodes a part of the image, or of the image at 1/`shrink` of its size, to RGB; gray is repeated.
    ///
    /// Blocks outside are read as far as the code asks and no further: a fault below the region is not seen.
    ///
    /// # Shapes
    /// `region` counts pixels of [`Jpeg::size`]. Fills `rgb` with `[region.height, region.width, 3]`.
    ///
    /// # Errors
    /// [`Damaged`] when the entropy code has no such code or ends too early.
    ///
    /// # Panics
    /// When the region is empty or not inside the image, or `shrink` is none of [`SHRINKS`].
    pub fn decode(
        &self,
        region: Region,
        shrink: usize,
        space: &mut Space,
        rgb: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        assert!(SHRINKS.contains(&shrink), "1/{shrink} of the size: expected one of {SHRINKS:?}");
        let Region { top, left, height, width } = region;
        let [tall, wide] = self.size(shrink);
        assert!(
            height > 0 && width > 0 && top + height <= tall && left + width <= wide,
            "{region:?} is empty or not inside {tall} x {wide} pixels"
        );
        let isa = Isa::chosen();
        space.learn(self)?;
        let layout = self.layout(shrink);
        // MCUs that hold the region and a sample of chroma more on every side.
        let [down, across] = layout.mcu;
        let (h, v) = layout.doubled;
        let wanted = Wanted {
            columns: (
                left.saturating_sub(h) / across,
                (left + width + h).min(wide).div_ceil(across),
            ),
            rows: (top.saturating_sub(v) / down, (top + height + v).min(tall).div_ceil(down)),
            per_row: self.width.div_ceil(8 * self.components[0].h),
        };
        self.blocks(&wanted, &layout, isa, space)?;
        rgb.resize(height * width * 3, 0);
        self.colours(region, &wanted, &layout, isa, space, rgb);
        Ok(())
    }

    /// How samples lie at 1/`shrink` of the size.
    ///
    /// As libjpeg does it: chroma of half height and half width keeps its resolution as long as it can, and nothing
    /// is left to double.
    fn layout(&self, shrink: usize) -> Layout {
        let (h, v) = (self.components[0].h, self.components[0].v);
        let luma = 8 / shrink;
        let mcu = [v * luma, h * luma];
        match (h, v, shrink) {
            (2, 2, 2..) => Layout { luma, chroma: 2 * luma, doubled: (1, 1), mcu },
            _ => Layout { luma, chroma: luma, doubled: (h, v), mcu },
        }
    }

    /// Entropy code to planes of samples.
    fn blocks(
        &self,
        wanted: &Wanted,
        layout: &Layout,
        isa: Isa,
        space: &mut Space,
    ) -> Result<(), Damaged> {
        let Space { tables, planes, .. } = space;
        let across = wanted.columns.1 - wanted.columns.0;
        let down = wanted.rows.1 - wanted.rows.0;
        for (number, component) in self.components.iter().enumerate() {
            // Every sample is written below.
            let block = layout.edge(number) * layout.edge(number);
            planes[number].resize(across * component.h * down * component.v * block, 0);
        }
        let mut bits = Bits::new(self.scan);
        let mut before = [0_i32; 3];
        let mut block = [0_i16; 64];
        let mut until_restart = self.restart_interval;
        for row in 0..wanted.rows.1 {
            let row_wanted = row >= wanted.rows.0;
            for column in 0..wanted.per_row {
                if self.restart_interval > 0 {
                    if until_restart == 0 {
                        bits.restart()?;
                        before = [0; 3];
                        until_restart = self.restart_interval;
                    }
                    until_restart -= 1;
                }
                if row_wanted && column == wanted.columns.1 && row + 1 == wanted.rows.1 {
                    break;
                }
                let keep = row_wanted && (wanted.columns.0..wanted.columns.1).contains(&column);
                for (number, component) in self.components.iter().enumerate() {
                    let (dc, ac) = (&tables[component.dc], &tables[4 + component.ac]);
                    let before = &mut before[number];
                    if !keep {
                        for _ in 0..component.h * component.v {
                            bits.skip_block(dc, ac, before)?;
                        }
                        continue;
                    }
                    let quantisation = &self.quantisation[component.quantisation];
                    let edge = layout.edge(number);
                    let stride = across * component.h * edge;
                    for y in 0..component.v {
                        for x in 0..component.h {
                            let top = ((row - wanted.rows.0) * component.v + y) * edge;
                            let left = ((column - wanted.columns.0) * component.h + x) * edge;
                            let out = &mut planes[number][top * stride + left..];
                            // The mean of a block is its constant: the others are passed over.
                            let varies = match edge {
                                1 => {
                                    bits.constant_block(dc, ac, quantisation, before, &mut block)?
                                }
                                _ => bits.block(dc, ac, quantisation, before, &mut block)?,
                            };
                            match (varies, edge) {
                                (true, 8) => inverse_dct(isa, &block, out, stride),
                                (true, 4) => inverse_dct_4(isa, &block, out, stride),
                                (true, 2) => inverse_dct_2(isa, &block, out, stride),
                                _ => inverse_dct_constant(block[0], edge, out, stride),
                            }
                        }
                    }
                }
            }
            bits.check()?;
        }
        Ok(())
    }

    /// Planes of samples to RGB.
    fn colours(
        &self,
        region: Region,
        wanted: &Wanted,
        layout: &Layout,
        isa: Isa,
        space: &mut Space,
        rgb: &mut [u8],
    ) {
        let Region { top, left, width, .. } = region;
        let Space { planes, sums, chroma, .. } = space;
        let ((h, v), edge) = (layout.doubled, layout.chroma);
        let mcus = wanted.columns.1 - wanted.columns.0;
        let (across, luma_stride) = (mcus * edge, mcus * layout.mcu[1]);
        let (origin_x, origin_y) =
            (wanted.columns.0 * layout.mcu[1], wanted.rows.0 * layout.mcu[0]);
        // Chroma: all samples that the image has within the MCUs, and those that the region needs.
        let wide = (self.width * edge).div_ceil(8 * self.components[0].h);
        let tall = (self.height * edge).div_ceil(8 * self.components[0].v);
        let samples = wide.min(wanted.columns.1 * edge) - wanted.columns.0 * edge;
        let lines = tall.min(wanted.rows.1 * edge) - wanted.rows.0 * edge;
        let first = (left - origin_x) / h;
        let last = (left + width - origin_x).div_ceil(h);
        // libjpeg repeats the samples of images so narrow that there is nothing between, and those of blocks that
        // have become one sample.
        let repeats = edge == 1 || (h == 2 && wide <= 2);
        let [blue, red] = chroma;
        for (row, out) in (top..).zip(rgb.chunks_exact_mut(width * 3)) {
            let at = (row - origin_y) * luma_stride + left - origin_x;
            let luma = &planes[0][at..at + width];
            if self.components.len() == 1 {
                for (pixel, &gray) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
                    *pixel = [gray; 3];
                }
                continue;
            }
            let line = (row - origin_y) / v;
            // Of two rows of pixels the upper leans on the chroma above, the lower on that below.
            let below = (row - origin_y) % v == 1;
            let other = match (v, below) {
                (1, _) => line,
                (_, true) => (line + 1).min(lines - 1),
                (_, false) => line.saturating_sub(1),
            };
            for (plane, out) in planes[1..].iter().zip([&mut *blue, &mut *red]) {
                let near = &plane[line * across..line * across + samples];
                let far = &plane[other * across..other * across + samples];
                out.resize((last - first) * h, 0);
                match (h, v) {
                    _ if repeats => {
                        for (i, sample) in out.iter_mut().enumerate() {
                            *sample = near[first + i / h];
                        }
                    }
                    (2, _) => double_row(isa, near, far, first..last, v == 2, sums, out),
                    (_, 2) => between_rows(&near[first..last], &far[first..last], below, out),
                    _ => out.copy_from_slice(&near[first..last]),
                }
            }
            let skip = left - origin_x - first * h;
            ycc_to_rgb(isa, luma, &blue[skip..skip + width], &red[skip..skip + width], out);
        }
    }
}

/// How the samples of an image lie, at the scale that it is decoded at.
struct Layout {
    /// Samples along the edge of a block of luma.
    luma: usize,
    /// And of chroma.
    chroma: usize,
    /// Pixels of a sample of chroma, across and down.
    doubled: (usize, usize),
    /// Height and width of an MCU, pixels.
    mcu: [usize; 2],
}

impl Layout {
    fn edge(&self, component: usize) -> usize {
        if component == 0 { self.luma } else { self.chroma }
    }
}

/// MCUs that are needed: from, to.
struct Wanted {
    columns: (usize, usize),
    rows: (usize, usize),
    /// All of a row.
    per_row: usize,
}

/// Memory that decoding uses again from image to image, and the tables of the last one.
#[derive(Default)]
pub struct Space {
    tables: [Table; 8],
    /// Samples of each component, as they are in the file.
    planes: [Vec<u8>; 3],
    /// A row of doubled chroma.
    chroma: [Vec<u8>; 2],
    sums: Vec<i16>,
}

impl Space {
    /// Tables of the file; those that it shares with the last one are there already.
    fn learn(&mut self, jpeg: &Jpeg) -> Result<(), Damaged> {
        for component in &jpeg.components {
            for number in [component.dc, 4 + component.ac] {
                let codes = jpeg.codes[number].expect("looked at by the scan's header");
                if self.tables[number].is_of(codes) {
                    continue;
                }
                self.tables[number] = Table::new(codes)?;
            }
        }
        Ok(())
    }
}
