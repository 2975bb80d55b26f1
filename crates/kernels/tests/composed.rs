//! Every operation of every extension, on odd sizes, strides, borders and groups: the kernels of ndarray and flex and
//! the default bodies on wgpu (lavapipe in CI) against the composed operations in f64; and the hand-written backward
//! passes over those against what Burn's autodiff makes of them.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

#[path = "rough/rough.rs"]
mod rough;

use std::sync::LazyLock;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{Device as DeviceOf, FloatTensor};
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, Cube, Flex, NdArray, TensorMetadata, read_sync,
};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, TensorData};
use kernels::cpu::activation::Activation;
use kernels::ops::concat::Concat;
use kernels::ops::conv_norm_activation::{Cache, ConvNormActivation, ConvNormConfig};
use kernels::ops::linear::LinearInference;
use kernels::ops::pooling::{Pooling, Window};
use kernels::ops::reference;
use kernels::ops::separable::SeparableNorm;
use kernels::ops::squeeze_excite::SqueezeExcite;
use rough::{close, rough};

/// A backend with all extensions.
trait Extended:
    Backend + ConvNormActivation + SeparableNorm + SqueezeExcite + Pooling + Concat + LinearInference
{
}
impl<B> Extended for B where
    B: Backend
        + ConvNormActivation
        + SeparableNorm
        + SqueezeExcite
        + Pooling
        + Concat
        + LinearInference
{
}

/// Where, in which type, and whether the composed operations are called by themselves.
#[derive(Clone, Copy)]
struct How {
    dtype: DType,
    composed: bool,
}

/// A tensor of rough values.
fn tensor<B: Backend>(seed: u64, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    shaped::<B>(rough(seed, shape.iter().product()), shape, dtype)
}

fn shaped<B: Backend>(values: Vec<f32>, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    let data = TensorData::new(values, shape.to_vec()).convert_dtype(dtype);
    B::float_from_data(data, &DeviceOf::<B>::default())
}

fn values<B: Backend>(tensor: FloatTensor<B>) -> Vec<f64> {
    let data = read_sync(B::float_into_data(tensor)).expect("values");
    data.convert::<f64>().try_into_vec::<f64>().expect("floats")
}

type Found = Vec<(String, Vec<f64>)>;

