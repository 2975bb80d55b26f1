//! The numbers of torchvision and timm: logits in eval mode at the native size, at an even and at
//! an odd non-square size; one training step with its loss (auxiliary heads included), every
//! gradient and every running statistic. `fixtures/make.py` computes the expected values in
//! float64.
//!
//! Mutations caught: ReLU for ReLU6; hard-sigmoid slope 0.2; h-swish for ReLU in squeeze-excite;
//! SAME for symmetric padding and the reverse; pooling without ceil; GoogLeNet's fourth pooling
//! 3x3; an auxiliary head on a mirrored map; another head weight; padding omitted from the mean;
//! Xception's skip after the ReLU; a ReLU between Xception's convolutions; none between
//! MobileNetV1's; 1x7 and 7x1 exchanged; no residual; no dilation; epsilon 1e-5 for 1e-3; the
//! biased variance as running statistic; a wrong sign in the transformed input; aligned Xception's skip
//! after the ReLU, its tail without a ReLU; MobileNetV1's last convolution without its activation.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nn::activation::Activation;
use nn::config::NetworkConfig;
use nn::init::uniform;
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::{gradients, state_dict_as};
use serde_json::Value;

fn expected(name: &str) -> Value {
    let all: Value = serde_json::from_str(include_str!("fixtures/parity.json")).unwrap();
    all[name].clone()
}

/// Uniform in (-1, 1), as `random` of `fixtures/make.py`.
fn random(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (2.0 * uniform(stream, i) - 1.0) as f32).collect()
}

/// FNV-1a of a tensor's name.
fn stream(name: &str) -> u64 {
    name.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// The configuration and naming of a variant's name; a second word in `name` changes the
/// configuration.
fn config(name: &str, step: bool) -> (NetworkConfig, Naming) {
    let (variant, word) = name.split_once(' ').unwrap_or((name, ""));
    let variant = Variant::parse(variant).unwrap();
    let mut config = variant.config(10);
    config.dropout = 0.0;
    config.auxiliary = step && (name.starts_with("googlenet") || name == "inception_v3");
    match word {
        "relu" => config.activation = Some(Activation::Relu),
        "transform" => config.transform_input = true,
        _ => {}
    }
    let naming = match variant.weight_source {
        WeightSource::Torchvision => Naming::Torchvision,
        WeightSource::Timm | WeightSource::Tensorflow => Naming::Timm,
    };
    (config, naming)
}

fn filled(config: &NetworkConfig, naming: Naming, device: &Device) -> Network {
    let network = config.init_zero(device);
    let mut tensors: Vec<NamedTensor> = state_dict_as(&network, naming);
    for t in &mut tensors {
        let values = random(stream(&t.name), t.values.len());
        let scale_or_variance = t.name.ends_with("running_var") || t.name.ends_with("weight");
        let fan = t.shape[1..].iter().product::<usize>() as f64;
        let (offset, scale) = match t.shape.len() {
            4 if !t.name.starts_with("conv_head.w") => (0.0, (6.0 / fan).sqrt() as f32),
            2 | 4 => (0.0, (3.0 / fan).sqrt() as f32),
            _ if scale_or_variance => (1.0, 0.5),
            _ => (0.0, 0.3),
        };
        t.values = values.into_iter().map(|v| offset + scale * v).collect();
    }
    load_state_dict(config.init_zero(device), tensors, HeadPolicy::Exact).unwrap().0
}

struct Cast(DType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let require = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let tensor = Tensor::from_inner(tensor.inner().cast(self.0)).set_require_grad(require);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

fn input(stream: u64, shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values = random(stream, shape.iter().product()).into_iter().map(|v| 2.0 * v).collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, shape), device)
}

/// Compares the logits at all image sizes of at most `max_pixels`.
fn eval(name: &str, device: &Device, max_pixels: usize) {
    let (config, naming) = config(name, false);
    let network = filled(&config, naming, &device.clone().autodiff()).valid();
    for (size, logits) in expected(name)["logits"].as_object().unwrap() {
        let (h, w) = size.split_once('x').unwrap();
        let (h, w): (usize, usize) = (h.parse().unwrap(), w.parse().unwrap());
        if h * w > max_pixels {
            continue;
        }
        let got = network.forward(input(1000, [1, 3, h, w], device)).into_data();
        let got = got.convert::<f32>().try_into_vec::<f32>().unwrap();
        let want: Vec<f64> =
            logits.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let largest = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (g, e) in got.iter().zip(&want) {
            let error = (f64::from(*g) - e).abs() / largest;
            assert!(error < 1e-4, "{name} {size}: {got:?} against {want:?}");
        }
    }
}

/// Compares the norm and a random projection of every tensor.
fn compare(name: &str, got: &[NamedTensor], want: &Value, tolerance: f64) {
    let want = want.as_object().unwrap();
    assert_eq!(got.len(), want.len(), "{name}");
    // A tensor whose norm is near zero is compared on the scale of the largest.
    let largest = want.values().map(|v| v[0].as_f64().unwrap()).fold(0.0_f64, f64::max);
    for t in got {
        let norm = t.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let probe = random(stream(&t.name) ^ 1, t.values.len());
        let dot: f64 = t.values.iter().zip(probe).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
        let (n, d) = (want[&t.name][0].as_f64().unwrap(), want[&t.name][1].as_f64().unwrap());
        let scale = n.max(1e-4 * largest);
        let error = (norm - n).abs().max((dot - d).abs()) / scale;
        assert!(
            error < tolerance,
            "{name} {}: norm {norm} against {n}, probe {dot} against {d}",
            t.name
        );
    }
}

