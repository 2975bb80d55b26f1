//! All bodies of every optimizer against torch and timm (`tests/fixtures/make_optimizers.py`).

use burn::tensor::{Device, Tensor, TensorData};

use super::*;
use crate::optimizers::gradients::tests::Four;

const FIXTURE: &str = include_str!("../../../tests/fixtures/optimizers.json");

pub(crate) fn fixture() -> serde_json::Value {
    serde_json::from_str(FIXTURE).unwrap()
}

pub(crate) fn shapes() -> Vec<Vec<usize>> {
    serde_json::from_value(fixture()["shapes"].clone()).unwrap()
}

/// The initial values of the script.
pub(crate) fn start(number: usize, shape: &[usize]) -> Vec<f32> {
    let value = |i: usize| (((i * 37 + number * 11) % 101) as f64 - 50.0) / 50.0;
    (0..shape.iter().product()).map(|i| value(i) as f32).collect()
}

pub(crate) fn gradient(values: &[f32], step: usize) -> Vec<f32> {
    values.iter().map(|v| v * v * 0.7 - 0.3 + 0.1 * step as f32 * v).collect()
}

#[track_caller]
pub(crate) fn close(got: &[f32], expected: &serde_json::Value, what: &str) {
    let expected = expected.as_array().unwrap();
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let expected = expected.as_f64().unwrap();
        let apart = (f64::from(*got) - expected).abs();
        // f32 on both sides; a wrong constant shows as 1e-3 and more.
        assert!(apart < 3e-6 * (1.0 + expected.abs()), "{what}: {i}: {got} for {expected}");
    }
}

fn on_device(values: Vec<f32>) -> Buffer {
    let count = values.len();
    Buffer::Device(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()))
}

fn run(kind: OptimizerKind, wrap: fn(Vec<f32>) -> Buffer) -> Vec<Vec<f32>> {
    let own = kind.config();
    let mut config = OptimizerConfig { weight_decay: 0.1, ..own };
    if kind == OptimizerKind::Muon {
        config.epsilon = 1e-7;
    } else if kind == OptimizerKind::Adam
        || kind == OptimizerKind::Adamw
        || kind == OptimizerKind::Lamb
    {
        assert_eq!(config.momentum, 0.9);
    }
    config.betas = [0.9, 0.99];
    let lr = if matches!(kind, OptimizerKind::Sgd | OptimizerKind::Momentum) { 0.05 } else { 0.01 };
    let group = ParamGroup { decay: 0.1, lr_scale: 1.0, classifier: false };
    let shapes = shapes();
    let mut optimizer = Optimizer::new(config).with_groups(vec![group; shapes.len()]);
    let mut all: Vec<Buffer> =
        shapes.iter().enumerate().map(|(i, shape)| wrap(start(i, shape))).collect();
    let mut states = vec![Vec::new(); shapes.len()];
    for step in 0..5 {
        optimizer.steps += 1;
        for (number, values) in all.iter_mut().enumerate() {
            let grad = wrap(gradient(&values.to_vec(), step));
            let grad = Gradient { values: grad, shape: shapes[number].clone() };
            let update = optimizer.update(number, shapes[number].len(), lr);
            apply(&update, values, grad, &mut states[number]);
        }
    }
    all.iter().map(Buffer::to_vec).collect()
}

const KINDS: [(&str, OptimizerKind); 9] = [
    ("sgd", OptimizerKind::Sgd),
    ("momentum", OptimizerKind::Momentum),
    ("rmsprop", OptimizerKind::Rmsprop),
    ("rmsproptf", OptimizerKind::RmspropTf),
    ("adam", OptimizerKind::Adam),
    ("adamw", OptimizerKind::Adamw),
    ("lamb", OptimizerKind::Lamb),
    ("lion", OptimizerKind::Lion),
    ("muon", OptimizerKind::Muon),
];

/// Mutations caught: RMSpropTF's epsilon outside the root (on slices alone, which the next test
/// catches too); AdamW without its decay; for Muon, another optimizer for vectors, and a step five
/// times as long.
#[test]
fn five_steps_equal_torch_and_timm_on_slices_and_tensors() {
    let fixture = fixture();
    for (name, kind) in KINDS {
        for (body, wrap) in
            [("slices", Buffer::Host as fn(_) -> _), ("tensors", on_device as fn(_) -> _)]
        {
            for (number, got) in run(kind, wrap).iter().enumerate() {
                close(got, &fixture["rules"][name][number], &format!("{name} {body} {number}"));
            }
        }
    }
}

/// The bits of a run must not depend on which of the two bodies a backend takes.
#[test]
fn slices_and_tensors_give_the_same_bits() {
    for (name, kind) in KINDS.into_iter().filter(|(name, _)| *name != "lamb") {
        let bits = |wrap| -> Vec<u32> {
            run(kind, wrap).into_iter().flatten().map(f32::to_bits).collect()
        };
        assert_eq!(bits(Buffer::Host), bits(on_device), "{name}");
    }
}

