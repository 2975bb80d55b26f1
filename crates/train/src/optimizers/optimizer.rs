//! Optimizers with torch's and timm's formulas, their state in parameter order.
//!
//! Burn's `ModuleOptimizer` keys its state by random parameter ids, materialises a loaded state on
//! `Device::default()` (which starts wgpu where it is compiled in) and its hyper-parameters differ
//! from torch's by default. Here the state is a list of flat values, saved and loaded by number. Every
//! rule stands twice: on slices in one pass for the CPU backends, composed of tensor operations elsewhere;
//! tests hold the two together and both to torch and timm.

mod host;
mod muon;
mod tensor;
#[cfg(test)]
pub(crate) mod tests;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::optimizers::buffer::{Buffer, changed};
use crate::optimizers::gradients::{Gradient, Gradients};

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// SGD with Nesterov momentum, dampening 0 (torch.optim.SGD).
    Sgd,
    /// SGD with plain momentum, dampening 0 (torch.optim.SGD).
    Momentum,
    /// eps outside the root, average from 0, lr after momentum (torch.optim.RMSprop).
    Rmsprop,
    /// TensorFlow's: eps inside the root, average from 1, lr inside momentum (timm's RMSpropTF).
    #[value(name = "rmsproptf", alias = "rmsprop-tf")]
    RmspropTf,
    /// L2 in the gradient, then Adam (torch.optim.Adam).
    Adam,
    /// Decoupled decay, then Adam (torch.optim.AdamW).
    Adamw,
    /// Adam with a trust ratio for every tensor (arXiv:1904.00962; timm's Lamb).
    Lamb,
    /// The sign of a blend of gradient and momentum (arXiv:2302.06675; timm's Lion).
    Lion,
    /// Orthogonalised momentum for matrices (Jordan 2024, scaled as in arXiv:2502.16982), AdamW for the rest.
    Muon,
}

impl OptimizerKind {
    /// The learning rate where none is given.
    pub fn lr(self) -> f64 {
        match self {
            OptimizerKind::Sgd | OptimizerKind::Momentum => 0.05,
            OptimizerKind::Rmsprop
            | OptimizerKind::RmspropTf
            | OptimizerKind::Adam
            | OptimizerKind::Adamw
            | OptimizerKind::Muon => 0.002,
            OptimizerKind::Lamb => 0.005,
            OptimizerKind::Lion => 0.0003,
        }
    }

    /// Constants that the rule is published with, or that its recipes use.
    pub fn config(self) -> OptimizerConfig {
        OptimizerConfig {
            rule: self,
            momentum: if self == OptimizerKind::Muon { 0.95 } else { 0.9 },
            alpha: 0.9,
            betas: if self == OptimizerKind::Lion { [0.9, 0.99] } else { [0.9, 0.999] },
            epsilon: match self {
                OptimizerKind::Rmsprop => 0.0316,
                OptimizerKind::RmspropTf => 1e-3,
                OptimizerKind::Lamb => 1e-6,
                _ => 1e-8,
            },
            weight_decay: match self {
                OptimizerKind::Adamw | OptimizerKind::Lamb | OptimizerKind::Muon => 0.01,
                OptimizerKind::Lion => 0.1,
                _ => 1e-5,
            },
        }
    }
}

/// How the learning rate follows the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrScale {
    /// Twice the batch, twice the rate.
    Linear,
    /// Four times the batch, twice the rate.
    Sqrt,
}

/// Rule and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Update rule.
    pub rule: OptimizerKind,
    /// Momentum of SGD, RMSprop and Muon.
    pub momentum: f64,
    /// Smoothing of RMSprop's squared average.
    pub alpha: f64,
    /// The two decay rates of Adam, AdamW, LAMB, Lion and Muon's fallback.
    pub betas: [f64; 2],
    /// Added outside the root, inside it by [`OptimizerKind::RmspropTf`].
    pub epsilon: f64,
    /// L2 in the gradient (SGD, RMSprop, Adam), in the update (LAMB) or decoupled (AdamW, Lion, Muon). Where no
    /// [`ParamGroup`] says otherwise, never on norm and bias.
    pub weight_decay: f64,
}

