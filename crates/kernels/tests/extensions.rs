//! Every operation of every extension, on odd sizes, strides, borders and groups. The kernels of
//! ndarray and flex and the default bodies on wgpu (lavapipe in CI) are compared with the reference
//! operations in f64, the hand-written backward passes with Burn's autodiff of the reference.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

#[path = "random/random.rs"]
mod random;

use std::sync::LazyLock;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{Device as DeviceOf, FloatTensor};
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Cube, Flex, NdArray, TensorMetadata, read_sync,
};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, TensorData};
use kernels::cpu::activation::FusedActivation;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::concat::ConcatOps;
use kernels::ops::conv_norm_activation::{ConvNormOps, WeightCache};
use kernels::ops::conv_norm_config::{BatchNormState, ConvNormConfig};
use kernels::ops::linear::LinearOps;
use kernels::ops::pooling::PoolingOps;
use kernels::ops::reference;
use kernels::ops::separable::SeparableNormOps;
use kernels::ops::squeeze_excite::SqueezeExciteOps;
use random::{close, random};

/// A backend with all extensions.
trait Extended:
    Backend + ConvNormOps + SeparableNormOps + SqueezeExciteOps + PoolingOps + ConcatOps + LinearOps
{
}
impl<B> Extended for B where
    B: Backend
        + ConvNormOps
        + SeparableNormOps
        + SqueezeExciteOps
        + PoolingOps
        + ConcatOps
        + LinearOps
{
}

/// The type of the values, and whether the reference operations are called instead of the
/// extension.
#[derive(Clone, Copy)]
struct Setup {
    dtype: DType,
    reference: bool,
}

/// A tensor of random values.
fn tensor<B: Backend>(seed: u64, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    shaped::<B>(random(seed, shape.iter().product()), shape, dtype)
}

fn shaped<B: Backend>(values: Vec<f32>, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    let data = TensorData::new(values, shape.to_vec()).convert_dtype(dtype);
    B::float_from_data(data, &DeviceOf::<B>::default())
}

fn values<B: Backend>(tensor: FloatTensor<B>) -> Vec<f64> {
    let data = read_sync(B::float_into_data(tensor)).expect("values");
    data.convert::<f64>().try_into_vec::<f64>().expect("floats")
}

/// Results by name.
type Results = Vec<(String, Vec<f64>)>;

fn push<B: Backend>(results: &mut Results, what: &str, tensors: Vec<(&str, FloatTensor<B>)>) {
    for (name, tensor) in tensors {
        results.push((format!("{what}: {name}"), values::<B>(tensor)));
    }
}

/// Shapes of input and weights, stride, padding before and after, dilation, groups.
type Case = ([usize; 4], [usize; 4], usize, (usize, usize), usize, usize);

const CONVOLUTIONS: [Case; 11] = [
    ([3, 24, 9, 7], [40, 24, 1, 1], 1, (0, 0), 1, 1), // pointwise
    ([2, 21, 8, 9], [10, 21, 1, 1], 2, (0, 0), 1, 1), // a strided skip path
    ([3, 24, 9, 7], [24, 1, 3, 3], 2, (1, 1), 1, 24), // depthwise
    ([2, 17, 7, 8], [17, 1, 5, 5], 1, (2, 2), 1, 17),
    ([2, 9, 8, 6], [9, 1, 3, 3], 2, (0, 1), 1, 9), // TensorFlow's border
    ([2, 8, 9, 11], [8, 1, 3, 3], 1, (2, 2), 2, 8), // dilated
    ([2, 3, 17, 16], [16, 3, 3, 3], 2, (1, 1), 1, 1), // a stem
    ([2, 5, 7, 9], [6, 5, 1, 7], 1, (0, 3), 1, 1),
    ([1, 4, 9, 9], [7, 4, 5, 5], 2, (0, 0), 1, 1),
    ([2, 12, 6, 6], [8, 6, 3, 3], 1, (1, 1), 1, 2), // groups: the reference
    ([2, 6, 7, 5], [9, 2, 3, 3], 1, (1, 1), 1, 3),
];

fn options(&(_, _, stride, padding, dilation, groups): &Case) -> ConvOptions<2> {
    ConvOptions { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups }
}

const ACTIVATIONS: [(FusedActivation, bool); 5] = [
    (FusedActivation::Linear, true),
    (FusedActivation::Linear, false),
    (FusedActivation::Relu, false),
    (FusedActivation::Relu6, true),
    (FusedActivation::HardSwish, false),
];

