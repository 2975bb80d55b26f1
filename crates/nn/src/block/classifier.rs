//! The last layer of every network: dropout, then a linear layer to the logits.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use crate::block::dropout::{DropoutSeed, drop_out};
use crate::block::linear::{linear, zero_linear};

/// Dropout and a linear layer.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    linear: Linear,
    dropout: f64,
}

impl Classifier {
    /// From `features` inputs to `classes` logits; the weights are zero until
    /// [`crate::init::fill`].
    pub(crate) fn new(features: usize, classes: usize, dropout: f64, device: &Device) -> Self {
        Self { linear: zero_linear(features, classes, device), dropout }
    }

    /// The logits; without a seed there is no dropout.
    ///
    /// # Shapes
    /// `[b, features]` to `[b, classes]`.
    pub(crate) fn forward(&self, x: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        let x = match dropout_seed {
            Some(seed) => drop_out(x, self.dropout, seed),
            None => x,
        };
        linear(&self.linear, x)
    }
}
