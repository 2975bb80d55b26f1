//! Parameters and multiply-adds from the tables, without a tensor.

use crate::layer_spec::Naming;
use crate::network::NetworkConfig;

/// Trainable parameters (no running statistics) and multiply-adds of convolutions and linear layers
/// for one image (no batch norm, activation, pooling or bias).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable values, auxiliary heads included.
    pub parameters: u64,
    /// Multiply-adds of inference, auxiliary heads excluded.
    pub multiply_adds: u64,
    /// Values that layers give, for one image in inference.
    pub activations: u64,
}

/// The cost of a network for images of `height` by `width` pixels.
///
/// ```
/// use nn::cost::cost;
/// use nn::network::{Architecture, NetworkConfig};
/// let cost = cost(&NetworkConfig::new(Architecture::MobilenetV3Large, 1000), 224, 224);
/// assert_eq!(cost.parameters, 5_483_032);
/// ```
pub fn cost(config: &NetworkConfig, height: usize, width: usize) -> Cost {
    let mut cost = Cost::default();
    for layer in config.layers(height, width, Naming::Torchvision) {
        cost.parameters += layer.parameters();
        if !layer.auxiliary {
            cost.multiply_adds += layer.multiply_adds();
            cost.activations += layer.output.iter().product::<usize>() as u64;
        }
    }
    cost
}
