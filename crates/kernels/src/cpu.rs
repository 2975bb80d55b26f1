//! CPU kernels on slices, channels last: no tensor of Burn stands here.
//!
//! `dispatch` chooses which kernel serves a convolution; `depthwise/naive.rs` is the reference that
//! tests compare with.

pub mod activation;
pub mod batch_norm;
pub mod convolution;
pub mod depthwise;
pub(crate) mod dispatch;
pub mod layout;
pub mod matmul;
pub mod pointwise_backward;
pub mod spatial;
