//! The gradients of a step as flat buffers in parameter order: their norm, and clipping.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use kernels::ops::multi_tensor::{self, FlatTensors, Parts};
use serde::{Deserialize, Serialize};

use crate::optimizers::buffer;
use crate::optimizers::buffer::{Buffer, squares};
use crate::optimizers::param_groups::ParamGroup;

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// All gradients are scaled by one factor, so that their common norm is at most the limit.
    Norm,
    /// Each gradient value is clamped to plus and minus the limit.
    Value,
    /// The norm of each unit's gradient is at most the limit times the norm of the unit's weights
    /// (arXiv:2102.06171). The classifier is exempt.
    Agc,
}

/// AGC: lower bound of a weight's norm, so that zero weights can leave zero.
const AGC_MIN_WEIGHT_NORM: f32 = 1e-3;
/// AGC: lower bound of a gradient's norm, which is a divisor.
const AGC_MIN_GRADIENT_NORM: f32 = 1e-6;

/// One parameter's gradient.
pub struct Gradient {
    /// Flat values in the row-major order of the parameter.
    pub values: Buffer,
    /// Shape of the parameter.
    pub shape: Vec<usize>,
}

/// The gradients of a step.
pub struct Gradients {
    /// One entry for every trained parameter in parameter order; `None` for a parameter that had no
    /// part in the loss.
    each: Vec<Option<Gradient>>,
    /// On a GPU: the vector of which the entries are parts, before `factor`.
    flat: Option<FlatTensors>,
    /// What the values of `flat` are still to be multiplied by.
    factor: f64,
}

struct TakeGradients<'a> {
    from: &'a mut GradientsParams,
    taken: Vec<Option<Gradient>>,
}

impl ModuleVisitor for TakeGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return; // a running statistic or a frozen parameter
        }
        let gradient = self.from.remove::<D>(param.id).map(|tensor| {
            let shape = tensor.dims().to_vec();
            Gradient { values: Buffer::of(tensor), shape }
        });
        self.taken.push(gradient);
    }
}

impl Gradients {
    /// Takes the gradients of `module` out of Burn's container.
    pub fn take<M: Module>(module: &M, mut from: GradientsParams) -> Self {
        let mut take = TakeGradients { from: &mut from, taken: Vec::new() };
        module.visit(&mut take);
        Self::new(take.taken)
    }

    /// Gradients of these values; on a GPU they are gathered in one vector.
    pub fn new(mut each: Vec<Option<Gradient>>) -> Self {
        let device = |gradient: &Gradient| match &gradient.values {
            Buffer::Device(values) if multi_tensor::supports(values) => Some(values.clone()),
            _ => None,
        };
        let values: Option<Vec<Tensor<1>>> = each.iter().flatten().map(device).collect();
        let flat = values.filter(|values| !values.is_empty()).map(|v| FlatTensors::new(&v));
        if let Some(flat) = &flat {
            place(&mut each, flat);
        }
        Self { each, flat, factor: 1.0 }
    }

    /// The entries, one for every trained parameter in parameter order.
    pub fn into_each(mut self) -> Vec<Option<Gradient>> {
        self.apply_factor();
        self.each
    }

