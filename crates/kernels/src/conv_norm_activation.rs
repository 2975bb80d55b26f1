//! Convolution, batch norm, activation and the addition of a skip path as one operation with one hand-written
//! backward pass; and the bare convolution.
//!
//! Training keeps the input, the convolution's output and the batch's statistics; the normalised values are
//! computed again where the gradient needs them. In inference the norm is folded into the weights, which are
//! packed once and kept in a [`Cache`].

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]
#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

use std::any::Any;
use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Shape, Tensor, activation as composed, module};

use crate::activation::Activation;
use crate::convolve::{Convolve, Prepared, known};
use crate::host::{Host, serves};
use crate::isa::Isa;
use crate::matmul::Finish;
use crate::normalise::{self, Gradient, Normalised};

/// What a layer is, besides its tensors.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Stride, padding, dilation, groups.
    pub conv: ConvOptions<2>,
    /// Added to the variance.
    pub epsilon: f64,
    /// After the norm, before the skip path is added.
    pub activation: Activation,
}

/// Folded and packed weights of a layer in inference, made at the first call and again when one of the
/// layer's tensors is another one.
#[derive(Clone, Default)]
pub struct Cache(Arc<Mutex<Option<Folded>>>);

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

struct Folded {
    /// Where the values of the layer's tensors lie. They cannot lie elsewhere or change in place
    /// while `_held` holds them too.
    places: Vec<usize>,
    _held: Box<dyn Any + Send>,
    weights: Arc<(Prepared, Vec<f32>)>,
}

/// The operations of the extension; `x` `[b, in, h, w]`, `w` `[out, in / groups, kh, kw]`.
#[backend_extension(NdArray, Flex, Autodiff)]
pub trait ConvNormActivation: Backend {
    /// The convolution alone.
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self>;

    /// The gradients of input (where wanted) and weights.
    fn convolution_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: ConvOptions<2>,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>);

    /// Training: the result, the convolution's output, the batch's mean and biased variance. Where nothing
    /// skips, `skip` is any tensor.
    fn conv_norm(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: Layer,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of input (where wanted), weights, gamma and beta; `saved` as [`Self::conv_norm`] gave it.
    fn conv_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        y: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        layer: Layer,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Inference, with running statistics.
    fn conv_norm_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: Layer,
        cache: Cache,
    ) -> FloatTensor<Self>;
}

fn convolve<B: Host>(x: &FloatTensor<B>, w: &FloatTensor<B>, options: &ConvOptions<2>) -> Convolve {
    Convolve::new(x.shape().dims(), w.shape().dims(), options)
}

/// Values of a vector of the layer.
fn vector<B: Host>(tensor: &FloatTensor<B>) -> Vec<f32> {
    B::with(tensor, <[f32]>::to_vec)
}

/// `1 / sqrt(variance + epsilon)`.
fn deviations(variance: &[f32], epsilon: f64) -> Vec<f32> {
    variance.iter().map(|v| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32).collect()
}

fn scales(gamma: &[f32], deviation: &[f32]) -> Vec<f32> {
    gamma.iter().zip(deviation).map(|(gamma, deviation)| gamma * deviation).collect()
}

fn shifts(beta: &[f32], mean: &[f32], scale: &[f32]) -> Vec<f32> {
    beta.iter().zip(mean).zip(scale).map(|((beta, mean), scale)| beta - mean * scale).collect()
}

fn of_vector<B: Host>(values: Vec<f32>) -> FloatTensor<B> {
    let count = values.len();
    B::make(values, Shape::from([count]))
}

fn forward<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> FloatTensor<B> {
    let (conv, isa) = (convolve::<B>(x, w, options), Isa::chosen());
    let w = B::with(w, |w| conv.prepare(isa, w, None));
    B::make_map(B::with_map(x, |x| conv.run(isa, x, &w, Finish::NONE)), conv.output())
}

/// The gradients of input and weights from values `[b, h', w', out]`.
fn gradients<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    dy: &[f32],
    options: &ConvOptions<2>,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let (conv, isa) = (convolve::<B>(x, w, options), Isa::chosen());
    let dw = B::with_map(x, |x| conv.weight_gradient(isa, x, dy));
    let dx = input_too
        .then(|| B::make_map(B::with(w, |w| conv.input_gradient(isa, w, dy)), x.shape().dims()));
    (dx, B::make(dw, w.shape()))
}