/// Every method of [`ConvNormOps`].
fn convolutions<B: Extended>(Setup { dtype, reference }: Setup) -> Results {
    let mut results = Results::new();
    for case in &CONVOLUTIONS {
        let (x_shape, w_shape, ..) = *case;
        let channels = [w_shape[0]];
        let (x, w) = (tensor::<B>(1, &x_shape, dtype), tensor::<B>(2, &w_shape, dtype));
        let conv = options(case);
        let what = format!("{x_shape:?} {w_shape:?}");
        let y = match reference {
            true => reference::convolution::<B>(x.clone(), w.clone(), conv.clone()),
            false => B::convolution(x.clone(), w.clone(), conv.clone()),
        };
        let shape: [usize; 4] = y.shape().dims();
        let dy = tensor::<B>(3, &shape, dtype);
        push::<B>(&mut results, &what, vec![("convolution", y)]);
        for input_too in [true, false] {
            let (x, w, dy, conv) = (x.clone(), w.clone(), dy.clone(), conv.clone());
            let (dx, dw) = match reference {
                true => reference::convolution_backward::<B>(x, w, dy, conv, input_too),
                false => B::convolution_backward(x, w, dy, conv, input_too),
            };
            assert_eq!(dx.is_some(), input_too, "{what}");
            let dx = dx.into_iter().map(|dx| ("convolution dx", dx));
            push::<B>(&mut results, &what, dx.chain([("convolution dw", dw)]).collect());
        }
        for (activation, skips) in ACTIVATIONS {
            let what = format!("{what} {activation:?} skip {skips}");
            // Wide enough for both corners of every activation.
            let gamma = B::float_mul_scalar(tensor::<B>(4, &channels, dtype), 4.0.into());
            let beta = B::float_mul_scalar(tensor::<B>(5, &channels, dtype), 3.0.into());
            let skip = tensor::<B>(6, &shape, dtype);
            let layer =
                ConvNormConfig { conv: conv.clone(), epsilon: 1e-3, activation, running: None };
            let all = || (x.clone(), w.clone(), gamma.clone(), beta.clone());
            let (a, b, c, d) = all();
            let (out, y, mean, variance) = match reference {
                true => {
                    let skip = skips.then(|| skip.clone());
                    reference::conv_norm::<B>(a, b, c, d, skip, layer.clone())
                }
                false => B::conv_norm(a, b, c, d, skip.clone(), skips, layer.clone()),
            };
            let saved = [&y, &mean, &variance].map(FloatTensor::<B>::clone);
            let trained = vec![("out", out), ("y", y), ("mean", mean), ("variance", variance)];
            push::<B>(&mut results, &what, trained);
            let ((a, b, c, d), [y, mean, variance]) = (all(), saved);
            let (dout, inner) = (dy.clone(), layer.clone());
            let (dx, dw, dgamma, dbeta) = match reference {
                true => {
                    let norm = BatchNormState { gamma: c, beta: d, y, mean, variance };
                    reference::conv_norm_backward::<B>(a, b, norm, dout, inner, true)
                }
                false => B::conv_norm_backward(a, b, c, d, y, mean, variance, dout, inner, true),
            };
            let dx = dx.expect("it was requested");
            let gradients = vec![("dx", dx), ("dw", dw), ("dgamma", dgamma), ("dbeta", dbeta)];
            push::<B>(&mut results, &what, gradients);
            let mean = tensor::<B>(7, &channels, dtype);
            let variance = B::float_abs(tensor::<B>(8, &channels, dtype));
            let (a, b, c, d) = all();
            let out = match reference {
                true => {
                    let y = reference::convolution::<B>(a, b, conv.clone());
                    let skip = skips.then_some(skip);
                    reference::norm_inference::<B>(y, c, d, [mean, variance], skip, &layer)
                }
                false => B::conv_norm_inference(
                    a,
                    b,
                    c,
                    d,
                    mean,
                    variance,
                    skip,
                    skips,
                    layer,
                    WeightCache::default(),
                ),
            };
            push::<B>(&mut results, &what, vec![("inference", out)]);
        }
    }
    results
}

const WINDOWS: [([usize; 2], PoolWindow); 5] = [
    ([9, 8], PoolWindow { kernel: 3, stride: 2, before: 1, output: [5, 4] }),
    ([7, 7], PoolWindow { kernel: 3, stride: 2, before: 0, output: [3, 3] }),
    // The last window of both axes, and of one, reaches past the end.
    ([8, 8], PoolWindow { kernel: 3, stride: 2, before: 0, output: [4, 4] }),
    ([8, 7], PoolWindow { kernel: 3, stride: 2, before: 0, output: [4, 3] }),
    ([6, 5], PoolWindow { kernel: 3, stride: 1, before: 1, output: [6, 5] }),
];

