//! The update of all parameters of a network on a GPU in one launch, on flat vectors of their
//! values, gradients and states.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use kernels::gpu::multi_tensor::{Formula, Rates};
use kernels::ops::multi_tensor::FlatTensors;

use crate::optimizers::buffer::{Buffer, changed};
use crate::optimizers::gradients::Gradients;
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::optimizer::update::Update;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};

/// The state of the parameters that had a gradient in the last step.
pub(super) struct FlatState {
    /// Numbers of these parameters.
    numbers: Vec<usize>,
    /// Their values, of which the parameters are parts.
    values: FlatTensors,
    states: [FlatTensors; 2],
    /// What `scales` and `decays` were made of.
    rates: Vec<[f64; 2]>,
    /// Factor of the learning rate of every place.
    scales: Tensor<1>,
    /// Weight decay of every place.
    decays: Tensor<1>,
}

/// What an update looks at on the device, because nobody has read it yet.
pub struct Guard {
    /// Losses, and behind them the sum of the squared gradients: where one is not finite, the
    /// update changes nothing.
    pub values: Tensor<1>,
    /// Limit of the gradients' norm; 0 for none.
    pub max_norm: f64,
}

/// The kernel's formula; none for optimizers that look at a whole parameter, and for RMSprop without
/// momentum.
pub(super) fn formula(config: &OptimizerConfig) -> Option<Formula> {
    let momentum = config.momentum != 0.0;
    match config.kind {
        OptimizerKind::Sgd | OptimizerKind::Momentum if !momentum => Some(Formula::Plain),
        OptimizerKind::Sgd => Some(Formula::Nesterov),
        OptimizerKind::Momentum => Some(Formula::Momentum),
        OptimizerKind::Rmsprop if momentum => Some(Formula::Rmsprop),
        OptimizerKind::RmspropTf if momentum => Some(Formula::RmspropTf),
        OptimizerKind::Adam => Some(Formula::Adam),
        OptimizerKind::Adamw => Some(Formula::Adamw),
        OptimizerKind::Lion => Some(Formula::Lion),
        OptimizerKind::Rmsprop
        | OptimizerKind::RmspropTf
        | OptimizerKind::Lamb
        | OptimizerKind::Muon => None,
    }
}

/// The numbers that all parameters share, of any one's update.
fn rates(update: &Update, lr: f64, gradient_scale: f64, guard: Option<&Guard>) -> Rates {
    let beta =
        matches!(update.kind, OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Lion);
    let [momentum, alpha] = if beta { update.betas } else { [update.momentum, update.alpha] };
    Rates {
        lr: lr as f32,
        momentum: momentum as f32,
        alpha: alpha as f32,
        epsilon: update.epsilon as f32,
        corrections: update.corrections.map(|correction| correction as f32),
        gradient_scale: gradient_scale as f32,
        max_norm: guard.map_or(0.0, |guard| guard.max_norm as f32),
    }
}

