//! The update of all parameters of a network on a GPU in one launch, on flat vectors of their
//! values, gradients and states.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use kernels::gpu::multi_tensor::{Formula, Rates};
use kernels::ops::multi_tensor::{self, FlatTensors};

use crate::optimizers::buffer::{Buffer, changed};
use crate::optimizers::gradients::Gradients;
use crate::optimizers::optimizer::Optimizer;
use crate::optimizers::optimizer::update::Update;
use crate::optimizers::optimizer_kind::{OptimizerConfig, OptimizerKind};

/// The state of the parameters that had a gradient in the last step.
pub(super) struct FlatState {
    /// Numbers of these parameters.
    numbers: Vec<usize>,
    states: [FlatTensors; 2],
    /// What `scales` and `decays` were made of.
    rates: Vec<[f64; 2]>,
    /// Factor of the learning rate of every place.
    scales: Tensor<1>,
    /// Weight decay of every place.
    decays: Tensor<1>,
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

/// Whether all gradients lie where flat vectors exist.
pub(super) fn supports(gradients: &Gradients) -> bool {
    let mut there = gradients.0.iter().flatten().peekable();
    there.peek().is_some()
        && there.all(|gradient| match &gradient.values {
            Buffer::Device(values) => multi_tensor::supports(values),
            Buffer::Host(_) => false,
        })
}

/// The numbers that all parameters share, of any one's update.
fn rates(update: &Update, lr: f64) -> Rates {
    let beta =
        matches!(update.kind, OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Lion);
    let [momentum, alpha] = if beta { update.betas } else { [update.momentum, update.alpha] };
    Rates {
        lr: lr as f32,
        momentum: momentum as f32,
        alpha: alpha as f32,
        epsilon: update.epsilon as f32,
        corrections: update.corrections.map(|correction| correction as f32),
        gradient_scale: 1.0,
    }
}

/// One update of every parameter that has a gradient.
pub(super) fn apply<M: Module>(
    optimizer: &mut Optimizer,
    formula: Formula,
    lr: f64,
    module: M,
    gradients: Gradients,
) -> M {
    let mut collect = Collect { gradients: &gradients, number: 0, found: Vec::new() };
    module.visit(&mut collect);
    let found = collect.found;
    let numbers: Vec<usize> = found.iter().map(|parameter| parameter.number).collect();
    let updates: Vec<Update> = found
        .iter()
        .map(|parameter| optimizer.update(parameter.number, parameter.dimensions, lr))
        .collect();
    let values = flat(found.into_iter().map(|parameter| parameter.values));
    let taken = numbers.iter().map(|number| match &gradients.0[*number] {
        Some(gradient) => device(&gradient.values),
        None => unreachable!("collected because it has a gradient"),
    });
    let of_gradients = flat(taken);
    // The same at every learning rate, so that the places are filled once.
    let wanted: Vec<[f64; 2]> = updates.iter().map(|u| [u.lr / lr, u.decay]).collect();
    let current = optimizer.flat.take().filter(|flat| flat.numbers == numbers);
    let current = current.unwrap_or_else(|| FlatState {
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
        &of_gradients,
        [first, second],
        [&scales, &decays],
        formula,
        rates(&updates[0], lr),
    );
    let of_state = states.each_ref().map(FlatTensors::tensors);
    for (i, number) in numbers.iter().enumerate() {
        optimizer.state[*number] = std::iter::zip(&of_state, formula.states())
            .filter(|(_, has)| *has)
            .map(|(tensors, _)| Buffer::Device(tensors[i].clone()))
            .collect();
    }
    optimizer.flat = Some(FlatState { numbers, states, rates: wanted, scales, decays });
    let new = values.tensors().into_iter();
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
        if self.gradients.0[number].is_some() {
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
        if self.gradients.0[number].is_none() {
            return param;
        }
        let new = self.new.next().expect("new values for every parameter with a gradient");
        changed(param, |values| *values = Buffer::Device(new))
    }
}
