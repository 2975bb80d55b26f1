//! The linear layer. Kernels serve inference alone; the backward pass is Burn's.

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use burn_cubecl::CubeBackend;

use crate::cpu::linear::f32_linear;
use crate::isa::Isa;
use crate::ops::cpu_tensor::{CpuBackend, impl_for_cpu_backends};
use crate::ops::reference;

/// The linear layer of inference.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait LinearOps: Backend {
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

impl LinearOps for CubeBackend {}

fn forward<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    bias: &FloatTensor<B>,
) -> FloatTensor<B> {
    let shape = Shape::from([x.shape()[0], bias.shape()[0]]);
    let isa = Isa::chosen();
    let y = B::with_values(x, |x| {
        B::with_values(w, |w| B::with_values(bias, |bias| f32_linear(isa, x, w, bias)))
    });
    B::from_values(y, shape)
}

impl_for_cpu_backends! {
    impl LinearOps {
        fn linear_inference(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            bias: FloatTensor<Self>,
        ) -> FloatTensor<Self> {
            match Self::supports(&x) {
                true => forward::<Self>(&x, &w, &bias),
                false => reference::linear::<Self>(x, w, bias),
            }
        }
    }
}

impl<B: Backend + LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    /// Burn's own operation, with its gradients.
    fn linear_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::linear::<Self>(x, w, bias)
    }
}

/// A linear layer on any backend; on an autodiff device Burn's own operation, with gradients.
///
/// # Shapes
/// `x` `[b, in]`, `w` `[in, out]`, `bias` `[out]` to `[b, out]`.
pub fn linear(x: Tensor<2>, w: Tensor<2>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as LinearOps>::linear_inference(
        x.into_dispatch(),
        w.into_dispatch(),
        bias.into_dispatch(),
    ))
}
