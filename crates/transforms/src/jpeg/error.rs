//! Why a JPEG gives no pixels.

use thiserror::Error;

/// Why a JPEG gives no pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JpegError {
    /// The file or its entropy code ends too early, or scans are missing.
    #[error("the image is truncated")]
    Truncated,
    /// A kind of JPEG that this decoder does not read, by its name.
    #[error("{0}")]
    Unsupported(&'static str),
    /// A fault, with its position.
    #[error("{0}")]
    Damaged(&'static str),
    /// More pixels than the caller allows.
    #[error("{width} x {height} pixels")]
    Large {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
}
