//! The GPU kernels on maps that are large enough for several cubes and several parts, beside the
//! CPU kernels, which have naive twins of their own; and on maps of
//! f16.

#[path = "random/random.rs"]
mod random;

use std::sync::LazyLock;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{Device as DeviceOf, FloatTensor};
use burn::backend::{Backend, Cube, Flex, TensorMetadata, read_sync};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use kernels::cpu::activation::FusedActivation;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::conv_norm_activation::{
    ConvNormOps, NormTensors, WeightCache, conv_norm_activation,
};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::elementwise::ElementwiseOps;
use kernels::ops::images::from_bytes;
use kernels::ops::multi_tensor::FlatTensors;
use kernels::ops::pooling::PoolingOps;
use kernels::ops::running_statistics::{RunningBlend, RunningStatisticsOps};
use kernels::ops::squeeze_excite::SqueezeExciteOps;
use random::{close, random};

/// A backend with the extensions that are compared here.
trait Extended:
    Backend + ConvNormOps + SqueezeExciteOps + PoolingOps + ElementwiseOps + RunningStatisticsOps
{
}
impl<B> Extended for B where
    B: Backend
        + ConvNormOps
        + SqueezeExciteOps
        + PoolingOps
        + ElementwiseOps
        + RunningStatisticsOps
{
}

/// Whatever adapter there is, started once per process.
static STARTED: LazyLock<Device> = LazyLock::new(|| {
    Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers")
});

fn wgpu() {
    LazyLock::force(&STARTED);
}

fn tensor<B: Backend>(seed: u64, shape: &[usize], dtype: DType) -> FloatTensor<B> {
    let values = random(seed, shape.iter().product());
    let data = TensorData::new(values, shape.to_vec()).convert_dtype(dtype);
    B::float_from_data(data, &DeviceOf::<B>::default())
}

fn values<B: Backend>(tensor: FloatTensor<B>) -> Vec<f32> {
    let data = read_sync(B::float_into_data(tensor)).expect("values");
    data.convert::<f32>().try_into_vec::<f32>().expect("floats")
}

type Results = Vec<(String, Vec<f32>)>;

/// Shapes of input and weights, stride, padding, groups.
type Layer = ([usize; 4], [usize; 4], usize, usize, usize);

/// Each with more than one part of every sum.
const LAYERS: [Layer; 5] = [
    ([3, 20, 67, 61], [24, 20, 1, 1], 1, 0, 1), // a sum of 12,261 terms: three parts
    ([2, 132, 21, 23], [132, 1, 3, 3], 1, 1, 132), // more channels than a cube has
    ([3, 12, 67, 61], [12, 1, 5, 5], 2, 2, 12),
    ([2, 7, 53, 47], [7, 1, 3, 3], 2, 1, 7), // one channel at a time
    ([2, 3, 65, 63], [16, 3, 3, 3], 2, 1, 1),
];

fn layers<B: Extended>(dtype: DType, mean: f64) -> Results {
    let mut results = Results::new();
    let activations = [
        (FusedActivation::Linear, true),
        (FusedActivation::Relu, false),
        (FusedActivation::Relu6, true),
        (FusedActivation::HardSwish, false),
        (FusedActivation::HardSwish, true),
    ];
    for ((x, w, stride, padding, groups), (activation, skips)) in LAYERS.iter().zip(activations) {
        let conv = ConvOptions {
            stride: [*stride; 2],
            padding: [(*padding, *padding); 2],
            dilation: [1; 2],
            groups: *groups,
        };
        let what = format!("{x:?} {w:?} {activation:?} skip {skips}");
        let channels = [w[0]];
        let x = B::float_add_scalar(tensor::<B>(1, x, dtype), mean.into());
        let w = tensor::<B>(2, w, DType::F32);
        let gamma = B::float_mul_scalar(tensor::<B>(4, &channels, DType::F32), 4.0.into());
        let beta = B::float_mul_scalar(tensor::<B>(5, &channels, DType::F32), 3.0.into());
        let layer = ConvNormConfig { conv, epsilon: 1e-3, activation, running: None };
        let y = B::convolution(x.clone(), w.clone(), layer.conv.clone());
        let shape: [usize; 4] = y.shape().dims();
        let skip = tensor::<B>(6, &shape, dtype);
        let all = || (x.clone(), w.clone(), gamma.clone(), beta.clone(), skip.clone());
        let (a, b, c, d, e) = all();
        let (out, y, mean, variance) = B::conv_norm(a, b, c, d, e, skips, layer.clone());
        for (name, tensor) in [("out", &out), ("y", &y), ("mean", &mean), ("variance", &variance)] {
            results.push((format!("{what}: {name}"), values::<B>(tensor.clone())));
        }
        let dout = tensor::<B>(3, &shape, dtype);
        let (a, b, c, d, _) = all();
        let (mean_in, variance_in) = (mean.clone(), variance.clone());
        let (dx, dw, dgamma, dbeta) =
            B::conv_norm_backward(a, b, c, d, y, mean, variance, dout, layer.clone(), true);
        let dx = dx.expect("it was requested");
        for (name, tensor) in [("dx", dx), ("dw", dw), ("dgamma", dgamma), ("dbeta", dbeta)] {
            results.push((format!("{what}: {name}"), values::<B>(tensor)));
        }
        let (a, b, c, d, e) = all();
        let cache = WeightCache::default();
        let out = B::conv_norm_inference(a, b, c, d, mean_in, variance_in, e, skips, layer, cache);
        results.push((format!("{what}: inference"), values::<B>(out)));
    }
    results
}

