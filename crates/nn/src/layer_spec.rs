//! The layers of a network without a tensor: shapes, cost, the key of every weight and its initial
//! distribution, all from the tables.
//!
//! A network's file adds its layers to a `GraphBuilder` in parameter order: the
//! order in which Burn visits the tensors of its module. The cost, the summary, the names in weight
//! files and the initial weights are all read from this one list, so they cannot disagree with one
//! another. The parity tests check the module against the list.

use crate::activation::Activation;
use crate::geometry::{Conv, Pool};

/// The library whose keys a weight file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// torchvision's keys; timm's for MobileNetV1 and Xception, which torchvision lacks.
    Torchvision,
    /// timm's keys; torchvision's for GoogLeNet and Inception v3.
    Timm,
}

/// The distribution of a tensor's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// A constant: 0 for biases and means, 1 for scales and variances.
    Constant(f64),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Normal with variance `2 / (output * kh * kw)`, not divided by the groups (torch's fan-out).
    FanOut,
    /// Normal with variance `2 * groups / (output * kh * kw)` (timm's rule for MobileNetV1).
    FanOutOfGroup,
    /// Uniform in [-bound, bound).
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// A tensor of a layer: its name in weight files and its initial values.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Name in a weight file.
    pub name: String,
    /// Distribution of the initial values.
    pub init: Init,
    /// Whether weight files hold this linear weight as a 1x1 convolution (timm's `conv_head`).
    pub pointwise: bool,
    /// Whether it is a trained parameter; running statistics are not.
    pub trained: bool,
}

/// The operation of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerOperation {
    /// A convolution; its batch norm and activation belong to the same layer.
    Convolution {
        /// Channels, kernel, stride and border.
        conv: Conv,
        /// Whether there is a bias.
        bias: bool,
        /// Whether batch norm follows.
        norm: bool,
    },
    /// Maximum of each window.
    MaxPool(Pool),
    /// Mean of each window.
    MeanPool(Pool),
    /// Means of a grid of regions, this many per side; 1 is the mean of the whole map.
    AdaptiveMean(usize),
    /// A linear layer with bias.
    Linear,
}

/// One layer of a network, a row of its summary.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Path of the layer in the network.
    pub name: String,
    /// Operation of the layer.
    pub operation: LayerOperation,
    /// Activation after the operation.
    pub activation: Activation,
    /// Input shape, `[channels, height, width]`.
    pub input: [usize; 3],
    /// Output shape, `[channels, height, width]`.
    pub output: [usize; 3],
    /// Tensors in parameter order.
    pub keys: Vec<Key>,
    /// Whether the layer belongs to an auxiliary head, which exists in training only.
    pub auxiliary: bool,
}

impl LayerSpec {
    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        let count = match self.operation {
            LayerOperation::Convolution { conv, bias, norm } => {
                conv.weights() + conv.output * (usize::from(bias) + 2 * usize::from(norm))
            }
            LayerOperation::Linear => (self.input[0] + 1) * self.output[0],
            _ => 0,
        };
        count as u64
    }

    /// The number of values of every tensor, in the order of `keys`.
    pub fn values(&self) -> Vec<usize> {
        match self.operation {
            LayerOperation::Convolution { conv, bias, norm } => {
                let vectors = usize::from(bias) + 4 * usize::from(norm);
                [&[conv.weights()][..], &vec![conv.output; vectors]].concat()
            }
            LayerOperation::Linear => vec![self.input[0] * self.output[0], self.output[0]],
            _ => Vec::new(),
        }
    }

    /// Multiply-adds of a convolution or linear layer for one image.
    pub fn multiply_adds(&self) -> u64 {
        let count = match self.operation {
            LayerOperation::Convolution { conv, .. } => {
                conv.weights() * self.output[1] * self.output[2]
            }
            LayerOperation::Linear => self.input[0] * self.output[0],
            _ => 0,
        };
        count as u64
    }
}
