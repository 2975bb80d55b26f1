//! Blocks that more than one paper uses, each with a doc test.

pub mod batch_norm;
pub mod conv_norm_activation;
pub mod convolution;
pub mod dropout;
pub mod inception;
pub mod inverted_residual;
pub(crate) mod linear;
pub mod pooling;
pub mod separable;
pub mod squeeze_excite;