fn train<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    skip: Option<&FloatTensor<B>>,
    layer: &Layer,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (conv, isa) = (convolve::<B>(x, w, &layer.conv), Isa::chosen());
    let w = B::with(w, |w| conv.prepare(isa, w, None));
    let y = B::with_map(x, |x| conv.run(isa, x, &w, Finish::NONE));
    let shape = conv.output();
    let (mean, variance) = normalise::moments(isa, &y, shape[1]);
    let scale = scales(&vector::<B>(gamma), &deviations(&variance, layer.epsilon));
    let shift = shifts(&vector::<B>(beta), &mean, &scale);
    let apply =
        |skip: Option<&[f32]>| normalise::apply(isa, &y, &scale, &shift, layer.activation, skip);
    let out = match skip {
        Some(skip) => B::with_map(skip, |skip| apply(Some(skip))),
        None => apply(None),
    };
    (B::make_map(out, shape), B::make_map(y, shape), of_vector::<B>(mean), of_vector::<B>(variance))
}

fn train_backward<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    y: &FloatTensor<B>,
    mean: &FloatTensor<B>,
    variance: &FloatTensor<B>,
    dout: FloatTensor<B>,
    layer: &Layer,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let isa = Isa::chosen();
    let mean = vector::<B>(mean);
    let deviation = deviations(&vector::<B>(variance), layer.epsilon);
    let scale = scales(&vector::<B>(gamma), &deviation);
    let shift = shifts(&vector::<B>(beta), &mean, &scale);
    let activation = layer.activation;
    let norm =
        Normalised { mean: &mean, scale: &scale, shift: &shift, deviation: &deviation, activation };
    let back = |dout: Gradient<'_>| B::with_map(y, |y| normalise::backward(isa, y, dout, norm));
    let (dy, dgamma, dbeta) = match B::take_map(dout) {
        Ok(values) => back(Gradient::Owned(values)),
        Err(dout) => B::with_map(&dout, |dout| back(Gradient::Shared(dout))),
    };
    let (dx, dw) = gradients::<B>(x, w, &dy, &layer.conv, input_too);
    (dx, dw, of_vector::<B>(dgamma), of_vector::<B>(dbeta))
}

fn infer<B: Host>(
    x: &FloatTensor<B>,
    tensors: [FloatTensor<B>; 5],
    skip: Option<&FloatTensor<B>>,
    layer: &Layer,
    cache: &Cache,
) -> FloatTensor<B>
where
    FloatTensor<B>: Send + 'static,
{
    let isa = Isa::chosen();
    let conv = convolve::<B>(x, &tensors[0], &layer.conv);
    let places: Vec<usize> =
        tensors.iter().map(|t| B::with(t, |values| values.as_ptr() as usize)).collect();
    let weights = {
        let mut cache = cache.0.lock().expect("nothing panics while it is held");
        match &*cache {
            Some(folded) if folded.places == places => folded.weights.clone(),
            _ => {
                let [w, gamma, beta, mean, variance] = &tensors;
                let deviation = deviations(&vector::<B>(variance), layer.epsilon);
                let scale = scales(&vector::<B>(gamma), &deviation);
                let shift = shifts(&vector::<B>(beta), &vector::<B>(mean), &scale);
                let w = B::with(w, |w| conv.prepare(isa, w, Some(&scale)));
                let weights = Arc::new((w, shift));
                *cache =
                    Some(Folded { places, _held: Box::new(tensors), weights: weights.clone() });
                weights
            }
        }
    };
    let (w, shift) = (&weights.0, Some(&weights.1[..]));
    let run = |skip: Option<&[f32]>| {
        let finish = Finish { bias: shift, activation: layer.activation, skip };
        B::with_map(x, |x| conv.run(isa, x, w, finish))
    };
    let out = match skip {
        Some(skip) => B::with_map(skip, |skip| run(Some(skip))),
        None => run(None),
    };
    B::make_map(out, conv.output())
}

