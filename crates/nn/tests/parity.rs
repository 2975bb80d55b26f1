//! The same numbers as torchvision: logits in eval mode at three sizes, and one training step with its
//! loss, every gradient and every running statistic. Expected values: `fixtures/make.py`, in float64.
//!
//! Planted and seen red, in every test here: epsilon 1e-5, hard-sigmoid slope 0.2, h-swish for ReLU in
//! squeeze-excite, ReLU6 for h-swish, no residual, TensorFlow's SAME padding. In the training steps:
//! the biased variance as running statistic.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use nn::blueprint::Naming;
use nn::init::uniform;
use nn::network::{Architecture, Network, NetworkConfig};
use nn::pretrained::{HeadPolicy, NamedTensor, gradients, load_state_dict, state_dict};
use serde_json::Value;

fn expected() -> Value {
    serde_json::from_str(include_str!("fixtures/mobilenet_v3.json")).unwrap()
}

/// Uniform in (-1, 1), as `rough` of the script.
fn rough(stream: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| (2.0 * uniform(stream, i) - 1.0) as f32).collect()
}

fn filled(architecture: Architecture, device: &Device) -> Network {
    let mut config = NetworkConfig::new(architecture, 10);
    config.dropout = 0.0;
    let network = config.init(device);
    let mut tensors: Vec<NamedTensor> = state_dict(&network);
    for (i, t) in tensors.iter_mut().enumerate() {
        let values = rough(i as u64, t.values.len());
        let spread = t.name.ends_with("running_var") || t.name.ends_with(".1.weight");
        let scale = match t.shape.len() {
            4 => (6.0 / t.shape[1..].iter().product::<usize>() as f64).sqrt() as f32,
            2 => (3.0 / t.shape[1] as f64).sqrt() as f32,
            _ if spread => 0.5,
            _ => 0.3,
        };
        let offset = if t.shape.len() == 1 && spread { 1.0 } else { 0.0 };
        t.values = values.into_iter().map(|v| offset + scale * v).collect();
    }
    load_state_dict(config.init(device), tensors, HeadPolicy::Exact).unwrap().0
}

fn input(stream: u64, shape: [usize; 4], device: &Device) -> Tensor<4> {
    let values = rough(stream, shape.iter().product()).into_iter().map(|v| 2.0 * v).collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, shape), device)
}

fn eval(architecture: Architecture, device: &Device) {
    let network = filled(architecture, &device.clone().autodiff()).valid();
    for (size, logits) in expected()[architecture.name()]["logits"].as_object().unwrap() {
        let (h, w) = size.split_once('x').unwrap();
        let shape = [1, 3, h.parse().unwrap(), w.parse().unwrap()];
        let got = network.forward(input(1000, shape, device)).into_data();
        let got = got.convert::<f32>().try_into_vec::<f32>().unwrap();
        let want: Vec<f64> =
            logits.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let largest = want.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
        for (g, e) in got.iter().zip(&want) {
            let error = (f64::from(*g) - e).abs() / largest;
            assert!(error < 1e-4, "{size}: {got:?} against {want:?}");
        }
    }
}

fn compare(got: &[NamedTensor], names: &[String], want: &Value, tolerance: f64) {
    let want = want.as_object().unwrap();
    assert_eq!(got.len(), want.len());
    // A tensor of vanishing norm is compared on the scale of the whole.
    let largest = want.values().map(|v| v[0].as_f64().unwrap()).fold(0.0_f64, f64::max);
    for t in got {
        let number = names.iter().position(|n| *n == t.name).unwrap() as u64;
        let norm = t.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let other = rough(5000 + number, t.values.len());
        let dot: f64 = t.values.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(b)).sum();
        let (n, d) = (want[&t.name][0].as_f64().unwrap(), want[&t.name][1].as_f64().unwrap());
        let scale = n.max(1e-4 * largest);
        let error = (norm - n).abs().max((dot - d).abs()) / scale;
        assert!(error < tolerance, "{}: norm {norm} against {n}, probe {dot} against {d}", t.name);
    }
}

fn step(architecture: Architecture, device: &Device) {
    let tape = device.clone().autodiff();
    let network = filled(architecture, &tape);
    let logits = network.forward_train(input(1001, [4, 3, 64, 64], &tape), 0).logits;
    let mut targets = vec![0.01_f32; 40];
    for (row, label) in [1, 3, 3, 7].into_iter().enumerate() {
        targets[row * 10 + label] = 0.91;
    }
    let targets = Tensor::<2>::from_data(TensorData::new(targets, [4, 10]), &tape);
    let loss = (log_softmax(logits, 1) * targets).sum().div_scalar(-4.0);
    let expected = &expected()[architecture.name()];
    let value = f64::from(loss.clone().inner().into_scalar::<f32>());
    let want = expected["loss"].as_f64().unwrap();
    assert!((value - want).abs() < 1e-4 * want, "loss {value} against {want}");
    let grads = GradientsParams::from_grads(loss.backward(), &network);
    let names = network.names();
    compare(
        &gradients(&network, &grads, Naming::Torchvision),
        &names,
        &expected["gradients"],
        1e-3,
    );
    let mut state = state_dict(&network);
    state.retain(|t| t.name.contains("running"));
    compare(&state, &names, &expected["statistics"], 1e-4);
}

#[test]
fn large_eval() {
    eval(Architecture::MobilenetV3Large, &Device::flex());
}

#[test]
fn small_eval() {
    eval(Architecture::MobilenetV3Small, &Device::flex());
}

#[test]
fn large_training_step() {
    step(Architecture::MobilenetV3Large, &Device::flex());
}

#[test]
fn small_training_step() {
    step(Architecture::MobilenetV3Small, &Device::flex());
}

#[test]
#[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
fn small_on_ndarray() {
    eval(Architecture::MobilenetV3Small, &Device::ndarray());
    step(Architecture::MobilenetV3Small, &Device::ndarray());
}

/// On whatever adapter there is; lavapipe in CI.
#[test]
fn small_on_wgpu() {
    let device = Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers");
    eval(Architecture::MobilenetV3Small, &device);
    step(Architecture::MobilenetV3Small, &device);
}
