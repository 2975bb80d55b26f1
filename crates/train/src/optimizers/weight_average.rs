//! Averages of a network over its training: exponential (EMA), and with equal weights (SWA).
//!
//! Weights and running statistics are averaged alike, as flat buffers in parameter order. No Burn
//! module is cloned, because a clone shares its running statistics with the original.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kernels::ops::multi_tensor::{self, FlatTensors};
use nn::config::NetworkConfig;
use nn::network::Network;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict;
use nn::weights::{NamedTensor, WeightsError};
use serde::{Deserialize, Serialize};

use crate::optimizers::buffer::{Buffer, changed};

/// A running average of every weight and statistic of a network.
pub struct Average {
    values: Vec<Buffer>,
    /// On a GPU: the vector of which the values are parts, from the first update on.
    flat: Option<FlatTensors>,
    /// Number of networks averaged so far.
    pub count: u64,
}

/// The warm-up of an exponential average: an upper bound of its decay after t updates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(try_from = "EmaWarmupRepr", into = "EmaWarmupRepr")]
pub enum EmaWarmup {
    /// `1 - (1 + t)^(-2/3)` (timm's ModelEmaV3 with its `--model-ema-warmup`).
    Timm,
    /// `(1 + t) / (10 + t)` (TensorFlow's ExponentialMovingAverage with `num_updates`).
    #[default]
    #[value(alias = "true")]
    Tensorflow,
    /// No bound: the full decay from the first update on.
    #[value(alias = "false")]
    None,
}

/// A word; older checkpoints hold a bool.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum EmaWarmupRepr {
    Flag(bool),
    Word(String),
}

impl TryFrom<EmaWarmupRepr> for EmaWarmup {
    type Error = String;

    fn try_from(repr: EmaWarmupRepr) -> Result<Self, String> {
        match repr {
            EmaWarmupRepr::Flag(true) => Ok(Self::Tensorflow),
            EmaWarmupRepr::Flag(false) => Ok(Self::None),
            EmaWarmupRepr::Word(word) => match word.as_str() {
                "timm" => Ok(Self::Timm),
                "tensorflow" => Ok(Self::Tensorflow),
                "none" => Ok(Self::None),
                _ => Err(format!("`{word}`: expected timm, tensorflow or none")),
            },
        }
    }
}

impl From<EmaWarmup> for EmaWarmupRepr {
    fn from(warmup: EmaWarmup) -> Self {
        let word = match warmup {
            EmaWarmup::Timm => "timm",
            EmaWarmup::Tensorflow => "tensorflow",
            EmaWarmup::None => "none",
        };
        Self::Word(word.to_owned())
    }
}

/// The decay of an exponential average after `updates` updates.
pub fn ema_decay(decay: f64, updates: u64, warmup: EmaWarmup) -> f64 {
    let updates = updates as f64;
    match warmup {
        EmaWarmup::Timm => decay.min(1.0 - (1.0 + updates).powf(-2.0 / 3.0)),
        EmaWarmup::Tensorflow => decay.min((1.0 + updates) / (10.0 + updates)),
        EmaWarmup::None => decay,
    }
}

struct CollectTensors(Vec<Buffer>);

impl ModuleVisitor for CollectTensors {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(Buffer::of(param.val().without_autodiff()));
    }
}

/// The values in one vector; none where they are not all f32 on a GPU.
fn flat_of(values: &[Buffer]) -> Option<FlatTensors> {
    let on_device = |values: &Buffer| match values {
        Buffer::Device(values) if multi_tensor::supports(values) => Some(values.clone()),
        _ => None,
    };
    let tensors: Option<Vec<Tensor<1>>> = values.iter().map(on_device).collect();
    tensors.filter(|tensors| !tensors.is_empty()).map(|tensors| FlatTensors::new(&tensors))
}

impl Average {
    /// An average that begins with the values of `network` and counts no network yet.
    pub fn new(network: &Network) -> Self {
        let mut collect = CollectTensors(Vec::new());
        network.visit(&mut collect);
        Self { values: collect.0, flat: None, count: 0 }
    }

    /// The values in one vector, where one launch can update them all.
    fn gathered(&self) -> Option<FlatTensors> {
        flat_of(&self.values)
    }

    /// Updates an exponential average: `average * decay + network * (1 - decay)`. Gives the network
    /// back unchanged.
    pub fn update_ema(&mut self, network: Network, decay: f64) -> Network {
        self.update(network, 1.0 - decay)
    }

