//! Pooling: the maximum of a window, the mean of a window, the mean of a whole map.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::max_pool::{PoolWindow, f32_max_pool_nhwc, f32_max_pool_nhwc_dx};
use crate::cpu::spatial::{f32_spatial_mean_nhwc, f32_spatial_scale_nhwc};
use crate::gpu::{map, max_pool, spatial};
use crate::isa::Isa;
use crate::ops::autodiff::record;
use crate::ops::branch;
use crate::ops::conv_norm_activation::convolution;
use crate::ops::cpu_tensor::{CpuBackend, burn_ops_requested, impl_for_cpu_backends};
use crate::ops::elementwise::ElementwiseOps;
use crate::ops::reference;
use crate::ops::reference::weight_type;

/// Pooling of maps `[b, c, h, w]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait PoolingOps: Backend + ElementwiseOps {
    /// The mean over the map, `[b, c]`; of a map of f16 it is f32.
    #[fusion(default)]
    fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::global_mean::<Self>(x)
    }

    /// The gradient of [`PoolingOps::global_mean`] on maps of `h` by `w` values of `dtype`.
    #[fusion(default)]
    fn global_mean_backward(
        dy: FloatTensor<Self>,
        h: usize,
        w: usize,
        dtype: DType,
    ) -> FloatTensor<Self> {
        reference::global_mean_backward::<Self>(dy, h, w, dtype)
    }

    /// The maximum of each window; NaN of a window with NaN.
    #[fusion(default)]
    fn max_pool(x: FloatTensor<Self>, window: PoolWindow) -> FloatTensor<Self> {
        reference::max_pool::<Self>(x, window)
    }

    /// The gradient of [`PoolingOps::max_pool`]: it goes to the first maximum of each window.
    #[fusion(default)]
    fn max_pool_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        window: PoolWindow,
    ) -> FloatTensor<Self> {
        reference::max_pool_backward::<Self>(x, dy, window)
    }
}

/// Whether the GPU kernels take this map.
fn cube_supports(x: &CubeTensor) -> bool {
    map::supports(x) && !burn_ops_requested()
}

impl PoolingOps for CubeBackend {
    fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cube_supports(&x) {
            return reference::global_mean::<Self>(x);
        }
        let [b, c, h, w] = x.shape().dims();
        spatial::spatial_sum(&map::to_nhwc(x), None, [b, h * w, c], 1.0 / (h * w) as f32)
    }

    fn global_mean_backward(
        dy: FloatTensor<Self>,
        h: usize,
        w: usize,
        dtype: DType,
    ) -> FloatTensor<Self> {
        let kernels = matches!(dtype, DType::F32 | DType::F16) && dy.dtype == DType::F32;
        if !kernels || burn_ops_requested() {
            return reference::global_mean_backward::<Self>(dy, h, w, dtype);
        }
        let [b, c] = dy.shape().dims();
        let (dy, shape) = (into_contiguous(dy), [b, h * w, c]);
        let scale = (spatial::Scale::Summand, 1.0 / (h * w) as f32);
        let dx = spatial::scaled(&dy, [&dy; 2], shape, scale, dtype);
        map::from_nhwc(map::reshaped(dx, &[b, h, w, c]))
    }

    fn max_pool(x: FloatTensor<Self>, window: PoolWindow) -> FloatTensor<Self> {
        if !cube_supports(&x) {
            return reference::max_pool::<Self>(x, window);
        }
        let g = window.geometry(x.shape().dims());
        map::from_nhwc(max_pool::forward(&map::to_nhwc(x), &g))
    }

    fn max_pool_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        window: PoolWindow,
    ) -> FloatTensor<Self> {
        if !cube_supports(&x) || x.dtype != dy.dtype {
            return reference::max_pool_backward::<Self>(x, dy, window);
        }
        let g = window.geometry(x.shape().dims());
        map::from_nhwc(max_pool::dx(&map::to_nhwc(x), &map::to_nhwc(dy), &g))
    }
}

