//! NaN and infinity through the operations on tensors: the kernels of ndarray, flex and wgpu in f32,
//! and the bodies composed of Burn's operations (f64, groups), with one value planted. Where one
//! of them has NaN or infinity, none has a finite value.

#[path = "random/odd.rs"]
mod odd;
#[allow(dead_code, reason = "values alone")]
#[path = "random/random.rs"]
mod random;
#[allow(dead_code, reason = "no tensor of random values")]
#[path = "random/tensors.rs"]
mod tensors;

use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::cpu::activation::FusedActivation;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::concat::concat;
use kernels::ops::conv_norm_activation::{
    NormTensors, WeightCache, conv_norm_activation, conv_norm_activation_inference,
};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::elementwise::{relu, sum};
use kernels::ops::linear::linear;
use kernels::ops::pooling::{global_mean, max_pool, mean_pool};
use kernels::ops::squeeze_excite::squeeze_excite;
use odd::{ODD, alike, exact, places, planted};
use random::random;
use tensors::{hosts, values};

const ACTIVATIONS: [FusedActivation; 4] = [
    FusedActivation::Linear,
    FusedActivation::Relu,
    FusedActivation::Relu6,
    FusedActivation::HardSwish,
];

/// Where the operations run: every body that there is.
#[derive(Clone)]
struct Place {
    device: Device,
    dtype: DType,
}

impl Place {
    fn tensor<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values.to_vec(), shape);
        let tensor = Tensor::from_data(data, (&self.device, self.dtype));
        if self.device.is_autodiff() { tensor.require_grad() } else { tensor }
    }

    fn random<const D: usize>(&self, seed: u64, shape: [usize; D]) -> Tensor<D> {
        self.tensor(&random(seed, shape.iter().product()), shape)
    }
}

/// The composed bodies on flex, whose operations keep NaN as torch's do.
fn reference() -> Place {
    Place { device: Device::flex(), dtype: DType::F64 }
}

/// The kernels, and the composed bodies on the same backends.
fn everywhere() -> Vec<Place> {
    let types = [DType::F32, DType::F64];
    let all = hosts().into_iter().flat_map(|device| types.map(|dtype| (device.clone(), dtype)));
    all.map(|(device, dtype)| Place { device, dtype }).collect()
}

/// The adapter of wgpu, lavapipe in CI.
fn wgpu() -> Place {
    let device = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    Place { device, dtype: DType::F32 }
}

/// Whether no value is finite where `want` is not.
#[track_caller]
fn covers(what: &str, got: &[f32], want: &[f32]) {
    let hidden = want.iter().zip(got).position(|(want, got)| !want.is_finite() && got.is_finite());
    assert_eq!(hidden, None, "{what}: {:?}", hidden.map(|i| (got[i], want[i])));
}

/// Shapes of input and weights, stride, padding, groups.
type Case = ([usize; 4], [usize; 4], usize, usize, usize);

const LAYERS: [Case; 5] = [
    ([2, 9, 5, 7], [11, 9, 1, 1], 1, 0, 1),    // pointwise
    ([2, 21, 7, 5], [21, 1, 3, 3], 2, 1, 21),  // depthwise
    ([2, 3, 9, 8], [17, 3, 3, 3], 2, 1, 1),    // a stem
    ([2, 6, 5, 5], [4, 3, 3, 3], 1, 1, 2),     // groups: composed in f32 too
    ([2, 17, 9, 12], [20, 17, 3, 3], 1, 1, 1), // by minimal filtering
];

fn layer(case: &Case, activation: FusedActivation) -> ConvNormConfig {
    let &(_, _, stride, padding, groups) = case;
    let conv = ConvOptions {
        stride: [stride; 2],
        padding: [(padding, padding); 2],
        dilation: [1; 2],
        groups,
    };
    ConvNormConfig { conv, epsilon: 1e-3, activation, running: None }
}

