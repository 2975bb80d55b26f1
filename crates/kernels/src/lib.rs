//! CPU kernels for what these networks do all day, as a Burn backend extension: one set of kernels on
//! slices for ndarray and flex, composed operations elsewhere. Called from one place,
//! `nn::block::convolution`. The only crate that may hold `unsafe`.
//!
//! Today: the depthwise convolution with both gradients ([`depthwise`]). Burn 0.22.1 has no depthwise weight
//! gradient of its own on the CPU: it loops over the channels, one small convolution each.

pub mod depthwise;
pub mod isa;
