//! A decoder for the JPEGs that data sets consist of, made to decode a part of them.
//!
//! Supported are sequential, Huffman-coded files of 8 bits, gray or YCbCr, with chroma of full
//! size, half width, half height or both: the files of cameras and of Pillow. [`Jpeg::parse`] gives
//! `None` for everything else (progressive, several scans, CMYK, RGB, broken), which [`decode_any`]
//! reads as a whole. A random crop needs only a part of the image: rows below it are not read,
//! blocks beside it are skipped without arithmetic.
//!
//! An image may be decoded at 1/2, 1/4 or 1/8 of its size: a sample is then the mean of the samples
//! that it replaces, rounded once, and costs a part of the arithmetic
//! (`kernels::image::jpeg::reduced`); the entropy code is read in full.
//!
//! The result equals that of libjpeg, and so of Pillow, in every bit at every scale
//! (`kernels::image::jpeg`; `tests/jpeg.rs` compares). After ITU T.81. `markers` and `tables` read
//! the segments, `huffman` the entropy code; `scans`, `coefficients` and `pixels` are
//! [`decode_any`].

mod coefficients;
mod error;
mod header;
mod huffman;
mod markers;
mod pixels;
mod scans;
mod tables;

use kernels::image::jpeg::reduced::{inverse_dct_2, inverse_dct_4};
use kernels::image::jpeg::{
    between_rows, double_row, inverse_dct, inverse_dct_constant, ycc_to_rgb,
};
use kernels::isa::Isa;

pub use crate::jpeg::error::JpegError;
pub use crate::jpeg::header::Jpeg;
pub use crate::jpeg::huffman::Damaged;
use crate::jpeg::huffman::{Bits, HuffmanTable};
use crate::jpeg::markers::{ColourSpace, Markers};
use crate::jpeg::scans::Planes;
use crate::resize::Region;

/// Factors by which an image may be decoded smaller: pixels that become one, in each direction.
pub const SHRINKS: [usize; 4] = [1, 2, 4, 8];

/// Most scans of a file. Encoders write about ten; each costs the time of the whole image.
const MOST_SCANS: usize = 256;

/// Decodes a JPEG of any Huffman-coded kind to RGB: sequential or progressive, one scan or several,
/// any sampling factors, gray, YCbCr, RGB, CMYK or YCCK.
///
/// The result equals Pillow's in every bit. Where restart markers are lost, the image goes on after
/// them as with libjpeg.
///
/// # Shapes
/// Returns width, height and samples `[height, width, 3]`.
///
/// # Errors
/// See [`JpegError`]; an image whose samples `[height, width, 3]` exceed `most_bytes` is
/// [`JpegError::Large`].
pub fn decode_any(bytes: &[u8], most_bytes: u64) -> Result<(u32, u32, Vec<u8>), JpegError> {
    let mut markers =
        Markers::of(bytes).ok_or(JpegError::Damaged("the marker of a JPEG is missing"))?;
    let mut begun: Option<(ColourSpace, Planes)> = None;
    let mut scans = 0;
    while let Some(scan) = markers.next_scan()? {
        let frame = markers.frame.as_ref().expect("a scan has a frame");
        let pixels = frame.width as u64 * frame.height as u64;
        if pixels * 3 > most_bytes {
            let (width, height) = (frame.width as u32, frame.height as u32);
            return Err(JpegError::Large { width, height });
        }
        // Every block of a sequential image takes two bits, every constant of a progressive one
        // a bit: nothing is allocated for a header alone.
        if pixels / 64 > bytes.len() as u64 * 8 {
            return Err(JpegError::Truncated);
        }
        scans += 1;
        if scans > MOST_SCANS {
            return Err(JpegError::Damaged("more than 256 scans"));
        }
        let tables = match frame.progressive {
            true => markers.tables.clone(),
            false => markers.tables.clone().with_standard_codes(),
        };
        // Segments behind the first scan do not change the colour space.
        let (_, planes) = begun.get_or_insert_with(|| (markers.colour_space(), Planes::new(frame)));
        markers.offset += planes.read(&scan, &tables, &bytes[markers.offset..])?;
    }
    let (Some((colours, mut planes)), Some(frame)) = (begun, &markers.frame) else {
        return Err(JpegError::Truncated);
    };
    planes.finish()?;
    let (width, height) = (frame.width, frame.height);
    let rgb = pixels::pixels(&planes.components, colours, width, height);
    Ok((width as u32, height as u32, rgb))
}

