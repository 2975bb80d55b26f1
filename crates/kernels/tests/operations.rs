//! The operations on tensors, on ndarray and flex: values and gradients in f32, which the kernels
//! compute, against f64, which the reference computes; and the reference against finite
//! differences.

#[path = "random/random.rs"]
mod random;
#[path = "random/tensors.rs"]
mod tensors;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::cpu::activation::FusedActivation;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::concat::concat;
use kernels::ops::conv_norm_activation::{
    NormTensors, WeightCache, conv_norm_activation, conv_norm_activation_inference, convolution,
};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::linear::linear;
use kernels::ops::pooling::{global_mean, max_pool, mean_pool};
use kernels::ops::separable::separable_norm_activation;
use kernels::ops::squeeze_excite::squeeze_excite;
use random::{close, random};
use tensors::{hosts, tensor, values};

/// A loss that weighs every value differently.
fn loss(y: Tensor<4>) -> Tensor<1> {
    let (shape, device, dtype) = (y.dims(), y.device().without_autodiff(), y.dtype());
    let weights = Tensor::<4>::from_data(
        TensorData::new(random(99, shape.iter().product()), shape),
        (&device, dtype),
    );
    (y * Tensor::from_inner(weights)).sum()
}

fn options(stride: usize, padding: usize, groups: usize) -> ConvOptions<2> {
    ConvOptions { stride: [stride; 2], padding: [(padding, padding); 2], dilation: [1; 2], groups }
}

/// A layer in training: its result, the statistics, and the gradients of all its tensors.
fn trained(
    device: &Device,
    dtype: DType,
    [x_shape, w_shape]: [[usize; 4]; 2],
    conv: &ConvOptions<2>,
    activation: FusedActivation,
    skips: bool,
) -> Vec<(&'static str, Vec<f32>)> {
    let device = device.clone().autodiff();
    let (x, w) = (tensor(1, x_shape, &device, dtype), tensor(2, w_shape, &device, dtype));
    let channels = [w_shape[0]];
    let (gamma, beta) = (tensor(3, channels, &device, dtype), tensor(4, channels, &device, dtype));
    let norm = NormTensors { gamma: gamma.clone(), beta: beta.clone() };
    let output = convolution(x.clone(), w.clone(), None, conv.clone()).dims();
    let skip = tensor(5, output, &device, dtype);
    let layer = ConvNormConfig { conv: conv.clone(), epsilon: 1e-3, activation, running: None };
    let (y, mean, variance) =
        conv_norm_activation(x.clone(), w.clone(), norm, skips.then(|| skip.clone()), layer);
    let grads = loss(y.clone()).backward();
    let mut found = vec![
        ("y", values(y.inner())),
        ("mean", values(mean.inner())),
        ("variance", values(variance.inner())),
        ("dx", values(x.grad(&grads).expect("a gradient"))),
        ("dw", values(w.grad(&grads).expect("a gradient"))),
        ("dgamma", values(gamma.grad(&grads).expect("a gradient"))),
        ("dbeta", values(beta.grad(&grads).expect("a gradient"))),
    ];
    if skips {
        found.push(("dskip", values(skip.grad(&grads).expect("a gradient"))));
    }
    found
}

