//! The operations of the extensions in Burn's own ones, on any backend: the default bodies (wgpu, tracing), what
//! serves ndarray and flex where the kernels do not (f64, groups), and on an autodiff device what Burn
//! differentiates itself where no hand-written backward pass is asked for.

#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Scalar, TensorMetadata, get_or_init_device_settings};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Shape, Slice};

use crate::cpu::activation::Activation;
use crate::ops::conv_norm_activation::ConvNormConfig;
use crate::ops::pooling::Window;

/// As [`crate::ops::conv_norm_activation::ConvNormActivation::convolution`].
pub fn convolution<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    options: ConvOptions<2>,
) -> FloatTensor<B> {
    B::conv2d(x, w, None, options)
}

/// As [`crate::ops::conv_norm_activation::ConvNormActivation::convolution_backward`].
pub fn convolution_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    dy: FloatTensor<B>,
    options: ConvOptions<2>,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let dx =
        input_too.then(|| B::conv2d_x_backward(x.clone(), w.clone(), dy.clone(), options.clone()));
    (dx, B::conv2d_weight_backward(x, w, dy, options))
}

fn activated<B: Backend>(activation: Activation, x: FloatTensor<B>) -> FloatTensor<B> {
    match activation {
        Activation::Linear => x,
        Activation::Relu => B::relu(x),
        Activation::Relu6 => B::float_clamp(x, Scalar::Float(0.0), Scalar::Float(6.0)),
        Activation::HardSwish => B::float_mul(x.clone(), hard_sigmoid::<B>(x)),
    }
}

/// Burn's own goes through f32 on some backends.
fn hard_sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let sixth = B::float_mul_scalar(x, Scalar::Float(1.0 / 6.0));
    let gate = B::float_add_scalar(sixth, Scalar::Float(0.5));
    B::float_clamp(gate, Scalar::Float(0.0), Scalar::Float(1.0))
}

/// `x`, with the two values where `z` is at or below the first limit, at or above the second.
fn between<B: Backend>(
    x: FloatTensor<B>,
    z: &FloatTensor<B>,
    [low, high]: [f64; 2],
    [below, above]: [f64; 2],
) -> FloatTensor<B> {
    let bools = get_or_init_device_settings::<B>(&z.device()).bool_dtype;
    let mask = B::float_lower_equal_elem(z.clone(), Scalar::Float(low), bools);
    let x = B::float_mask_fill(x, mask, Scalar::Float(below));
    let mask = B::float_greater_equal_elem(z.clone(), Scalar::Float(high), bools);
    B::float_mask_fill(x, mask, Scalar::Float(above))
}

/// `dz` times the activation's slope at `z`.
fn sloped<B: Backend>(
    activation: Activation,
    z: FloatTensor<B>,
    dz: FloatTensor<B>,
) -> FloatTensor<B> {
    match activation {
        Activation::Linear => dz,
        Activation::Relu => B::relu_backward(z, dz),
        Activation::Relu6 => between::<B>(dz, &z, [0.0, 6.0], [0.0, 0.0]),
        Activation::HardSwish => {
            let third = B::float_mul_scalar(z.clone(), Scalar::Float(1.0 / 3.0));
            let middle = B::float_add_scalar(third, Scalar::Float(0.5));
            let slope = between::<B>(middle, &z, [-3.0, 3.0], [0.0, 1.0]);
            B::float_mul(slope, dz)
        }
    }
}

fn added<B: Backend>(x: FloatTensor<B>, skip: Option<FloatTensor<B>>) -> FloatTensor<B> {
    match skip {
        Some(skip) => B::float_add(x, skip),
        None => x,
    }
}

/// As [`crate::ops::conv_norm_activation::ConvNormActivation::conv_norm`].
pub fn conv_norm<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    skip: Option<FloatTensor<B>>,
    layer: ConvNormConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let y = convolution::<B>(x, w, layer.conv);
    let norm = B::batch_norm_train(y.clone(), gamma, beta, layer.epsilon);
    let out = added::<B>(activated::<B>(layer.activation, norm.output), skip);
    (out, y, norm.mean, norm.variance)
}

