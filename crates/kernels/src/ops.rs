//! Operations on tensors: Burn backend extensions for every backend, one hand-written backward pass
//! each. No instruction set stands here.

pub mod branch;
pub mod concat;
pub mod conv_norm_activation;
pub mod cpu_tensor;
pub mod elementwise;
pub mod linear;
pub mod pooling;
pub mod reference;
pub mod separable;
pub mod squeeze_excite;
pub mod threads;