/// A separable layer in training, as one operation or as two: its result, the statistics, and the
/// gradients of all its tensors.
fn separable(
    device: &Device,
    dtype: DType,
    x_shape: [usize; 4],
    (kernel, stride): (usize, usize),
    one: bool,
) -> Vec<(&'static str, Vec<f32>)> {
    let device = device.clone().autodiff();
    let c = x_shape[1];
    let x = tensor(1, x_shape, &device, dtype);
    let depthwise = tensor(6, [c, 1, kernel, kernel], &device, dtype);
    let pointwise = tensor(2, [10, c, 1, 1], &device, dtype);
    let (gamma, beta) = (tensor(3, [10], &device, dtype), tensor(4, [10], &device, dtype));
    let norm = NormTensors { gamma: gamma.clone(), beta: beta.clone() };
    let first = options(stride, kernel / 2, c);
    let layer = ConvNormConfig {
        conv: options(1, 0, 1),
        epsilon: 1e-3,
        activation: FusedActivation::Relu,
        running: None,
    };
    let (y, mean, variance) = if one {
        let weights = [depthwise.clone(), pointwise.clone()];
        separable_norm_activation(x.clone(), weights, norm, first, layer)
    } else {
        let between = convolution(x.clone(), depthwise.clone(), None, first);
        conv_norm_activation(between, pointwise.clone(), norm, None, layer)
    };
    let grads = loss(y.clone()).backward();
    vec![
        ("y", values(y.inner())),
        ("mean", values(mean.inner())),
        ("variance", values(variance.inner())),
        ("dx", values(x.grad(&grads).expect("a gradient"))),
        ("ddepthwise", values(depthwise.grad(&grads).expect("a gradient"))),
        ("dpointwise", values(pointwise.grad(&grads).expect("a gradient"))),
        ("dgamma", values(gamma.grad(&grads).expect("a gradient"))),
        ("dbeta", values(beta.grad(&grads).expect("a gradient"))),
    ]
}

/// One operation gives the bits of the two layers and the values of the reference.
#[test]
fn a_separable_layer_equals_its_two_layers() {
    for device in hosts() {
        for (x, kernel, stride) in
            [([2, 24, 9, 7], 3, 1), ([3, 21, 8, 8], 3, 2), ([1, 7, 11, 6], 5, 2)]
        {
            let run = |dtype, one| separable(&device, dtype, x, (kernel, stride), one);
            let (got, two, want) =
                (run(DType::F32, true), run(DType::F32, false), run(DType::F64, true));
            for (((name, got), (_, two)), (_, want)) in got.iter().zip(&two).zip(&want) {
                let what = format!("{name} {device:?} {x:?}");
                assert_eq!(got, two, "{what}");
                close(&what, got, want, 1e-4);
            }
        }
    }
}

/// Shapes of input and weights, stride, padding, groups.
type Case = ([usize; 4], [usize; 4], usize, usize, usize);

const LAYERS: [Case; 9] = [
    ([3, 24, 9, 7], [40, 24, 1, 1], 1, 0, 1),   // pointwise
    ([3, 24, 9, 7], [24, 1, 3, 3], 2, 1, 24),   // depthwise
    ([2, 40, 7, 7], [40, 1, 5, 5], 1, 2, 40),   // depthwise
    ([2, 3, 17, 16], [16, 3, 3, 3], 2, 1, 1),   // a stem
    ([2, 3, 33, 34], [16, 3, 3, 3], 2, 1, 1),   // a larger one
    ([2, 21, 8, 8], [10, 21, 1, 1], 2, 0, 1),   // a strided skip path
    ([2, 12, 6, 6], [8, 6, 3, 3], 1, 1, 2),     // groups: the reference in f32 too
    ([2, 17, 9, 12], [20, 17, 3, 3], 1, 1, 1),  // tiles of two
    ([1, 16, 23, 25], [18, 16, 3, 3], 1, 0, 1), // tiles of four
];

/// Pointwise layers on maps so large that the backward pass runs over them once.
const LARGE: [Case; 2] =
    [([2, 5, 71, 61], [7, 5, 1, 1], 1, 0, 1), ([1, 40, 97, 90], [24, 40, 1, 1], 1, 0, 1)];

