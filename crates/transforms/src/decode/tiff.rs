//! The first page of a TIFF, as Pillow 13 reads it, turned by its orientation tag.
//!
//! A strip or a tile becomes bytes (`compression`, `fax`), bytes become samples and samples colours
//! (`samples`, `ycbcr`), a band of tiles at a time. `kind` holds the list of what is supported; the
//! rest is refused by name.

mod compression;
mod fax;
mod ifd;
mod kind;
mod samples;
mod ycbcr;

use image::RgbImage;

use crate::decode::error::{DecodeError, checked_size};
use crate::decode::jpeg;
use crate::decode::palette::Palette;
use crate::decode::tiff::compression::Compression;
use crate::decode::tiff::ifd::Ifd;
use crate::decode::tiff::kind::{Colour, Kind, refused};
use crate::decode::tiff::samples::{colours, to_bytes, undo_differences};
use crate::decode::tiff::ycbcr::YCbCr;
use crate::orientation::Orientation;

/// A page, described by its tags.
struct Page<'a> {
    ifd: Ifd<'a>,
    kind: Kind,
    compression: Compression,
    height: usize,
    width: usize,
    /// Height and width of a strip or tile.
    chunk: [usize; 2],
    tiled: bool,
    offsets: Vec<u64>,
    /// Bytes of each strip or tile.
    lengths: Option<Vec<u64>>,
    /// Samples are stored as differences.
    differences: bool,
    palette: Palette,
    /// The conversion of compressed luma and chroma.
    ycbcr: Option<YCbCr>,
}

/// Colour, alpha and depth of a TIFF, as far as its tags say.
pub(super) struct TiffFacts {
    pub(super) size: [usize; 2],
    pub(super) gray: bool,
    pub(super) cmyk: bool,
    pub(super) alpha: bool,
    pub(super) sixteen: bool,
}

/// The facts of a TIFF that [`decode`] reads.
pub(super) fn facts(bytes: &[u8]) -> Result<TiffFacts, DecodeError> {
    let page = Page::first(bytes)?;
    let [height, width] = page.orientation()?.size([page.height, page.width]);
    let extra = page.ifd.values(338)?.unwrap_or_default();
    Ok(TiffFacts {
        size: [height, width],
        gray: matches!(page.kind.colour, Colour::Gray { .. }),
        cmyk: page.kind.colour == Colour::Cmyk,
        alpha: extra.iter().any(|&what| matches!(what, 1 | 2)),
        sixteen: page.kind.bits == 16,
    })
}

/// Decodes the first page of a TIFF.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let page = Page::first(bytes)?;
    let mut pixels = Vec::new();
    for band in 0..page.height.div_ceil(page.chunk[0]) {
        page.band(band, &mut pixels)?;
    }
    let (mut size, orientation) = ([page.height, page.width], page.orientation()?);
    if !orientation.is_upright() {
        let mut turned = Vec::new();
        orientation.turn(&pixels, size, &mut turned);
        (pixels, size) = (turned, orientation.size(size));
    }
    let [height, width] = size.map(|edge| edge as u32);
    Ok(RgbImage::from_raw(width, height, pixels).expect("three bytes for a pixel"))
}

impl<'a> Page<'a> {
    /// Reads and checks the tags of the first page.
    fn first(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let ifd = Ifd::first(bytes)?;
        let edge = |tag| match ifd.value(tag)? {
            Some(edge) => Ok(edge),
            None => Err(DecodeError::damaged("a TIFF without a size")),
        };
        let [height, width] = checked_size(edge(256)?, edge(257)?)?;
        let compression = Compression::of(&ifd)?;
        let kind = Kind::of(&ifd, compression != Compression::None)?;
        let differences = match (compression, ifd.value(317)?.unwrap_or(1)) {
            (Compression::Lzw | Compression::Deflate, 2) if matches!(kind.bits, 8 | 16) => true,
            (Compression::Lzw | Compression::Deflate, 2) => {
                return refused(&format!("of {} bits with predictor 2", kind.bits));
            }
            (Compression::Lzw | Compression::Deflate, predictor) if predictor != 1 => {
                return refused(&format!("with predictor {predictor}"));
            }
            _ => false,
        };
        let (tiled, offsets) = match (ifd.values(273)?, ifd.values(324)?) {
            (Some(strips), _) => (false, strips),
            (None, Some(tiles)) => (true, tiles),
            (None, None) => return Err(DecodeError::damaged("a TIFF without strips or tiles")),
        };
        let chunk = if tiled {
            match (ifd.value(323)?, ifd.value(322)?) {
                (Some(tall @ 1..), Some(wide @ 1..)) => checked_size(wide, tall)?,
                _ => return Err(DecodeError::damaged("tiles without a size")),
            }
        } else {
            let rows = ifd.value(278)?.unwrap_or(u64::MAX).clamp(1, height as u64);
            [rows as usize, width]
        };
        let lengths = ifd.values(if tiled { 325 } else { 279 })?;
        let palette = palette(&ifd, &kind)?;
        let ycbcr = match (kind.colour, compression) {
            (Colour::YCbCr, Compression::Jpeg) => None,
            (Colour::YCbCr, _) => {
                // TIFF 6.0 says 2 x 2. Some writers of uncompressed files mean none, as Pillow
                // does.
                let whole = compression == Compression::None
                    && lengths.iter().flatten().sum::<u64>() == (height * width * 3) as u64;
                Some(YCbCr::of(&ifd, if whole { [1, 1] } else { [2, 2] })?)
            }
            _ => None,
        };
        let page = Self {
            ifd,
            kind,
            compression,
            height,
            width,
            chunk,
            tiled,
            offsets,
            lengths,
            differences,
            palette,
            ycbcr,
        };
        page.check()?;
        Ok(page)
    }