/// What is particular to one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamGroup {
    /// Weight decay of this one.
    pub decay: f64,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Whether it belongs to the classifier.
    pub classifier: bool,
}

/// An optimizer with its state.
pub struct Optimizer {
    config: OptimizerConfig,
    settings: Vec<ParamGroup>,
    steps: u64,
    /// One entry per trainable parameter in walk order; empty until its first gradient.
    slots: Vec<Vec<Buffer>>,
}

/// One saved tensor of the state: `optimizer.<parameter number>.<buffer number>`.
pub struct SavedBuffer {
    /// Name in the checkpoint.
    pub name: String,
    /// Flat values.
    pub values: Vec<f32>,
}

/// The numbers of one parameter's update.
#[derive(Clone, Debug)]
struct Update {
    rule: OptimizerKind,
    lr: f64,
    decay: f64,
    momentum: f64,
    alpha: f64,
    betas: [f64; 2],
    epsilon: f64,
    /// `1 - beta^steps` for the two rates.
    corrections: [f64; 2],
}

impl Optimizer {
    /// A fresh optimizer, no state; every parameter treated alike but for decay, which norm and bias have none of.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, settings: Vec::new(), steps: 0, slots: Vec::new() }
    }

    /// The same with a setting for every trained parameter in walk order.
    pub fn with_settings(self, settings: Vec<ParamGroup>) -> Self {
        Self { settings, ..self }
    }

    /// The settings, one for every trained parameter in walk order; empty when all are treated alike.
    pub fn settings(&self) -> &[ParamGroup] {
        &self.settings
    }

    /// The momentum from the next step on: of Adam and its kin the first beta, as torch's OneCycleLR has it.
    pub fn set_momentum(&mut self, momentum: f64) {
        match self.config.rule {
            OptimizerKind::Adam
            | OptimizerKind::Adamw
            | OptimizerKind::Lamb
            | OptimizerKind::Lion => self.config.betas[0] = momentum,
            _ => self.config.momentum = momentum,
        }
    }

    /// Updates done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One update of every parameter that has a gradient; consumes the gradients.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, grads: GradientsParams) -> M {
        let gradients = Gradients::take(&module, grads);
        self.apply(lr, module, gradients)
    }

    /// One update of every parameter that has a gradient.
    pub fn apply<M: Module>(&mut self, lr: f64, module: M, gradients: Gradients) -> M {
        self.steps += 1;
        let mut walk = Walk { optimizer: self, gradients: gradients.0.into_iter(), lr, number: 0 };
        module.map(&mut walk)
    }

    /// The whole state, f32, in walk order.
    pub fn save(&self) -> Vec<SavedBuffer> {
        let name = |p: usize, b: usize| format!("optimizer.{p:04}.{b}");
        let buffers = |(p, slot): (usize, &Vec<Buffer>)| {
            slot.iter()
                .enumerate()
                .map(|(b, values)| SavedBuffer { name: name(p, b), values: values.to_vec() })
                .collect::<Vec<_>>()
        };
        self.slots.iter().enumerate().flat_map(buffers).collect()
    }

    /// Restores what [`Optimizer::save`] gave, after `steps` updates.
    ///
    /// # Errors
    /// A name that is not of the form `optimizer.<number>.<number>`, or out of order.
    pub fn load(
        config: OptimizerConfig,
        steps: u64,
        saved: Vec<SavedBuffer>,
        device: &Device,
    ) -> Result<Self, String> {
        let mut slots: Vec<Vec<Buffer>> = Vec::new();
        for SavedBuffer { name, values } in saved {
            let mut numbers = name.split('.').skip(1).map(str::parse::<usize>);
            let (Some(Ok(p)), Some(Ok(b))) = (numbers.next(), numbers.next()) else {
                return Err(format!("optimizer state `{name}` has no parameter and buffer number"));
            };
            if p > 1_000_000 {
                return Err(format!(
                    "optimizer state `{name}`: no network has that many parameters"
                ));
            }
            if slots.len() <= p {
                slots.resize(p + 1, Vec::new());
            }
            if slots[p].len() != b {
                return Err(format!("optimizer state `{name}` is out of order"));
            }
            let count = values.len();
            let tensor = Tensor::<1>::from_data(TensorData::new(values, [count]), device);
            slots[p].push(Buffer::of(tensor));
        }
        Ok(Self { config, settings: Vec::new(), steps, slots })
    }

    /// The numbers for parameter `number` of so many dimensions.
    fn update(&self, number: usize, dimensions: usize, lr: f64) -> Update {
        let OptimizerConfig { rule, momentum, alpha, betas, epsilon, weight_decay } = self.config;
        let (decay, scale) = match self.settings.get(number) {
            Some(setting) => (setting.decay, setting.lr_scale),
            // Norm and bias parameters are exactly the one-dimensional ones.
            None => (if dimensions > 1 { weight_decay } else { 0.0 }, 1.0),
        };
        let corrections = betas.map(|beta| 1.0 - beta.powf(self.steps as f64));
        let lr = lr * scale;
        Update { rule, lr, decay, momentum, alpha, betas, epsilon, corrections }
    }
}