/// Few images, and as many as have their sums made in the launch that reads them; channels of which
/// four lie side by side, and others.
fn blocks<B: Extended>(dtype: DType) -> Results {
    [[3, 140, 19, 17, 36], [33, 140, 5, 7, 36], [32, 37, 9, 5, 11]]
        .into_iter()
        .flat_map(|extents| blocks_of::<B>(dtype, extents))
        .collect()
}

fn blocks_of<B: Extended>(dtype: DType, [b, c, h, w, s]: [usize; 5]) -> Results {
    let mut results = Results::new();
    let mut push =
        |what: &str, tensor| results.push((format!("{what} {b} {c}"), values::<B>(tensor)));
    let x = tensor::<B>(1, &[b, c, h, w], dtype);
    let dout = tensor::<B>(2, &[b, c, h, w], dtype);
    let weight = |seed, shape: &[usize]| {
        B::float_mul_scalar(tensor::<B>(seed, shape, DType::F32), 0.5.into())
    };
    let (w1, b1) = (weight(3, &[s, c, 1, 1]), weight(4, &[s]));
    let (w2, b2) = (weight(5, &[c, s, 1, 1]), weight(6, &[c]));
    // Gates on both sides of both corners.
    let b2 = B::float_mul_scalar(b2, 9.0.into());
    let (out, mean, hidden, gate) = B::squeeze_excite(x.clone(), w1.clone(), b1, w2.clone(), b2);
    push("squeeze-excite", out);
    push("squeeze-excite: mean", mean.clone());
    push("squeeze-excite: gate", gate.clone());
    let (dx, dw1, db1, dw2, db2) =
        B::squeeze_excite_backward(x.clone(), w1, w2, mean, hidden, gate, dout.clone());
    push("squeeze-excite: dx", dx);
    push("squeeze-excite: dw1", dw1);
    push("squeeze-excite: db1", db1);
    push("squeeze-excite: dw2", dw2);
    push("squeeze-excite: db2", db2);
    push("mean", B::global_mean(x.clone()));
    push("mean: dx", B::global_mean_backward(tensor::<B>(7, &[b, c], DType::F32), h, w, dtype));
    let output = [h, w].map(|extent| (extent - 1) / 2 + 1);
    let window = PoolWindow { kernel: 3, stride: 2, before: 1, output };
    push("max", B::max_pool(x.clone(), window));
    let dy = tensor::<B>(8, &[b, c, output[0], output[1]], dtype);
    // Equal values: the gradient goes to the first of them.
    let steps = B::float_round(B::float_mul_scalar(x.clone(), 2.0.into()));
    push("max: dx", B::max_pool_backward(steps, dy, window));
    let wide = B::float_mul_scalar(x.clone(), 5.0.into());
    push("hard-swish: dx", B::hard_swished_backward(wide.clone(), dout.clone()));
    push("hard-swish", B::hard_swished(wide));
    let rectified = B::rectified(x);
    push("relu: dx", B::rectified_backward(rectified.clone(), dout));
    push("relu", rectified);
    let vectors = |seed| tensor::<B>(seed, &[c], DType::F32);
    let (mean, variance) =
        B::blended(vectors(9), vectors(10), vectors(11), vectors(12), 0.9, 0.1, 0.15);
    push("running mean", mean);
    push("running variance", variance);
    results
}

