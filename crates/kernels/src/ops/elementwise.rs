//! Operations that take whole maps value by value and keep them channels last: ReLU, the sum of two
//! maps. Burn's own operations run on one thread and return a strided map in torch's order.

mod autodiff;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, activation};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::activation::FusedActivation;
use crate::cpu::elementwise::{f32_relu, f32_relu_in_place, f32_zip, f32_zip_in_place, relu_slope};
use crate::gpu::{elementwise, map};
use crate::ops::cpu_tensor::{CpuBackend, burn_ops_requested, impl_for_cpu_backends};
use crate::ops::multi_tensor;
use crate::ops::reference;

/// Elementwise operations on maps `[b, c, h, w]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ElementwiseOps: Backend {
    /// `x + other`.
    #[fusion(default)]
    fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::sum::<Self>(x, other)
    }

    /// `x`, the input of several layers: see [`mod@crate::ops::branch`].
    #[fusion(default)]
    fn branched(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// `max(x, 0)`; of NaN it is NaN.
    #[fusion(default)]
    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::rectified::<Self>(x)
    }

    /// The gradient of [`ElementwiseOps::rectified`] from its result `y`.
    #[fusion(default)]
    fn rectified_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::rectified_backward::<Self>(y, dy)
    }

    /// `x * min(max(x + 3, 0), 6) / 6` of values of any shape.
    #[fusion(default)]
    fn hard_swished(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::hard_swished::<Self>(x)
    }

    /// The gradient of [`ElementwiseOps::hard_swished`].
    #[fusion(default)]
    fn hard_swished_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::hard_swished_backward::<Self>(x, dy)
    }
}

/// Whether the GPU kernels take these maps.
fn cube_supports(maps: &[&CubeTensor]) -> bool {
    !burn_ops_requested() && maps.iter().all(|map| map::supports(map))
}

impl ElementwiseOps for CubeBackend {
    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cube_supports(&[&x]) {
            return reference::rectified::<Self>(x);
        }
        map::from_nhwc(elementwise::activation(&map::to_nhwc(x), FusedActivation::Relu))
    }

    fn rectified_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cube_supports(&[&y, &dy]) || y.dtype != dy.dtype {
            return reference::rectified_backward::<Self>(y, dy);
        }
        let (y, dy) = (map::to_nhwc(y), map::to_nhwc(dy));
        map::from_nhwc(elementwise::activation_backward(&y, &dy, FusedActivation::Relu))
    }

    fn hard_swished(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match cube_supports(&[&x]) {
            true => elementwise::activation(&into_contiguous(x), FusedActivation::HardSwish),
            false => reference::hard_swished::<Self>(x),
        }
    }

    fn hard_swished_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cube_supports(&[&x, &dy]) || x.dtype != dy.dtype {
            return reference::hard_swished_backward::<Self>(x, dy);
        }
        let (x, dy) = (into_contiguous(x), into_contiguous(dy));
        elementwise::activation_backward(&x, &dy, FusedActivation::HardSwish)
    }
}

/// `f(x, y)` of two maps: in the memory of the first where `x` is its only owner, else in the
/// memory of the second under the same condition, else in new memory.
fn zip<B: CpuBackend>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> FloatTensor<B> {
    let shape = x.shape().dims();
    let x = match B::try_into_nhwc(x) {
        Ok(mut values) => {
            B::with_nhwc(&y, |y| f32_zip_in_place(&mut values, y, f));
            return B::from_nhwc(values, shape);
        }
        Err(x) => x,
    };
    let values = match B::try_into_nhwc(y) {
        Ok(mut values) => {
            B::with_nhwc(&x, |x| f32_zip_in_place(&mut values, x, |y, x| f(x, y)));
            values
        }
        Err(y) => B::with_nhwc(&x, |x| B::with_nhwc(&y, |y| f32_zip(x, y, f))),
    };
    B::from_nhwc(values, shape)
}

fn rectify<B: CpuBackend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape().dims();
    let values = match B::try_into_nhwc(x) {
        Ok(mut values) => {
            f32_relu_in_place(&mut values);
            values
        }
        Err(x) => B::with_nhwc(&x, f32_relu),
    };
    B::from_nhwc(values, shape)
}

impl_for_cpu_backends! {
    impl ElementwiseOps {
        fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
            match Self::supports(&x) {
                true => zip::<Self>(x, other, |x, other| x + other),
                false => reference::sum::<Self>(x, other),
            }
        }

        fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
            match Self::supports(&x) {
                true => rectify::<Self>(x),
                false => reference::rectified::<Self>(x),
            }
        }

        fn rectified_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
            match Self::supports(&y) {
                true => zip::<Self>(dy, y, |dy, y| relu_slope(y, dy)),
                false => reference::rectified_backward::<Self>(y, dy),
            }
        }
    }
}

/// `max(x, 0)` of a map, on any backend.
///
/// # Shapes
/// `[b, c, h, w]` to the same.
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ElementwiseOps>::rectified(x.into_dispatch()))
}

/// `x * min(max(x + 3, 0), 6) / 6` (arXiv:1905.02244) of values of any shape: by kernels on a GPU, by
/// Burn's own operations elsewhere.
pub fn hard_swish<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let plain = Tensor::<1>::empty([0], &x.device().without_autodiff());
    if !multi_tensor::supports(&plain) {
        return activation::hard_swish(x);
    }
    Tensor::from_dispatch(<Dispatch as ElementwiseOps>::hard_swished(x.into_dispatch()))
}

/// The sum of two maps of one shape, on any backend.
///
/// # Shapes
/// `[b, c, h, w]` both, to the same.
///
/// # Panics
/// When the shapes differ.
pub fn sum(x: Tensor<4>, other: Tensor<4>) -> Tensor<4> {
    assert_eq!(x.dims(), other.dims(), "maps {:?} and {:?}", x.dims(), other.dims());
    let (x, other) = (x.into_dispatch(), other.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ElementwiseOps>::sum(x, other))
}
