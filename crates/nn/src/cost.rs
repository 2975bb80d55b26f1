//! Parameters and multiply-adds, counted from the tables without a tensor.

use crate::config::NetworkConfig;
use crate::layer_spec::Naming;

/// Size and work of a network for one image.
///
/// Parameters exclude running statistics. Multiply-adds are those of convolutions and linear
/// layers; batch norm, activation, pooling and bias are excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Number of trainable values, auxiliary heads included.
    pub parameters: u64,
    /// Multiply-adds of inference, auxiliary heads excluded.
    pub multiply_adds: u64,
    /// Number of values that the layers output in inference.
    pub activations: u64,
}

/// The cost of a network for images of `height` by `width` pixels.
///
/// ```
/// use nn::config::{Architecture, NetworkConfig};
/// use nn::cost::cost;
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