macro_rules! on_host {
    ($backend:ty) => {
        impl ConvNormActivation for $backend {
            fn convolution(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                options: ConvOptions<2>,
            ) -> FloatTensor<Self> {
                forward::<Self>(&x, &w, &options)
            }

            fn convolution_backward(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                dy: FloatTensor<Self>,
                options: ConvOptions<2>,
                input_too: bool,
            ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
                Self::with_map(&dy, |dy| gradients::<Self>(&x, &w, dy, &options, input_too))
            }

            fn conv_norm(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                skip: FloatTensor<Self>,
        skips: bool,
                layer: Layer,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                train::<Self>(&x, &w, &gamma, &beta, skips.then_some(&skip), &layer)
            }

            fn conv_norm_backward(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                y: FloatTensor<Self>,
                mean: FloatTensor<Self>,
                variance: FloatTensor<Self>,
                dout: FloatTensor<Self>,
                layer: Layer,
                input_too: bool,
            ) -> (
                Option<FloatTensor<Self>>,
                FloatTensor<Self>,
                FloatTensor<Self>,
                FloatTensor<Self>,
            ) {
                train_backward::<Self>(
                    &x, &w, &gamma, &beta, &y, &mean, &variance, dout, &layer, input_too,
                )
            }

            fn conv_norm_inference(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                mean: FloatTensor<Self>,
                variance: FloatTensor<Self>,
                skip: FloatTensor<Self>,
        skips: bool,
                layer: Layer,
                cache: Cache,
            ) -> FloatTensor<Self> {
                let tensors = [w, gamma, beta, mean, variance];
                infer::<Self>(&x, tensors, skips.then_some(&skip), &layer, &cache)
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

/// The backward pass of [`ConvNormActivation::conv_norm`] with `N` parents: `x, w, gamma, beta` and perhaps
/// the skip path.
#[derive(Debug)]
struct ConvNormStep<const N: usize>;

impl<B: Backend + ConvNormActivation, const N: usize> Backward<B, N> for ConvNormStep<N> {
    /// `x, w, gamma, beta, y, mean, variance`.
    type State = ([FloatTensor<B>; 7], Layer);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let ([x, w, gamma, beta, y, mean, variance], layer) = ops.state;
        if let Some(Some(skip)) = ops.parents.get(4) {
            grads.register::<B>(skip.id, dout.clone());
        }
        let input_too = ops.parents[0].is_some();
        let (dx, dw, dgamma, dbeta) =
            B::conv_norm_backward(x, w, gamma, beta, y, mean, variance, dout, layer, input_too);
        let gradients = [dx, Some(dw), Some(dgamma), Some(dbeta)];
        for (node, gradient) in ops.parents.iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct ConvolutionStep;

impl<B: Backend + ConvNormActivation> Backward<B, 2> for ConvolutionStep {
    type State = (FloatTensor<B>, FloatTensor<B>, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, w, options) = ops.state;
        let [x_node, w_node] = ops.parents;
        let (dx, dw) = B::convolution_backward(x, w, dy, options, x_node.is_some());
        if let (Some(node), Some(dx)) = (x_node, dx) {
            grads.register::<B>(node.id, dx);
        }
        if let Some(node) = w_node {
            grads.register::<B>(node.id, dw);
        }
    }
}

impl<B: Backend + ConvNormActivation, C: CheckpointStrategy> ConvNormActivation for Autodiff<B, C> {
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        match ConvolutionStep.prepare::<C>([x.node(), w.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let (x, w) = (x.into_primitive(), w.into_primitive());
                let y = B::convolution(x.clone(), w.clone(), options.clone());
                step.finish((x, w, options), y)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::convolution(x.into_primitive(), w.into_primitive(), options))
            }
        }
    }

    fn convolution_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvOptions<2>,
        _: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        panic!("the gradient of a convolution has no gradient here");
    }

    fn conv_norm(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: Layer,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), w.node(), gamma.node(), beta.node()];
        let tensors = [x, w, gamma, beta].map(|tensor| tensor.into_primitive());
        if skips {
            let [x, w, gamma, beta] = nodes;
            let nodes = [x, w, gamma, beta, skip.node()];
            return tracked::<B, C, 5>(nodes, tensors, skip.into_primitive(), layer);
        }
        tracked::<B, C, 4>(nodes, tensors, skip.into_primitive(), layer)
    }

    fn conv_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Layer,
        _: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a layer has no gradient here");
    }

    fn conv_norm_inference(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: bool,
        _: Layer,
        _: Cache,
    ) -> FloatTensor<Self> {
        panic!("inference keeps no gradients");
    }
}

type Outputs<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

fn tracked<B: Backend + ConvNormActivation, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    tensors: [FloatTensor<B>; 4],
    skip: FloatTensor<B>,
    layer: Layer,
) -> Outputs<Autodiff<B, C>> {
    let [x, w, gamma, beta] = tensors.clone();
    let (out, y, mean, variance) = B::conv_norm(x, w, gamma, beta, skip, N == 5, layer.clone());
    let constants =
        [&y, &mean, &variance].map(|tensor| FloatTensor::<Autodiff<B, C>>::new(tensor.clone()));
    let out = match ConvNormStep::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let [x, w, gamma, beta] = tensors;
            step.finish(([x, w, gamma, beta, y, mean, variance], layer), out)
        }
        OpsKind::UnTracked(step) => step.finish(out),
    };
    let [y, mean, variance] = constants;
    (out, y, mean, variance)
}

