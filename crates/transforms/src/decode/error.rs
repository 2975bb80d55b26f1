//! Why a file gives no pixels, and how large an image may be.

use thiserror::Error;

/// Most bytes of a decoded image, 512 MiB: 179 million RGB pixels, where Pillow too reports a
/// decompression bomb.
pub const MAX_BYTES: u64 = 512 << 20;

/// Why a file is not an image that can be used.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The bytes begin like no known format.
    #[error("not an image of a known format (jpeg, png, webp, bmp, gif, tiff)")]
    Format,
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The end of the file is missing.
    #[error("the image is truncated")]
    Truncated,
    /// The image has more pixels than [`MAX_BYTES`] hold.
    #[error("{width} x {height} pixels are more than the 512 MiB an image may take; shrink it")]
    Large {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
    /// The file may be sound, and is of a kind that is not read: the name of the kind.
    #[error("{0} is not supported; convert it to an 8-bit PNG or JPEG")]
    Unsupported(String),
    /// The decoder found a fault, in its own words.
    #[error("damaged image: {0}")]
    Damaged(String),
    /// The decoder panicked with this message.
    #[error("damaged image: the decoder panicked: {0}")]
    Panicked(String),
}

impl DecodeError {
    /// A kind of image that is not read.
    pub(crate) fn unsupported(kind: impl Into<String>) -> Self {
        Self::Unsupported(kind.into())
    }

    /// A fault in the bytes.
    pub(crate) fn damaged(fault: impl Into<String>) -> Self {
        Self::Damaged(fault.into())
    }
}

/// Height and width of an image that a header promises, unless they are impossible.
///
/// # Errors
/// [`DecodeError::Damaged`] without pixels, [`DecodeError::Large`] above [`MAX_BYTES`].
pub(crate) fn checked_size(width: u64, height: u64) -> Result<[usize; 2], DecodeError> {
    if width == 0 || height == 0 {
        return Err(DecodeError::damaged(format!("{width} x {height} pixels")));
    }
    match width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3)) {
        Some(bytes) if bytes <= MAX_BYTES => Ok([height as usize, width as usize]),
        _ => {
            let edge = |edge: u64| u32::try_from(edge).unwrap_or(u32::MAX);
            Err(DecodeError::Large { width: edge(width), height: edge(height) })
        }
    }
}
