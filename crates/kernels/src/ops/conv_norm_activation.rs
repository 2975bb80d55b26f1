//! Convolution, batch norm, activation and the addition of a skip path as one operation with one
//! hand-written backward pass; and the bare convolution.
//!
//! Training keeps the input, the convolution's output and the batch's statistics; the backward pass
//! computes the normalised values again. In inference the kernels fold the norm into the weights,
//! which are packed once and kept in a [`WeightCache`].

mod autodiff;
mod cpu;
mod cube;

use std::any::Any;
use std::sync::{Arc, Mutex};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;

use crate::cpu::dispatch::PackedConv;
use crate::ops::conv_norm_config::{BatchNormState, ConvNormConfig};
use crate::ops::elementwise::ElementwiseOps;
use crate::ops::reference;

/// The folded and packed weights of a layer in inference. They are made at the first call, and
/// again when one of the layer's tensors has been replaced.
#[derive(Clone, Default)]
pub struct WeightCache(Arc<Mutex<Option<Folded>>>);

impl std::fmt::Debug for WeightCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WeightCache")
    }
}

struct Folded {
    /// The addresses of the values of the layer's tensors. The values cannot move or change in
    /// place while `_tensors` owns them too.
    addresses: Vec<usize>,
    _tensors: Box<dyn Any + Send>,
    weights: Arc<(PackedConv, Vec<f32>)>,
}

/// Layers of convolution and batch norm of `x` `[b, in, h, w]` with `w` `[out, in / groups, kh,
/// kw]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ConvNormOps: Backend + ElementwiseOps {
    /// The convolution without a norm.
    #[fusion(default)]
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        reference::convolution::<Self>(x, w, options)
    }

    /// The gradients of the input (only with `input_too`) and of the weights.
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

    /// Training: the result, the convolution's output, the batch's mean and biased variance. `skip`
    /// is added only if `skips`; otherwise it is any tensor.
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

    /// The gradients of the input (only with `input_too`), weights, gamma and beta; `y, mean,
    /// variance` as [`Self::conv_norm`] gave them.
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
        let norm = BatchNormState { gamma, beta, y, mean, variance };
        reference::conv_norm_backward::<Self>(x, w, norm, dout, layer, input_too)
    }

    /// Inference, with the running mean and variance.
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
        cache: WeightCache,
    ) -> FloatTensor<Self> {
        drop(cache); // the reference folds nothing
        let y = reference::convolution::<Self>(x, w, layer.conv.clone());
        let (running, skip) = ([mean, variance], skips.then_some(skip));
        reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer)
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
/// let y = kernels::ops::conv_norm_activation::convolution(x, w, None, options);
/// let y = y.into_data().try_into_vec::<f32>().unwrap();
/// assert_eq!(y[..9], [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// ```
pub fn convolution(
    x: Tensor<4>,
    w: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let y = Tensor::from_dispatch(<Dispatch as ConvNormOps>::convolution(
        x.into_dispatch(),
        w.into_dispatch(),
        options,
    ));
    match bias {
        Some(bias) => {
            let count = bias.dims()[0];
            let bias = bias.cast(y.dtype());
            y + bias.reshape([1, count, 1, 1])
        }
        None => y,
    }
}

/// The parameters of a batch norm.
#[derive(Clone, Debug)]
pub struct NormTensors {
    /// Scale, `[out]`.
    pub gamma: Tensor<1>,
    /// Shift, `[out]`.
    pub beta: Tensor<1>,
}

/// `activation(norm(conv(x, w))) + skip` with the statistics of the batch: the result, and the
/// batch's mean and biased variance without gradients.
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
    let (out, _, mean, variance) = <Dispatch as ConvNormOps>::conv_norm(
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

/// [`conv_norm_activation`] of inference, with the running mean and variance, `[out]` each.
///
/// # Shapes
/// Those of [`conv_norm_activation`]; `mean` and `variance` `[out]`.
pub fn conv_norm_activation_inference(
    x: Tensor<4>,
    w: Tensor<4>,
    norm: NormTensors,
    [mean, variance]: [Tensor<1>; 2],
    skip: Option<Tensor<4>>,
    layer: ConvNormConfig,
    cache: &WeightCache,
) -> Tensor<4> {
    let (skips, gamma) = (skip.is_some(), norm.gamma.into_dispatch());
    Tensor::from_dispatch(<Dispatch as ConvNormOps>::conv_norm_inference(
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