fn keep<B: Backend>(found: &mut Found, what: &str, tensors: Vec<(&str, FloatTensor<B>)>) {
    for (name, tensor) in tensors {
        found.push((format!("{what}: {name}"), values::<B>(tensor)));
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
    ([2, 12, 6, 6], [8, 6, 3, 3], 1, (1, 1), 1, 2), // groups: no kernel
    ([2, 6, 7, 5], [9, 2, 3, 3], 1, (1, 1), 1, 3),
];

fn options(&(_, _, stride, padding, dilation, groups): &Case) -> ConvOptions<2> {
    ConvOptions { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups }
}

const ACTIVATIONS: [(Activation, bool); 5] = [
    (Activation::Linear, true),
    (Activation::Linear, false),
    (Activation::Relu, false),
    (Activation::Relu6, true),
    (Activation::HardSwish, false),
];

/// Every method of [`ConvNormActivation`].
fn convolutions<B: Extended>(How { dtype, composed }: How) -> Found {
    let mut found = Found::new();
    for case in &CONVOLUTIONS {
        let (x_shape, w_shape, ..) = *case;
        let channels = [w_shape[0]];
        let (x, w) = (tensor::<B>(1, &x_shape, dtype), tensor::<B>(2, &w_shape, dtype));
        let conv = options(case);
        let what = format!("{x_shape:?} {w_shape:?}");
        let y = match composed {
            true => reference::convolution::<B>(x.clone(), w.clone(), conv.clone()),
            false => B::convolution(x.clone(), w.clone(), conv.clone()),
        };
        let shape: [usize; 4] = y.shape().dims();
        let dy = tensor::<B>(3, &shape, dtype);
        keep::<B>(&mut found, &what, vec![("convolution", y)]);
        for input_too in [true, false] {
            let (x, w, dy, conv) = (x.clone(), w.clone(), dy.clone(), conv.clone());
            let (dx, dw) = match composed {
                true => reference::convolution_backward::<B>(x, w, dy, conv, input_too),
                false => B::convolution_backward(x, w, dy, conv, input_too),
            };
            assert_eq!(dx.is_some(), input_too, "{what}");
            let dx = dx.into_iter().map(|dx| ("convolution dx", dx));
            keep::<B>(&mut found, &what, dx.chain([("convolution dw", dw)]).collect());
        }
        for (activation, skips) in ACTIVATIONS {
            let what = format!("{what} {activation:?} skip {skips}");
            // Wide enough for both corners of every activation.
            let gamma = B::float_mul_scalar(tensor::<B>(4, &channels, dtype), 4.0.into());
            let beta = B::float_mul_scalar(tensor::<B>(5, &channels, dtype), 3.0.into());
            let skip = tensor::<B>(6, &shape, dtype);
            let layer = ConvNormConfig { conv: conv.clone(), epsilon: 1e-3, activation };
            let all = || (x.clone(), w.clone(), gamma.clone(), beta.clone());
            let (a, b, c, d) = all();
            let (out, y, mean, variance) = match composed {
                true => {
                    let skip = skips.then(|| skip.clone());
                    reference::conv_norm::<B>(a, b, c, d, skip, layer.clone())
                }
                false => B::conv_norm(a, b, c, d, skip.clone(), skips, layer.clone()),
            };
            let kept = [&y, &mean, &variance].map(FloatTensor::<B>::clone);
            let trained = vec![("out", out), ("y", y), ("mean", mean), ("variance", variance)];
            keep::<B>(&mut found, &what, trained);
            let ((a, b, c, d), [y, mean, variance]) = (all(), kept);
            let (dout, inner) = (dy.clone(), layer.clone());
            let (dx, dw, dgamma, dbeta) = match composed {
                true => reference::conv_norm_backward::<B>(
                    a, b, c, d, y, mean, variance, dout, inner, true,
                ),
                false => B::conv_norm_backward(a, b, c, d, y, mean, variance, dout, inner, true),
            };
            let dx = dx.expect("it was wanted");
            let gradients = vec![("dx", dx), ("dw", dw), ("dgamma", dgamma), ("dbeta", dbeta)];
            keep::<B>(&mut found, &what, gradients);
            let mean = tensor::<B>(7, &channels, dtype);
            let variance = B::float_abs(tensor::<B>(8, &channels, dtype));
            let (a, b, c, d) = all();
            let out = match composed {
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
                    Cache::default(),
                ),
            };
            keep::<B>(&mut found, &what, vec![("inference", out)]);
        }
    }
    found
}

const WINDOWS: [([usize; 2], Window); 5] = [
    ([9, 8], Window { kernel: 3, stride: 2, before: 1, output: [5, 4] }),
    ([7, 7], Window { kernel: 3, stride: 2, before: 0, output: [3, 3] }),
    // The last window of both axes, and of one, reaches past the end.
    ([8, 8], Window { kernel: 3, stride: 2, before: 0, output: [4, 4] }),
    ([8, 7], Window { kernel: 3, stride: 2, before: 0, output: [4, 3] }),
    ([6, 5], Window { kernel: 3, stride: 1, before: 1, output: [6, 5] }),
];