impl Jpeg<'_> {
    /// Height and width of the image decoded at 1/`shrink`, rounded up.
    #[must_use]
    pub fn size(&self, shrink: usize) -> [usize; 2] {
        [self.height.div_ceil(shrink), self.width.div_ceil(shrink)]
    }

    /// Decodes a part of the image, or of the image at 1/`shrink` of its size, to RGB; gray is
    /// repeated.
    ///
    /// Blocks outside are read only as far as the entropy code requires: a fault below the region
    /// remains unseen.
    ///
    /// # Shapes
    /// `region` counts pixels of [`Jpeg::size`]. Fills `rgb` with `[region.height, region.width,
    /// 3]`.
    ///
    /// # Errors
    /// [`Damaged`] when the entropy-coded bytes hold an unknown code or end too early.
    ///
    /// # Panics
    /// When the region is empty or not inside the image, or `shrink` is none of [`SHRINKS`].
    pub fn decode(
        &self,
        region: Region,
        shrink: usize,
        scratch: &mut JpegScratch,
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
        scratch.prepare_tables(self)?;
        let layout = self.layout(shrink);
        // MCUs that hold the region and one more sample of chroma on every side.
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
        self.blocks(&wanted, &layout, isa, scratch)?;
        rgb.resize(height * width * 3, 0);
        self.colours(region, &wanted, &layout, isa, scratch, rgb);
        Ok(())
    }

    /// The layout of the samples at 1/`shrink` of the size.
    ///
    /// Chroma of half height and half width keeps its resolution as long as it can, as in libjpeg;
    /// then no sample is doubled.
    fn layout(&self, shrink: usize) -> SampleLayout {
        let (h, v) = (self.components[0].h, self.components[0].v);
        let luma = 8 / shrink;
        let mcu = [v * luma, h * luma];
        match (h, v, shrink) {
            (2, 2, 2..) => SampleLayout { luma, chroma: 2 * luma, doubled: (1, 1), mcu },
            _ => SampleLayout { luma, chroma: luma, doubled: (h, v), mcu },
        }
    }

    /// Decodes the entropy code to planes of samples.
    fn blocks(
        &self,
        wanted: &Wanted,
        layout: &SampleLayout,
        isa: Isa,
        scratch: &mut JpegScratch,
    ) -> Result<(), Damaged> {
        let JpegScratch { tables, planes, .. } = scratch;
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
                    let (dc, ac) = (&tables[component.dc], &tables[component.ac]);
                    let before = &mut before[number];
                    if !keep {
                        for _ in 0..component.h * component.v {
                            bits.skip_block(dc, ac, before)?;
                        }
                        continue;
                    }
                    let quantisation = &component.quantisation;
                    let edge = layout.edge(number);
                    let stride = across * component.h * edge;
                    for y in 0..component.v {
                        for x in 0..component.h {
                            let top = ((row - wanted.rows.0) * component.v + y) * edge;
                            let left = ((column - wanted.columns.0) * component.h + x) * edge;
                            let out = &mut planes[number][top * stride + left..];
                            // The mean of a block is its constant; the other coefficients are
                            // skipped.
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

    /// Converts planes of samples to RGB.
    fn colours(
        &self,
        region: Region,
        wanted: &Wanted,
        layout: &SampleLayout,
        isa: Isa,
        scratch: &mut JpegScratch,
        rgb: &mut [u8],
    ) {
        let Region { top, left, width, .. } = region;
        let JpegScratch { planes, sums, chroma, .. } = scratch;
        let ((h, v), edge) = (layout.doubled, layout.chroma);
        let mcus = wanted.columns.1 - wanted.columns.0;
        let (across, luma_stride) = (mcus * edge, mcus * layout.mcu[1]);
        let (origin_x, origin_y) =
            (wanted.columns.0 * layout.mcu[1], wanted.rows.0 * layout.mcu[0]);
        // Chroma: all samples of the image within the MCUs, and the samples that the region needs.
        let wide = (self.width * edge).div_ceil(8 * self.components[0].h);
        let tall = (self.height * edge).div_ceil(8 * self.components[0].v);
        let samples = wide.min(wanted.columns.1 * edge) - wanted.columns.0 * edge;
        let lines = tall.min(wanted.rows.1 * edge) - wanted.rows.0 * edge;
        let first = (left - origin_x) / h;
        let last = (left + width - origin_x).div_ceil(h);
        // libjpeg repeats the samples of images too narrow to interpolate, and of blocks that have
        // become one sample.
        let repeats = edge == 1 || (h == 2 && wide <= 2);
        let [blue, red] = chroma;
        for (row, out) in (top..).zip(rgb.chunks_exact_mut(width * 3)) {
            let offset = (row - origin_y) * luma_stride + left - origin_x;
            let luma = &planes[0][offset..offset + width];
            if self.components.len() == 1 {
                for (pixel, &gray) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
                    *pixel = [gray; 3];
                }
                continue;
            }
            let line = (row - origin_y) / v;
            // The upper of two rows of pixels interpolates with the chroma above, the lower with
            // the chroma below.
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

/// The layout of the samples of an image, at the scale of the decoding.
struct SampleLayout {
    /// Samples along the edge of a block of luma.
    luma: usize,
    /// Samples along the edge of a block of chroma.
    chroma: usize,
    /// Pixels per sample of chroma, across and down.
    doubled: (usize, usize),
    /// Height and width of an MCU, pixels.
    mcu: [usize; 2],
}

impl SampleLayout {
    fn edge(&self, component: usize) -> usize {
        if component == 0 { self.luma } else { self.chroma }
    }
}

/// The MCUs to decode, each range from its first to past its last.
struct Wanted {
    columns: (usize, usize),
    rows: (usize, usize),
    /// MCUs of a whole row.
    per_row: usize,
}

/// Memory that decoding reuses from image to image, and the tables of the last image.
#[derive(Default)]
pub struct JpegScratch {
    tables: [HuffmanTable; 8],
    /// Samples of each component, at the resolution of the file.
    planes: [Vec<u8>; 3],
    /// A row of doubled chroma.
    chroma: [Vec<u8>; 2],
    sums: Vec<i16>,
}

impl JpegScratch {
    /// Builds the tables of the file; tables equal to those of the last file are reused.
    fn prepare_tables(&mut self, jpeg: &Jpeg) -> Result<(), Damaged> {
        for component in &jpeg.components {
            for (number, codes) in [component.dc, component.ac].into_iter().zip(component.codes) {
                if self.tables[number].is_of(codes) {
                    continue;
                }
                self.tables[number] = HuffmanTable::new(codes)?;
            }
        }
        Ok(())
    }
}
