//! What the header of an image says, without decoding it.

use std::panic::catch_unwind;

use image::ImageFormat;

use crate::byte_order::ByteOrder;
use crate::decode::format::format;
use crate::decode::tiff;

/// Format, size and kind of samples of an encoded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageHeader {
    /// Format of the content.
    pub format: ImageFormat,
    /// Pixels as stored.
    pub width: u32,
    /// Pixels as stored.
    pub height: u32,
    /// Levels of gray only.
    pub gray: bool,
    /// Cyan, magenta, yellow and black.
    pub cmyk: bool,
    /// Alpha, or a transparent colour.
    pub alpha: bool,
    /// Samples of 16 bits.
    pub sixteen: bool,
}

/// Reads the header of an image of a format that [`crate::decode::decode`] reads; `None` if it is
/// damaged or of a kind that is not supported. Never panics, whatever the bytes.
#[must_use]
pub fn header(bytes: &[u8]) -> Option<ImageHeader> {
    catch_unwind(|| read(bytes)).ok().flatten()
}

fn read(bytes: &[u8]) -> Option<ImageHeader> {
    let format = format(bytes).ok()?;
    let plain = |width: u32, height: u32| ImageHeader {
        format,
        width,
        height,
        gray: false,
        cmyk: false,
        alpha: false,
        sixteen: false,
    };
    let (big, little) = (ByteOrder::Big, ByteOrder::Little);
    Some(match format {
        ImageFormat::Jpeg => {
            let (height, width, components) = jpeg_frame(bytes)?;
            let header = plain(width.into(), height.into());
            ImageHeader { gray: components == 1, cmyk: components == 4, ..header }
        }
        ImageFormat::Png => {
            let (depth, colour) = (*bytes.get(24)?, *bytes.get(25)?);
            ImageHeader {
                gray: matches!(colour, 0 | 4),
                alpha: matches!(colour, 4 | 6) || png_has_transparency(bytes),
                sixteen: depth == 16,
                ..plain(big.u32(bytes, 16)?, big.u32(bytes, 20)?)
            }
        }
        ImageFormat::WebP => webp(bytes, plain)?,
        ImageFormat::Gif => plain(little.u16(bytes, 6)?.into(), little.u16(bytes, 8)?.into()),
        ImageFormat::Bmp if little.u32(bytes, 14)? == 12 => {
            plain(little.u16(bytes, 18)?.into(), little.u16(bytes, 20)?.into())
        }
        ImageFormat::Bmp => {
            let height = little.u32(bytes, 22)?;
            plain(little.u32(bytes, 18)?, height.min(height.wrapping_neg()))
        }
        _ => {
            let facts = tiff::facts(bytes).ok()?;
            let [height, width] = facts.size.map(|edge| edge as u32);
            ImageHeader {
                gray: facts.gray,
                cmyk: facts.cmyk,
                alpha: facts.alpha,
                sixteen: facts.sixteen,
                ..plain(width, height)
            }
        }
    })
}

/// Height, width and components of a JPEG, from its frame header (SOF): 1 component is gray, 3 are
/// colour, 4 CMYK or YCCK.
fn jpeg_frame(bytes: &[u8]) -> Option<(u16, u16, u8)> {
    let mut offset = 2; // after SOI
    loop {
        let &[first, marker] = bytes.get(offset..offset + 2)? else { return None };
        match (first, marker) {
            (0xFF, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF) => {
                // length 2, precision 1, height 2, width 2, components 1
                let edge = |at| ByteOrder::Big.u16(bytes, at);
                return Some((edge(offset + 5)?, edge(offset + 7)?, *bytes.get(offset + 9)?));
            }
            (0xFF, 0x01 | 0xD0..=0xD8) => offset += 2,
            (0xFF, 0x00 | 0xFF) => offset += 1,
            (0xFF, _) => offset += 2 + usize::from(ByteOrder::Big.u16(bytes, offset + 2)?),
            _ => offset += 1,
        }
    }
}

/// Whether a PNG has a chunk of transparency before its data.
fn png_has_transparency(bytes: &[u8]) -> bool {
    let mut offset = 8;
    while let (Some(length), Some(kind)) =
        (ByteOrder::Big.u32(bytes, offset), bytes.get(offset + 4..offset + 8))
    {
        match kind {
            b"tRNS" => return true,
            b"IDAT" => return false,
            _ => offset = offset.saturating_add(12 + length as usize),
        }
    }
    false
}

fn webp(bytes: &[u8], plain: impl Fn(u32, u32) -> ImageHeader) -> Option<ImageHeader> {
    let little = ByteOrder::Little;
    match bytes.get(12..16)? {
        b"VP8X" => {
            let edge = |at| Some((little.u32(bytes, at)? & 0xFF_FFFF) + 1);
            let alpha = bytes.get(20)? & 0x10 != 0;
            Some(ImageHeader { alpha, ..plain(edge(24)?, edge(27)?) })
        }
        b"VP8L" => {
            // 14 bits of width less 1, 14 of height less 1, alpha.
            let bits = little.u32(bytes, 21)?;
            let edge = |bits: u32| (bits & 0x3FFF) + 1;
            let alpha = bits >> 28 & 1 == 1;
            Some(ImageHeader { alpha, ..plain(edge(bits), edge(bits >> 14)) })
        }
        _ => {
            let edge = |at| Some(u32::from(little.u16(bytes, at)? & 0x3FFF));
            Some(plain(edge(26)?, edge(28)?))
        }
    }
}