    /// Updates an average with equal weights: `network` becomes one of [`Average::count`] equal
    /// parts. Gives the network back unchanged.
    pub fn update_swa(&mut self, network: Network) -> Network {
        self.update(network, 1.0 / (self.count as f64 + 1.0))
    }

    /// Moves the average towards the network by `weight`. The network's weights are moved out and
    /// back in rather than copied.
    fn update(&mut self, network: Network, weight: f64) -> Network {
        self.count += 1;
        if let Some(own) = self.flat.take().or_else(|| self.gathered()) {
            let mut collect = CollectTensors(Vec::new());
            network.visit(&mut collect);
            let new = flat_of(&collect.0).expect("a network on the device of its average");
            let own = own.lerp(&new, weight);
            self.values = own.tensors().into_iter().map(Buffer::Device).collect();
            self.flat = Some(own);
            return network;
        }
        network.map(&mut MoveTowards { values: self.values.iter_mut(), weight })
    }

    /// A network with the averaged values on `autodiff_device`.
    pub fn network(&self, config: &NetworkConfig, autodiff_device: &Device) -> Network {
        config.init_zero(autodiff_device).map(&mut SetTensors { values: self.values.iter() })
    }

    /// The averaged tensors under torchvision's names after `prefix`.
    pub fn save(
        &self,
        prefix: &str,
        config: &NetworkConfig,
        autodiff_device: &Device,
    ) -> Vec<NamedTensor> {
        let mut tensors = state_dict(&self.network(config, autodiff_device));
        tensors.iter_mut().for_each(|t| t.name.insert_str(0, prefix));
        tensors
    }

    /// The average of `count` networks whose tensors [`Average::save`] gave, without the prefix.
    ///
    /// # Errors
    /// Tensors that are not those of this network.
    pub fn load(
        tensors: Vec<NamedTensor>,
        count: u64,
        config: &NetworkConfig,
        autodiff_device: &Device,
    ) -> Result<Self, WeightsError> {
        let (network, _) =
            load_state_dict(config.init_zero(autodiff_device), tensors, HeadPolicy::Exact)?;
        Ok(Self { count, ..Self::new(&network) })
    }
}

struct MoveTowards<'a> {
    values: std::slice::IterMut<'a, Buffer>,
    weight: f64,
}

impl ModuleMapper for MoveTowards<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let own = self.values.next().expect("the average is of this network");
        if param.is_require_grad() {
            return changed(param, |new| own.lerp(new, self.weight));
        }
        own.lerp(&Buffer::of(param.val().without_autodiff()), self.weight);
        param
    }
}

struct SetTensors<'a> {
    values: std::slice::Iter<'a, Buffer>,
}

impl ModuleMapper for SetTensors<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let values = self.values.next().expect("the average is of this network").clone();
        let trained = param.is_require_grad();
        let (id, tensor, mapper) = param.consume();
        let inner = tensor.without_autodiff();
        let own: Tensor<D> = values.into_tensor(inner.dims(), &inner.device());
        let tensor = Tensor::from_inner(own).set_require_grad(trained);
        Param::from_mapped_value(id, tensor, mapper)
    }
}

#[cfg(test)]
mod tests {
    use nn::config::Architecture;

    use super::*;
    use crate::optimizers::optimizer::tests::wgpu;

    fn config() -> NetworkConfig {
        let mut config = NetworkConfig::new(Architecture::MobilenetV3Small, 3);
        config.width = 0.35;
        config
    }

    fn forward(network: &Network, autodiff_device: &Device) {
        let images = Tensor::<4>::ones([2, 3, 32, 32], autodiff_device).mul_scalar(0.3);
        let _ = network.forward_train(images, 0);
    }