/// As [`crate::ops::conv_norm_activation::ConvNormActivation::conv_norm_backward`]. Burn's own gradient of the norm would
/// normalise once more what the activation's slope needs too.
pub fn conv_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    y: FloatTensor<B>,
    mean: FloatTensor<B>,
    variance: FloatTensor<B>,
    dout: FloatTensor<B>,
    layer: ConvNormConfig,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [batch, channels, height, width] = y.shape().dims();
    let count = Scalar::Float((batch * height * width) as f64);
    let channel = |vector| B::float_reshape(vector, Shape::from([1, channels, 1, 1]));
    let vector = |channel| B::float_reshape(channel, Shape::from([channels]));
    let sum = |map| B::float_sum_dims(map, &[0, 2, 3]);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, Scalar::Float(layer.epsilon)));
    let inverse = channel(B::float_recip(deviation));
    let normalised = B::float_mul(B::float_sub(y, channel(mean)), inverse.clone());
    let gamma = channel(gamma);
    let dz = match layer.activation {
        Activation::Linear => dout,
        activation => {
            let scaled = B::float_mul(normalised.clone(), gamma.clone());
            sloped::<B>(activation, B::float_add(scaled, channel(beta)), dout)
        }
    };
    let dbeta = sum(dz.clone());
    let dgamma = sum(B::float_mul(dz.clone(), normalised.clone()));
    // What the mean and the variance answer for.
    let of_mean = B::float_div_scalar(dbeta.clone(), count);
    let of_variance = B::float_mul(normalised, B::float_div_scalar(dgamma.clone(), count));
    let dy = B::float_sub(B::float_sub(dz, of_mean), of_variance);
    let dy = B::float_mul(dy, B::float_mul(gamma, inverse));
    let (dx, dw) = convolution_backward::<B>(x, w, dy, layer.conv, input_too);
    (dx, dw, vector(dgamma), vector(dbeta))
}

/// What follows the convolution's output `y` in
/// [`crate::ops::conv_norm_activation::ConvNormActivation::conv_norm_inference`].
pub fn norm_inference<B: Backend>(
    y: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    [mean, variance]: [FloatTensor<B>; 2],
    skip: Option<FloatTensor<B>>,
    layer: &ConvNormConfig,
) -> FloatTensor<B> {
    let z = B::batch_norm(y, gamma, beta, mean, variance, layer.epsilon);
    added::<B>(activated::<B>(layer.activation, z), skip)
}

/// As [`crate::ops::squeeze_excite::SqueezeExcite::squeeze_excite`].
pub fn squeeze_excite<B: Backend>(
    x: FloatTensor<B>,
    w1: FloatTensor<B>,
    b1: FloatTensor<B>,
    w2: FloatTensor<B>,
    b2: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [batch, channels, _, _] = x.shape().dims();
    let squeezed = b1.shape()[0];
    let options =
        || ConvOptions { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2], groups: 1 };
    let mean = B::adaptive_avg_pool2d(x.clone(), [1, 1]);
    let hidden = B::relu(B::conv2d(mean.clone(), w1, Some(b1), options()));
    let gate = B::conv2d(hidden.clone(), w2, Some(b2), options());
    let out = B::float_mul(x, hard_sigmoid::<B>(gate.clone()));
    let flat = |tensor, width| B::float_reshape(tensor, Shape::from([batch, width]));
    (out, flat(mean, channels), flat(hidden, squeezed), flat(gate, channels))
}

/// As [`crate::ops::squeeze_excite::SqueezeExcite::squeeze_excite_backward`].
pub fn squeeze_excite_backward<B: Backend>(
    x: FloatTensor<B>,
    w1: FloatTensor<B>,
    w2: FloatTensor<B>,
    mean: FloatTensor<B>,
    hidden: FloatTensor<B>,
    gate: FloatTensor<B>,
    dout: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [batch, channels, height, width] = x.shape().dims();
    let squeezed = w1.shape()[0];
    let shaped = |tensor, shape: &[usize]| B::float_reshape(tensor, Shape::from(shape.to_vec()));
    let dgate = B::float_sum_dims(B::float_mul(dout.clone(), x), &[2, 3]);
    let dz = B::float_mul_scalar(shaped(dgate, &[batch, channels]), Scalar::Float(1.0 / 6.0));
    let dz = between::<B>(dz, &gate, [-3.0, 3.0], [0.0, 0.0]);
    let dhidden = B::float_matmul(dz.clone(), shaped(w2, &[channels, squeezed]));
    let dhidden = B::relu_backward(hidden.clone(), dhidden);
    let dmean = B::float_matmul(dhidden.clone(), shaped(w1, &[squeezed, channels]));
    let dmean = B::float_div_scalar(dmean, Scalar::Float((height * width) as f64));
    let map = [batch, channels, 1, 1];
    let dx = B::float_mul(dout, shaped(hard_sigmoid::<B>(gate), &map));
    let dx = B::float_add(dx, shaped(dmean, &map));
    let weights = |d, x, shape| shaped(B::float_matmul(B::float_transpose(d), x), shape);
    let bias = |d, count| shaped(B::float_sum_dim(d, 0), &[count]);
    (
        dx,
        weights(dhidden.clone(), mean, &[squeezed, channels, 1, 1]),
        bias(dhidden, squeezed),
        weights(dz.clone(), hidden, &[channels, squeezed, 1, 1]),
        bias(dz, channels),
    )
}