impl_for_cpu_backends! {
    impl PoolingOps {
        fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
            if !Self::supports(&x) {
                return reference::global_mean::<Self>(x);
            }
            let [b, c, _, _] = x.shape().dims();
            let mean = Self::with_nhwc(&x, |x| f32_spatial_mean_nhwc(Isa::chosen(), x, b, c));
            Self::from_values(mean, Shape::from([b, c]))
        }

        fn global_mean_backward(
            dy: FloatTensor<Self>,
            h: usize,
            w: usize,
            dtype: DType,
        ) -> FloatTensor<Self> {
            if !Self::supports(&dy) {
                return reference::global_mean_backward::<Self>(dy, h, w, dtype);
            }
            let [b, c] = dy.shape().dims();
            let share: Vec<f32> =
                Self::with_values(&dy, |dy| dy.iter().map(|d| d / (h * w) as f32).collect());
            let dx = f32_spatial_scale_nhwc(Isa::chosen(), None, &share, None, [b, h * w, c]);
            Self::from_nhwc(dx, [b, c, h, w])
        }

        fn max_pool(x: FloatTensor<Self>, window: PoolWindow) -> FloatTensor<Self> {
            if !Self::supports(&x) {
                return reference::max_pool::<Self>(x, window);
            }
            let g = window.geometry(x.shape().dims());
            let y = Self::with_nhwc(&x, |x| f32_max_pool_nhwc(Isa::chosen(), x, &g));
            Self::from_nhwc(y, [g.batch, g.channels, g.output[0], g.output[1]])
        }

        fn max_pool_backward(
            x: FloatTensor<Self>,
            dy: FloatTensor<Self>,
            window: PoolWindow,
        ) -> FloatTensor<Self> {
            if !Self::supports(&x) {
                return reference::max_pool_backward::<Self>(x, dy, window);
            }
            let g = window.geometry(x.shape().dims());
            let dx = Self::with_nhwc(&x, |x| {
                Self::with_nhwc(&dy, |dy| f32_max_pool_nhwc_dx(Isa::chosen(), x, dy, &g))
            });
            Self::from_nhwc(dx, x.shape().dims())
        }
    }
}

#[derive(Debug)]
struct GlobalMeanStep;

impl<B: Backend + PoolingOps> Backward<B, 1> for GlobalMeanStep {
    /// Height, width and type of the map.
    type State = (usize, usize, DType);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ((h, w, dtype), [node]) = (ops.state, ops.parents);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::global_mean_backward(dy, h, w, dtype));
        }
    }
}

#[derive(Debug)]
struct MaxPoolStep;

impl<B: Backend + PoolingOps> Backward<B, 1> for MaxPoolStep {
    type State = (FloatTensor<B>, PoolWindow);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ((x, window), [node]) = (ops.state, ops.parents);
        if let Some(node) = node {
            branch::register::<B>(grads, node.id, B::max_pool_backward(x, dy, window));
        }
    }
}

impl<B: Backend + PoolingOps, C: CheckpointStrategy> PoolingOps for Autodiff<B, C> {
    fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::global_mean::<Self>(x);
        }
        let ([_, _, h, w], nodes, dtype) = (x.shape().dims(), [x.node()], x.dtype());
        let mean = B::global_mean(x.into_primitive());
        record::<B, C, _, 1>(GlobalMeanStep, nodes, || (h, w, dtype), mean)
    }

    fn global_mean_backward(
        _: FloatTensor<Self>,
        _: usize,
        _: usize,
        _: DType,
    ) -> FloatTensor<Self> {
        panic!("pooling has no second derivative");
    }

    fn max_pool(x: FloatTensor<Self>, window: PoolWindow) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::max_pool::<Self>(x, window);
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        let y = B::max_pool(x.clone(), window);
        record::<B, C, _, 1>(MaxPoolStep, nodes, || (x, window), y)
    }

    fn max_pool_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: PoolWindow,
    ) -> FloatTensor<Self> {
        panic!("pooling has no second derivative");
    }
}

/// The mean over the whole map, on any backend; of a map of f16 it is f32.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c]`.
pub fn global_mean(x: Tensor<4>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as PoolingOps>::global_mean(x.into_dispatch()))
}

/// The maximum of each window, on any backend; the padding counts as minus infinity.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`, `[h', w']` the window's output.
pub fn max_pool(x: Tensor<4>, window: PoolWindow) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as PoolingOps>::max_pool(x.into_dispatch(), window))
}

/// The mean of each window, zeros of the padding included, by a depthwise convolution with equal
/// weights.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`.
pub fn mean_pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let channels = x.dims()[1];
    let weight = 1.0 / (kernel * kernel) as f64;
    let shape = [channels, 1, kernel, kernel];
    let w = Tensor::<4>::full(shape, weight, (&x.device(), weight_type(x.dtype())));
    let options = ConvOptions {
        stride: [stride; 2],
        padding: [(padding, padding); 2],
        dilation: [1; 2],
        groups: channels,
    };
    convolution(x, w, None, options)
}
