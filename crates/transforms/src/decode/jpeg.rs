//! Whole JPEGs of any kind; `crate::jpeg` decodes.

use image::RgbImage;

use crate::decode::error::{DecodeError, MAX_BYTES, checked_size};
use crate::jpeg::{self, Jpeg, JpegError, JpegScratch};
use crate::resize::Region;

/// Decodes all pixels of a JPEG, the usual kind by its faster decoder.
pub(super) fn decode_fast(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let Some(jpeg) = Jpeg::parse(bytes) else { return decode(bytes) };
    let (height, width) = (jpeg.height, jpeg.width);
    checked_size(width as u64, height as u64)?;
    let (region, mut rgb) = (Region { top: 0, left: 0, height, width }, Vec::new());
    match jpeg.decode(region, 1, &mut JpegScratch::default(), &mut rgb) {
        Ok(()) => Ok(image(width as u32, height as u32, rgb)),
        Err(_) => decode(bytes),
    }
}

/// Decodes all pixels of a JPEG, and names the fault where there is one.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    match jpeg::decode_any(bytes, MAX_BYTES) {
        Ok((width, height, rgb)) => Ok(image(width, height, rgb)),
        Err(JpegError::Truncated) => Err(DecodeError::Truncated),
        Err(JpegError::Unsupported(kind)) => Err(DecodeError::unsupported(kind)),
        Err(JpegError::Damaged(fault)) => Err(DecodeError::damaged(fault)),
        Err(JpegError::Large { width, height }) => Err(DecodeError::Large { width, height }),
    }
}

fn image(width: u32, height: u32, rgb: Vec<u8>) -> RgbImage {
    RgbImage::from_raw(width, height, rgb).expect("three bytes for a pixel")
}
