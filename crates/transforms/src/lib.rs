//! Image files to the numbers that a network reads: decoding, preprocessing and augmentation.
//!
//! The crate takes the bytes of a file and gives normalised `[3, height, width]` values, equal to
//! Pillow's and torchvision's in every bit. It knows no tensor, no data set and no command line.
//!
//! ```
//! use transforms::decode::decode;
//! use transforms::preprocess::Preprocess;
//!
//! let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/augment/coffee.png");
//! let image = decode(&std::fs::read(file)?, false)?;
//! let values = Preprocess::imagenet(256, 224).apply(&image);
//! assert_eq!(values.len(), 3 * 224 * 224);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In reading order: `decode`, `jpeg` and `exif` (bytes to pixels), `resize`, `preprocess` (the
//! rule of evaluation), `augment` and `mixup` (the random part of training), `train_transform`
//! (both together), `random` (the draws).

#![forbid(unsafe_code)]

pub mod augment;
mod byte_order;
pub mod decode;
pub mod exif;
pub mod jpeg;
pub mod mixup;
pub mod orientation;
pub mod preprocess;
pub mod random;
pub mod resize;
pub mod train_transform;