    /// Refuses combinations that Pillow refuses, or reads as something else.
    fn check(&self) -> Result<(), DecodeError> {
        let Self { kind, compression, .. } = self;
        if let Compression::Fax(_) = compression
            && (kind.bits != 1 || kind.samples != 1)
        {
            return refused("of fax rows with more than one bit per pixel");
        }
        if *compression == Compression::Jpeg {
            let known = matches!(
                (kind.colour, kind.samples),
                (Colour::Gray { white_is_zero: false }, 1) | (Colour::Rgb | Colour::YCbCr, 3)
            );
            if !known || kind.bits != 8 || (kind.planar && kind.samples > 1) {
                return refused("of these samples with JPEG compression");
            }
        }
        if let Some(ycbcr) = &self.ycbcr {
            let whole = ycbcr.shared == [1, 1];
            if *compression == Compression::None && !whole {
                return refused("of uncompressed, subsampled YCbCr");
            }
            if self.differences && !whole {
                return refused("of subsampled YCbCr with predictor 2");
            }
            if kind.planar {
                return refused("of YCbCr with planes");
            }
            // libtiff takes the chroma of the last block of a row from elsewhere.
            if ycbcr.shared == [4, 4] && !self.tiled && !self.width.is_multiple_of(4) {
                return refused("of YCbCr subsampled by [4, 4] in a width of no multiple of 4");
            }
            if self.tiled && !self.chunk[0].is_multiple_of(ycbcr.shared[1]) {
                return refused("of YCbCr with tiles of this size");
            }
        }
        Ok(())
    }

    fn orientation(&self) -> Result<Orientation, DecodeError> {
        Ok(self.ifd.value(274)?.and_then(Orientation::from_exif).unwrap_or_default())
    }

    /// Appends the pixels of a row of strips or tiles.
    fn band(&self, band: usize, pixels: &mut Vec<u8>) -> Result<(), DecodeError> {
        let [tall, wide] = self.chunk;
        let rows = tall.min(self.height - band * tall);
        let (across, down) = (self.width.div_ceil(wide), self.height.div_ceil(tall));
        let planes = if self.kind.planar { self.kind.samples } else { 1 };
        // Tiles are stored whole, the last strip as far as it goes.
        let stored = if self.tiled { tall } else { rows };
        let decoded: Vec<Vec<Vec<u8>>> = (0..planes)
            .map(|plane| {
                let first = (plane * down + band) * across;
                (first..first + across).map(|number| self.chunk_bytes(number, stored)).collect()
            })
            .collect::<Result<_, _>>()?;
        let mut row = Vec::new();
        for y in 0..rows {
            if let Some(ycbcr) =
                self.ycbcr.as_ref().filter(|_| self.compression != Compression::None)
            {
                for (number, tile) in decoded[0].iter().enumerate() {
                    let count = wide.min(self.width - number * wide);
                    ycbcr.colours(tile, y, wide, count, pixels);
                }
                continue;
            }
            row.clear();
            for tiles in &decoded {
                for (number, tile) in tiles.iter().enumerate() {
                    let count = wide.min(self.width - number * wide);
                    self.row_of(tile, y, count, &mut row);
                }
            }
            if planes > 1 {
                row = interleaved(&row, planes);
            }
            match self.compression {
                // Colours already.
                Compression::Jpeg => pixels.extend_from_slice(&row),
                _ => colours(&row, &self.kind, &self.palette, pixels),
            }
        }
        Ok(())
    }

    /// Appends the samples of the first `count` pixels of a row of a strip or tile, as bytes.
    fn row_of(&self, tile: &[u8], y: usize, count: usize, row: &mut Vec<u8>) {
        if self.compression == Compression::Jpeg {
            return row.extend_from_slice(&tile[y * self.chunk[1] * 3..][..count * 3]);
        }
        let samples = if self.kind.planar { 1 } else { self.kind.samples };
        let stride = self.row_bytes();
        to_bytes(&tile[y * stride..][..stride], count * samples, &self.kind, self.ifd.order, row);
    }

    /// Bytes of a row of a strip or tile.
    fn row_bytes(&self) -> usize {
        let samples = if self.kind.planar { 1 } else { self.kind.samples };
        (self.chunk[1] * samples * self.kind.bits).div_ceil(8)
    }

