//! Parameters and multiply-adds from the tables, without a tensor.

use crate::block::conv_norm_activation::Conv;
use crate::network::NetworkConfig;

/// Trainable parameters (no running statistics) and multiply-adds of convolutions and linear layers
/// for one picture (no batch norm, activation, pooling or bias).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Trainable values.
    pub parameters: u64,
    /// Multiply-adds.
    pub multiply_adds: u64,
}

impl Cost {
    /// A convolution; `extra` parameters per output channel (2 for batch norm, 1 for a bias). Returns
    /// the size of the map it makes.
    fn conv(&mut self, conv: Conv, extra: usize, size: [usize; 2]) -> [usize; 2] {
        let weights = conv.output * conv.input / conv.groups * conv.kernel * conv.kernel;
        let size = size.map(|side| conv.output_size(side));
        self.parameters += (weights + extra * conv.output) as u64;
        self.multiply_adds += (weights * size[0] * size[1]) as u64;
        size
    }

    fn linear(&mut self, input: usize, output: usize) {
        self.parameters += (input * output + output) as u64;
        self.multiply_adds += (input * output) as u64;
    }
}

/// The cost of a network for pictures of `height` by `width` pixels.
///
/// ```
/// use nn::cost::cost;
/// use nn::network::{Architecture, NetworkConfig};
/// let cost = cost(&NetworkConfig::new(Architecture::MobilenetV3Large, 1000), 224, 224);
/// assert_eq!(cost.parameters, 5_483_032);
/// ```
pub fn cost(config: &NetworkConfig, height: usize, width: usize) -> Cost {
    let widths = config.widths();
    let mut cost = Cost::default();
    let mut size = cost.conv(widths.stem, 2, [height, width]);
    for b in &widths.blocks {
        if b.expanded != b.input {
            size = cost.conv(Conv::pointwise(b.input, b.expanded), 2, size);
        }
        size = cost.conv(Conv::depthwise(b.expanded, b.kernel, b.stride, 1), 2, size);
        if let Some(squeezed) = b.squeezed {
            cost.conv(Conv::pointwise(b.expanded, squeezed), 1, [1, 1]);
            cost.conv(Conv::pointwise(squeezed, b.expanded), 1, [1, 1]);
        }
        size = cost.conv(Conv::pointwise(b.expanded, b.output), 2, size);
    }
    cost.conv(widths.last, 2, size);
    cost.linear(widths.last.output, widths.hidden);
    cost.linear(widths.hidden, config.num_classes);
    cost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Architecture;

    /// Counted on torchvision's models: width, parameters, then (size, multiply-adds in 0.01 M).
    #[test]
    fn equals_torchvision_at_every_width() {
        let large = [
            (0.35, 997_064, 3528),
            (0.5, 1_734_576, 6496),
            (0.75, 3_377_576, 14003),
            (1.0, 5_483_032, 21659),
            (1.25, 8_164_744, 34346),
        ];
        let small = [
            (0.35, 558_744, 1124),
            (0.5, 917_264, 1897),
            (0.75, 1_653_920, 3912),
            (1.0, 2_542_856, 5651),
            (1.25, 3_644_912, 8816),
        ];
        let both =
            [(Architecture::MobilenetV3Large, large), (Architecture::MobilenetV3Small, small)];
        for (architecture, rows) in both {
            for (width, parameters, hundredths) in rows {
                let config = NetworkConfig { width, ..NetworkConfig::new(architecture, 1000) };
                let cost = cost(&config, 224, 224);
                assert_eq!(cost.parameters, parameters, "{architecture:?} {width}");
                let rounded = (cost.multiply_adds as f64 / 1e4).round() as u64;
                assert_eq!(rounded, hundredths, "{architecture:?} {width}");
            }
        }
    }

    #[test]
    fn equals_torchvision_at_other_sizes() {
        let sizes = [(256, 28166), (192, 16019), (160, 11247), (128, 7343), (96, 4306)];
        for (size, hundredths) in sizes {
            let config = NetworkConfig::new(Architecture::MobilenetV3Large, 1000);
            let rounded = (cost(&config, size, size).multiply_adds as f64 / 1e4).round() as u64;
            assert_eq!(rounded, hundredths, "{size}");
        }
    }
}