    /// Whether parameter `number` has a gradient.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.each[number].is_some()
    }

    /// The vector of all gradients that there are, in parameter order, and the factor of its values;
    /// none where they lie elsewhere.
    pub(crate) fn flat_tensors(&self) -> Option<(&FlatTensors, f64)> {
        self.flat.as_ref().map(|flat| (flat, self.factor))
    }

    /// Multiplies every gradient by `factor`.
    pub fn scale(&mut self, factor: f64) {
        match self.flat {
            Some(_) => self.factor *= factor,
            None if factor != 1.0 => {
                self.each.iter_mut().flatten().for_each(|g| g.values.scale(factor));
            }
            None => {}
        }
    }

    /// Multiplies the vector by its factor, so that the entries are the gradients.
    fn apply_factor(&mut self) {
        if let Some(flat) = self.flat.as_mut().filter(|_| self.factor != 1.0) {
            *flat = flat.with_flat(flat.flat().clone().mul_scalar(self.factor as f32));
            self.factor = 1.0;
            place(&mut self.each, flat);
        }
    }

    /// All values one after the other, zeros for a parameter without a gradient; behind them for
    /// each parameter whether it has one, as 1 or 0.
    pub fn flat<M: Module>(&self, module: &M) -> Vec<f32> {
        let values = self.flat.as_ref().map(|flat| {
            let mut values = buffer::read(flat.flat().clone());
            values.iter_mut().for_each(|value| *value *= self.factor as f32);
            values
        });
        let mut read = values.as_deref().zip(self.flat.as_ref()).map(|(v, flat)| flat.parts_of(v));
        let mut flat =
            Flatten { gradients: &self.each, read: read.as_mut(), number: 0, values: Vec::new() };
        module.visit(&mut flat);
        let there = self.each.iter().map(|gradient| f32::from(u8::from(gradient.is_some())));
        flat.values.extend(there);
        flat.values
    }

    /// The gradients of `module` that [`Gradients::flat`] has made flat.
    ///
    /// # Panics
    /// When `flat` has too few values.
    pub fn of_flat<M: Module>(module: &M, flat: &[f32]) -> Self {
        let mut cut = Cut { flat, taken: Vec::new() };
        module.visit(&mut cut);
        let Cut { flat: there, mut taken } = cut;
        let absent = taken.iter_mut().zip(there).filter(|(_, there)| **there == 0.0);
        absent.for_each(|(gradient, _)| *gradient = None);
        Self::new(taken)
    }

    /// The Euclidean norm of all gradients together; not finite when a value is not finite.
    pub fn norm(&self) -> f64 {
        if let Some(flat) = &self.flat {
            return self.factor * flat.norm();
        }
        let mut on_device = Vec::new();
        let mut sum = 0.0;
        for gradient in self.each.iter().flatten() {
            match &gradient.values {
                Buffer::Host(values) => sum += squares(values),
                Buffer::Device(values) => on_device.push(values.clone()),
            }
        }
        if !on_device.is_empty() {
            let on_device: Vec<_> = on_device.into_iter().map(|g| g.square().sum()).collect();
            // One read from the device for all gradients.
            sum += f64::from(Tensor::cat(on_device, 0).sum().into_scalar::<f32>());
        }
        sum.sqrt()
    }

    /// The sum of all squared values before their factor, `[1]`, which stays on the device; none
    /// where the gradients lie elsewhere.
    pub fn squares(&self) -> Option<Tensor<1>> {
        self.flat.as_ref().map(FlatTensors::squares)
    }

    /// Clips the gradients in place. `norm` is [`Gradients::norm`], `module` holds the weights that
    /// AGC reads, and `groups` stand in parameter order.
    pub fn clip<M: Module>(
        &mut self,
        mode: ClipMode,
        limit: f64,
        norm: f64,
        module: &M,
        groups: &[ParamGroup],
    ) {
        match mode {
            ClipMode::Norm => {
                // torch.nn.utils.clip_grad_norm_, its epsilon too.
                let factor = limit / (norm + 1e-6);
                if factor < 1.0 {
                    self.scale(factor);
                }
                return;
            }
            ClipMode::Value => {
                self.apply_factor();
                self.each.iter_mut().flatten().for_each(|g| g.values.clamp(limit));
            }
            ClipMode::Agc => {
                self.apply_factor();
                let mut adapt =
                    AdaptiveClip { gradients: self, limit: limit as f32, groups, number: 0 };
                module.visit(&mut adapt);
            }
        }
        // The entries are no longer parts of the vector.
        *self = Self::new(std::mem::take(&mut self.each));
    }
}

/// Makes the gradients parts of the vector, in which no value is copied.
fn place(each: &mut [Option<Gradient>], flat: &FlatTensors) {
    for (gradient, part) in each.iter_mut().flatten().zip(flat.tensors()) {
        gradient.values = Buffer::Device(part);
    }
}

struct Flatten<'a, 'b> {
    gradients: &'a [Option<Gradient>],
    /// The values of the gradients that lie on a GPU, already read.
    read: Option<&'a mut Parts<'b>>,
    number: usize,
    values: Vec<f32>,
}

impl ModuleVisitor for Flatten<'_, '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        match &self.gradients[self.number] {
            Some(Gradient { values: Buffer::Host(own), .. }) => self.values.extend_from_slice(own),
            Some(gradient) => match &mut self.read {
                Some(read) => self.values.extend_from_slice(read.next().expect("its part")),
                None => self.values.extend(gradient.values.to_vec()),
            },
            None => {
                let count: usize = param.shape().num_elements();
                self.values.resize(self.values.len() + count, 0.0);
            }
        }
        self.number += 1;
    }
}