#[track_caller]
fn alike(got: &Results, want: &Results, tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for ((name, got), (_, want)) in got.iter().zip(want) {
        close(name, got, want, tolerance);
    }
}

/// Mutations caught: Chan's term omitted, the last part counted as a whole one; the skip path or a
/// part of the norm's gradient omitted; a corner of hard-swish or ReLU6 moved; an output past the end
/// of a row, the first row passed over, a stride ignored, taps in another order, the first part of a
/// sum omitted; squeeze-excite with an unmasked hidden layer or gate, without the map in the gate's
/// gradient, with another bias gradient, with the first image's gates, without the mean's share, with sums over all
/// pixels but one; the
/// last of equal maxima; the variance blended with the mean's weight; ReLU's gradient unmasked.
#[test]
fn large_maps_equal_the_cpu_kernels() {
    wgpu();
    alike(&layers::<Cube>(DType::F32, 0.0), &layers::<Flex>(DType::F32, 0.0), 2e-5);
    alike(&blocks::<Cube>(DType::F32), &blocks::<Flex>(DType::F32), 2e-5);
}

/// Sums of squares of values around 300 lose all digits of a deviation of .6; parts with means of
/// their own lose none.
#[test]
fn statistics_survive_a_mean_that_is_large_beside_the_deviation() {
    wgpu();
    let statistics = |results: Results| -> Results {
        results.into_iter().filter(|(name, _)| name.ends_with("variance")).collect()
    };
    let got = statistics(layers::<Cube>(DType::F32, 300.0));
    // In f64, because the CPU kernel of f32 rounds its convolution too.
    let x = [3, 20, 67, 61];
    let values =
        values::<Cube>(Cube::float_add_scalar(tensor::<Cube>(1, &x, DType::F32), 300.0.into()));
    assert!(values.iter().all(|v| v.is_finite()) && got.len() == LAYERS.len());
    let want = statistics(layers::<Flex>(DType::F32, 300.0));
    // The output of the convolution itself carries 1e-7 of 300 times the weights.
    alike(&got, &want, 2e-3);
}

fn on(device: &Device, seed: u64, shape: &[usize]) -> Tensor<1> {
    let values = random(seed, shape.iter().product());
    Tensor::from_data(TensorData::new(values, [shape.iter().product::<usize>()]), device)
}

fn read(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().expect("f32")
}

/// The running statistics that the launch of the batch's statistics blends.
///
/// Mutations caught: mean and variance exchanged; the biased variance; the old share as a whole.
#[test]
fn running_statistics_are_blended_in_the_forward_pass() {
    wgpu();
    let gpu = &*STARTED;
    for ((x, w, stride, padding, groups), momentum) in
        LAYERS.iter().zip([0.1, 0.25, 1.0, 0.01, 0.5])
    {
        let conv = ConvOptions {
            stride: [*stride; 2],
            padding: [(*padding, *padding); 2],
            dilation: [1; 2],
            groups: *groups,
        };
        let running = [7, 8].map(|seed| on(gpu, seed, &[w[0]]));
        let blend = RunningBlend::new(running.clone(), momentum);
        let layer = ConvNormConfig {
            conv,
            epsilon: 1e-3,
            activation: FusedActivation::Relu,
            running: Some(blend.clone()),
        };
        let map = |seed, shape: &[usize; 4]| on(gpu, seed, shape).reshape(*shape);
        let norm = NormTensors { gamma: on(gpu, 4, &[w[0]]), beta: on(gpu, 5, &[w[0]]) };
        let (out, mean, variance) = conv_norm_activation(map(1, x), map(2, w), norm, None, layer);
        let [b, _, height, width] = out.dims();
        let count = (b * height * width) as f32;
        let got = blend.result().expect("blended on the device").map(read);
        let [mean, variance] = [mean, variance].map(read);
        let unbiased: Vec<f32> = variance.iter().map(|v| v * count / (count - 1.0)).collect();
        for ((got, old), batch) in got.iter().zip(running.map(read)).zip([mean, unbiased]) {
            let share = momentum as f32;
            let want: Vec<f32> = old
                .iter()
                .zip(&batch)
                .map(|(old, new)| old * (1.0 - share) + new * share)
                .collect();
            close("blended", got, &want, 1e-6);
        }
    }
    // On a CPU the caller blends.
    let flex = Device::flex();
    let blend = RunningBlend::new([7, 8].map(|seed| on(&flex, seed, &[3])), 0.5);
    assert!(blend.result().is_none());
}

