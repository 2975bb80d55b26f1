//! Convolution, batch norm, activation and the addition of a skip path as one operation with one hand-written
//! backward pass; and the bare convolution.
//!
//! Training keeps the input, the convolution's output and the batch's statistics; the normalised values are
//! computed again where the gradient needs them. In inference the kernels have the norm folded into the weights, which
//! are packed once and kept in a [`Cache`].

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]
#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

mod autodiff;
mod cpu;

use std::any::Any;
use std::sync::{Arc, Mutex};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;

use crate::cpu::activation::Activation;
use crate::cpu::dispatch::Prepared;
use crate::ops::elementwise::Elementwise;
use crate::ops::reference;

/// What a layer is, besides its tensors.
#[derive(Clone, Debug)]
pub struct ConvNormConfig {
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

/// The operations of the extension; `x` `[b, in, h, w]`, `w` `[out, in / groups, kh, kw]`. The default bodies are
/// composed operations.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait ConvNormActivation: Backend + Elementwise {
    /// The convolution alone.
    #[fusion(default)]
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        reference::convolution::<Self>(x, w, options)
    }

    /// The gradients of input (where wanted) and weights.
    #[fusion(default)]
    fn convolution_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        options: ConvOptions<2>,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        reference::convolution_backward::<Self>(x, w, dy, options, input_too)
    }

    /// Training: the result, the convolution's output, the batch's mean and biased variance. Where nothing
    /// skips, `skip` is any tensor.
    #[fusion(default)]
    fn conv_norm(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: ConvNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::conv_norm::<Self>(x, w, gamma, beta, skips.then_some(skip), layer)
    }

    /// The gradients of input (where wanted), weights, gamma and beta; `y, mean, variance` as
    /// [`Self::conv_norm`] gave them.
    #[fusion(default)]
    fn conv_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        y: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        layer: ConvNormConfig,
        input_too: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::conv_norm_backward::<Self>(
            x, w, gamma, beta, y, mean, variance, dout, layer, input_too,
        )
    }

    /// Inference, with running statistics.
    #[fusion(default)]
    fn conv_norm_inference(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        skips: bool,
        layer: ConvNormConfig,
        cache: Cache,
    ) -> FloatTensor<Self> {
        drop(cache); // nothing is folded
        let y = reference::convolution::<Self>(x, w, layer.conv.clone());
        let (running, skip) = ([mean, variance], skips.then_some(skip));
        reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer)
    }
}

impl ConvNormActivation for CubeBackend {}
#[cfg(feature = "capture")]
impl ConvNormActivation for burn::backend::Capture {}

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
/// let y = crate::ops::conv_norm_activation::convolution(x, w, None, options);
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert_eq!(y[..9], [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// ```
pub fn convolution(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
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
    layer: ConvNormConfig,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
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
    layer: ConvNormConfig,
    cache: &Cache,
) -> Tensor<4> {
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
