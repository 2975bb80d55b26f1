//! Image files to the numbers that a network reads: decoding, preprocessing and augmentation.
//!
//! Bytes of a file go in, normalised `[3, height, width]` values come out. The crate knows no tensor, no data set and no
//! command line.

#![forbid(unsafe_code)]

pub mod augment;
pub mod decode;
pub mod jpeg;
pub mod mixup;
pub mod preprocess;
pub mod random;
pub mod resize;