    /// The `rows` rows of a strip or tile, without compression; of a JPEG, colours.
    fn chunk_bytes(&self, number: usize, rows: usize) -> Result<Vec<u8>, DecodeError> {
        // Of several offsets for one strip Pillow takes the last.
        let raw = self.compression == Compression::None && !self.kind.planar;
        let offset = match raw && self.chunk == [self.height, self.width] {
            true => self.offsets.last(),
            false => self.offsets.get(number),
        };
        let offset = offset.copied().ok_or(DecodeError::Truncated)?;
        let all = self.ifd.bytes;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = all.get(offset..).ok_or(DecodeError::Truncated)?;
        let wide = self.chunk[1];
        let want = match &self.ycbcr {
            Some(ycbcr) => ycbcr.bytes(rows, wide),
            None => self.row_bytes() * rows,
        };
        if self.compression == Compression::None {
            // As by Pillow, the length is not looked at: some writers give none, or a wrong one.
            // Of a tile only the rows of the image have to be there.
            let needed = self.row_bytes() * self.rows_inside(number, rows);
            let mut bytes = rest.get(..needed).ok_or(DecodeError::Truncated)?.to_vec();
            self.reverse_bits(&mut bytes);
            return Ok(bytes);
        }
        let length = self.lengths.as_ref().and_then(|lengths| lengths.get(number).copied());
        let length =
            length.map_or(rest.len(), |length| usize::try_from(length).unwrap_or(usize::MAX));
        let data = &rest[..length.min(rest.len())];
        if self.compression == Compression::Jpeg {
            return self.jpeg(data, rows);
        }
        let reversed;
        let data = match self.kind.lowest_first {
            true => {
                let mut bytes = data.to_vec();
                self.reverse_bits(&mut bytes);
                reversed = bytes;
                &reversed[..]
            }
            false => data,
        };
        if let Compression::Fax(fax) = self.compression {
            return fax::decode(data, fax, [rows, wide]);
        }
        let mut bytes = self.compression.bytes(data, want)?;
        if self.differences {
            let samples = if self.kind.planar { 1 } else { self.kind.samples };
            for row in bytes.chunks_exact_mut(self.row_bytes()) {
                undo_differences(row, samples, self.kind.bits, self.ifd.order);
            }
        }
        Ok(bytes)
    }

    /// Rows of a chunk that are inside the image.
    fn rows_inside(&self, number: usize, rows: usize) -> usize {
        let (across, down) =
            (self.width.div_ceil(self.chunk[1]), self.height.div_ceil(self.chunk[0]));
        let band = number / across % down;
        rows.min(self.height - band * self.chunk[0])
    }

    fn reverse_bits(&self, bytes: &mut [u8]) {
        if self.kind.lowest_first {
            bytes.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
    }

    /// Decodes a strip or tile that is a JPEG, whose tables may stand in a tag (347).
    fn jpeg(&self, data: &[u8], rows: usize) -> Result<Vec<u8>, DecodeError> {
        let body =
            data.strip_prefix(&[0xFF, 0xD8]).ok_or_else(|| DecodeError::damaged("no JPEG"))?;
        let tables = self.ifd.data(347).and_then(|tables| tables.strip_prefix(&[0xFF, 0xD8]));
        let tables = tables.map_or(&[][..], |t| t.strip_suffix(&[0xFF, 0xD9]).unwrap_or(t));
        // The photometric interpretation, not the file, says whether there is luma and chroma.
        let transform = u8::from(self.kind.colour == Colour::YCbCr);
        let adobe =
            [0xFF, 0xEE, 0, 14, b'A', b'd', b'o', b'b', b'e', 0, 100, 0, 0, 0, 0, transform];
        let file = [&[0xFF, 0xD8], &adobe[..], tables, body].concat();
        let image = jpeg::decode_fast(&file)?;
        let (height, width) = (image.height() as usize, image.width() as usize);
        if height < rows || width != self.chunk[1] {
            return Err(DecodeError::damaged(format!(
                "a JPEG of {width} x {height} pixels in a TIFF"
            )));
        }
        let mut pixels = image.into_raw();
        pixels.truncate(rows * width * 3);
        Ok(pixels)
    }
}

/// The colours of the palette (320): all reds, all greens, all blues, of 16 bits.
fn palette(ifd: &Ifd, kind: &Kind) -> Result<Palette, DecodeError> {
    if kind.colour != Colour::Palette {
        return Ok(Palette::gray()); // not looked at
    }
    let Some(map) = ifd.values(320)? else {
        return Err(DecodeError::damaged("a TIFF without the palette that it needs"));
    };
    let third = map.len() / 3;
    let level = |at: usize| (map[at] / 256) as u8;
    Ok(Palette::new((0..third).map(|i| [level(i), level(third + i), level(2 * third + i)])))
}

/// The samples of all planes of a row, pixel by pixel.
fn interleaved(planes: &[u8], count: usize) -> Vec<u8> {
    let width = planes.len() / count;
    (0..width).flat_map(|x| (0..count).map(move |plane| planes[plane * width + x])).collect()
}