/// Every method of [`SqueezeExciteOps`].
fn squeeze_excites<B: Extended>(Setup { dtype, reference }: Setup) -> Results {
    let mut results = Results::new();
    for (b, c, s, side) in [(1, 16, 8, 3), (7, 40, 24, 5), (2, 21, 5, 1)] {
        let what = format!("squeeze-excite {b} {c} {s} {side}");
        let (x, w1) =
            (tensor::<B>(1, &[b, c, side, side], dtype), tensor::<B>(2, &[s, c, 1, 1], dtype));
        let (b1, dout) = (tensor::<B>(3, &[s], dtype), tensor::<B>(6, &[b, c, side, side], dtype));
        // Some gates saturate.
        let w2 = B::float_mul_scalar(tensor::<B>(4, &[c, s, 1, 1], dtype), 6.0.into());
        let b2 = B::float_mul_scalar(tensor::<B>(5, &[c], dtype), 3.0.into());
        let inputs = (x.clone(), w1.clone(), b1, w2.clone(), b2);
        let (out, mean, hidden, gate) = match reference {
            true => {
                reference::squeeze_excite::<B>(inputs.0, inputs.1, inputs.2, inputs.3, inputs.4)
            }
            false => B::squeeze_excite(inputs.0, inputs.1, inputs.2, inputs.3, inputs.4),
        };
        let saved = [&mean, &hidden, &gate].map(FloatTensor::<B>::clone);
        let all = vec![("out", out), ("mean", mean), ("hidden", hidden), ("gate", gate)];
        push::<B>(&mut results, &what, all);
        let [mean, hidden, gate] = saved;
        let (dx, dw1, db1, dw2, db2) = match reference {
            true => reference::squeeze_excite_backward::<B>(x, w1, w2, mean, hidden, gate, dout),
            false => B::squeeze_excite_backward(x, w1, w2, mean, hidden, gate, dout),
        };
        let all = vec![("dx", dx), ("dw1", dw1), ("db1", db1), ("dw2", dw2), ("db2", db2)];
        push::<B>(&mut results, &what, all);
    }
    results
}

/// Every method of [`PoolingOps`].
fn poolings<B: Extended>(Setup { dtype, reference }: Setup) -> Results {
    let mut results = Results::new();
    for (c, ([h, w], window)) in [21, 16, 5, 40, 3].into_iter().zip(WINDOWS) {
        let what = format!("pooling {c} {h} {w} {window:?}");
        // All values are negative: a zero of the padding would win. Few values differ: the first
        // maximum counts.
        let coarse = random(1, 2 * c * h * w).iter().map(|v| (2.0 * v).round() - 5.0).collect();
        let x = shaped::<B>(coarse, &[2, c, h, w], dtype);
        let dy = tensor::<B>(2, &[2, c, window.output[0], window.output[1]], dtype);
        let dmean = tensor::<B>(3, &[2, c], dtype);
        let all = match reference {
            true => [
                reference::max_pool::<B>(x.clone(), window),
                reference::max_pool_backward::<B>(x.clone(), dy, window),
                reference::global_mean::<B>(x),
                reference::global_mean_backward::<B>(dmean, h, w, dtype),
            ],
            false => [
                B::max_pool(x.clone(), window),
                B::max_pool_backward(x.clone(), dy, window),
                B::global_mean(x),
                B::global_mean_backward(dmean, h, w, dtype),
            ],
        };
        let names = ["max", "max dx", "mean", "mean dx"];
        push::<B>(&mut results, &what, names.into_iter().zip(all).collect());
    }
    results
}