/// As [`crate::ops::pooling::Pooling::global_mean`].
pub fn global_mean<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, channels, _, _] = x.shape().dims();
    B::float_reshape(B::adaptive_avg_pool2d(x, [1, 1]), Shape::from([batch, channels]))
}

/// As [`crate::ops::pooling::Pooling::global_mean_backward`].
pub fn global_mean_backward<B: Backend>(dy: FloatTensor<B>, h: usize, w: usize) -> FloatTensor<B> {
    let [batch, channels] = dy.shape().dims();
    let share = B::float_div_scalar(dy, Scalar::Float((h * w) as f64));
    let share = B::float_reshape(share, Shape::from([batch, channels, 1, 1]));
    B::float_expand(share, Shape::from([batch, channels, h, w]))
}

/// Burn's words for a window: extents, stride, padding, dilation, and whether the last window of an axis of this
/// input reaches past its end.
fn words(x: &Shape, window: Window) -> ([[usize; 2]; 4], bool) {
    let floor = |side: usize| (side + 2 * window.before - window.kernel) / window.stride + 1;
    let past = [x[2], x[3]].map(floor) != window.output;
    ([[window.kernel; 2], [window.stride; 2], [window.before; 2], [1; 2]], past)
}

/// As [`crate::ops::pooling::Pooling::window_max`].
pub fn window_max<B: Backend>(x: FloatTensor<B>, window: Window) -> FloatTensor<B> {
    let ([kernel, stride, padding, dilation], past) = words(&x.shape(), window);
    B::max_pool2d(x, kernel, stride, padding, dilation, past)
}

/// As [`crate::ops::pooling::Pooling::window_max_backward`]; the places of the largest values are found again.
pub fn window_max_backward<B: Backend>(
    x: FloatTensor<B>,
    dy: FloatTensor<B>,
    window: Window,
) -> FloatTensor<B> {
    let ([kernel, stride, padding, dilation], past) = words(&x.shape(), window);
    let ints = get_or_init_device_settings::<B>(&x.device()).int_dtype;
    let found =
        B::max_pool2d_with_indices(x.clone(), kernel, stride, padding, dilation, past, ints);
    let places = found.indices;
    let back =
        B::max_pool2d_with_indices_backward(x, kernel, stride, padding, dilation, past, dy, places);
    back.x_grad
}

/// As [`crate::ops::concat::Concat::side_by_side`], of all parts.
pub fn side_by_side<B: Backend>(parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    B::float_cat(parts, 1)
}

/// As [`crate::ops::concat::Concat::channels`].
pub fn channels<B: Backend>(x: FloatTensor<B>, from: usize, count: usize) -> FloatTensor<B> {
    let batch = x.shape()[0];
    B::float_slice(x, &[Slice::from(0..batch), Slice::from(from..from + count)])
}

/// As [`crate::ops::linear::LinearInference::linear_inference`].
pub fn linear<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    B::linear(x, w, Some(bias))
}

/// As [`crate::ops::elementwise::Elementwise::sum`].
pub fn sum<B: Backend>(x: FloatTensor<B>, other: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(x, other)
}

/// As [`crate::ops::elementwise::Elementwise::rectified`].
pub fn rectified<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::relu(x)
}

/// As [`crate::ops::elementwise::Elementwise::rectified_backward`].
pub fn rectified_backward<B: Backend>(y: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    B::relu_backward(y, dy)
}
