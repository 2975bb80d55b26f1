//! The activations of the MobileNet papers.

use burn::tensor::{Tensor, activation};

/// Which non-linearity follows a layer; the paper's column `NL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// None: a linear bottleneck.
    Linear,
    /// `max(x, 0)`, the paper's `RE`.
    Relu,
    /// `x * min(max(x + 3, 0), 6) / 6`, the paper's `HS` (arXiv:1905.02244, section 5.2).
    HardSwish,
}

impl Activation {
    /// Applies it element by element.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Activation::Linear => x,
            Activation::Relu => activation::relu(x),
            Activation::HardSwish => activation::hard_swish(x),
        }
    }
}

/// `min(max(x + 3, 0), 6) / 6`: slope 1/6, not the 0.2 of Keras and ONNX.
pub fn hard_sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::hard_sigmoid(x, 1.0 / 6.0, 0.5)
}
