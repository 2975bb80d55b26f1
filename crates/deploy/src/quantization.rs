//! A network in 8-bit integers: the range of every map from calibration images, the weights rounded
//! channel by channel, and the biases corrected.
//!
//! Rounding the weights of a 3x3 depthwise filter shifts the mean of its output. The shift is
//! measured on the calibration images, layer by layer from the input, and taken off the bias (Nagel
//! et al. 2019, arXiv:1906.04721, section 4.2). Every image goes once through the network and once
//! through the rounded network, side by side.

mod affine;
mod calibrate;
mod executor;
mod quantized;

pub(crate) use crate::quantization::affine::Affine;
pub use crate::quantization::calibrate::quantize;
pub use crate::quantization::quantized::Quantization;
pub(crate) use crate::quantization::quantized::QuantizedLayer;