/// Parameters of more than one part are shared out among the threads.
#[test]
fn long_parameters_are_updated_as_short_ones() {
    let count = crate::optimizers::buffer::PART * 2 + 3;
    let values: Vec<f32> = (0..count).map(|i| (i % 7) as f32 - 3.0).collect();
    for (name, kind) in KINDS.into_iter().filter(|(name, _)| *name != "lamb") {
        let optimizer = Optimizer { steps: 1, ..Optimizer::new(kind.config()) };
        let step = |values: Vec<f32>| {
            let grad = gradient(&values, 1);
            let shape = vec![values.len()];
            let mut values = Buffer::Host(values);
            let grad = Gradient { values: Buffer::Host(grad), shape };
            let update = optimizer.update(0, 1, 0.01);
            apply(&update, &mut values, grad, &mut Vec::new());
            values.to_vec()
        };
        let whole = step(values.clone());
        let split: Vec<f32> = values.chunks(1000).flat_map(|part| step(part.to_vec())).collect();
        assert!(whole == split, "{name}");
    }
}

struct ReadParameters(Vec<Vec<f32>>);

impl burn::module::ModuleVisitor for ReadParameters {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(Buffer::of(param.val().without_autodiff()).to_vec());
    }
}

fn values_of(module: &Four) -> Vec<Vec<f32>> {
    let mut read = ReadParameters(Vec::new());
    module.visit(&mut read);
    read.0
}

/// Five steps of a module whose parameters have these groups; the optimizer is saved and loaded in
/// between, and the vector has no gradient in the second step where `gap`.
fn steps_of_a_module(
    kind: OptimizerKind,
    groups: &[ParamGroup],
    device: &Device,
    gap: bool,
) -> Vec<Vec<f32>> {
    let lr = if matches!(kind, OptimizerKind::Sgd | OptimizerKind::Momentum) { 0.05 } else { 0.01 };
    let mut config = OptimizerConfig { weight_decay: 0.1, ..kind.config() };
    config.betas = [0.9, 0.99];
    let mut optimizer = Optimizer::new(config.clone()).with_groups(groups.to_vec());
    let mut module = Four::start(&device.clone().autodiff());
    for step in 0..5 {
        let gradients = values_of(&module).into_iter().enumerate().map(|(number, values)| {
            let tensor = Tensor::<1>::from_floats(gradient(&values, step).as_slice(), device);
            let gradient = Gradient { values: Buffer::of(tensor), shape: shapes()[number].clone() };
            (!(gap && step == 1 && number == 3)).then_some(gradient)
        });
        let gradients = Gradients::new(gradients.collect());
        module = optimizer.apply(lr, module, gradients);
        if step == 2 {
            let (steps, saved) = (optimizer.steps(), optimizer.save());
            let loaded = Optimizer::load(config.clone(), steps, saved, device).unwrap();
            optimizer = loaded.with_groups(groups.to_vec());
        }
    }
    values_of(&module)
}

pub(crate) fn wgpu() -> Device {
    static STARTED: std::sync::LazyLock<Device> = std::sync::LazyLock::new(|| {
        Device::wgpu_options().init().expect("an adapter; install mesa-vulkan-drivers")
    });
    STARTED.clone()
}

/// On a GPU all parameters are updated in one launch. LAMB and Muon look at whole parameters and
/// take the composed body there.
///
/// Mutations caught: AdamW without its decay; Lion's average with the rate of its direction;
/// RMSpropTF's epsilon outside the root; SGD without Nesterov's look ahead; a tensor gathered from
/// another one's place.
#[test]
fn five_steps_on_a_gpu_equal_torch_and_timm() {
    let fixture = fixture();
    let group = ParamGroup { decay: 0.1, lr_scale: 1.0, classifier: false };
    for (name, kind) in KINDS.into_iter().filter(|(name, _)| *name != "muon") {
        let got = steps_of_a_module(kind, &vec![group.clone(); 4], &wgpu(), false);
        for (number, got) in got.iter().enumerate() {
            close(got, &fixture["rules"][name][number], &format!("{name} {number}"));
        }
    }
}

/// Rates and decays of their own, a parameter without a gradient for a while, a state that was saved
/// and loaded: as on the CPU.
///
/// Mutations caught: the decay of the first place for all.
#[test]
fn a_gpu_updates_every_parameter_as_the_cpu_does() {
    let group = |decay, lr_scale| ParamGroup { decay, lr_scale, classifier: false };
    let groups = [group(0.1, 1.0), group(0.0, 0.5), group(0.3, 2.0), group(0.0, 0.1)];
    for (name, kind) in KINDS.into_iter().filter(|(name, _)| *name != "muon") {
        let [cpu, gpu] =
            [Device::flex(), wgpu()].map(|device| steps_of_a_module(kind, &groups, &device, true));
        for (number, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
            for (i, (cpu, gpu)) in cpu.iter().zip(gpu).enumerate() {
                let apart = (cpu - gpu).abs();
                assert!(apart < 3e-6 * (1.0 + cpu.abs()), "{name} {number} {i}: {gpu} for {cpu}");
            }
        }
    }
}