/// Mutations caught: dskip not registered, gamma's gradient without the deviation, the input's
/// gradient with another order of the weights, the unbiased variance returned; in one pass, the
/// first share's rows for every share, and a share's sums omitted.
#[test]
fn a_training_layer_equals_the_reference() {
    for device in hosts() {
        for (x, w, stride, padding, groups) in LAYERS.into_iter().chain(LARGE) {
            let conv = options(stride, padding, groups);
            for (activation, skips) in [
                (FusedActivation::Linear, true),
                (FusedActivation::Relu, false),
                (FusedActivation::Relu6, false),
                (FusedActivation::HardSwish, true),
            ] {
                let got = trained(&device, DType::F32, [x, w], &conv, activation, skips);
                let want = trained(&device, DType::F64, [x, w], &conv, activation, skips);
                for ((name, got), (_, want)) in got.iter().zip(&want) {
                    let what = format!("{name} {device:?} {x:?} {w:?} {activation:?}");
                    close(&what, got, want, 1e-4);
                }
            }
        }
    }
}

/// The hand-written backward pass of the reference in f64 against central differences, a few values
/// of every tensor. The test above relies on it.
///
/// Mutations caught: the derivative of ReLU6 without its lower corner, the mean's part omitted.
#[test]
fn the_reference_layer_has_the_gradient_of_its_values() {
    let device = Device::flex();
    let activations = [
        FusedActivation::Linear,
        FusedActivation::Relu,
        FusedActivation::Relu6,
        FusedActivation::HardSwish,
    ];
    let cases =
        LAYERS.into_iter().flat_map(|layer| activations.map(|activation| (layer, activation)));
    for ((x_shape, w_shape, stride, padding, groups), activation) in cases {
        let conv = options(stride, padding, groups);
        let found = trained(&device, DType::F64, [x_shape, w_shape], &conv, activation, true);
        let output = {
            let (x, w) =
                (tensor(1, x_shape, &device, DType::F64), tensor(2, w_shape, &device, DType::F64));
            convolution(x, w, None, conv.clone()).dims()
        };
        // The loss after `by` is added to value `i` of tensor `which`.
        let moved = |which: usize, i: usize, by: f64| -> f64 {
            fn read<const D: usize>(
                seed: u64,
                shape: [usize; D],
                device: &Device,
                moved: Option<(usize, f64)>,
            ) -> Tensor<D> {
                let mut values: Vec<f64> =
                    random(seed, shape.iter().product()).into_iter().map(f64::from).collect();
                if let Some((i, by)) = moved {
                    values[i] += by;
                }
                Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
            }
            let here = |tensor: usize| (tensor == which).then_some((i, by));
            let norm = NormTensors {
                gamma: read(3, [w_shape[0]], &device, here(2)),
                beta: read(4, [w_shape[0]], &device, here(3)),
            };
            let layer =
                ConvNormConfig { conv: conv.clone(), epsilon: 1e-3, activation, running: None };
            let (x, w) = (read(1, x_shape, &device, here(0)), read(2, w_shape, &device, here(1)));
            let skip = Some(read(5, output, &device, here(4)));
            let (y, _, _) = conv_norm_activation(x, w, norm, skip, layer);
            let weights = read(99, output, &device, None);
            (y * weights).sum().into_data().convert::<f64>().try_into_vec::<f64>().unwrap()[0]
        };
        for (which, name) in ["dx", "dw", "dgamma", "dbeta", "dskip"].into_iter().enumerate() {
            let gradient = &found.iter().find(|(n, _)| *n == name).expect("there").1;
            let largest = gradient.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
            for i in [0, gradient.len() / 2, gradient.len() - 1] {
                let difference = (moved(which, i, 1e-5) - moved(which, i, -1e-5)) / 2e-5;
                let error = (f64::from(gradient[i]) - difference).abs();
                assert!(
                    error < 1e-4 * f64::from(largest),
                    "{name} at {i}: {} against {difference}, {x_shape:?} {w_shape:?} {activation:?}",
                    gradient[i]
                );
            }
        }
    }
}

