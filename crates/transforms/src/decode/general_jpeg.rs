//! JPEGs that `jpeg` does not support, by the `image` crate.

use std::io::{Cursor, ErrorKind};

use image::{
    DynamicImage, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits, RgbImage,
};

use crate::decode::error::{DecodeError, MAX_BYTES, checked_size};
use crate::jpeg::{Jpeg, JpegScratch};
use crate::resize::Region;

/// Decodes all pixels of a JPEG, by `jpeg` if it supports the file.
pub(super) fn decode_any(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let Some(jpeg) = Jpeg::parse(bytes) else { return decode(bytes) };
    let (height, width) = (jpeg.height, jpeg.width);
    checked_size(width as u64, height as u64)?;
    let (region, mut rgb) = (Region { top: 0, left: 0, height, width }, Vec::new());
    match jpeg.decode(region, 1, &mut JpegScratch::default(), &mut rgb) {
        Ok(()) => {
            Ok(RgbImage::from_raw(width as u32, height as u32, rgb)
                .expect("three bytes for a pixel"))
        }
        Err(_) => decode(bytes),
    }
}

/// Decodes all pixels of any JPEG.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    // The decoder of `image` fills missing pixels with gray.
    if !is_complete(bytes) {
        return Err(DecodeError::Truncated);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(fault)?;
    let (width, height) = decoder.dimensions();
    checked_size(width.into(), height.into())?;
    Ok(DynamicImage::from_decoder(decoder).map_err(fault)?.into_rgb8())
}

fn fault(error: ImageError) -> DecodeError {
    match error {
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated,
        error => DecodeError::damaged(error.to_string()),
    }
}

/// Whether the markers of a JPEG go on to its end (EOI). Thumbnails inside EXIF are skipped by
/// their length. A file that lacks only the two bytes of EOI is refused too.
fn is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END: u8 = 0xD9;
    let mut offset = 2; // after SOI
    while let Some(&[first, marker]) = bytes.get(offset..offset + 2) {
        match (first, marker) {
            (0xFF, END) => return true,
            // Fill bytes, and markers that stand alone: TEM, RST0..7, SOI.
            (0xFF, 0xFF) => offset += 1,
            (0xFF, 0x01 | 0xD0..=0xD8) => offset += 2,
            (0xFF, marker) => {
                let Some(&[high, low]) = bytes.get(offset + 2..offset + 4) else { return false };
                offset += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
                if marker == START_OF_SCAN {
                    // In a scan 0xFF is followed by 0 (a data byte), RST, or the next marker.
                    let ends = |pair: &[u8]| {
                        pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xD0..=0xD7 | 0xFF)
                    };
                    let rest = bytes.get(offset..).unwrap_or_default();
                    match rest.windows(2).position(ends) {
                        Some(length) => offset += length,
                        None => return false,
                    }
                }
            }
            // Stray bytes between segments: decoders search on.
            _ => offset += 1,
        }
    }
    false
}