/// Compares a training step.
///
/// Most networks are compared in f64. Where a batch norm has few values, rounding in f32 decides
/// whether single ReLUs are active, in torch too: torch's own f32 gradients of MobileNetV2 are up
/// to 6 % off. F32 is for networks and inputs on which rounding changes no ReLU.
fn step(name: &str, device: &Device, float: DType) {
    step_within(name, device, float, if float == DType::F64 { 1e-5 } else { 1e-3 });
}

fn step_within(name: &str, device: &Device, float: DType, tolerance: f64) {
    let autodiff_device = device.clone().autodiff();
    let (config, naming) = config(name, true);
    let network = filled(&config, naming, &autodiff_device).map(&mut Cast(float));
    let expected = expected(name);
    let [batch, side] = [0, 1].map(|i| expected["batch"][i].as_u64().unwrap() as usize);
    let number = expected["input"].as_u64().unwrap();
    let images = input(number, [batch, 3, side, side], &autodiff_device).cast(float);
    let outputs = network.forward_train(images, 0);
    let mut targets = vec![0.01_f32; 10 * batch];
    for (row, label) in [1, 3, 3, 7].into_iter().take(batch).enumerate() {
        targets[row * 10 + label] = 0.91;
    }
    let targets =
        Tensor::<2>::from_data(TensorData::new(targets, [batch, 10]), &autodiff_device).cast(float);
    let loss = |logits: Tensor<2>| {
        (log_softmax(logits, 1) * targets.clone()).sum().div_scalar(-(batch as f32))
    };
    let heads = outputs.auxiliary.into_iter();
    let loss = heads
        .fold(loss(outputs.logits), |sum, head| sum + loss(head.logits).mul_scalar(head.weight));
    let value = loss.clone().inner().into_data().convert::<f64>().try_into_vec::<f64>().unwrap()[0];
    let want = expected["loss"].as_f64().unwrap();
    assert!((value - want).abs() < 1e-4 * want, "{name}: loss {value} against {want}");
    let grads = GradientsParams::from_grads(loss.backward(), &network);
    compare(name, &gradients(&network, &grads, naming), &expected["gradients"], tolerance);
    let mut state = state_dict_as(&network, naming);
    state.retain(|t| t.name.contains("running"));
    compare(name, &state, &expected["statistics"], tolerance.min(1e-4));
}

const ANY: usize = usize::MAX;
const ALL: [&str; 22] = [
    "mobilenet_v1",
    "mobilenet_v1 relu",
    "mobilenet_v2",
    "mobilenetv2_050",
    "mobilenetv2_140",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "mobilenet_v3_small_dilated",
    "mobilenet_v3_small_reduced_tail",
    "mobilenetv3_large_075",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_small_100",
    "tf_mobilenetv3_small_minimal_100",
    "googlenet",
    "googlenet transform",
    "googlenet_5x5",
    "inception_v3",
    "xception",
    "mobilenetv1_100h",
    "xception41",
    "xception65",
    "xception71",
];

#[test]
fn every_network_in_eval_mode_on_flex() {
    ALL.iter().for_each(|name| eval(name, &Device::flex(), ANY));
}

#[test]
fn mobilenets_train_alike_on_flex() {
    let names = ["mobilenet_v1", "mobilenetv1_100h", "mobilenet_v2", "mobilenetv2_050"];
    names.iter().for_each(|name| step(name, &Device::flex(), DType::F64));
}

#[test]
fn mobilenets_v3_train_alike_on_flex() {
    let names = ["mobilenet_v3_large", "mobilenet_v3_small", "mobilenetv3_small_050"];
    names.iter().for_each(|name| step(name, &Device::flex(), DType::F64));
}

#[test]
fn googlenet_with_its_heads_trains_alike_on_flex() {
    ["googlenet", "googlenet_5x5"].iter().for_each(|name| step(name, &Device::flex(), DType::F64));
}

#[test]
fn inception_v3_with_its_head_and_the_xceptions_train_alike_on_flex() {
    ["inception_v3", "xception", "xception41"]
        .iter()
        .for_each(|name| step(name, &Device::flex(), DType::F64));
}

#[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
fn ndarray() -> Device {
    Device::ndarray()
}

#[test]
fn every_network_in_eval_mode_on_ndarray() {
    ALL.iter().for_each(|name| eval(name, &ndarray(), 17_000));
}

#[test]
fn mobilenet_v3_small_trains_alike_in_f32() {
    step("mobilenet_v3_small", &Device::flex(), DType::F32);
    step("mobilenet_v3_small", &ndarray(), DType::F32);
}

#[test]
fn every_kind_of_network_trains_alike_on_ndarray() {
    for name in ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "googlenet"] {
        step(name, &ndarray(), DType::F64);
    }
}

/// On any adapter; lavapipe in CI. This is one test because an adapter is initialised once per
/// process.
#[test]
fn every_network_on_wgpu() {
    let device = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    ALL.iter().for_each(|name| eval(name, &device, 8_000));
    step("mobilenet_v1", &device, DType::F32);
    step("mobilenet_v3_small", &device, DType::F32);
    // WGSL has no f64, and in f32 rounding decides single ReLUs: the other networks get a wider
    // tolerance.
    for name in ["mobilenet_v2", "mobilenet_v3_large", "googlenet"] {
        step_within(name, &device, DType::F32, 5e-2);
    }
}
