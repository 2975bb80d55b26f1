//! Operations on tensors as Burn backend extensions: one trait for each operation, implemented for
//! every backend, with one hand-written backward pass for all of them. No instruction set and no
//! loop over values stands here; those are in `cpu`.
//!
//! A trait's default body, in `reference`, is composed of Burn's own operations; `cpu_tensor` takes
//! ndarray and flex to the kernels.

#![allow(deprecated, reason = "burn-ndarray is one of the supported backends")]
#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

mod autodiff;
pub mod branch;
pub mod concat;
pub mod conv_norm_activation;
pub mod conv_norm_config;
pub mod cpu_tensor;
pub mod elementwise;
pub mod images;
pub mod linear;
pub mod multi_tensor;
pub mod pooling;
pub mod reference;
pub mod running_statistics;
pub mod separable;
pub mod squeeze_excite;
pub mod threads;