/// Mutations caught: a byte of the next word; the channels in another order; the last bytes omitted.
#[test]
fn images_are_normalised_from_their_bytes() {
    wgpu();
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    for [b, h, w] in [[2, 5, 7], [1, 1, 1], [3, 16, 12], [1, 3, 5]] {
        let pixels: Vec<u8> = (0..b * h * w * 3).map(|i| (i * 89 % 256) as u8).collect();
        let images = |device: &Device| {
            let images = from_bytes(pixels.clone(), [b, h, w], [mean, std], device);
            assert_eq!(images.dims(), [b, 3, h, w]);
            images.into_data().try_into_vec::<f32>().expect("f32")
        };
        let got = images(&STARTED);
        for (device, what) in [(Device::flex(), "flex"), (STARTED.clone().autodiff(), "autodiff")] {
            close(what, &got, &images(&device), 1e-6);
        }
        let first = (f32::from(pixels[1]) / 255.0 - mean[1]) / std[1];
        assert!((got[h * w] - first).abs() < 1e-5, "green begins the second plane");
    }
}

/// Mutations caught, each alone: the twelfth tensor one place off; parts of another vector or of another order taken for its own; the
/// padding between tensors in a norm; the average moved the other way; parts read without their
/// padding.
#[test]
fn flat_vectors_know_their_parts() {
    wgpu();
    let tensors = |seed| -> Vec<Tensor<1>> {
        // More than one launch gathers.
        [65, 1, 64, 300, 7, 2, 9, 4, 20_000]
            .iter()
            .chain(&[70; 31])
            .enumerate()
            .map(|(i, n)| on(&STARTED, seed + i as u64, &[*n]))
            .collect()
    };
    let [old, new] = [1, 50].map(|seed| FlatTensors::new(&tensors(seed)));
    assert!(old.holds(&old.tensors()) && !old.holds(&new.tensors()) && !old.holds(&tensors(1)));
    let mut exchanged = old.tensors();
    exchanged.swap(5, 6);
    assert!(!old.holds(&exchanged) && !old.holds(&old.tensors()[..8]));
    let moved = old.lerp(&new, 0.25).tensors();
    let both = tensors(1).into_iter().zip(tensors(50));
    for (got, (old, new)) in moved.into_iter().zip(both) {
        let (old, new) = (read(old), read(new));
        let want: Vec<f32> = old.iter().zip(&new).map(|(a, b)| a + (b - a) * 0.25).collect();
        close("moved", &read(got), &want, 1e-6);
    }
    let all: Vec<f32> = tensors(1).into_iter().flat_map(read).collect();
    let want = all.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    assert!((old.norm() - want).abs() < 1e-5 * want, "{} for {want}", old.norm());
    let flat = read(old.flat().clone());
    let parts: Vec<f32> = old.parts_of(&flat).flatten().copied().collect();
    assert_eq!(parts, all);
}

/// Maps of f16, arithmetic, statistics and weights in f32: apart by the rounding of the maps alone.
#[test]
fn maps_of_f16_are_near_those_of_f32() {
    wgpu();
    if !Cube::supports_dtype(&DeviceOf::<Cube>::default(), DType::F16) {
        return; // the adapter has no such values
    }
    let (got, want) = (layers::<Cube>(DType::F16, 0.0), layers::<Flex>(DType::F32, 0.0));
    let got = got.into_iter().chain(blocks::<Cube>(DType::F16));
    let want = want.into_iter().chain(blocks::<Flex>(DType::F32));
    for ((name, got), (_, want)) in got.zip(want) {
        // A rounded value may lie on the other side of a corner, so single values say nothing.
        let apart: f64 = got.iter().zip(&want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let whole: f64 = want.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!(apart.sqrt() < 5e-2 * whole.sqrt(), "{name}: {} of {}", apart.sqrt(), whole.sqrt());
    }
}
