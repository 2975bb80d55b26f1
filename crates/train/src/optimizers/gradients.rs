//! The gradients of a step as flat values in the order of the parameters: their norm, and clipping.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::optimizers::buffer::{Buffer, squares};
use crate::optimizers::optimizer::ParamGroup;

/// How gradients are kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// All of them scaled so that their common norm is at most the value.
    Norm,
    /// Each number cut off at plus and minus the value.
    Value,
    /// Each unit's gradient at most so many times its weights' norm (arXiv:2102.06171), not in the classifier.
    Agc,
}

/// AGC: norms of weights count as at least this much, so that zero weights can leave zero.
const AGC_LEAST_WEIGHT: f32 = 1e-3;
/// AGC: norms of gradients count as at least this much when dividing by them.
const AGC_LEAST_GRADIENT: f32 = 1e-6;

/// One parameter's gradient.
pub struct Gradient {
    /// Flat, in the order of the parameter.
    pub values: Buffer,
    /// Extents of the parameter.
    pub shape: Vec<usize>,
}

/// One entry for every trained parameter in walk order; `None` where it had no part in the loss.
pub struct Gradients(pub Vec<Option<Gradient>>);

struct Take<'a> {
    from: &'a mut GradientsParams,
    taken: Vec<Option<Gradient>>,
}

impl ModuleVisitor for Take<'_> {
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
    /// Takes them out of Burn's container.
    pub fn take<M: Module>(module: &M, mut from: GradientsParams) -> Self {
        let mut take = Take { from: &mut from, taken: Vec::new() };
        module.visit(&mut take);
        Self(take.taken)
    }

    /// The Euclidean norm over all of them; not finite when one of them is not.
    pub fn norm(&self) -> f64 {
        let mut on_device = Vec::new();
        let mut sum = 0.0;
        for gradient in self.0.iter().flatten() {
            match &gradient.values {
                Buffer::Host(values) => sum += squares(values),
                Buffer::Device(values) => on_device.push(values.clone().square().sum()),
            }
        }
        if !on_device.is_empty() {
            // One reading of the device for all of them.
            sum += f64::from(Tensor::cat(on_device, 0).sum().into_scalar::<f32>());
        }
        sum.sqrt()
    }

    /// Clips them; `norm` is theirs, `settings` and `weights` in the same order (AGC reads the weights).
    pub fn clip<M: Module>(
        &mut self,
        mode: ClipMode,
        limit: f64,
        norm: f64,
        module: &M,
        settings: &[ParamGroup],
    ) {
        let each = self.0.iter_mut().flatten();
        match mode {
            ClipMode::Value => each.for_each(|g| g.values.clamp(limit)),
            ClipMode::Norm => {
                // torch.nn.utils.clip_grad_norm_, its epsilon too.
                let factor = limit / (norm + 1e-6);
                if factor < 1.0 {
                    each.for_each(|g| g.values.scale(factor));
                }
            }
            ClipMode::Agc => {
                let mut adapt = Adapt { gradients: self, limit: limit as f32, settings, number: 0 };
                module.visit(&mut adapt);
            }
        }
    }
}

struct Adapt<'a> {
    gradients: &'a mut Gradients,
    limit: f32,
    settings: &'a [ParamGroup],
    number: usize,
}

impl ModuleVisitor for Adapt<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let number = self.number;
        self.number += 1;
        let classifier = self.settings.get(number).is_some_and(|setting| setting.classifier);
        let Some(gradient) = self.gradients.0[number].as_mut() else { return };
        if classifier {
            return;
        }
        let weights = param.val().without_autodiff();
        let device = weights.device();
        let shape = weights.dims();
        let values = std::mem::replace(&mut gradient.values, Buffer::Host(Vec::new()));
        let given: Tensor<D> = values.into_tensor(shape, &device);
        gradient.values = Buffer::of(adapted(&weights, given, self.limit));
    }
}

