//! PNG, by the `png` crate's rows. Alpha, `tRNS` and colour profiles are dropped, as by Pillow.
//!
//! Samples of 16 bits become their higher byte, as in Pillow, except gray without alpha, which
//! becomes round(v / 257): Pillow clips it, and every value above 255 is white.

use std::borrow::Cow;
use std::io::{Cursor, ErrorKind};

use image::RgbImage;
use png::{BitDepth, ColorType, DecodingError, Limits, Transformations};

use crate::byte_order::ByteOrder;
use crate::decode::error::{DecodeError, MAX_BYTES, checked_size};
use crate::decode::palette::{Palette, unpack};
use crate::decode::sixteen_bits::rounded;

/// Bytes that one byte of deflate codes can give at most.
const DEFLATE: u64 = 1032;

/// Decodes a PNG; of an animation, its default image.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    if bytes.get(12..16) == Some(b"CgBI") {
        return Err(DecodeError::unsupported("a PNG optimised for iPhone apps (CgBI)"));
    }
    let file = complete(bytes);
    let limits = Limits { bytes: MAX_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(&file[..]), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let size = decoder.read_header_info().map_err(fault)?;
    let (across, down) = (size.width, size.height);
    let [height, width] = checked_size(across.into(), down.into())?;
    let mut reader = decoder.read_info().map_err(fault)?;
    let row_bytes = reader.output_line_size(across).unwrap_or(usize::MAX);
    let all = (row_bytes as u64).saturating_mul(u64::from(down));
    if all > MAX_BYTES {
        return Err(DecodeError::Large { width: across, height: down });
    }
    // Nothing is reserved for an image that these bytes cannot hold.
    if all > DEFLATE * bytes.len() as u64 {
        return Err(DecodeError::Truncated);
    }
    let samples = Samples::of(reader.info())?;
    let mut pixels = Vec::with_capacity(height * width * 3);
    if reader.info().interlaced {
        let mut rows = vec![0; all as usize];
        reader.next_frame(&mut rows).map_err(fault)?;
        rows.chunks_exact(row_bytes).for_each(|row| samples.colours(row, width, &mut pixels));
    } else {
        while let Some(row) = reader.next_row().map_err(fault)? {
            samples.colours(row.data(), width, &mut pixels);
        }
    }
    RgbImage::from_raw(across, down, pixels).ok_or(DecodeError::Truncated)
}

/// The last chunk of a PNG.
const END: &[u8] = b"\0\0\0\0IEND\xAE\x42\x60\x82";

/// The file with its last chunk, which some writers forget.
fn complete(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut last: &[u8] = &[];
    let mut offset = 8;
    while let Some(length) = ByteOrder::Big.u32(bytes, offset)
        && let Some(chunk) = bytes.get(offset..offset.saturating_add(12 + length as usize))
    {
        last = &chunk[4..8];
        offset += chunk.len();
    }
    match last == b"IDAT" && END.starts_with(&bytes[offset..]) {
        true => Cow::Owned([&bytes[..offset], END].concat()),
        false => Cow::Borrowed(bytes),
    }
}

/// How the samples of a row become colours.
struct Samples {
    colour: ColorType,
    depth: BitDepth,
    palette: Palette,
}

impl Samples {
    fn of(info: &png::Info) -> Result<Self, DecodeError> {
        let (colour, depth) = (info.color_type, info.bit_depth);
        let palette = match (colour, &info.palette) {
            (ColorType::Indexed, Some(colours)) => {
                Palette::new(colours.as_chunks::<3>().0.iter().copied())
            }
            (ColorType::Indexed, None) => {
                return Err(DecodeError::damaged("a PNG without the palette that it needs"));
            }
            _ => {
                let most = (1_u16 << (depth as u16).min(8)) - 1;
                Palette::new((0..=most).map(|level| [(level * (255 / most)) as u8; 3]))
            }
        };
        Ok(Self { colour, depth, palette })
    }

    /// Appends the colours of a row of `width` pixels.
    fn colours(&self, row: &[u8], width: usize, pixels: &mut Vec<u8>) {
        let sixteen = self.depth == BitDepth::Sixteen;
        match (self.colour, sixteen) {
            (ColorType::Grayscale, true) => {
                let levels = row.chunks_exact(2).map(|v| rounded(u16::from_be_bytes([v[0], v[1]])));
                pixels.extend(levels.flat_map(|level| [level; 3]));
            }
            (ColorType::Grayscale | ColorType::Indexed, _) if self.depth == BitDepth::Eight => {
                pixels.extend(row.iter().flat_map(|&number| self.palette.colour(number)));
            }
            (ColorType::Grayscale | ColorType::Indexed, _) => {
                let numbers = unpack(self.depth as usize, row).take(width);
                pixels.extend(numbers.flat_map(|number| self.palette.colour(number)));
            }
            (ColorType::GrayscaleAlpha, _) => {
                let pixel = if sixteen { 4 } else { 2 };
                pixels.extend(row.chunks_exact(pixel).flat_map(|p| [p[0]; 3]));
            }
            (ColorType::Rgb, false) => pixels.extend_from_slice(row),
            (ColorType::Rgb, true) => {
                pixels.extend(row.chunks_exact(6).flat_map(|p| [p[0], p[2], p[4]]));
            }
            (ColorType::Rgba, false) => {
                pixels.extend(row.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]));
            }
            (ColorType::Rgba, true) => {
                pixels.extend(row.chunks_exact(8).flat_map(|p| [p[0], p[2], p[4]]));
            }
        }
    }
}

fn fault(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated,
        // The kinds of faults are private to `png`.
        DecodingError::Format(e) if e.to_string().contains("does not have enough data") => {
            DecodeError::Truncated
        }
        error => DecodeError::damaged(error.to_string()),
    }
}
