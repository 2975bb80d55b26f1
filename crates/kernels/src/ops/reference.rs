//! The operations of the extensions composed of Burn's own ones, on any backend. They are the
//! default bodies (wgpu); they serve ndarray and flex where no kernel exists (f64, groups); and on
//! an autodiff device they are what Burn differentiates itself where Burn's operations are
//! requested.
//!
//! NaN stays NaN here as in the kernels: Burn's ReLU and clamp keep it. One exception: on wgpu the
//! maximum of a window may be that of its other values, because the shading language leaves `max`
//! of NaN open.

use burn::backend::tensor::{BoolTensor, FloatTensor};
use burn::backend::{Backend, Scalar, TensorMetadata, get_or_init_device_settings};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Shape, Slice};

use crate::cpu::activation::FusedActivation;
use crate::cpu::max_pool::PoolWindow;
use crate::ops::conv_norm_config::{BatchNormState, ConvNormConfig};

/// The type of weights and statistics beside maps of `dtype`: f32 where maps are f16, and otherwise
/// that of the maps.
pub(crate) fn weight_type(dtype: DType) -> DType {
    if dtype == DType::F16 { DType::F32 } else { dtype }
}

fn of_type<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

/// Reference of [`crate::ops::conv_norm_activation::ConvNormOps::convolution`].
pub fn convolution<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    options: ConvOptions<2>,
) -> FloatTensor<B> {
    B::conv2d(x, w, None, options)
}

/// Reference of [`crate::ops::conv_norm_activation::ConvNormOps::convolution_backward`].
pub fn convolution_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    dy: FloatTensor<B>,
    options: ConvOptions<2>,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let dx =
        input_too.then(|| convolution_dx::<B>(x.clone(), w.clone(), dy.clone(), options.clone()));
    (dx, B::conv2d_weight_backward(x, w, dy, options))
}

/// The gradient of the input alone, of [`convolution_backward`].
pub fn convolution_dx<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    dy: FloatTensor<B>,
    options: ConvOptions<2>,
) -> FloatTensor<B> {
    B::conv2d_x_backward(x, w, dy, options)
}

/// Where `x` is NaN.
fn nan_mask<B: Backend>(x: &FloatTensor<B>) -> BoolTensor<B> {
    let bools = get_or_init_device_settings::<B>(&x.device()).bool_dtype;
    B::float_is_nan(x.clone(), bools)
}

fn activate<B: Backend>(activation: FusedActivation, x: FloatTensor<B>) -> FloatTensor<B> {
    match activation {
        FusedActivation::Linear => x,
        FusedActivation::Relu => B::relu(x),
        FusedActivation::Relu6 => B::float_clamp(x, Scalar::Float(0.0), Scalar::Float(6.0)),
        FusedActivation::HardSwish => B::float_mul(x.clone(), hard_sigmoid::<B>(x)),
    }
}

/// Hard sigmoid; Burn's own goes through f32 on some backends.
fn hard_sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let sixth = B::float_mul_scalar(x, Scalar::Float(1.0 / 6.0));
    let gate = B::float_add_scalar(sixth, Scalar::Float(0.5));
    B::float_clamp(gate, Scalar::Float(0.0), Scalar::Float(1.0))
}

/// `x`, replaced by `below` where `z <= low` and by `above` where `z >= high`.
fn replace_outside<B: Backend>(
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

/// `dz` times the derivative of the activation at `z`.
fn activation_gradient<B: Backend>(
    activation: FusedActivation,
    z: FloatTensor<B>,
    dz: FloatTensor<B>,
) -> FloatTensor<B> {
    match activation {
        FusedActivation::Linear => dz,
        FusedActivation::Relu => B::relu_backward(z, dz),
        FusedActivation::Relu6 => replace_outside::<B>(dz, &z, [0.0, 6.0], [0.0, 0.0]),
        FusedActivation::HardSwish => {
            let third = B::float_mul_scalar(z.clone(), Scalar::Float(1.0 / 3.0));
            let middle = B::float_add_scalar(third, Scalar::Float(0.5));
            let slope = replace_outside::<B>(middle, &z, [-3.0, 3.0], [0.0, 1.0]);
            B::float_mul(slope, dz)
        }
    }
}

fn add_skip<B: Backend>(x: FloatTensor<B>, skip: Option<FloatTensor<B>>) -> FloatTensor<B> {
    match skip {
        Some(skip) => B::float_add(x, skip),
        None => x,
    }
}

/// Reference of [`crate::ops::conv_norm_activation::ConvNormOps::conv_norm`].
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
    let out = add_skip::<B>(activate::<B>(layer.activation, norm.output), skip);
    (out, y, norm.mean, norm.variance)
}