/// Every method of [`ConcatOps`] and [`LinearOps`].
fn concats_and_linears<B: Extended>(Setup { dtype, reference }: Setup) -> Results {
    let mut results = Results::new();
    for count in 1..=4 {
        let widths = [3, 21, 1, 8];
        let parts: Vec<_> =
            (0..4).map(|i| tensor::<B>(i as u64, &[2, widths[i], 5, 7], dtype)).collect();
        let whole = tensor::<B>(9, &[2, 33, 5, 7], dtype);
        let [a, b, c, d] = parts.clone().try_into().expect("four");
        let (joined, part) = match reference {
            true => (
                reference::concat_channels::<B>(parts[..count].to_vec()),
                reference::slice_channels::<B>(whole, 2 * count, 7),
            ),
            false => {
                (B::concat_channels(a, b, c, d, count), B::slice_channels(whole, 2 * count, 7))
            }
        };
        let all = vec![("concat", joined), ("slice", part)];
        push::<B>(&mut results, &format!("concat {count}"), all);
    }
    for (b, k, n) in [(1, 7, 5), (3, 40, 129), (16, 33, 65)] {
        let (x, w) = (tensor::<B>(1, &[b, k], dtype), tensor::<B>(2, &[k, n], dtype));
        let bias = tensor::<B>(3, &[n], dtype);
        let y = match reference {
            true => reference::linear::<B>(x, w, bias),
            false => B::linear_inference(x, w, bias),
        };
        push::<B>(&mut results, &format!("linear {b} {k} {n}"), vec![("y", y)]);
    }
    results
}

fn everything<B: Extended>(dtype: DType, reference: bool) -> Results {
    let setup = Setup { dtype, reference };
    let mut results = convolutions::<B>(setup);
    results.extend(squeeze_excites::<B>(setup));
    results.extend(poolings::<B>(setup));
    results.extend(concats_and_linears::<B>(setup));
    results
}

/// Starts whatever adapter there is, once per process.
fn wgpu() {
    static STARTED: LazyLock<Device> = LazyLock::new(|| {
        Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers")
    });
    LazyLock::force(&STARTED);
}

#[track_caller]
fn alike(who: &str, got: &Results, want: &Results, tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{who}");
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        close(&format!("{who}, {name}"), &single(got), &single(want), tolerance);
    }
}

/// Mutations caught: the mean's part of the gradient omitted, gamma's gradient off by 0.01 of
/// beta's, the weights' gradient of another input, a skip path omitted in training. On wgpu alone,
/// in the default body of inference: squeeze-excite with a gate that never saturates above or
/// without the mean's share, a pooling that never reaches past the end, a gradient of the maximum
/// 1.001 times as large, parts in another order, f64 taken by the kernels.
#[test]
fn kernels_and_default_bodies_equal_the_reference() {
    let want = everything::<Flex>(DType::F64, true);
    alike("flex", &everything::<Flex>(DType::F32, false), &want, 1e-4);
    alike("ndarray", &everything::<NdArray>(DType::F32, false), &want, 1e-4);
    alike("flex, reference", &everything::<Flex>(DType::F32, true), &want, 1e-4);
    alike("ndarray, reference", &everything::<NdArray>(DType::F32, true), &want, 1e-4);
    // f64 has no kernels: every bit is that of the reference.
    assert!(everything::<Flex>(DType::F64, false) == want, "f64 on flex");
    alike("ndarray in f64", &everything::<NdArray>(DType::F64, false), &want, 1e-6);
    wgpu();
    alike("wgpu", &everything::<Cube>(DType::F32, false), &want, 1e-4);
}

type Ad<B> = Autodiff<B>;

/// The result of `run` on tensors of these shapes, and the gradients of a weighted sum of it.
fn gradients<B: Extended>(
    dtype: DType,
    shapes: &[&[usize]],
    run: impl Fn(Vec<FloatTensor<Ad<B>>>) -> FloatTensor<Ad<B>>,
) -> Vec<Vec<f64>> {
    let leaf = |(i, shape): (usize, &&[usize])| {
        let values = tensor::<B>(20 + i as u64, shape, dtype);
        let values = B::float_mul_scalar(values, 3.0.into());
        Ad::<B>::float_set_require_grad(Ad::<B>::from_inner(values), true)
    };
    let leaves: Vec<_> = shapes.iter().enumerate().map(leaf).collect();
    let out = run(leaves.clone());
    let shape: Vec<usize> = out.shape().to_vec();
    let weights = Ad::<B>::from_inner(tensor::<B>(99, &shape, dtype));
    let mut results = vec![values::<B>(Ad::<B>::inner(out.clone()))];
    let grads = Ad::<B>::backward(Ad::<B>::float_sum(Ad::<B>::float_mul(out, weights)));
    let gradient = |leaf| values::<B>(Ad::<B>::grad(leaf, &grads).expect("a gradient"));
    results.extend(leaves.iter().map(gradient));
    results
}

/// Collects `gradients` of many operations, in a type, with the hand-written backward pass or with
/// Burn's of the reference.
struct Collector {
    dtype: DType,
    reference: bool,
    results: Results,
}