/// One update of every parameter that has a gradient.
pub(super) fn apply<M: Module>(
    optimizer: &mut Optimizer,
    formula: Formula,
    lr: f64,
    module: M,
    gradients: Gradients,
    guard: Option<&Guard>,
) -> M {
    let mut collect = Collect { gradients: &gradients, number: 0, found: Vec::new() };
    module.visit(&mut collect);
    let found = collect.found;
    let numbers: Vec<usize> = found.iter().map(|parameter| parameter.number).collect();
    let updates: Vec<Update> = found
        .iter()
        .map(|parameter| optimizer.update(parameter.number, parameter.dimensions, lr))
        .collect();
    let (of_gradients, factor) = gradients.flat_tensors().expect("gradients on a GPU");
    let current = optimizer.flat.take().filter(|flat| flat.numbers == numbers);
    // The values that the last step has left are gathered already, unless somebody replaced one.
    let values: Vec<Tensor<1>> = found.into_iter().map(|parameter| parameter.values).collect();
    let left = current.as_ref().map(|current| &current.values).filter(|left| left.holds(&values));
    let values = left.cloned().unwrap_or_else(|| FlatTensors::new(&values));
    // The same at every learning rate, so that the places are filled once.
    let wanted: Vec<[f64; 2]> = updates.iter().map(|u| [u.lr / lr, u.decay]).collect();
    let current = current.unwrap_or_else(|| FlatState {
        values: values.clone(),
        states: initial(optimizer, &numbers, &updates[0], &values),
        scales: values.flat().clone(),
        decays: values.flat().clone(),
        rates: Vec::new(),
        numbers: numbers.clone(),
    });
    let (scales, decays) = match current.rates == wanted {
        true => (current.scales, current.decays),
        false => {
            (values.of_places(|i| wanted[i][0] as f32), values.of_places(|i| wanted[i][1] as f32))
        }
    };
    let [first, second] = &current.states;
    let (values, states) = values.update(
        of_gradients,
        [first, second],
        [&scales, &decays],
        guard.map(|guard| &guard.values),
        formula,
        rates(&updates[0], lr, factor, guard),
    );
    let of_state = states.each_ref().map(FlatTensors::tensors);
    for (i, number) in numbers.iter().enumerate() {
        optimizer.state[*number] = std::iter::zip(&of_state, formula.states())
            .filter(|(_, has)| *has)
            .map(|(tensors, _)| Buffer::Device(tensors[i].clone()))
            .collect();
    }
    let new = values.tensors().into_iter();
    optimizer.flat = Some(FlatState { numbers, values, states, rates: wanted, scales, decays });
    module.map(&mut Place { gradients: &gradients, number: 0, new })
}

fn device(values: &Buffer) -> Tensor<1> {
    match values {
        Buffer::Device(values) => values.clone(),
        Buffer::Host(_) => panic!("values in memory among those on the device"),
    }
}

fn flat(tensors: impl Iterator<Item = Tensor<1>>) -> FlatTensors {
    FlatTensors::new(&tensors.collect::<Vec<_>>())
}

/// The states of these parameters as they were saved, or as they begin.
fn initial(
    optimizer: &mut Optimizer,
    numbers: &[usize],
    update: &Update,
    values: &FlatTensors,
) -> [FlatTensors; 2] {
    let last = numbers.last().expect("a parameter");
    if optimizer.state.len() <= *last {
        optimizer.state.resize(last + 1, Vec::new());
    }
    let begin = update.initial();
    std::array::from_fn(|buffer| {
        let Some(first) = begin.get(buffer) else {
            return values.clone(); // a state that the formula does not read
        };
        let saved = |number: &usize| optimizer.state[*number].get(buffer).map(device);
        let saved: Vec<Option<Tensor<1>>> = numbers.iter().map(saved).collect();
        if saved.iter().all(Option::is_none) {
            return values.filled(*first);
        }
        let tensors = values.tensors();
        let of = |(saved, values): (Option<Tensor<1>>, &Tensor<1>)| {
            saved.unwrap_or_else(|| values.full_like(*first))
        };
        flat(saved.into_iter().zip(&tensors).map(of))
    })
}

/// A parameter that has a gradient.
struct Parameter {
    number: usize,
    dimensions: usize,
    values: Tensor<1>,
}

struct Collect<'a> {
    gradients: &'a Gradients,
    number: usize,
    found: Vec<Parameter>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return; // a running statistic or a frozen parameter
        }
        let number = self.number;
        self.number += 1;
        if self.gradients.has(number) {
            let values = param.val().without_autodiff().reshape([-1]);
            self.found.push(Parameter { number, dimensions: D, values });
        }
    }
}

struct Place<'a> {
    gradients: &'a Gradients,
    number: usize,
    new: std::vec::IntoIter<Tensor<1>>,
}

impl ModuleMapper for Place<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let number = self.number;
        self.number += 1;
        if !self.gradients.has(number) {
            return param;
        }
        let new = self.new.next().expect("new values for every parameter with a gradient");
        changed(param, |values| *values = Buffer::Device(new))
    }
}
