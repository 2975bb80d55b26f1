//! The auxiliary head of GoogLeNet and Inception v3: a second classifier beside the network, whose
//! loss reaches the early layers in training. Inference does not compute it.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::{DropoutSeed, drop_out};
use crate::block::pooling::global_mean;

/// Convolutions, then a hidden layer on the flattened map or the mean of the map, then a
/// classifier.
#[derive(Module, Debug)]
pub(crate) struct AuxiliaryHead {
    /// Convolutions with batch norm and ReLU.
    pub(crate) convs: Vec<ConvNormActivation>,
    /// Linear layer with ReLU on the flattened map; without it the map is averaged.
    pub(crate) hidden: Option<Linear>,
    /// Linear layer to the logits.
    pub(crate) classifier: Linear,
    /// Probability that dropout zeroes an input of the classifier.
    pub(crate) dropout: f64,
}

impl AuxiliaryHead {
    /// The logits of a pooled map.
    ///
    /// # Shapes
    /// `[b, c, h, w]` to `[b, classes]`.
    pub(crate) fn forward(&self, pooled: Tensor<4>, dropout_seed: &DropoutSeed) -> Tensor<2> {
        let x = self.convs.iter().fold(pooled, |x, layer| layer.forward(x));
        let x = match &self.hidden {
            Some(hidden) => {
                // Weights and logits are f32 where maps are f16.
                let x = x.flatten::<2>(1, 3).cast(hidden.weight.dtype());
                relu(hidden.forward(x))
            }
            None => global_mean(x),
        };
        self.classifier.forward(drop_out(x, self.dropout, dropout_seed))
    }
}