/// Every method of the other extensions.
fn others<B: Extended>(How { dtype, composed }: How) -> Found {
    let mut found = Found::new();
    for (b, c, s, side) in [(1, 16, 8, 3), (7, 40, 24, 5), (2, 21, 5, 1)] {
        let what = format!("squeeze-excite {b} {c} {s} {side}");
        let (x, w1) =
            (tensor::<B>(1, &[b, c, side, side], dtype), tensor::<B>(2, &[s, c, 1, 1], dtype));
        let (b1, dout) = (tensor::<B>(3, &[s], dtype), tensor::<B>(6, &[b, c, side, side], dtype));
        // Wide gates: some saturate.
        let w2 = B::float_mul_scalar(tensor::<B>(4, &[c, s, 1, 1], dtype), 6.0.into());
        let b2 = B::float_mul_scalar(tensor::<B>(5, &[c], dtype), 3.0.into());
        let inputs = (x.clone(), w1.clone(), b1, w2.clone(), b2);
        let (out, mean, hidden, gate) = match composed {
            true => {
                reference::squeeze_excite::<B>(inputs.0, inputs.1, inputs.2, inputs.3, inputs.4)
            }
            false => B::squeeze_excite(inputs.0, inputs.1, inputs.2, inputs.3, inputs.4),
        };
        let kept = [&mean, &hidden, &gate].map(FloatTensor::<B>::clone);
        let all = vec![("out", out), ("mean", mean), ("hidden", hidden), ("gate", gate)];
        keep::<B>(&mut found, &what, all);
        let [mean, hidden, gate] = kept;
        let (dx, dw1, db1, dw2, db2) = match composed {
            true => reference::squeeze_excite_backward::<B>(x, w1, w2, mean, hidden, gate, dout),
            false => B::squeeze_excite_backward(x, w1, w2, mean, hidden, gate, dout),
        };
        let all = vec![("dx", dx), ("dw1", dw1), ("db1", db1), ("dw2", dw2), ("db2", db2)];
        keep::<B>(&mut found, &what, all);
    }
    for (c, ([h, w], window)) in [21, 16, 5, 40, 3].into_iter().zip(WINDOWS) {
        let what = format!("pooling {c} {h} {w} {window:?}");
        // All values negative: a zero of the padding would win. Few different ones: the first of the largest counts.
        let coarse = rough(1, 2 * c * h * w).iter().map(|v| (2.0 * v).round() - 5.0).collect();
        let x = shaped::<B>(coarse, &[2, c, h, w], dtype);
        let dy = tensor::<B>(2, &[2, c, window.output[0], window.output[1]], dtype);
        let dmean = tensor::<B>(3, &[2, c], dtype);
        let all = match composed {
            true => [
                reference::window_max::<B>(x.clone(), window),
                reference::window_max_backward::<B>(x.clone(), dy, window),
                reference::global_mean::<B>(x),
                reference::global_mean_backward::<B>(dmean, h, w),
            ],
            false => [
                B::window_max(x.clone(), window),
                B::window_max_backward(x.clone(), dy, window),
                B::global_mean(x),
                B::global_mean_backward(dmean, h, w),
            ],
        };
        let names = ["max", "max dx", "mean", "mean dx"];
        keep::<B>(&mut found, &what, names.into_iter().zip(all).collect());
    }
    for count in 1..=4 {
        let widths = [3, 21, 1, 8];
        let parts: Vec<_> =
            (0..4).map(|i| tensor::<B>(i as u64, &[2, widths[i], 5, 7], dtype)).collect();
        let whole = tensor::<B>(9, &[2, 33, 5, 7], dtype);
        let [a, b, c, d] = parts.clone().try_into().expect("four");
        let (joined, part) = match composed {
            true => (
                reference::side_by_side::<B>(parts[..count].to_vec()),
                reference::channels::<B>(whole, 2 * count, 7),
            ),
            false => (B::side_by_side(a, b, c, d, count), B::channels(whole, 2 * count, 7)),
        };
        let all = vec![("side by side", joined), ("channels", part)];
        keep::<B>(&mut found, &format!("concat {count}"), all);
    }
    for (b, k, n) in [(1, 7, 5), (3, 40, 129), (16, 33, 65)] {
        let (x, w) = (tensor::<B>(1, &[b, k], dtype), tensor::<B>(2, &[k, n], dtype));
        let bias = tensor::<B>(3, &[n], dtype);
        let y = match composed {
            true => reference::linear::<B>(x, w, bias),
            false => B::linear_inference(x, w, bias),
        };
        keep::<B>(&mut found, &format!("linear {b} {k} {n}"), vec![("y", y)]);
    }
    found
}

fn everything<B: Extended>(dtype: DType, composed: bool) -> Found {
    let how = How { dtype, composed };
    let mut found = convolutions::<B>(how);
    found.extend(others::<B>(how));
    found
}

/// Starts whatever adapter there is, once per process.
fn wgpu() {
    static STARTED: LazyLock<Device> = LazyLock::new(|| {
        Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers")
    });
    LazyLock::force(&STARTED);
}

#[track_caller]
fn alike(who: &str, got: &Found, want: &Found, tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{who}");
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let single = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        close(&format!("{who}, {name}"), &single(got), &single(want), tolerance);
    }
}

/// Seen to fail with: the mean's part of the gradient left out, gamma's gradient off by 0.01 of beta's, the weights'
/// gradient of another input, a skip path left out of training, and on wgpu alone of the default body of inference,
/// squeeze-excite with a gate that never saturates above or without the mean's share, a pooling that never reaches past
/// the end, a gradient of the largest value 1.001 times as large, parts in another order, f64 taken by the kernels.
#[test]
fn kernels_and_default_bodies_equal_the_composed_operations() {
    let want = everything::<Flex>(DType::F64, true);
    alike("flex", &everything::<Flex>(DType::F32, false), &want, 1e-4);
    alike("ndarray", &everything::<NdArray>(DType::F32, false), &want, 1e-4);
    alike("flex, composed", &everything::<Flex>(DType::F32, true), &want, 1e-4);
    alike("ndarray, composed", &everything::<NdArray>(DType::F32, true), &want, 1e-4);
    // No kernels in f64: the composed operations, in every bit.
    assert!(everything::<Flex>(DType::F64, false) == want, "f64 on flex");
    alike("ndarray in f64", &everything::<NdArray>(DType::F64, false), &want, 1e-6);
    wgpu();
    alike("wgpu", &everything::<Cube>(DType::F32, false), &want, 1e-4);
}

