//! The blocks that more than one paper uses, and the interface of their networks (`backbone`).
//! Public blocks have a doc test each. No block knows a paper's table.

pub(crate) mod auxiliary_head;
pub(crate) mod backbone;
pub(crate) mod batch_norm;
pub(crate) mod classifier;
pub mod conv_norm_activation;
pub mod convolution;
pub mod dropout;
pub mod inception;
pub mod inverted_residual;
pub(crate) mod linear;
pub mod pooling;
pub(crate) mod running_statistic;
pub mod separable;
pub mod squeeze_excite;
pub(crate) mod stages;
pub mod sync_batch_norm;