/// timm's adaptive_clip_grad for one parameter: units are the first axis of convolutions, the outputs of a
/// linear layer (its second axis here), and a whole vector.
fn adapted<const D: usize>(weights: &Tensor<D>, given: Tensor<D>, limit: f32) -> Tensor<D> {
    let axes: Vec<usize> = match D {
        0 | 1 => (0..D).collect(),
        2 => vec![0],
        _ => (1..D).collect(),
    };
    let norm = |tensor: Tensor<D>| {
        axes.iter().fold(tensor.square(), |sum, axis| sum.sum_dim(*axis)).sqrt()
    };
    let most = norm(weights.clone()).clamp_min(AGC_LEAST_WEIGHT).mul_scalar(limit);
    let own = norm(given.clone());
    let shrunk = most.clone() / own.clone().clamp_min(AGC_LEAST_GRADIENT);
    let factor = shrunk.clone().mask_where(own.lower(most), shrunk.ones_like());
    given * factor
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::optimizers::optimizer::tests::{close, fixture, gradient, shapes, start};

    #[derive(Module, Debug)]
    struct Four {
        linear: Param<Tensor<2>>,
        convolution: Param<Tensor<4>>,
        depthwise: Param<Tensor<4>>,
        vector: Param<Tensor<1>>,
    }

    fn tensor<const D: usize>(values: Vec<f32>, number: usize, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shapes()[number].clone()), device)
    }

    fn param<const D: usize>(number: usize, device: &Device) -> Param<Tensor<D>> {
        let tensor = tensor(start(number, &shapes()[number]), number, device);
        Param::from_tensor(tensor)
    }

    /// Against torch.nn.utils and timm; the linear weight, which lies the other way round here, by hand.
    /// Seen to fail with the rows of a linear weight for its units, and with another least norm of weights.
    #[test]
    fn clipping_equals_torch_and_timm() {
        let device = Device::flex().autodiff();
        let four = Four {
            linear: param(0, &device),
            convolution: param(1, &device),
            depthwise: param(2, &device),
            vector: param(3, &device),
        };
        let given = || {
            let one = |number: usize| {
                let shape = shapes()[number].clone();
                let values = Buffer::Host(gradient(&start(number, &shape), 1));
                Some(Gradient { values, shape })
            };
            Gradients((0..4).map(one).collect())
        };
        let settings: Vec<ParamGroup> =
            (0..4).map(|i| ParamGroup { decay: 0.0, lr_scale: 1.0, classifier: i == 3 }).collect();
        let modes = [
            ("norm", ClipMode::Norm, 0.5),
            ("value", ClipMode::Value, 0.2),
            ("agc", ClipMode::Agc, 0.1),
        ];
        for (name, mode, limit) in modes {
            let mut gradients = given();
            let norm = gradients.norm();
            gradients.clip(mode, limit, norm, &four, &settings);
            for (number, gradient) in gradients.0.iter().enumerate() {
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
        let got = adapted(&weights, grad, 0.1).into_data().try_into_vec::<f32>().unwrap();
        for (got, expected) in got.iter().zip([0.3, 0.01, 0.4, 0.0]) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
    }

    #[test]
    fn a_norm_of_both_kinds_is_one_norm_and_not_a_number_shows() {
        let one = |values: Buffer| Some(Gradient { values, shape: vec![2] });
        let there = tensor_of([4.0, 2.0]);
        let both = Gradients(vec![one(Buffer::Host(vec![2.0, 1.0])), None, one(there)]);
        assert!((both.norm() - 5.0).abs() < 1e-6);
        let bad = Gradients(vec![one(Buffer::Host(vec![2.0, f32::NAN]))]);
        assert!(!bad.norm().is_finite());
    }

    fn tensor_of(values: [f32; 2]) -> Buffer {
        Buffer::Device(Tensor::from_floats(values, &Device::flex()))
    }
}