/// Expected: the composed body on flex in f64, which keeps NaN as torch does.
///
/// Mutations caught: ReLU of NaN 0; the last row of a block of rows added times zero; pixels beside
/// the map read from its first one.
#[test]
fn a_layer_of_inference_hides_nothing() {
    for (case, activation) in LAYERS.iter().flat_map(|case| ACTIVATIONS.map(|a| (case, a))) {
        let (x_shape, w_shape) = (case.0, case.1);
        let out = w_shape[0];
        let x = random(1, x_shape.iter().product());
        for (place, odd) in places(x.len()).into_iter().flat_map(|p| ODD.map(|o| (p, o))) {
            let run = |at: &Place| {
                let norm = NormTensors { gamma: at.random(3, [out]), beta: at.random(4, [out]) };
                let running = [at.random(5, [out]), at.random(6, [out]).abs()];
                let layer = layer(case, activation);
                values(conv_norm_activation_inference(
                    at.tensor(&planted(&x, place, odd), x_shape),
                    at.random(2, w_shape),
                    norm,
                    running,
                    None,
                    layer,
                    &WeightCache::default(),
                ))
            };
            let want = run(&reference());
            for at in everywhere() {
                let what = format!(
                    "{case:?} {activation:?}, {odd} at {place}, {:?} {:?}",
                    at.device, at.dtype
                );
                let got = run(&at);
                if case.1[1] == 17 && case.1[2] == 3 {
                    // Within a tile infinity becomes NaN, and spreads.
                    let nan: Vec<f32> =
                        want.iter().map(|v| if v.is_nan() { *v } else { 0.0 }).collect();
                    covers(&what, &got, &nan);
                    let half = got.len() / 2;
                    let other = if place < x.len() / 2 { half..got.len() } else { 0..half };
                    alike(&what, &got[other.clone()], &want[other], exact);
                } else {
                    alike(&what, &got, &want, exact);
                }
            }
        }
    }
}

/// A statistic that is not finite, or a negative variance, leaves no number in its channel and
/// every number in the others.
///
/// Mutations caught: ReLU of NaN 0.
#[test]
fn a_layer_with_a_broken_statistic_is_nan() {
    for (case, activation) in LAYERS.iter().flat_map(|case| ACTIVATIONS.map(|a| (case, a))) {
        let (x_shape, w_shape) = (case.0, case.1);
        let (out, channel) = (w_shape[0], w_shape[0] - 2);
        for (which, odd) in [(0, f32::NAN), (1, f32::NAN), (2, f32::NAN), (3, f32::NAN), (3, -1.0)]
        {
            for at in everywhere() {
                let tensor = |i: usize| {
                    let values: Vec<f32> =
                        random(3 + i as u64, out).iter().map(|v| v.abs() + 0.5).collect();
                    let values = if i == which { planted(&values, channel, odd) } else { values };
                    at.tensor(&values, [out])
                };
                let y = conv_norm_activation_inference(
                    at.random(1, x_shape),
                    at.random(2, w_shape),
                    NormTensors { gamma: tensor(0), beta: tensor(1) },
                    [tensor(2), tensor(3)],
                    None,
                    layer(case, activation),
                    &WeightCache::default(),
                );
                let pixels = y.dims()[2] * y.dims()[3];
                for (i, value) in values(y).into_iter().enumerate() {
                    let broken = i / pixels % out == channel;
                    assert_eq!(
                        value.is_nan(),
                        broken,
                        "{case:?} {activation:?} {which} {odd} {:?} {:?} at {i}: {value}",
                        at.device,
                        at.dtype
                    );
                }
            }
        }
    }
}

