//! CPU kernels and Burn operations for convolutional networks: `ops` are Burn backend extensions on
//! every backend, each with one hand-written backward pass; `cpu` are the kernels on slices behind
//! them on ndarray and flex; `image` decodes and resizes. The only crate that may hold `unsafe`.
//!
//! Inside, maps are channels last: a row of a matrix is a pixel, a column a channel. A pointwise
//! convolution is then a matrix product on the values as they lie, and a vector of a depthwise
//! convolution holds neighbouring channels, at any stride and border. Outside, tensors are
//! `[b, c, h, w]` as everywhere in Burn; the kernels return a strided view, which the next kernel
//! reads without a copy.

pub mod ops;

pub mod cpu;
pub mod gpu;
pub mod image;
pub mod random;
pub mod simd;

pub mod allocator;
pub mod isa;
