//! Losses on soft targets `[b, classes]`: cross-entropy, binary cross-entropy, focal loss and
//! distillation, with torch's label smoothing.

use burn::tensor::activation::{log_sigmoid, log_softmax, sigmoid, softmax};
use burn::tensor::{Device, Tensor, TensorData};
use nn::outputs::TrainingOutputs;

use crate::datasets::batch::Batch;

/// Targets `[b, classes]`: `1 - smoothing + smoothing / classes` for the label,
/// `smoothing / classes` elsewhere (torch.nn.CrossEntropyLoss; Szegedy et al., arXiv:1512.00567,
/// section 7).
pub fn soft_targets(labels: &[i64], classes: usize, smoothing: f64, device: &Device) -> Tensor<2> {
    let rest = smoothing / classes as f64;
    let mut values = vec![rest as f32; labels.len() * classes];
    for (row, &label) in labels.iter().enumerate() {
        let label = usize::try_from(label).expect("labels are class indices");
        assert!(label < classes, "label {label} with {classes} classes");
        values[row * classes + label] = (1.0 - smoothing + rest) as f32;
    }
    Tensor::from_data(TensorData::new(values, [labels.len(), classes]), device)
}

/// The targets of a batch `[b, classes]`. Those of a mixed batch are `lambda` times the targets of
/// the labels plus `1 - lambda` times the targets of the mixed labels.
pub(super) fn targets(batch: &Batch, classes: usize, smoothing: f64, device: &Device) -> Tensor<2> {
    let own = soft_targets(&batch.labels, classes, smoothing, device);
    let Some((labels, lambda)) = &batch.mixed_labels else { return own };
    let mixed = soft_targets(labels, classes, smoothing, device);
    own.mul_scalar(*lambda) + mixed.mul_scalar(1.0 - lambda)
}

/// Mean over the batch of `-sum_k target_k * log softmax(logits)_k`. Both `[b, classes]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let rows = logits.dims()[0];
    (log_softmax(logits, 1) * targets).sum().div_scalar(-(rows as f32))
}

/// Cross-entropy of the logits plus that of each auxiliary head times its published weight.
pub fn with_auxiliary(outputs: &TrainingOutputs, targets: Tensor<2>) -> Tensor<1> {
    Loss::default().with_auxiliary(outputs, targets)
}

/// Which loss, and its constants. The default is [`cross_entropy`].
#[derive(Clone, Debug, Default)]
pub struct Loss {
    /// Binary cross-entropy, every class by itself, instead of the softmax.
    pub binary: bool,
    /// Binary: targets above this are 1, all others 0.
    pub threshold: Option<f64>,
    /// Binary: the sum over the classes instead of the mean.
    pub summed: bool,
    /// Exponent of the focal loss (Lin et al., arXiv:1708.02002, without its alpha): of `1 - p` on
    /// the softmax, of `1 - p_t` for every class when binary, as published. 0 is no focal loss.
    pub gamma: f64,
    /// A factor for each class `[1, classes]`: `weight` of torch.nn.CrossEntropyLoss with soft
    /// targets, which divides by the number of images and not by the weights.
    pub weights: Option<Tensor<2>>,
}

impl Loss {
    /// The loss, a mean over the batch. `logits` and `targets` are `[b, classes]`.
    pub fn forward(&self, logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
        let [rows, classes] = logits.dims();
        let weighted = |terms: Tensor<2>| match &self.weights {
            Some(weights) => terms * weights.clone(),
            None => terms,
        };
        if self.binary {
            return self.binary(logits, targets, rows, classes);
        }
        let logs = log_softmax(logits, 1);
        let terms = match self.gamma {
            0.0 => logs * targets,
            gamma => {
                let rest = logs.clone().exp().mul_scalar(-1.0).add_scalar(1.0);
                power(rest, gamma) * logs * targets
            }
        };
        weighted(terms).sum().div_scalar(-(rows as f32))
    }