/// A layer of training: the statistics, the result and all gradients.
///
/// Mutations caught: ReLU of NaN 0.
#[test]
fn a_layer_of_training_hides_nothing() {
    for (case, activation) in LAYERS.iter().flat_map(|case| ACTIVATIONS.map(|a| (case, a))) {
        let (x_shape, w_shape) = (case.0, case.1);
        let x = random(1, x_shape.iter().product());
        for (place, odd) in places(x.len()).into_iter().flat_map(|p| ODD.map(|o| (p, o))) {
            let run = |at: &Place| {
                let at = Place { device: at.device.clone().autodiff(), ..at.clone() };
                let x = at.tensor(&planted(&x, place, odd), x_shape);
                let w = at.random(2, w_shape);
                let norm = NormTensors {
                    gamma: at.random(3, [w_shape[0]]),
                    beta: at.random(4, [w_shape[0]]),
                };
                let (gamma, beta) = (norm.gamma.clone(), norm.beta.clone());
                let layer = layer(case, activation);
                let (y, mean, variance) =
                    conv_norm_activation(x.clone(), w.clone(), norm, None, layer);
                let grads = y.clone().sum().backward();
                [
                    values(y.inner()),
                    values(mean.inner()),
                    values(variance.inner()),
                    values(x.grad(&grads).unwrap()),
                    values(w.grad(&grads).unwrap()),
                    values(gamma.grad(&grads).unwrap()),
                    values(beta.grad(&grads).unwrap()),
                ]
            };
            let want = run(&reference());
            for at in everywhere() {
                let names = ["y", "mean", "variance", "dx", "dw", "dgamma", "dbeta"];
                for (name, (got, want)) in names.iter().zip(run(&at).iter().zip(&want)) {
                    // An infinite variance is NaN in one body and infinite in another.
                    let nan: Vec<f32> =
                        want.iter().map(|v| if v.is_nan() { *v } else { 0.0 }).collect();
                    let what = format!(
                        "{name} of {case:?} {activation:?}, {odd} at {place}, {:?} {:?}",
                        at.device, at.dtype
                    );
                    covers(&what, got, &nan);
                }
            }
        }
    }
}

/// Every other operation.
fn results(at: &Place, x: &[f32], shape: [usize; 4]) -> Vec<(&'static str, Vec<f32>)> {
    let [b, c, h, w] = shape;
    let map = || at.tensor(x, shape);
    let window =
        PoolWindow { kernel: 3, stride: 2, before: 1, output: [h.div_ceil(2), w.div_ceil(2)] };
    let fc = |seed, from: usize, to: usize| {
        (at.random(seed, [to, from, 1, 1]), at.random(seed + 1, [to]))
    };
    let flat = at.tensor(&x[..b * c], [b, c]);
    vec![
        ("relu", values(relu(map()))),
        ("sum", values(sum(map(), at.random(2, shape)))),
        ("concat", values(concat(vec![at.random(3, shape), map()]))),
        ("mean of a window", values(mean_pool(map(), 3, 1, 1))),
        ("mean", values(global_mean(map()))),
        ("linear", values(linear(flat, at.random(4, [c, 5]), at.random(5, [5])))),
        ("squeeze-excite", values(squeeze_excite(map(), fc(6, c, 3), fc(8, 3, c)))),
        ("maximum of a window", values(max_pool(map(), window))),
    ]
}

/// Mutations caught: ReLU of NaN 0; pixels beside the map of a mean read and taken times zero;
/// NaN passed over by the maximum of a window on a GPU.
#[test]
fn operations_on_maps_hide_nothing() {
    let shape = [2, 19, 7, 5];
    let x = random(1, shape.iter().product());
    let all: Vec<Place> = everywhere().into_iter().chain([wgpu()]).collect();
    for (place, odd) in places(x.len()).into_iter().flat_map(|p| ODD.map(|o| (p, o))) {
        let x = planted(&x, place, odd);
        let want = results(&reference(), &x, shape);
        for at in &all {
            for ((name, got), (_, want)) in results(at, &x, shape).iter().zip(&want) {
                let what = format!("{name}, {odd} at {place}, {:?} {:?}", at.device, at.dtype);
                alike(&what, got, want, exact);
            }
        }
    }
}