/// Reference of [`crate::ops::conv_norm_activation::ConvNormOps::conv_norm_backward`]. Burn's own
/// gradient of the norm would normalise a second time what the derivative of the activation needs
/// too.
pub fn conv_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    norm: BatchNormState<B>,
    dout: FloatTensor<B>,
    layer: ConvNormConfig,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let BatchNormState { gamma, beta, y, mean, variance } = norm;
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
        FusedActivation::Linear => dout,
        activation => {
            let scaled = B::float_mul(normalised.clone(), gamma.clone());
            activation_gradient::<B>(activation, B::float_add(scaled, channel(beta)), dout)
        }
    };
    let dbeta = sum(dz.clone());
    let dgamma = sum(B::float_mul(dz.clone(), normalised.clone()));
    // The shares of the gradient that go through the mean and the variance of the batch.
    let of_mean = B::float_div_scalar(dbeta.clone(), count);
    let of_variance = B::float_mul(normalised, B::float_div_scalar(dgamma.clone(), count));
    let dy = B::float_sub(B::float_sub(dz, of_mean), of_variance);
    let dy = B::float_mul(dy, B::float_mul(gamma, inverse));
    let (dx, dw) = convolution_backward::<B>(x, w, dy, layer.conv, input_too);
    (dx, dw, vector(dgamma), vector(dbeta))
}

/// Norm, activation and skip path behind the convolution's output `y` in
/// [`crate::ops::conv_norm_activation::ConvNormOps::conv_norm_inference`].
pub fn norm_inference<B: Backend>(
    y: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    [mean, variance]: [FloatTensor<B>; 2],
    skip: Option<FloatTensor<B>>,
    layer: &ConvNormConfig,
) -> FloatTensor<B> {
    let dtype = y.dtype();
    let y = of_type::<B>(y, weight_type(dtype));
    let z = B::batch_norm(y, gamma, beta, mean, variance, layer.epsilon);
    add_skip::<B>(of_type::<B>(activate::<B>(layer.activation, z), dtype), skip)
}

/// Reference of [`crate::ops::squeeze_excite::SqueezeExciteOps::squeeze_excite`].
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

/// Reference of [`crate::ops::squeeze_excite::SqueezeExciteOps::squeeze_excite_backward`].
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
    let dz = replace_outside::<B>(dz, &gate, [-3.0, 3.0], [0.0, 0.0]);
    // As in torch, the gradient is 0 where the gate is NaN.
    let dz = B::float_mask_fill(dz, nan_mask::<B>(&gate), Scalar::Float(0.0));
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

/// Reference of [`crate::ops::pooling::PoolingOps::global_mean`].
pub fn global_mean<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, channels, _, _] = x.shape().dims();
    let weights = weight_type(x.dtype());
    let x = of_type::<B>(x, weights);
    B::float_reshape(B::adaptive_avg_pool2d(x, [1, 1]), Shape::from([batch, channels]))
}

/// Reference of [`crate::ops::pooling::PoolingOps::global_mean_backward`].
pub fn global_mean_backward<B: Backend>(
    dy: FloatTensor<B>,
    h: usize,
    w: usize,
    dtype: DType,
) -> FloatTensor<B> {
    let [batch, channels] = dy.shape().dims();
    let share = B::float_div_scalar(dy, Scalar::Float((h * w) as f64));
    let share = of_type::<B>(share, dtype);
    let share = B::float_reshape(share, Shape::from([batch, channels, 1, 1]));
    B::float_expand(share, Shape::from([batch, channels, h, w]))
}