/// Cuts a flat list into gradients.
struct Cut<'a> {
    flat: &'a [f32],
    taken: Vec<Option<Gradient>>,
}

impl ModuleVisitor for Cut<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let weights = param.val().without_autodiff();
        let shape = weights.dims().to_vec();
        let (own, rest) = self.flat.split_at(shape.iter().product());
        self.flat = rest;
        let data = TensorData::new(own.to_vec(), [own.len()]);
        let values = Buffer::of(Tensor::<1>::from_data(data, &weights.device()));
        self.taken.push(Some(Gradient { values, shape }));
    }
}

struct AdaptiveClip<'a> {
    gradients: &'a mut Gradients,
    limit: f32,
    groups: &'a [ParamGroup],
    number: usize,
}

impl ModuleVisitor for AdaptiveClip<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let number = self.number;
        self.number += 1;
        let classifier = self.groups.get(number).is_some_and(|group| group.classifier);
        let Some(gradient) = self.gradients.each[number].as_mut() else { return };
        if classifier {
            return;
        }
        let weights = param.val().without_autodiff();
        let device = weights.device();
        let shape = weights.dims();
        let values = std::mem::replace(&mut gradient.values, Buffer::Host(Vec::new()));
        let gradient_tensor: Tensor<D> = values.into_tensor(shape, &device);
        gradient.values = Buffer::of(clip_units(&weights, gradient_tensor, self.limit));
    }
}