/// Inference with folded, packed weights equals the reference layer. Another gamma is noticed, and
/// so is a change in place.
///
/// Mutations caught: a cache that never compares the tensors, a cache that compares the weights
/// alone.
#[test]
fn an_inference_layer_equals_the_reference_and_notices_other_weights() {
    for device in hosts() {
        for (x_shape, w_shape, stride, padding, groups) in LAYERS {
            let cache = WeightCache::default();
            let conv = options(stride, padding, groups);
            let mut scale = 1.0;
            for _ in 0..3 {
                let run = |dtype: DType| {
                    let read = |seed| tensor(seed, [w_shape[0]], &device, dtype);
                    let norm = NormTensors { gamma: read(3).mul_scalar(scale), beta: read(4) };
                    let running = [read(6), read(7).abs()];
                    let x = tensor(1, x_shape, &device, dtype);
                    let w = tensor(2, w_shape, &device, dtype);
                    let output = convolution(x.clone(), w.clone(), None, conv.clone()).dims();
                    let skip = Some(tensor(5, output, &device, dtype));
                    let layer = ConvNormConfig {
                        conv: conv.clone(),
                        epsilon: 1e-3,
                        activation: FusedActivation::Relu6,
                        running: None,
                    };
                    values(conv_norm_activation_inference(x, w, norm, running, skip, layer, &cache))
                };
                close(&format!("{w_shape:?} {device:?}"), &run(DType::F32), &run(DType::F64), 1e-4);
                scale *= -1.5;
            }
        }
    }
}

/// At another size of the input a layer may need weights packed for another kernel: a cache that
/// was filled at another size gives the same bits as a new one.
///
/// Mutations caught: a cache that compares the tensors alone.
#[test]
fn an_inference_layer_computes_the_same_whatever_size_came_before() {
    for device in hosts() {
        let read = |seed, shape| tensor::<4>(seed, shape, &device, DType::F32);
        let vector = |seed| tensor::<1>(seed, [20], &device, DType::F32);
        let (w, norm) =
            (read(2, [20, 16, 3, 3]), NormTensors { gamma: vector(3), beta: vector(4) });
        let running = [vector(6), vector(7).abs()];
        let run = |size: usize, cache: &WeightCache| {
            let (conv, activation) = (options(1, 1, 1), FusedActivation::Relu);
            let layer = ConvNormConfig { conv, epsilon: 1e-3, activation, running: None };
            let x = read(1, [1, 16, size, size]);
            let (w, norm, running) = (w.clone(), norm.clone(), running.clone());
            values(conv_norm_activation_inference(x, w, norm, running, None, layer, cache))
        };
        let kept = WeightCache::default();
        // Tiles of four, of two, none, and back.
        for size in [28, 12, 7, 28] {
            assert_eq!(run(size, &kept), run(size, &WeightCache::default()), "{device:?} {size}");
        }
    }
}

/// Mutations caught: the ReLU's derivative omitted, 0.2 for the derivative 1/6, the mean's share of
/// the gradient omitted.
#[test]
fn squeeze_excite_equals_the_reference() {
    for device in hosts() {
        for (b, c, s, side) in [(1, 16, 8, 3), (7, 40, 24, 5), (2, 21, 5, 1)] {
            let run = |dtype: DType| {
                let device = device.clone().autodiff();
                let x = tensor(1, [b, c, side, side], &device, dtype);
                let (w1, b1) =
                    (tensor(2, [s, c, 1, 1], &device, dtype), tensor(3, [s], &device, dtype));
                let (w2, b2) =
                    (tensor(4, [c, s, 1, 1], &device, dtype), tensor(5, [c], &device, dtype));
                // Some gates saturate.
                let (w2, b2) = (w2.mul_scalar(6.0), b2.mul_scalar(3.0));
                let (w2, b2) = (w2.detach().require_grad(), b2.detach().require_grad());
                let y =
                    squeeze_excite(x.clone(), (w1.clone(), b1.clone()), (w2.clone(), b2.clone()));
                let grads = loss(y.clone()).backward();
                [
                    values(y.inner()),
                    values(x.grad(&grads).unwrap()),
                    values(w1.grad(&grads).unwrap()),
                    values(b1.grad(&grads).unwrap()),
                    values(w2.grad(&grads).unwrap()),
                    values(b2.grad(&grads).unwrap()),
                ]
            };
            for (i, (got, want)) in run(DType::F32).iter().zip(&run(DType::F64)).enumerate() {
                close(&format!("{i} {device:?} {b} {c} {s}"), got, want, 1e-4);
            }
        }
    }
}