    /// Mutations caught: statistics of the step before.
    #[test]
    fn an_average_follows_every_update_and_leaves_the_network_alone() {
        let autodiff_device = Device::flex().autodiff();
        let mut network = config().init_seeded(&autodiff_device, 1);
        let mut average = Average::new(&network);
        let mut expected: Vec<Vec<f32>> =
            state_dict(&network).into_iter().map(|t| t.values).collect();
        for step in 0..3 {
            forward(&network, &autodiff_device); // moves the running statistics
            network = average.update_ema(network, 0.75);
            let now = state_dict(&network);
            assert_eq!(average.count, step + 1);
            for (own, new) in expected.iter_mut().zip(&now) {
                own.iter_mut().zip(&new.values).for_each(|(own, new)| *own += (new - *own) * 0.25);
            }
        }
        let got = average.save("ema.", &config(), &autodiff_device);
        let moved = state_dict(&network).iter().zip(&got).any(|(a, b)| a.values != b.values);
        assert!(moved, "the statistics move");
        for (got, expected) in got.iter().zip(&expected) {
            assert!(got.name.starts_with("ema."));
            assert_eq!(&got.values, expected, "{}", got.name);
        }
        let bare = got.into_iter().map(|mut t| {
            t.name = t.name.split_off(4);
            t
        });
        let again = Average::load(bare.collect(), 7, &config(), &autodiff_device).unwrap();
        assert_eq!(again.count, 7);
        let flat = |a: &Average| a.values.iter().flat_map(Buffer::to_vec).collect::<Vec<f32>>();
        assert_eq!(flat(&again), flat(&average));
    }

    /// On a GPU one launch updates the whole average.
    ///
    /// Mutations caught: the vector of the first network kept; the weight of the old values.
    #[test]
    fn a_gpu_averages_as_the_cpu_does() {
        let mut each = [Device::flex(), wgpu()].map(|device| {
            let device = device.autodiff();
            let mut average = Average::new(&config().init_seeded(&device, 1));
            for seed in 2..5 {
                let network = average.update_ema(config().init_seeded(&device, seed), 0.75);
                drop(network);
            }
            average.save("", &config(), &device)
        });
        let [cpu, gpu] = &mut each;
        for (cpu, gpu) in cpu.iter().zip(gpu) {
            for (cpu, gpu) in cpu.values.iter().zip(&gpu.values) {
                assert!((cpu - gpu).abs() < 1e-6 * (1.0 + cpu.abs()), "{gpu} for {cpu}");
            }
        }
    }

    #[test]
    fn equal_weights_give_the_mean() {
        let autodiff_device = Device::flex().autodiff();
        let network = config().init_seeded(&autodiff_device, 1);
        let (mut average, mut last) = (Average::new(&network), network);
        let mut firsts = Vec::new();
        for seed in 1..=3 {
            last = average.update_swa(config().init_seeded(&autodiff_device, seed));
            firsts.push(state_dict(&last)[0].values[0]);
        }
        drop(last);
        let mean = firsts.iter().sum::<f32>() / 3.0;
        let got = average.save("", &config(), &autodiff_device)[0].values[0];
        assert!((got - mean).abs() < 1e-6, "{got} for {mean}");
    }

    /// Mutations caught: timm's updates counted from 1.
    #[test]
    fn the_warm_up_bounds_the_decay() {
        let tensorflow = EmaWarmup::Tensorflow;
        assert_eq!(ema_decay(0.9998, 0, tensorflow), 0.1);
        assert_eq!(ema_decay(0.9998, 8, tensorflow), 0.5);
        assert_eq!(ema_decay(0.9998, 1_000_000, tensorflow), 0.9998);
        assert_eq!(ema_decay(0.9998, 0, EmaWarmup::None), 0.9998);
        // timm's own values, `tests/fixtures/make_schedules.py`.
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/fixtures/schedules.json")).unwrap();
        for (updates, expected) in fixture["ema"].as_array().unwrap().iter().enumerate() {
            let (got, expected) =
                (ema_decay(0.99, updates as u64, EmaWarmup::Timm), expected.as_f64());
            assert!((got - expected.unwrap()).abs() < 1e-12, "{updates}: {got} for {expected:?}");
        }
    }

    /// Mutations caught: an unknown word taken for none.
    #[test]
    fn older_checkpoints_hold_a_bool() {
        let read = |text: &str| serde_json::from_str::<EmaWarmup>(text);
        assert_eq!(read("true").unwrap(), EmaWarmup::Tensorflow);
        assert_eq!(read("false").unwrap(), EmaWarmup::None);
        for warmup in [EmaWarmup::Timm, EmaWarmup::Tensorflow, EmaWarmup::None] {
            assert_eq!(read(&serde_json::to_string(&warmup).unwrap()).unwrap(), warmup);
        }
        let error = read("\"tim\"").unwrap_err().to_string();
        assert!(error.contains("timm, tensorflow or none"), "{error}");
    }
}
