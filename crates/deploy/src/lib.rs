//! One trained classifier without its training: reads a checkpoint and names the classes of images.
//!
//! The crate knows networks (`nn`) and the preparation of images (`transforms`), but no data set,
//! no optimizer and no command line. It prints nothing and keeps no global state.
//!
//! ```
//! use deploy::classifier::Classifier;
//!
//! let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
//! let classifier = Classifier::load(format!("{here}/fashion.ckpt"))?;
//! let prediction = classifier.classify(format!("{here}/trouser.png"))?;
//! assert_eq!(prediction.best().class, "trouser");
//! for guess in prediction.top(3) {
//!     println!("{} {:.3}", guess.class, guess.probability);
//! }
//! # Ok::<(), deploy::error::Error>(())
//! ```
//!
//! In reading order: `classifier`, `predict` (guesses), `class_map` (Grad-CAM), `manifest` (the
//! part of a checkpoint's manifest that a classifier needs), `container` (the file), `quantization`
//! (8-bit integers), `onnx` (for other runtimes), `web` (a page), `serve` (HTTP), `files`, `error`.

#![forbid(unsafe_code)]

pub mod class_map;
pub mod classifier;
pub mod container;
pub mod error;
pub mod files;
mod folding;
pub mod manifest;
pub mod onnx;
pub mod predict;
pub mod quantization;
#[cfg(feature = "serve")]
pub mod serve;
pub mod web;