impl Update {
    /// What each buffer of the state begins with.
    fn initial(&self) -> &'static [f32] {
        match self.rule {
            OptimizerKind::Sgd | OptimizerKind::Momentum if self.momentum == 0.0 => &[],
            OptimizerKind::Rmsprop if self.momentum == 0.0 => &[0.0],
            OptimizerKind::RmspropTf if self.momentum == 0.0 => &[1.0],
            OptimizerKind::Sgd | OptimizerKind::Momentum | OptimizerKind::Lion => &[0.0],
            OptimizerKind::RmspropTf => &[1.0, 0.0],
            OptimizerKind::Rmsprop
            | OptimizerKind::Adam
            | OptimizerKind::Adamw
            | OptimizerKind::Lamb
            | OptimizerKind::Muon => &[0.0, 0.0],
        }
    }

    /// One parameter's update: new values, new state.
    fn apply(&self, values: &mut Buffer, gradient: Gradient, slot: &mut Vec<Buffer>) {
        if self.rule == OptimizerKind::Muon && muon::suits(&gradient.shape) {
            return muon::update(self, values, gradient, slot);
        }
        if slot.is_empty() {
            slot.extend(self.initial().iter().map(|first| values.filled(*first)));
        }
        match (values, gradient.values) {
            (Buffer::Host(values), Buffer::Host(gradient)) => {
                host::update(self, values, &gradient, slot);
            }
            (Buffer::Device(values), Buffer::Device(gradient)) => {
                *values = tensor::update(self, values.clone(), gradient, slot);
            }
            _ => panic!("a parameter and its gradient of two kinds"),
        }
    }
}

struct Walk<'a> {
    optimizer: &'a mut Optimizer,
    gradients: std::vec::IntoIter<Option<Gradient>>,
    lr: f64,
    number: usize,
}

impl ModuleMapper for Walk<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param; // a running statistic or a frozen parameter
        }
        let number = self.number;
        self.number += 1;
        let Some(gradient) = self.gradients.next().expect("an entry for every parameter") else {
            return param;
        };
        let optimizer = &mut *self.optimizer;
        if optimizer.slots.len() <= number {
            optimizer.slots.resize(number + 1, Vec::new());
        }
        let update = optimizer.update(number, D, self.lr);
        changed(param, |values| update.apply(values, gradient, &mut optimizer.slots[number]))
    }
}