    /// timm's BinaryCrossEntropy: the mean over images and classes, or the sum over the classes.
    fn binary(&self, x: Tensor<2>, targets: Tensor<2>, rows: usize, classes: usize) -> Tensor<1> {
        let targets = match self.threshold {
            Some(threshold) => targets.greater_elem(threshold).float(),
            None => targets,
        };
        let others = targets.clone().mul_scalar(-1.0).add_scalar(1.0);
        let mut positive = log_sigmoid(x.clone()) * targets;
        let mut negative = log_sigmoid(x.clone().neg()) * others;
        if self.gamma != 0.0 {
            positive = positive * power(sigmoid(x.clone().neg()), self.gamma);
            negative = negative * power(sigmoid(x), self.gamma);
        }
        let terms = match &self.weights {
            Some(weights) => (positive + negative) * weights.clone(),
            None => positive + negative,
        };
        let divisor = if self.summed { rows } else { rows * classes };
        terms.sum().div_scalar(-(divisor as f32))
    }

    /// The loss of the logits plus that of each auxiliary head times its published weight.
    pub fn with_auxiliary(&self, outputs: &TrainingOutputs, targets: Tensor<2>) -> Tensor<1> {
        let main = self.forward(outputs.logits.clone(), targets.clone());
        outputs.auxiliary.iter().fold(main, |sum, head| {
            sum + self.forward(head.logits.clone(), targets.clone()).mul_scalar(head.weight)
        })
    }
}

/// `x^gamma` with a finite gradient at 0. `1 - p` of a confident prediction is exactly 0, where the
/// slope of a power is NaN.
fn power(x: Tensor<2>, gamma: f64) -> Tensor<2> {
    x.clamp_min(1e-12).powf_scalar(gamma)
}

