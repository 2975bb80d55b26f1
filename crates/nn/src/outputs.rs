//! The logits of a training pass.

use burn::tensor::Tensor;

/// Logits of an auxiliary head.
#[derive(Clone, Debug)]
pub struct AuxiliaryLogits {
    /// Published weight of this head in the loss.
    pub weight: f64,
    /// `[b, classes]`.
    pub logits: Tensor<2>,
}

/// Logits of a training pass.
#[derive(Clone, Debug)]
pub struct TrainingOutputs {
    /// `[b, classes]`.
    pub logits: Tensor<2>,
    /// The auxiliary heads, the one nearest the input first; empty for most networks.
    pub auxiliary: Vec<AuxiliaryLogits>,
}
