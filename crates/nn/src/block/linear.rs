//! A linear layer's forward pass.

use burn::nn::Linear;
use burn::tensor::Tensor;

/// `x` through a layer, by the kernels in inference.
///
/// # Shapes
/// `[b, in]` to `[b, out]`.
pub(crate) fn through(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    match &layer.bias {
        Some(bias) => kernels::ops::linear::linear(x, layer.weight.val(), bias.val()),
        None => layer.forward(x),
    }
}