/// `temperature^2` times the Kullback-Leibler divergence of the student's softened softmax from the
/// teacher's, a mean over the batch (Hinton et al., arXiv:1503.02531). The square keeps the size of
/// the gradient. `student` and `teacher` are logits `[b, classes]`.
pub(super) fn distillation(student: Tensor<2>, teacher: Tensor<2>, temperature: f64) -> Tensor<1> {
    let rows = student.dims()[0];
    let soft = softmax(teacher.clone().div_scalar(temperature), 1);
    let teacher = log_softmax(teacher.div_scalar(temperature), 1);
    let student = log_softmax(student.div_scalar(temperature), 1);
    (soft * (teacher - student)).sum().mul_scalar(temperature * temperature / rows as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by hand: the softmax of (0, ln 3) is (1/4, 3/4).
    #[test]
    fn equals_the_hand_computed_value_with_and_without_smoothing() {
        let device = Device::flex();
        let logits = || Tensor::<2>::from_floats([[0.0, 3.0_f32.ln()]], &device);
        let loss =
            |s| cross_entropy(logits(), soft_targets(&[1], 2, s, &device)).into_scalar::<f32>();
        let (quarter, most) = (-(0.25_f32.ln()), -(0.75_f32.ln()));
        assert!((loss(0.0) - most).abs() < 1e-6);
        assert!((loss(0.1) - (0.95 * most + 0.05 * quarter)).abs() < 1e-6);
    }

    /// Expected values: `mixup_target` of timm 1.0.31 (`tests/fixtures/make_augment.py`).
    ///
    /// Mutations caught: lambda and 1 - lambda exchanged; the mixed labels without smoothing.
    #[test]
    fn mixed_targets_are_timms() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../../../transforms/tests/fixtures/augment.json"))
                .unwrap();
        let floats = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        let before = floats(&fixture["batch"]);
        for case in fixture["mixed"].as_array().unwrap() {
            let images = floats(&case["images"]);
            // With a box, lambda is the share of the image outside the box.
            let left = images.iter().zip(&before).filter(|(a, b)| a == b).count() as f32;
            let lambda = match case["box"].as_bool().unwrap() {
                true => left / before.len() as f32,
                false => case["lambda"].as_f64().unwrap() as f32,
            };
            let batch = Batch {
                images,
                bytes: None,
                shape: [4, 3, 5, 6],
                labels: vec![0, 2, 1, 4],
                mixed_labels: Some((vec![4, 1, 2, 0], lambda)),
                indices: vec![0, 1, 2, 3],
                rows: vec![0, 1, 2, 3],
                skipped: Vec::new(),
                skipped_indices: Vec::new(),
            };
            let own = targets(&batch, 5, 0.1, &Device::flex()).into_data();
            let own: Vec<f32> = own.try_to_vec().unwrap();
            for (own, expected) in own.iter().zip(floats(&case["targets"])) {
                assert!((own - expected).abs() < 1e-6, "{own} {expected} at {lambda}");
            }
        }
    }

    /// `tests/fixtures/make_losses.py`: torch, torchvision, timm; values and gradients.
    const FIXTURE: &str = include_str!("../../tests/fixtures/losses.json");

    /// Mutations caught: T instead of T squared.
    #[test]
    fn values_and_gradients_equal_torch_torchvision_and_timm() {
        let all: serde_json::Value = serde_json::from_str(FIXTURE).unwrap();
        let device = Device::flex().autodiff();
        let floats = |key: &str| -> Vec<f32> { serde_json::from_value(all[key].clone()).unwrap() };
        let tensor = |key: &str| -> Tensor<2> {
            Tensor::from_data(TensorData::new(floats(key), [4, 5]), &device)
        };
        let weights = Tensor::from_data(TensorData::new(floats("weights"), [1, 5]), &device);
        let weighted = || Some(weights.clone());
        let binary = Loss { binary: true, ..Loss::default() };
        let cases = [
            ("cross_entropy", Loss::default()),
            ("cross_entropy_weighted", Loss { weights: weighted(), ..Loss::default() }),
            ("bce", binary.clone()),
            ("bce_sum", Loss { summed: true, ..binary.clone() }),
            ("bce_threshold", Loss { threshold: Some(0.2), ..binary.clone() }),
            ("bce_weighted", Loss { weights: weighted(), ..binary.clone() }),
            ("focal_binary", Loss { gamma: 2.0, threshold: Some(0.3), ..binary }),
            ("focal_softmax", Loss { gamma: 1.5, ..Loss::default() }),
        ];
        let check = |name: &str, loss: &dyn Fn(Tensor<2>) -> Tensor<1>| {
            let logits = tensor("logits").require_grad();
            let value = loss(logits.clone());
            let grad = logits.grad(&value.backward()).unwrap();
            let grad = grad.into_data().try_into_vec::<f32>().unwrap();
            let expected = &all["cases"][name];
            let value = f64::from(value.into_scalar::<f32>());
            let apart = (value - expected["value"].as_f64().unwrap()).abs();
            assert!(apart < 1e-5, "{name}: {value} for {}", expected["value"]);
            for (got, expected) in grad.iter().zip(expected["gradient"].as_array().unwrap()) {
                let expected = expected.as_f64().unwrap();
                assert!((f64::from(*got) - expected).abs() < 1e-6, "{name}: {got} for {expected}");
            }
        };
        for (name, loss) in cases {
            check(name, &|logits| loss.forward(logits, tensor("targets")));
        }
        check("distillation", &|logits| distillation(logits, tensor("teacher"), 3.0));
    }

    /// A logit so large that the probability is exactly 1.
    ///
    /// Mutations caught: the power without its lower bound, on the softmax and binary.
    #[test]
    fn the_gradient_of_focal_loss_is_finite_at_probability_one() {
        let device = Device::flex().autodiff();
        for binary in [false, true] {
            let logits = Tensor::<2>::from_floats([[200.0, -200.0]], &device).require_grad();
            let loss = Loss { gamma: 0.5, binary, ..Loss::default() };
            let value = loss.forward(logits.clone(), soft_targets(&[0], 2, 0.0, &device));
            let grad = logits.grad(&value.backward()).unwrap();
            let grad = grad.into_data().try_into_vec::<f32>().unwrap();
            assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
        }
    }
}
