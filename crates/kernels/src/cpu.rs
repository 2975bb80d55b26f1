//! CPU kernels on slices: no tensor of Burn stands here.
//!
//! Maps are channels last, `[b, h, w, c]`. A map is also a matrix `[m, c]` of `m = b h w` pixels,
//! which matrix products, batch norm and elementwise kernels read without knowing its extents.
//!
//! # Names
//!
//! A kernel is called `<type>_<operation>[_<algorithm>][_<layout>][_<pass>]`:
//!
//! * type: of the values that are read and written, `f32` (later `bf16`, `s8`);
//! * operation: `matmul`, `conv`, `depthwise`, `batch_norm`, `max_pool`, `spatial_sum`, ...;
//! * algorithm, where there are several: `patches`, `direct`, `winograd_3x3`, `reference`; without
//!   one, the kernel chooses. `winograd_3x3` implies `conv`;
//! * layout: `nhwc`, where the extents of the map matter; none for matrices and vectors;
//! * pass: none is forward, `dx` the gradient of the input, `dw` of the weights, `backward` of all;
//!   `pack` packs the weights.
//!
//! So `f32_depthwise_nhwc_dx` is the gradient of the input of a depthwise convolution. Kernels that
//! run on the calling thread alone end with `_tile`, those that write over their first operand with
//! `_in_place`.
//!
//! `dispatch` chooses the kernel of a convolution.
//!
//! # NaN and infinity
//!
//! They go through every kernel as in torch, and to no other image. Two kernels spread them
//! further: Winograd's, within the tiles that read the value, where infinity becomes NaN; and a
//! weight that is not finite reaches outputs whose tap lies on the padding, as in torch's kernels
//! that gather patches.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

pub mod activation;
pub mod batch_norm;
pub mod concat;
pub mod convolution;
pub mod depthwise;
pub(crate) mod dispatch;
pub mod elementwise;
pub mod geometry;
pub mod layout;
pub mod linear;
pub mod matmul;
pub mod max_pool;
mod partial_sums;
pub mod pointwise_backward;
pub mod spatial;
pub mod squeeze_excite;