/// A window in Burn's terms: extents, stride, padding, dilation; and whether the last window of an
/// axis of this input reaches past its end.
fn burn_window(x: &Shape, window: PoolWindow) -> ([[usize; 2]; 4], bool) {
    let floor = |side: usize| (side + 2 * window.before - window.kernel) / window.stride + 1;
    let past = [x[2], x[3]].map(floor) != window.output;
    ([[window.kernel; 2], [window.stride; 2], [window.before; 2], [1; 2]], past)
}

/// Reference of [`crate::ops::pooling::PoolingOps::max_pool`].
pub fn max_pool<B: Backend>(x: FloatTensor<B>, window: PoolWindow) -> FloatTensor<B> {
    let ([kernel, stride, padding, dilation], past) = burn_window(&x.shape(), window);
    let pool = |x| B::max_pool2d(x, kernel, stride, padding, dilation, past);
    if !std::any::type_name::<B>().contains("NdArray") {
        return pool(x);
    }
    // Burn's window on ndarray passes NaN over. A window of this map has a 1 where it has NaN.
    let ones = B::bool_into_float(nan_mask::<B>(&x), x.dtype().into());
    let bools = get_or_init_device_settings::<B>(&x.device()).bool_dtype;
    let mask = B::float_greater_elem(pool(ones), Scalar::Float(0.0), bools);
    B::float_mask_fill(pool(x), mask, Scalar::Float(f64::NAN))
}

/// Reference of [`crate::ops::pooling::PoolingOps::max_pool_backward`]: the
/// maxima are located a second time.
pub fn max_pool_backward<B: Backend>(
    x: FloatTensor<B>,
    dy: FloatTensor<B>,
    window: PoolWindow,
) -> FloatTensor<B> {
    let ([kernel, stride, padding, dilation], past) = burn_window(&x.shape(), window);
    let ints = get_or_init_device_settings::<B>(&x.device()).int_dtype;
    let found =
        B::max_pool2d_with_indices(x.clone(), kernel, stride, padding, dilation, past, ints);
    let indices = found.indices;
    let back = B::max_pool2d_with_indices_backward(
        x, kernel, stride, padding, dilation, past, dy, indices,
    );
    back.x_grad
}

/// Reference of [`crate::ops::concat::ConcatOps::concat_channels`], of all parts.
pub fn concat_channels<B: Backend>(parts: Vec<FloatTensor<B>>) -> FloatTensor<B> {
    B::float_cat(parts, 1)
}

/// Reference of [`crate::ops::concat::ConcatOps::slice_channels`].
pub fn slice_channels<B: Backend>(x: FloatTensor<B>, from: usize, count: usize) -> FloatTensor<B> {
    let batch = x.shape()[0];
    B::float_slice(x, &[Slice::from(0..batch), Slice::from(from..from + count)])
}

/// Reference of [`crate::ops::linear::LinearOps::linear_inference`].
pub fn linear<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    B::linear(x, w, Some(bias))
}

/// Reference of [`crate::ops::elementwise::ElementwiseOps::hard_swished`].
pub fn hard_swished<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    activate::<B>(FusedActivation::HardSwish, x)
}

/// Reference of [`crate::ops::elementwise::ElementwiseOps::hard_swished_backward`].
pub fn hard_swished_backward<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    activation_gradient::<B>(FusedActivation::HardSwish, x, dy)
}

/// Reference of [`crate::ops::elementwise::ElementwiseOps::sum`].
pub fn sum<B: Backend>(x: FloatTensor<B>, other: FloatTensor<B>) -> FloatTensor<B> {
    B::float_add(x, other)
}

/// Reference of [`crate::ops::elementwise::ElementwiseOps::rectified`].
pub fn rectified<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::relu(x)
}

/// Reference of [`crate::ops::elementwise::ElementwiseOps::rectified_backward`].
pub fn rectified_backward<B: Backend>(y: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
    B::relu_backward(y, dy)
}
