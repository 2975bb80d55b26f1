//! The linear layer: construction, forward pass and the entry in the list of layers.

use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::graph_builder::{GraphBuilder, LinearSpec};
use crate::layer_spec::Init;

/// A linear layer with bias, zero until [`crate::init::fill`].
pub(crate) fn zero_linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
}

/// `x` times the weights plus the bias, by the kernels in inference.
///
/// # Shapes
/// `[b, in]` to `[b, out]`.
pub(crate) fn linear(layer: &Linear, x: Tensor<2>) -> Tensor<2> {
    match &layer.bias {
        Some(bias) => kernels::ops::linear::linear(x, layer.weight.val(), bias.val()),
        None => layer.forward(x),
    }
}

/// Adds a linear layer with the initial values of torchvision's Inception networks: normal weights,
/// and a bias that is uniform within `1 / sqrt(inputs)`.
pub(crate) fn add_linear(
    layers: &mut GraphBuilder,
    name: &str,
    output: usize,
    activation: Activation,
    deviation: f64,
) {
    let inputs: usize = layers.shape().iter().product();
    layers.add_linear(LinearSpec {
        name,
        output,
        activation,
        weights: Init::Normal { deviation },
        bias: Init::Uniform { bound: 1.0 / (inputs as f64).sqrt() },
        pointwise: false,
    });
}