impl Collector {
    fn add<B: Extended>(
        &mut self,
        what: &str,
        shapes: &[&[usize]],
        run: impl Fn(Vec<FloatTensor<Ad<B>>>) -> FloatTensor<Ad<B>>,
    ) {
        let all = gradients::<B>(self.dtype, shapes, run).into_iter().enumerate();
        self.results.extend(all.map(|(i, values)| (format!("{what} part {i}"), values)));
    }
}

fn convolution_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for case in &CONVOLUTIONS {
        let (x, w, ..) = *case;
        let conv = options(case);
        all.add::<B>(&format!("convolution {case:?}"), &[&x, &w], |t| {
            let [x, w] = t.try_into().expect("two");
            match reference {
                true => reference::convolution::<Ad<B>>(x, w, conv.clone()),
                false => Ad::<B>::convolution(x, w, conv.clone()),
            }
        });
    }
}

fn layer_gradients<B: Extended>(all: &mut Collector) {
    let (dtype, reference) = (all.dtype, all.reference);
    for (case, (activation, skips)) in
        CONVOLUTIONS.iter().flat_map(|case| ACTIVATIONS.map(|activation| (case, activation)))
    {
        let (x, w, ..) = *case;
        let layer =
            ConvNormConfig { conv: options(case), epsilon: 1e-3, activation, running: None };
        let (inputs, weights) = (tensor::<B>(1, &x, dtype), tensor::<B>(2, &w, dtype));
        let y = reference::convolution::<B>(inputs, weights, layer.conv.clone());
        let (c, y): ([usize; 1], [usize; 4]) = ([w[0]], y.shape().dims());
        let shapes: [&[usize]; 5] = [&x, &w, &c, &c, &y];
        let shapes = &shapes[..4 + usize::from(skips)];
        all.add::<B>(&format!("layer {activation:?} {case:?}"), shapes, |mut t| {
            let skip = skips.then(|| t.pop().expect("the fifth"));
            let [x, w, gamma, beta] = t.try_into().expect("four");
            let layer = layer.clone();
            match reference {
                true => reference::conv_norm::<Ad<B>>(x, w, gamma, beta, skip, layer).0,
                false => {
                    let other = skip.unwrap_or_else(|| gamma.clone());
                    Ad::<B>::conv_norm(x, w, gamma, beta, other, skips, layer).0
                }
            }
        });
    }
}

/// A frozen layer in training: running statistics, and still gradients.
fn frozen_layer_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for (case, (activation, _)) in
        CONVOLUTIONS.iter().flat_map(|case| ACTIVATIONS.map(|activation| (case, activation)))
    {
        let (x, w, ..) = *case;
        let layer =
            ConvNormConfig { conv: options(case), epsilon: 1e-3, activation, running: None };
        let c = [w[0]];
        let shapes: [&[usize]; 5] = [&x, &w, &c, &c, &c];
        all.add::<B>(&format!("frozen {activation:?} {case:?}"), &shapes, |t| {
            let [x, w, gamma, beta, mean] = t.try_into().expect("five");
            let variance = Ad::<B>::float_mul(mean.clone(), mean.clone());
            let (layer, no_skip) = (layer.clone(), gamma.clone());
            match reference {
                true => {
                    let y = reference::convolution::<Ad<B>>(x, w, layer.conv.clone());
                    let running = [mean, variance];
                    reference::norm_inference::<Ad<B>>(y, gamma, beta, running, None, &layer)
                }
                false => {
                    let cache = WeightCache::default();
                    Ad::<B>::conv_norm_inference(
                        x, w, gamma, beta, mean, variance, no_skip, false, layer, cache,
                    )
                }
            }
        });
    }
}

fn separable_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for (b, c, h, w, kernel, stride) in
        [(2, 24, 9, 7, 3, 1), (3, 21, 8, 8, 3, 2), (1, 7, 11, 6, 5, 2)]
    {
        let case: Case =
            ([b, c, h, w], [c, 1, kernel, kernel], stride, (kernel / 2, kernel / 2), 1, c);
        let conv =
            ConvOptions { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2], groups: 1 };
        let layer = ConvNormConfig {
            conv,
            epsilon: 1e-3,
            activation: FusedActivation::Relu,
            running: None,
        };
        let shapes: [&[usize]; 5] = [&case.0, &case.1, &[10, c, 1, 1], &[10], &[10]];
        all.add::<B>(&format!("separable {case:?}"), &shapes, |t| {
            let [x, depthwise, pointwise, gamma, beta] = t.try_into().expect("five");
            let (first, layer) = (options(&case), layer.clone());
            match reference {
                true => {
                    let y = reference::convolution::<Ad<B>>(x, depthwise, first);
                    reference::conv_norm::<Ad<B>>(y, pointwise, gamma, beta, None, layer).0
                }
                false => {
                    Ad::<B>::separable_norm(x, depthwise, pointwise, gamma, beta, first, layer).0
                }
            }
        });
    }
}

