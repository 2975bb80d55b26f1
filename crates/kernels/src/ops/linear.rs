//! The linear layer, kernels in inference alone: its backward pass is Burn's.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::{Shape, Tensor};
use burn_cubecl::CubeBackend;

use crate::cpu::matmul;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::isa::Isa;
use crate::ops::cpu_tensor::Host;
use crate::ops::reference;

/// Rows up to which packing the weights costs more than it brings.
const VECTORS: usize = 3;

/// The operation of the extension.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait LinearInference: Backend {
    /// `x [b, in] w [in, out] + bias [out]`.
    #[fusion(default)]
    fn linear_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::linear::<Self>(x, w, bias)
    }
}

impl LinearInference for CubeBackend {}
#[cfg(feature = "capture")]
impl LinearInference for burn::backend::Capture {}

fn values(x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let (isa, k, n) = (Isa::chosen(), w.len() / bias.len(), bias.len());
    if x.len() <= VECTORS * k {
        return x.chunks_exact(k).flat_map(|x| matmul::vector_times(isa, x, w, bias)).collect();
    }
    let packed = PackedWeights::new(isa, w, [k, n], [n, 1], None);
    matmul::product(x, &packed, Epilogue { bias: Some(bias), ..Epilogue::NONE })
}

fn on_values<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    bias: &FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = Shape::from([x.shape()[0], bias.shape()[0]]);
    let y = B::with(x, |x| B::with(w, |w| B::with(bias, |bias| values(x, w, bias))));
    B::make(y, shape)
}

macro_rules! on_host {
    ($backend:ty) => {
        impl LinearInference for $backend {
            fn linear_inference(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                bias: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                match Self::serves(&x) {
                    true => on_values::<Self>(&x, &w, &bias),
                    false => reference::linear::<Self>(x, w, bias),
                }
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

impl<B: Backend + LinearInference, C: CheckpointStrategy> LinearInference for Autodiff<B, C> {
    /// Burn's own, with its gradients.
    fn linear_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::linear::<Self>(x, w, bias)
    }
}

/// A linear layer on any backend; on an autodiff device Burn's own, with gradients.
///
/// # Shapes
/// `x` `[b, in]`, `w` `[in, out]`, `bias` `[out]` to `[b, out]`.
pub fn linear(x: Tensor<2>, w: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearInference>::linear_inference(
        x.into_dispatch(),
        w.into_dispatch(),
        bias.into_dispatch(),
    ))
}
