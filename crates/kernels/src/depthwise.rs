//! The depthwise convolution with both gradients, on ndarray and flex by the kernels of [`planes`],
//! elsewhere (wgpu, tracing) and for other types than f32 by Burn's own operations.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

pub mod naive;
pub mod planes;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::{ConvOptions, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Shape, Tensor, TensorData};

use crate::isa::Isa;

/// The numbers of a depthwise convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Pictures.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Stride of both axes.
    pub stride: usize,
    /// Dilation of both axes.
    pub dilation: usize,
    /// Zeros above and left of the input.
    pub before: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Geometry {
    /// From the input's `[b, c, h, w]` and the kernel's `[c, 1, kh, kw]`.
    ///
    /// # Panics
    /// When the kernel is no depthwise one for the input, or the axes have different strides or dilations.
    pub fn new(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> Self {
        assert_eq!([w[0], w[1]], [x[1], 1], "kernel for {} channels", x[1]);
        assert_eq!(options.stride[0], options.stride[1], "strides of the two axes");
        assert_eq!(options.dilation[0], options.dilation[1], "dilations of the two axes");
        let (stride, dilation) = (options.stride[0], options.dilation[0]);
        let output = std::array::from_fn(|axis| {
            let (before, after) = options.padding[axis];
            let reach = (w[2 + axis] - 1) * dilation + 1;
            let padded = x[2 + axis] + before + after;
            assert!(padded >= reach, "{padded} padded pixels for a kernel that reaches {reach}");
            (padded - reach) / stride + 1
        });
        let before = [options.padding[0].0, options.padding[1].0];
        let (input, kernel) = ([x[2], x[3]], [w[2], w[3]]);
        Self { batch: x[0], channels: x[1], input, kernel, stride, dilation, before, output }
    }

    /// Taps of a kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values of the output.
    pub fn outputs(&self) -> usize {
        self.batch * self.channels * self.output[0] * self.output[1]
    }
}

/// The operations of the extension; `x` `[b, c, h, w]`, `w` `[c, 1, kh, kw]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait Depthwise: Backend {
    /// The convolution.
    #[fusion(default)]
    fn depthwise(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, w, None, options)
    }

    /// The gradients of input and weights.
    #[fusion(default)]
    fn depthwise_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dx = Self::conv2d_x_backward(x.clone(), w.clone(), dy.clone(), options.clone());
        (dx, Self::conv2d_weight_backward(x, w, dy, options))
    }
}

fn forward(x: &[f32], w: &[f32], g: &Geometry) -> Vec<f32> {
    planes::forward(Isa::chosen(), x, w, g)
}

fn backward(x: &[f32], w: &[f32], dy: &[f32], g: &Geometry) -> (Vec<f32>, Vec<f32>) {
    let isa = Isa::chosen();
    (planes::input_gradient(isa, w, dy, g), planes::weight_gradient(isa, x, dy, g))
}

fn geometry(x: &Shape, w: &Shape, options: &ConvOptions<2>) -> Geometry {
    Geometry::new(x.dims(), w.dims(), options)
}

fn output_shape(g: &Geometry) -> Shape {
    Shape::from([g.batch, g.channels, g.output[0], g.output[1]])
}

type Nd = FloatTensor<NdArray>;

/// The values of an ndarray tensor, copied only where they are strided.
fn with_values<R>(tensor: Nd, use_values: impl FnOnce(&[f32]) -> R) -> R {
    match tensor {
        Nd::F32(storage) => {
            let view = storage.view();
            match view.as_slice() {
                Some(values) => use_values(values),
                None => use_values(&view.iter().copied().collect::<Vec<f32>>()),
            }
        }
        other => panic!("f32 expected, got {:?}", other.dtype()),
    }
}

impl Depthwise for NdArray {
    fn depthwise(x: Nd, w: Nd, options: ConvOptions<2>) -> Nd {
        if x.dtype() != DType::F32 {
            return Self::conv2d(x, w, None, options);
        }
        let g = geometry(&x.shape(), &w.shape(), &options);
        let y = with_values(x, |x| with_values(w, |w| forward(x, w, &g)));
        Nd::from_data(TensorData::new(y, output_shape(&g)))
    }

    fn depthwise_backward(x: Nd, w: Nd, dy: Nd, options: ConvOptions<2>) -> (Nd, Nd) {
        if x.dtype() != DType::F32 {
            let dx = Self::conv2d_x_backward(x.clone(), w.clone(), dy.clone(), options.clone());
            return (dx, Self::conv2d_weight_backward(x, w, dy, options));
        }
        let (x_shape, w_shape) = (x.shape(), w.shape());
        let g = geometry(&x_shape, &w_shape, &options);
        let (dx, dw) =
            with_values(x, |x| with_values(w, |w| with_values(dy, |dy| backward(x, w, dy, &g))));
        (Nd::from_data(TensorData::new(dx, x_shape)), Nd::from_data(TensorData::new(dw, w_shape)))
    }
}

