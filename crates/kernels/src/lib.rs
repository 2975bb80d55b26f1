//! What these networks do all day, as Burn backend extensions: composed operations on every backend, one set of
//! kernels on slices for ndarray and flex, one hand-written backward pass for all. The only crate that may hold `unsafe`.
//!
//! Inside, maps are channels last: a row of a matrix is a place, a column a channel. Then a pointwise
//! convolution is a matrix product on the values as they lie, and a vector of a depthwise one holds
//! neighbouring channels, whatever stride and border. Outside, tensors are `[b, c, h, w]` as ever; what
//! the kernels give is a strided view, and another kernel reads it without a copy.

pub mod allocator;
pub mod cpu;
pub mod image;
pub mod isa;
pub mod ops;
pub mod simd;