fn squeeze_excite_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for (b, c, s, side) in [(1, 16, 8, 3), (7, 40, 24, 5), (2, 21, 5, 1)] {
        let shapes: [&[usize]; 5] = [&[b, c, side, side], &[s, c, 1, 1], &[s], &[c, s, 1, 1], &[c]];
        all.add::<B>(&format!("squeeze-excite {b} {c} {s}"), &shapes, |t| {
            let [x, w1, b1, w2, b2] = t.try_into().expect("five");
            // Without this factor most gates would saturate.
            let w1 = Ad::<B>::float_mul_scalar(w1, 0.1.into());
            match reference {
                true => reference::squeeze_excite::<Ad<B>>(x, w1, b1, w2, b2).0,
                false => Ad::<B>::squeeze_excite(x, w1, b1, w2, b2).0,
            }
        });
    }
}

fn pooling_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for ([h, w], window) in WINDOWS {
        all.add::<B>(&format!("max {window:?}"), &[&[2, 5, h, w]], |mut t| {
            let x = t.pop().expect("one");
            match reference {
                true => reference::max_pool::<Ad<B>>(x, window),
                false => Ad::<B>::max_pool(x, window),
            }
        });
        all.add::<B>(&format!("mean {h} {w}"), &[&[2, 5, h, w]], |mut t| {
            let x = t.pop().expect("one");
            match reference {
                true => reference::global_mean::<Ad<B>>(x),
                false => Ad::<B>::global_mean(x),
            }
        });
    }
}

fn concat_and_linear_gradients<B: Extended>(all: &mut Collector) {
    let reference = all.reference;
    for count in 1..=4 {
        let shapes: [&[usize]; 4] = [&[2, 3, 5, 7], &[2, 21, 5, 7], &[2, 1, 5, 7], &[2, 8, 5, 7]];
        all.add::<B>(&format!("concat {count}"), &shapes[..count], |parts| match reference {
            true => reference::concat_channels::<Ad<B>>(parts),
            false => {
                let part = |i: usize| parts.get(i).unwrap_or(&parts[0]).clone();
                Ad::<B>::concat_channels(part(0), part(1), part(2), part(3), count)
            }
        });
    }
    all.add::<B>("linear", &[&[3, 40], &[40, 9], &[9]], |t| {
        let [x, w, bias] = t.try_into().expect("three");
        match reference {
            true => reference::linear::<Ad<B>>(x, w, bias),
            false => Ad::<B>::linear_inference(x, w, bias),
        }
    });
}

/// The gradients of every operation with a hand-written backward pass: with it, or with Burn's
/// backward pass of the reference.
fn all_gradients<B: Extended>(dtype: DType, reference: bool) -> Results {
    let mut all = Collector { dtype, reference, results: Results::new() };
    convolution_gradients::<B>(&mut all);
    layer_gradients::<B>(&mut all);
    frozen_layer_gradients::<B>(&mut all);
    separable_gradients::<B>(&mut all);
    squeeze_excite_gradients::<B>(&mut all);
    pooling_gradients::<B>(&mut all);
    concat_and_linear_gradients::<B>(&mut all);
    all.results
}

/// In f64 to the last digits; the two share nothing but the forward pass.
///
/// Mutations caught: a skip path, the bias of a linear layer or the input of a frozen layer without
/// a gradient.
#[test]
fn the_hand_written_backward_passes_equal_those_of_burn() {
    let (got, want) =
        (all_gradients::<Flex>(DType::F64, false), all_gradients::<Flex>(DType::F64, true));
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(&want) {
        let largest = want.iter().fold(1e-3_f64, |most, v| most.max(v.abs()));
        for (i, (a, b)) in got.iter().zip(want).enumerate() {
            assert!((a - b).abs() <= 1e-10 * largest, "{name} at {i}: {a}, expected {b}");
        }
    }
    alike("flex", &all_gradients::<Flex>(DType::F32, false), &want, 1e-3);
    wgpu();
    alike("wgpu", &all_gradients::<Cube>(DType::F32, false), &want, 1e-3);
}