type Tape<B> = Autodiff<B>;

/// The gradients of a weighted sum of what `run` makes of tensors of these shapes.
fn gradients<B: Extended>(
    dtype: DType,
    shapes: &[&[usize]],
    run: impl Fn(Vec<FloatTensor<Tape<B>>>) -> FloatTensor<Tape<B>>,
) -> Vec<Vec<f64>> {
    let leaf = |(i, shape): (usize, &&[usize])| {
        let values = tensor::<B>(20 + i as u64, shape, dtype);
        let values = B::float_mul_scalar(values, 3.0.into());
        Tape::<B>::float_set_require_grad(Tape::<B>::from_inner(values), true)
    };
    let leaves: Vec<_> = shapes.iter().enumerate().map(leaf).collect();
    let out = run(leaves.clone());
    let shape: Vec<usize> = out.shape().to_vec();
    let weights = Tape::<B>::from_inner(tensor::<B>(99, &shape, dtype));
    let mut found = vec![values::<B>(Tape::<B>::inner(out.clone()))];
    let grads = Tape::<B>::backward(Tape::<B>::float_sum(Tape::<B>::float_mul(out, weights)));
    let gradient = |leaf| values::<B>(Tape::<B>::grad(leaf, &grads).expect("a gradient"));
    found.extend(leaves.iter().map(gradient));
    found
}