/// timm's adaptive_clip_grad for one parameter. A unit is an index of a convolution's first axis,
/// an output of a linear layer (its second axis here), or a whole vector.
fn clip_units<const D: usize>(weights: &Tensor<D>, gradient: Tensor<D>, limit: f32) -> Tensor<D> {
    let axes: Vec<usize> = match D {
        0 | 1 => (0..D).collect(),
        2 => vec![0],
        _ => (1..D).collect(),
    };
    let norm = |tensor: Tensor<D>| {
        axes.iter().fold(tensor.square(), |sum, axis| sum.sum_dim(*axis)).sqrt()
    };
    let max_norm = norm(weights.clone()).clamp_min(AGC_MIN_WEIGHT_NORM).mul_scalar(limit);
    let own = norm(gradient.clone());
    let shrunk = max_norm.clone() / own.clone().clamp_min(AGC_MIN_GRADIENT_NORM);
    let factor = shrunk.clone().mask_where(own.lower(max_norm), shrunk.ones_like());
    gradient * factor
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::optimizers::optimizer::tests::{close, fixture, gradient, shapes, start, wgpu};

    #[derive(Module, Debug)]
    pub(crate) struct Four {
        linear: Param<Tensor<2>>,
        convolution: Param<Tensor<4>>,
        depthwise: Param<Tensor<4>>,
        vector: Param<Tensor<1>>,
    }

    impl Four {
        /// The parameters of the fixture.
        pub(crate) fn start(device: &Device) -> Self {
            Self {
                linear: param(0, device),
                convolution: param(1, device),
                depthwise: param(2, device),
                vector: param(3, device),
            }
        }
    }

    fn tensor<const D: usize>(values: Vec<f32>, number: usize, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shapes()[number].clone()), device)
    }

    fn param<const D: usize>(number: usize, device: &Device) -> Param<Tensor<D>> {
        let tensor = tensor(start(number, &shapes()[number]), number, device);
        Param::from_tensor(tensor)
    }

    /// Expected values are those of torch.nn.utils and timm. The linear weight, which is transposed
    /// here, is checked by hand.
    ///
    /// Mutations caught: the rows of a linear weight taken for its units; another lower bound of
    /// the weights' norm.
    #[test]
    fn clipping_equals_torch_and_timm() {
        let device = Device::flex().autodiff();
        let four = Four::start(&device);
        let given = || {
            let one = |number: usize| {
                let shape = shapes()[number].clone();
                let values = Buffer::Host(gradient(&start(number, &shape), 1));
                Some(Gradient { values, shape })
            };
            Gradients::new((0..4).map(one).collect())
        };
        let groups: Vec<ParamGroup> =
            (0..4).map(|i| ParamGroup { decay: 0.0, lr_scale: 1.0, classifier: i == 3 }).collect();
        let modes = [
            ("norm", ClipMode::Norm, 0.5),
            ("value", ClipMode::Value, 0.2),
            ("agc", ClipMode::Agc, 0.1),
        ];
        for (name, mode, limit) in modes {
            let mut gradients = given();
            let norm = gradients.norm();
            gradients.clip(mode, limit, norm, &four, &groups);
            for (number, gradient) in gradients.each.iter().enumerate() {
                if mode == ClipMode::Agc && number == 0 {
                    continue;
                }
                let got = gradient.as_ref().unwrap().values.to_vec();
                close(&got, &fixture()["clip"][name][number], &format!("{name} {number}"));
            }
        }
        // A linear layer's outputs are its columns here.
        let weights = Tensor::<2>::from_floats([[3.0, 1.0], [4.0, 0.0]], &Device::flex());
        let grad = Tensor::<2>::from_floats([[30.0, 0.01], [40.0, 0.0]], &Device::flex());
        let got = clip_units(&weights, grad, 0.1).into_data().try_into_vec::<f32>().unwrap();
        for (got, expected) in got.iter().zip([0.3, 0.01, 0.4, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    /// On a GPU the gradients are one vector, whose factor is applied late.
    ///
    /// Mutations caught, each alone: a factor that the norm, the flat list or the entries omit;
    /// values of a clipped vector from before.
    #[test]
    fn gradients_on_a_gpu_are_scaled_and_clipped_as_on_the_cpu() {
        let all = [Device::flex(), wgpu()].map(|device| {
            let four = Four::start(&device.clone().autodiff());
            let given = || {
                let one = |number: usize| {
                    let shape = shapes()[number].clone();
                    let values = gradient(&start(number, &shape), 1);
                    let data = TensorData::new(values.clone(), [values.len()]);
                    let values = Buffer::of(Tensor::<1>::from_data(data, &device));
                    (number != 1).then_some(Gradient { values, shape })
                };
                let mut gradients = Gradients::new((0..4).map(one).collect());
                gradients.scale(0.125);
                gradients
            };
            let mut numbers = vec![given().norm() as f32];
            numbers.extend(given().flat(&four));
            for mode in [ClipMode::Norm, ClipMode::Value, ClipMode::Agc] {
                let mut gradients = given();
                let norm = gradients.norm();
                gradients.clip(mode, 0.01, norm, &four, &[]);
                numbers.push(gradients.norm() as f32);
                let each = gradients.into_each();
                assert!(each[1].is_none());
                numbers.extend(each.iter().flatten().flat_map(|g| g.values.to_vec()));
            }
            numbers
        });
        let [cpu, gpu] = all;
        assert_eq!(cpu.len(), gpu.len());
        for (i, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
            assert!((cpu - gpu).abs() < 1e-6 * (1.0 + cpu.abs()), "{i}: {gpu} for {cpu}");
        }
    }

    /// Mutations caught: a missing gradient without a place; a missing gradient that
    /// comes back as zeros, which weight decay would change.
    #[test]
    fn flat_gradients_come_back_and_missing_ones_stay_missing() {
        let device = Device::flex().autodiff();
        let four = Four {
            linear: param(0, &device),
            convolution: param(1, &device),
            depthwise: param(2, &device),
            vector: param(3, &device),
        };
        let one = |number: usize| {
            let shape = shapes()[number].clone();
            let values = Buffer::Host(gradient(&start(number, &shape), 1));
            (number != 1).then_some(Gradient { values, shape })
        };
        let given = Gradients::new((0..4).map(one).collect());
        let got = Gradients::of_flat(&four, &given.flat(&four));
        for (got, given) in got.each.iter().zip(&given.each) {
            let parts = |g: &Gradient| (g.values.to_vec(), g.shape.clone());
            assert_eq!(got.as_ref().map(parts), given.as_ref().map(parts));
        }
    }

    #[test]
    fn a_norm_of_both_kinds_is_one_norm_and_not_a_number_shows() {
        let one = |values: Buffer| Some(Gradient { values, shape: vec![2] });
        let there = tensor_of([4.0, 2.0]);
        let both = Gradients::new(vec![one(Buffer::Host(vec![2.0, 1.0])), None, one(there)]);
        assert!((both.norm() - 5.0).abs() < 1e-6);
        let bad = Gradients::new(vec![one(Buffer::Host(vec![2.0, f32::NAN]))]);
        assert!(!bad.norm().is_finite());
    }

    fn tensor_of(values: [f32; 2]) -> Buffer {
        Buffer::Device(Tensor::from_floats(values, &Device::flex()))
    }
}