/// Mutations caught: the padding taken for zeros, the gradient to every maximum, its rows set to
/// zero after the first window, the mean without the padding's zeros, the gradient of the mean not
/// divided.
#[test]
fn pooling_equals_the_reference() {
    for device in hosts() {
        for (c, size, kernel, stride, before, output) in [
            (21, [9, 8], 3, 2, 1, [5, 4]),
            (16, [7, 7], 3, 2, 0, [3, 3]),
            (5, [8, 8], 3, 2, 0, [4, 4]), // the last window reaches past the end
            (40, [6, 5], 3, 1, 1, [6, 5]),
            (3, [8, 8], 2, 2, 0, [4, 4]),
        ] {
            let run = |dtype: DType| {
                let device = device.clone().autodiff();
                // All values are negative: a zero of the padding would win. Few values differ: the
                // first maximum counts.
                let x = tensor(1, [2, c, size[0], size[1]], &device, dtype);
                let x = x.mul_scalar(2.0).round().sub_scalar(5.0);
                let x = x.detach().require_grad();
                let window = PoolWindow { kernel, stride, before, output };
                let y = max_pool(x.clone(), window);
                let max = x.grad(&loss(y.clone()).backward()).unwrap();
                let mean = mean_pool(x.clone(), kernel, stride, before);
                let of_mean = x.grad(&loss(mean.clone()).backward()).unwrap();
                let global = global_mean(x.clone());
                let whole = loss(global.clone().reshape([2, c, 1, 1])).backward();
                [
                    values(y.inner()),
                    values(max),
                    values(mean.inner()),
                    values(of_mean),
                    values(global.inner()),
                    values(x.grad(&whole).unwrap()),
                ]
            };
            for (i, (got, want)) in run(DType::F32).iter().zip(&run(DType::F64)).enumerate() {
                close(&format!("{i} {device:?} {c} {size:?}"), got, want, 1e-5);
            }
        }
    }
}

/// Mutations caught: the second part's gradient taken from the first channel on.
#[test]
fn concat_equals_the_reference() {
    for device in hosts() {
        for widths in [vec![3, 21], vec![16, 1, 5], vec![8, 24, 40, 2], vec![1, 2, 3, 4, 5]] {
            let run = |dtype: DType| {
                let device = device.clone().autodiff();
                let part = |i: usize| tensor(i as u64, [2, widths[i], 5, 7], &device, dtype);
                let parts: Vec<Tensor<4>> = (0..widths.len()).map(part).collect();
                let y = concat(parts.clone());
                let grads = loss(y.clone()).backward();
                let mut found = vec![values(y.inner())];
                found.extend(parts.iter().map(|part| values(part.grad(&grads).unwrap())));
                found
            };
            for (got, want) in run(DType::F32).iter().zip(&run(DType::F64)) {
                close(&format!("{widths:?} {device:?}"), got, want, 0.0);
            }
        }
    }
}

/// Mutations caught: the columns of the second thread taken from the first on.
#[test]
fn linear_equals_the_reference() {
    for device in hosts() {
        for (b, k, n) in [(1, 7, 5), (1, 300, 1000), (3, 40, 129), (16, 33, 65)] {
            let run = |dtype: DType| {
                let (x, w) = (tensor(1, [b, k], &device, dtype), tensor(2, [k, n], &device, dtype));
                values(linear(x, w, tensor(3, [n], &device, dtype)))
            };
            close(&format!("{b} {k} {n}"), &run(DType::F32), &run(DType::F64), 1e-5);
        }
    }
}
