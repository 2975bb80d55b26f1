//! Cross-entropy on soft targets; label smoothing as in torch.

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax};
use nn::network::Outputs;

use crate::loader::Batch;

/// Targets `[b, classes]`: `1 - smoothing + smoothing / classes` for the label, `smoothing / classes`
/// elsewhere (torch.nn.CrossEntropyLoss; Szegedy et al., arXiv:1512.00567, section 7).
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

/// The targets of a batch: where it is mixed, each is `share` of its label's and the rest of its partner's.
pub fn targets(batch: &Batch, classes: usize, smoothing: f64, device: &Device) -> Tensor<2> {
    let own = soft_targets(&batch.labels, classes, smoothing, device);
    let Some((labels, share)) = &batch.partner else { return own };
    let partner = soft_targets(labels, classes, smoothing, device);
    own.mul_scalar(*share) + partner.mul_scalar(1.0 - share)
}

/// Mean over the batch of `-sum_k target_k * log softmax(logits)_k`. Both `[b, classes]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    let rows = logits.dims()[0];
    (log_softmax(logits, 1) * targets).sum().div_scalar(-(rows as f32))
}

/// The loss of the logits, and of each auxiliary head by its published weight.
pub fn with_auxiliary(outputs: &Outputs, targets: Tensor<2>) -> Tensor<1> {
    let main = cross_entropy(outputs.logits.clone(), targets.clone());
    outputs.auxiliary.iter().fold(main, |sum, head| {
        sum + cross_entropy(head.logits.clone(), targets.clone()).mul_scalar(head.weight)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: softmax of (0, ln 3) is (1/4, 3/4).
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

    /// Expected: `mixup_target` of timm 1.0.31 (`tests/fixtures/make_augment.py`). Planted and seen red: the
    /// shares exchanged, the partner without smoothing.
    #[test]
    fn mixed_targets_are_timms() {
        let fixture: serde_json::Value =
            serde_json::from_str(include_str!("../tests/fixtures/augment.json")).unwrap();
        let floats = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
        };
        let before = floats(&fixture["batch"]);
        for case in fixture["mixed"].as_array().unwrap() {
            let images = floats(&case["images"]);
            // With a box the share is what is left of the picture.
            let left = images.iter().zip(&before).filter(|(a, b)| a == b).count() as f32;
            let share = match case["box"].as_bool().unwrap() {
                true => left / before.len() as f32,
                false => case["lambda"].as_f64().unwrap() as f32,
            };
            let batch = Batch {
                images,
                shape: [4, 3, 5, 6],
                labels: vec![0, 2, 1, 4],
                partner: Some((vec![4, 1, 2, 0], share)),
                indices: vec![0, 1, 2, 3],
                skipped: Vec::new(),
            };
            let own = targets(&batch, 5, 0.1, &Device::flex()).into_data();
            let own: Vec<f32> = own.try_to_vec().unwrap();
            for (own, expected) in own.iter().zip(floats(&case["targets"])) {
                assert!((own - expected).abs() < 1e-6, "{own} {expected} at {share}");
            }
        }
    }
}