/// Of every operation that has a hand-written backward pass; `own` without it.
fn all_gradients<B: Extended>(dtype: DType, own: bool) -> Found {
    let mut found = Found::new();
    let mut add = |what: String, all: Vec<Vec<f64>>| {
        found.extend(all.into_iter().enumerate().map(|(i, v)| (format!("{what} part {i}"), v)));
    };
    for case in &CONVOLUTIONS {
        let (x, w, ..) = *case;
        let conv = options(case);
        add(
            format!("convolution {case:?}"),
            gradients::<B>(dtype, &[&x, &w], |t| {
                let [x, w] = t.try_into().expect("two");
                match own {
                    true => reference::convolution::<Tape<B>>(x, w, conv.clone()),
                    false => Tape::<B>::convolution(x, w, conv.clone()),
                }
            }),
        );
        let y = reference::convolution::<B>(
            tensor::<B>(1, &x, dtype),
            tensor::<B>(2, &w, dtype),
            conv.clone(),
        );
        let y: [usize; 4] = y.shape().dims();
        let c = [w[0]];
        for (activation, skips) in ACTIVATIONS {
            let layer = || ConvNormConfig { conv: conv.clone(), epsilon: 1e-3, activation };
            let shapes: [&[usize]; 5] = [&x, &w, &c, &c, &y];
            let what = format!("layer {activation:?} {case:?}");
            add(
                what,
                gradients::<B>(dtype, &shapes[..4 + usize::from(skips)], |mut t| {
                    let skip = skips.then(|| t.pop().expect("the fifth"));
                    let [x, w, gamma, beta] = t.try_into().expect("four");
                    match own {
                        true => reference::conv_norm::<Tape<B>>(x, w, gamma, beta, skip, layer()).0,
                        false => {
                            let other = skip.unwrap_or_else(|| gamma.clone());
                            Tape::<B>::conv_norm(x, w, gamma, beta, other, skips, layer()).0
                        }
                    }
                }),
            );
            // A frozen layer in training: running statistics, and still gradients.
            let shapes: [&[usize]; 5] = [&x, &w, &c, &c, &c];
            add(
                format!("frozen {activation:?} {case:?}"),
                gradients::<B>(dtype, &shapes, |t| {
                    let [x, w, gamma, beta, mean] = t.try_into().expect("five");
                    let variance = Tape::<B>::float_mul(mean.clone(), mean.clone());
                    match own {
                        true => {
                            let y = reference::convolution::<Tape<B>>(x, w, conv.clone());
                            reference::norm_inference::<Tape<B>>(
                                y,
                                gamma,
                                beta,
                                [mean, variance],
                                None,
                                &layer(),
                            )
                        }
                        false => Tape::<B>::conv_norm_inference(
                            x,
                            w,
                            gamma.clone(),
                            beta,
                            mean,
                            variance,
                            gamma,
                            false,
                            layer(),
                            Cache::default(),
                        ),
                    }
                }),
            );
        }
    }
    for (b, c, h, w, kernel, stride) in
        [(2, 24, 9, 7, 3, 1), (3, 21, 8, 8, 3, 2), (1, 7, 11, 6, 5, 2)]
    {
        let case: Case =
            ([b, c, h, w], [c, 1, kernel, kernel], stride, (kernel / 2, kernel / 2), 1, c);
        let point =
            ConvOptions { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2], groups: 1 };
        let layer =
            || ConvNormConfig { conv: point.clone(), epsilon: 1e-3, activation: Activation::Relu };
        let shapes: [&[usize]; 5] = [&case.0, &case.1, &[10, c, 1, 1], &[10], &[10]];
        add(
            format!("separable {case:?}"),
            gradients::<B>(dtype, &shapes, |t| {
                let [x, depthwise, pointwise, gamma, beta] = t.try_into().expect("five");
                match own {
                    true => {
                        let between =
                            reference::convolution::<Tape<B>>(x, depthwise, options(&case));
                        reference::conv_norm::<Tape<B>>(
                            between,
                            pointwise,
                            gamma,
                            beta,
                            None,
                            layer(),
                        )
                        .0
                    }
                    false => {
                        Tape::<B>::separable_norm(
                            x,
                            depthwise,
                            pointwise,
                            gamma,
                            beta,
                            options(&case),
                            layer(),
                        )
                        .0
                    }
                }
            }),
        );
    }
    for (b, c, s, side) in [(1, 16, 8, 3), (7, 40, 24, 5), (2, 21, 5, 1)] {
        let shapes: [&[usize]; 5] = [&[b, c, side, side], &[s, c, 1, 1], &[s], &[c, s, 1, 1], &[c]];
        add(
            format!("squeeze-excite {b} {c} {s}"),
            gradients::<B>(dtype, &shapes, |t| {
                let [x, w1, b1, w2, b2] = t.try_into().expect("five");
                // Most gates would saturate.
                let w1 = Tape::<B>::float_mul_scalar(w1, 0.1.into());
                match own {
                    true => reference::squeeze_excite::<Tape<B>>(x, w1, b1, w2, b2).0,
                    false => Tape::<B>::squeeze_excite(x, w1, b1, w2, b2).0,
                }
            }),
        );
    }
    for ([h, w], window) in WINDOWS {
        add(
            format!("largest {window:?}"),
            gradients::<B>(dtype, &[&[2, 5, h, w]], |mut t| {
                let x = t.pop().expect("one");
                match own {
                    true => reference::window_max::<Tape<B>>(x, window),
                    false => Tape::<B>::window_max(x, window),
                }
            }),
        );
        add(
            format!("mean {h} {w}"),
            gradients::<B>(dtype, &[&[2, 5, h, w]], |mut t| {
                let x = t.pop().expect("one");
                match own {
                    true => reference::global_mean::<Tape<B>>(x),
                    false => Tape::<B>::global_mean(x),
                }
            }),
        );
    }
    for count in 1..=4 {
        let shapes: [&[usize]; 4] = [&[2, 3, 5, 7], &[2, 21, 5, 7], &[2, 1, 5, 7], &[2, 8, 5, 7]];
        add(
            format!("concat {count}"),
            gradients::<B>(dtype, &shapes[..count], |parts| match own {
                true => reference::side_by_side::<Tape<B>>(parts),
                false => {
                    let at = |i: usize| parts.get(i).unwrap_or(&parts[0]).clone();
                    Tape::<B>::side_by_side(at(0), at(1), at(2), at(3), count)
                }
            }),
        );
    }
    let shapes: [&[usize]; 3] = [&[3, 40], &[40, 9], &[9]];
    add(
        "linear".to_owned(),
        gradients::<B>(dtype, &shapes, |t| {
            let [x, w, bias] = t.try_into().expect("three");
            match own {
                true => reference::linear::<Tape<B>>(x, w, bias),
                false => Tape::<B>::linear_inference(x, w, bias),
            }
        }),
    );
    found
}

/// In f64 to the last digits; the two share nothing but the forward pass. Seen to fail with: a skip path, the bias of a
/// linear layer or the input of a frozen layer without a gradient.
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
