//! Blocks that more than one paper uses.

pub mod batch_norm;
pub mod conv_norm_activation;
pub mod inverted_residual;
pub mod squeeze_excite;
