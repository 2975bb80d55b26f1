//! Optimizers with torch's and timm's formulas. Their state stands in parameter order.
//!
//! Burn's `ModuleOptimizer` has three faults for this program. It keys its state by random
//! parameter ids, it materialises a loaded state on `Device::default()` (which starts wgpu where it
//! is compiled in), and its default hyper-parameters differ from torch's. Here the state is a list
//! of flat buffers, saved and loaded by number. Every formula stands twice: `host` computes it on
//! slices in one pass for the CPU backends, `tensor` composes it of tensor operations for all other
//! devices. On GPUs `flat` updates all parameters in one launch, by a third body in `kernels`. Tests
//! hold the bodies together, and to torch and timm.

mod flat;
mod host;
mod muon;
mod tensor;
#[cfg(test)]
pub(crate) mod tests;
mod update;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};

use crate::optimizers::buffer::{Buffer, changed};
use crate::optimizers::gradients::{Gradient, Gradients};
use crate::optimizers::optimizer::flat::FlatState;
pub use crate::optimizers::optimizer::flat::Guard;
use crate::optimizers::optimizer::update::Update;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};
use crate::optimizers::param_groups::ParamGroup;

/// An optimizer with its state.
pub struct Optimizer {
    config: OptimizerConfig,
    groups: Vec<ParamGroup>,
    steps: u64,
    /// One entry per trained parameter in parameter order; empty until its first gradient.
    state: Vec<Vec<Buffer>>,
    /// The same state in flat vectors, while all parameters are updated in one launch.
    flat: Option<FlatState>,
}

/// One saved buffer of the state: `optimizer.<parameter number>.<buffer number>`.
pub struct SavedBuffer {
    /// Name in the checkpoint.
    pub name: String,
    /// Flat values.
    pub values: Vec<f32>,
}

impl Optimizer {
    /// A fresh optimizer without state. All parameters have the configured weight decay, but norm
    /// and bias, which have none.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, groups: Vec::new(), steps: 0, state: Vec::new(), flat: None }
    }

    /// This optimizer with a group for every trained parameter, in parameter order.
    pub fn with_groups(self, groups: Vec<ParamGroup>) -> Self {
        Self { groups, ..self }
    }

    /// The groups, one for every trained parameter in parameter order; empty without
    /// [`Optimizer::with_groups`].
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// Sets the momentum from the next step on. For Adam, AdamW, LAMB and Lion it is the first
    /// beta, as in torch's OneCycleLR.
    pub fn set_momentum(&mut self, momentum: f64) {
        match self.config.kind {
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

    /// One update of every parameter that has a gradient, from Burn's container of gradients.
    pub fn step<M: Module>(&mut self, lr: f64, module: M, grads: GradientsParams) -> M {
        let gradients = Gradients::take(&module, grads);
        self.apply(lr, module, gradients)
    }

    /// One update of every parameter that has a gradient.
    pub fn apply<M: Module>(&mut self, lr: f64, module: M, gradients: Gradients) -> M {
        self.steps += 1;
        if let Some(formula) = flat::formula(&self.config)
            && gradients.flat_tensors().is_some()
        {
            return flat::apply(self, formula, lr, module, gradients, None);
        }
        self.flat = None;
        let gradients = gradients.into_each().into_iter();
        module.map(&mut UpdateParameters { optimizer: self, gradients, lr, number: 0 })
    }

    /// Whether [`Optimizer::apply_guarded`] exists for this rule, on a GPU.
    pub fn has_guarded_updates(&self) -> bool {
        flat::formula(&self.config).is_some()
    }

    /// [`Optimizer::apply`] where nobody has read yet whether the step is finite.
    ///
    /// # Panics
    /// On gradients that do not lie on a GPU, or a rule without guarded updates.
    pub fn apply_guarded<M: Module>(
        &mut self,
        lr: f64,
        module: M,
        gradients: Gradients,
        guard: &Guard,
    ) -> M {
        self.steps += 1;
        let formula = flat::formula(&self.config).expect("a rule with guarded updates");
        flat::apply(self, formula, lr, module, gradients, Some(guard))
    }

    /// Takes back the count of a guarded update that changed nothing.
    pub fn uncount_step(&mut self) {
        self.steps -= 1;
    }

    /// The whole state, f32, in parameter order.
    pub fn save(&self) -> Vec<SavedBuffer> {
        let name = |p: usize, b: usize| format!("optimizer.{p:04}.{b}");
        let saved = |(p, buffers): (usize, &Vec<Buffer>)| {
            buffers
                .iter()
                .enumerate()
                .map(|(b, values)| SavedBuffer { name: name(p, b), values: values.to_vec() })
                .collect::<Vec<_>>()
        };
        self.state.iter().enumerate().flat_map(saved).collect()
    }

    /// The optimizer whose state [`Optimizer::save`] gave after `steps` updates.
    ///
    /// # Errors
    /// A name that is not of the form `optimizer.<number>.<number>`, or out of order.
    pub fn load(
        config: OptimizerConfig,
        steps: u64,
        saved: Vec<SavedBuffer>,
        device: &Device,
    ) -> Result<Self, String> {
        let mut state: Vec<Vec<Buffer>> = Vec::new();
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
            if state.len() <= p {
                state.resize(p + 1, Vec::new());
            }
            if state[p].len() != b {
                return Err(format!("optimizer state `{name}` is out of order"));
            }
            let count = values.len();
            let tensor = Tensor::<1>::from_data(TensorData::new(values, [count]), device);
            state[p].push(Buffer::of(tensor));
        }
        Ok(Self { config, groups: Vec::new(), steps, state, flat: None })
    }

    /// The numbers for parameter `number`, which has `dimensions` dimensions.
    fn update(&self, number: usize, dimensions: usize, lr: f64) -> Update {
        let OptimizerConfig { kind, momentum, alpha, betas, epsilon, weight_decay } = self.config;
        let (decay, scale) = match self.groups.get(number) {
            Some(group) => (group.decay, group.lr_scale),
            // Norm and bias parameters are exactly the one-dimensional ones.
            None => (if dimensions > 1 { weight_decay } else { 0.0 }, 1.0),
        };
        let corrections = betas.map(|beta| 1.0 - beta.powf(self.steps as f64));
        let lr = lr * scale;
        Update { kind, lr, decay, momentum, alpha, betas, epsilon, corrections }
    }
}

/// Updates one parameter: new values, new state.
fn apply(update: &Update, values: &mut Buffer, gradient: Gradient, state: &mut Vec<Buffer>) {
    if update.kind == OptimizerKind::Muon && muon::suits(&gradient.shape) {
        return muon::update(update, values, gradient, state);
    }
    if state.is_empty() {
        state.extend(update.initial().iter().map(|first| values.filled(*first)));
    }
    match (values, gradient.values) {
        (Buffer::Host(values), Buffer::Host(gradient)) => {
            host::update(update, values, &gradient, state);
        }
        (Buffer::Device(values), Buffer::Device(gradient)) => {
            *values = tensor::update(update, values.clone(), gradient, state);
        }
        _ => panic!("a parameter and its gradient of two kinds"),
    }
}

struct UpdateParameters<'a> {
    optimizer: &'a mut Optimizer,
    gradients: std::vec::IntoIter<Option<Gradient>>,
    lr: f64,
    number: usize,
}

impl ModuleMapper for UpdateParameters<'_> {
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
        if optimizer.state.len() <= number {
            optimizer.state.resize(number + 1, Vec::new());
        }
        let update = optimizer.update(number, D, self.lr);
        changed(param, |values| apply(&update, values, gradient, &mut optimizer.state[number]))
    }
}