fn apply(activation: Activation, x: Tensor<4>) -> Tensor<4> {
    match activation {
        Activation::Linear => x,
        Activation::Relu => composed::relu(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::HardSwish => composed::hard_swish(x),
    }
}

fn added(x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
    match skip {
        Some(skip) => x + skip,
        None => x,
    }
}

/// A convolution of a tensor on any backend, with gradients on an autodiff device.
///
/// # Shapes
/// `x` `[b, in, h, w]`, `w` `[out, in / groups, kh, kw]`, `bias` `[out]` to `[b, out, h', w']`.
///
/// ```
/// use burn::tensor::ops::ConvOptions;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let options = ConvOptions { stride: [1, 1], padding: [(1, 1); 2], dilation: [1, 1], groups: 2 };
/// let (x, w) = (Tensor::ones([1, 2, 3, 3], &device), Tensor::ones([2, 1, 3, 3], &device));
/// let y = kernels::conv_norm_activation::convolution(x, w, None, options);
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert_eq!(y[..9], [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// ```
pub fn convolution(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    if !(serves(&x) && known(x.dims(), w.dims(), &options)) {
        return module::conv2d(x, w, bias, options);
    }
    let y = Tensor::from_dispatch(<Dispatch as ConvNormActivation>::convolution(
        x.into_dispatch(),
        w.into_dispatch(),
        options,
    ));
    match bias {
        Some(bias) => {
            let count = bias.dims()[0];
            y + bias.reshape([1, count, 1, 1])
        }
        None => y,
    }
}

/// The tensors of a norm: gamma, beta, and in inference the running mean and variance.
#[derive(Clone, Debug)]
pub struct NormTensors {
    /// Scale, `[out]`.
    pub gamma: Tensor<1>,
    /// Shift, `[out]`.
    pub beta: Tensor<1>,
}

/// `activation(norm(conv(x, w))) + skip` with the statistics of the batch: the result, and the batch's mean and
/// biased variance without gradients.
///
/// # Shapes
/// `x` `[b, in, h, w]`, `w` `[out, in / groups, kh, kw]`, `skip` and result `[b, out, h', w']`,
/// statistics `[out]`.
pub fn conv_norm_activation(
    x: Tensor<4>,
    w: Tensor<4>,
    norm: NormTensors,
    skip: Option<Tensor<4>>,
    layer: Layer,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    if !(serves(&x) && known(x.dims(), w.dims(), &layer.conv)) {
        let y = convolution(x, w, None, layer.conv);
        let out = module::batch_norm_train(y, norm.gamma, norm.beta, layer.epsilon);
        let z = added(apply(layer.activation, out.output), skip);
        return (z, out.mean.detach(), out.variance.detach());
    }
    let (skips, gamma) = (skip.is_some(), norm.gamma.into_dispatch());
    let (out, _, mean, variance) = <Dispatch as ConvNormActivation>::conv_norm(
        x.into_dispatch(),
        w.into_dispatch(),
        gamma.clone(),
        norm.beta.into_dispatch(),
        skip.map_or(gamma, Tensor::into_dispatch),
        skips,
        layer,
    );
    (Tensor::from_dispatch(out), Tensor::from_dispatch(mean), Tensor::from_dispatch(variance))
}

/// The same with running statistics, `[out]` each.
///
/// # Shapes
/// As [`conv_norm_activation`].
pub fn conv_norm_activation_inference(
    x: Tensor<4>,
    w: Tensor<4>,
    norm: NormTensors,
    [mean, variance]: [Tensor<1>; 2],
    skip: Option<Tensor<4>>,
    layer: Layer,
    cache: &Cache,
) -> Tensor<4> {
    let composed =
        x.device().is_autodiff() || !serves(&x) || !known(x.dims(), w.dims(), &layer.conv);
    if composed {
        let y = convolution(x, w, None, layer.conv);
        let NormTensors { gamma, beta } = norm;
        let z = module::batch_norm(y, gamma, beta, mean, variance, layer.epsilon);
        return added(apply(layer.activation, z), skip);
    }
    let (skips, gamma) = (skip.is_some(), norm.gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvNormActivation>::conv_norm_inference(
        x.into_dispatch(),
        w.into_dispatch(),
        gamma.clone(),
        norm.beta.into_dispatch(),
        mean.into_dispatch(),
        variance.into_dispatch(),
        skip.map_or(gamma, Tensor::into_dispatch),
        skips,
        layer,
        cache.clone(),
    ))
}