type Fx = FloatTensor<Flex>;

impl Depthwise for Flex {
    fn depthwise(x: Fx, w: Fx, options: ConvOptions<2>) -> Fx {
        if x.dtype() != DType::F32 {
            return Self::conv2d(x, w, None, options);
        }
        let g = geometry(&x.shape(), &w.shape(), &options);
        let (x, w) = (x.to_contiguous(), w.to_contiguous());
        let values = |t: &Fx| -> Vec<f32> { t.as_slice::<f32>().expect("contiguous").to_vec() };
        let y = match (x.as_slice::<f32>(), w.as_slice::<f32>()) {
            (Some(x), Some(w)) => forward(x, w, &g),
            _ => forward(&values(&x), &values(&w), &g),
        };
        Fx::from_data(TensorData::new(y, output_shape(&g)))
    }

    fn depthwise_backward(x: Fx, w: Fx, dy: Fx, options: ConvOptions<2>) -> (Fx, Fx) {
        if x.dtype() != DType::F32 {
            let dx = Self::conv2d_x_backward(x.clone(), w.clone(), dy.clone(), options.clone());
            return (dx, Self::conv2d_weight_backward(x, w, dy, options));
        }
        let (x_shape, w_shape) = (x.shape(), w.shape());
        let g = geometry(&x_shape, &w_shape, &options);
        let (x, w, dy) = (x.to_contiguous(), w.to_contiguous(), dy.to_contiguous());
        let (dx, dw) = backward(
            x.as_slice::<f32>().expect("contiguous"),
            w.as_slice::<f32>().expect("contiguous"),
            dy.as_slice::<f32>().expect("contiguous"),
            &g,
        );
        (Fx::from_data(TensorData::new(dx, x_shape)), Fx::from_data(TensorData::new(dw, w_shape)))
    }
}

impl Depthwise for burn::backend::Cube {}

impl<B: Backend + Depthwise, C: CheckpointStrategy> Depthwise for Autodiff<B, C> {
    fn depthwise(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Step;
        impl<B: Backend + Depthwise> Backward<B, 2> for Step {
            type State = (NodeId, NodeId, ConvOptions<2>);

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                saved: &mut Checkpointer,
            ) {
                let [x_parent, w_parent] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (x_id, w_id, options) = ops.state;
                let x: FloatTensor<B> = saved.retrieve_node_output(x_id);
                let w: FloatTensor<B> = saved.retrieve_node_output(w_id);
                let (dx, dw) = B::depthwise_backward(x, w, dy, options);
                if let Some(node) = x_parent {
                    grads.register::<B>(node.id, dx);
                }
                if let Some(node) = w_parent {
                    grads.register::<B>(node.id, dw);
                }
            }
        }
        match Step.prepare::<C>([x.node(), w.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut step) => {
                let (x_id, w_id) = (step.checkpoint(&x), step.checkpoint(&w));
                let y = B::depthwise(x.into_primitive(), w.into_primitive(), options.clone());
                step.finish((x_id, w_id, options), y)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::depthwise(x.into_primitive(), w.into_primitive(), options))
            }
        }
    }
}

/// The depthwise convolution of a tensor on any backend, with gradients on an autodiff device.
///
/// # Shapes
/// `x` `[b, c, h, w]`, `w` `[c, 1, kh, kw]` to `[b, c, h', w']`.
///
/// # Panics
/// When `options` has other groups than the channels.
///
/// ```
/// use burn::tensor::ops::ConvOptions;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let options = ConvOptions { stride: [1, 1], padding: [(1, 1); 2], dilation: [1, 1], groups: 2 };
/// let (x, w) = (Tensor::ones([1, 2, 3, 3], &device), Tensor::ones([2, 1, 3, 3], &device));
/// let y = kernels::depthwise::depthwise_conv2d(x, w, options);
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert_eq!(y[..9], [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// ```
pub fn depthwise_conv2d(x: Tensor<4>, w: Tensor<4>, options: ConvOptions<2>) -> Tensor<4> {
    let channels = x.dims()[1];
    assert_eq!(options.groups, channels, "groups of a depthwise convolution, channels");
    Tensor::from_dispatch(<Dispatch as Depthwise>::depthwise(
        x.into_dispatch(),
        w.into_dispatch(),
        options,
    ))
}
