//! The ways in which loading a classifier or naming an image fails.

use std::path::PathBuf;

use nn::weights::WeightsError;
use transforms::decode::DecodeError;

use crate::container::ContainerError;

/// One sentence without a full stop: what failed, where, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system cannot read a file.
    #[error("{}: cannot read it: {source}", path.display())]
    Read {
        /// The checkpoint or image.
        path: PathBuf,
        /// Reason of the operating system.
        source: std::io::Error,
    },
    /// A file is no checkpoint, damaged, or of another version.
    #[error("{}: {source}", path.display())]
    Container {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with its bytes.
        source: ContainerError,
    },
    /// The manifest of a checkpoint is not that of a classifier.
    #[error("{}: manifest: {why}; write the checkpoint again", path.display())]
    Manifest {
        /// The checkpoint.
        path: PathBuf,
        /// The field and its fault.
        why: String,
    },
    /// The exponential average of the weights was asked for, and the checkpoint has none.
    #[error(
        "{}: there is no exponential average of the weights; take the raw or the best weights",
        path.display()
    )]
    NoAverage {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The tensors of a checkpoint are not those of its network.
    #[error("{}: {source}", path.display())]
    Weights {
        /// The checkpoint.
        path: PathBuf,
        /// The tensors that do not fit.
        source: WeightsError,
    },
    /// A file is not an image that can be used.
    #[error("{}: {source}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why it cannot be decoded.
        source: DecodeError,
    },
    /// Bytes in memory are not an image that can be used.
    #[error(transparent)]
    Bytes(#[from] DecodeError),
    /// The network's logits for an image are NaN or infinite: no class can be named.
    #[error(
        "{image}: the logits are not finite numbers; the weights of the checkpoint are too large, take \
         an earlier one"
    )]
    NotFinite {
        /// The path of the image, or its number in the batch.
        image: String,
    },
    /// A network, its classes and its images do not fit together.
    #[error("{why}")]
    Parts {
        /// What does not fit.
        why: String,
    },
    /// An ONNX model did not pass its check.
    #[error("the ONNX model did not pass its check: {why}")]
    Onnx {
        /// What differs.
        why: String,
    },
    /// A network cannot be rounded to 8 bits.
    #[error("{why}")]
    Quantization {
        /// The layer and its fault.
        why: String,
    },
    /// A decoded image without pixels.
    #[error("an image of {width} x {height} pixels; it must have at least one")]
    NoPixels {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
}
