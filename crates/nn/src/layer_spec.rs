//! The layers of a network without a tensor: shapes, cost, the key of every weight and its initial
//! distribution, all from the tables.
//!
//! A network's file adds its layers to a `LayerListBuilder` in parameter order: the order in
//! which Burn visits the tensors of its module. The cost, the summary, the names in weight files
//! and the initial weights are all read from this one list, so they cannot disagree with one
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

/// Builder of a network's list of layers. Every added layer reads the output of the one before it.
pub(crate) struct LayerListBuilder {
    /// `[channels, height, width]` of the map that the next layer reads.
    shape: [usize; 3],
    layers: Vec<LayerSpec>,
    conv_init: Init,
    auxiliary: bool,
}

impl LayerListBuilder {
    /// A builder for images of `[3, height, width]`; `conv_init` is the distribution of the
    /// convolutions' initial weights.
    pub(crate) fn new(height: usize, width: usize, conv_init: Init) -> Self {
        Self { shape: [3, height, width], layers: Vec::new(), conv_init, auxiliary: false }
    }

    /// The layers, in parameter order.
    pub(crate) fn finish(self) -> Vec<LayerSpec> {
        self.layers
    }

    /// `[channels, height, width]` of the map that the next layer reads.
    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn push(&mut self, name: &str, operation: LayerOperation, output: [usize; 3], keys: Vec<Key>) {
        let (activation, auxiliary) = (Activation::Linear, self.auxiliary);
        let (name, input) = (name.to_owned(), self.shape);
        self.layers.push(LayerSpec { name, operation, activation, input, output, keys, auxiliary });
        self.shape = output;
    }

    fn push_conv(&mut self, conv: Conv, bias: bool, norm: bool, name: &str, keys: Vec<Key>) {
        assert_eq!(conv.input, self.shape[0], "{name}: input of the layer, channels of the map");
        let [height, width] = conv.output_size([self.shape[1], self.shape[2]]);
        let operation = LayerOperation::Convolution { conv, bias, norm };
        self.push(name, operation, [conv.output, height, width], keys);
    }

    fn set_activation(&mut self, activation: Activation) {
        if let Some(last) = self.layers.last_mut() {
            last.activation = activation;
        }
    }

    /// Adds a convolution without bias, batch norm or activation.
    pub(crate) fn add_conv(&mut self, name: &str, conv: Conv) {
        let keys = vec![trained(format!("{name}.weight"), self.conv_init)];
        self.push_conv(conv, false, false, name, keys);
    }

    /// Adds a convolution with bias and an activation.
    pub(crate) fn add_conv_bias(&mut self, name: &str, conv: Conv, activation: Activation) {
        let zero = Init::Constant(0.0);
        let keys = vec![
            trained(format!("{name}.weight"), self.conv_init),
            trained(format!("{name}.bias"), zero),
        ];
        self.push_conv(conv, true, false, name, keys);
        self.set_activation(activation);
    }

    /// Adds a convolution, batch norm and an activation; `names` are those of the first two.
    pub(crate) fn add_conv_norm(
        &mut self,
        names: &[String; 2],
        conv: Conv,
        activation: Activation,
    ) {
        let [conv_name, norm] = names;
        let statistic =
            |name: String, value| Key { trained: false, ..trained(name, Init::Constant(value)) };
        let keys = vec![
            trained(format!("{conv_name}.weight"), self.conv_init),
            trained(format!("{norm}.weight"), Init::Constant(1.0)),
            trained(format!("{norm}.bias"), Init::Constant(0.0)),
            statistic(format!("{norm}.running_mean"), 0.0),
            statistic(format!("{norm}.running_var"), 1.0),
        ];
        self.push_conv(conv, false, true, conv_name, keys);
        self.set_activation(activation);
    }

    /// Adds the two convolutions of squeeze-excite; the map keeps its shape.
    pub(crate) fn add_squeeze_excite(&mut self, names: &[String; 2], squeezed: usize) {
        let [channels, height, width] = self.shape;
        self.shape = [channels, 1, 1];
        self.add_conv_bias(&names[0], Conv::pointwise(channels, squeezed), Activation::Relu);
        self.add_conv_bias(&names[1], Conv::pointwise(squeezed, channels), Activation::Linear);
        self.shape = [channels, height, width];
    }

    /// Adds a pooling layer: the maximum of each window.
    pub(crate) fn add_max_pool(&mut self, name: &str, pool: Pool) {
        let [height, width] = pool.output_size([self.shape[1], self.shape[2]]);
        self.push(name, LayerOperation::MaxPool(pool), [self.shape[0], height, width], Vec::new());
    }

    /// Adds a pooling layer: the mean of each window.
    pub(crate) fn add_mean_pool(&mut self, name: &str, pool: Pool) {
        let [height, width] = pool.output_size([self.shape[1], self.shape[2]]);
        self.push(name, LayerOperation::MeanPool(pool), [self.shape[0], height, width], Vec::new());
    }

    /// Adds the means of a grid of `side` by `side` regions; 1 is the mean of the whole map.
    pub(crate) fn add_adaptive_mean(&mut self, name: &str, side: usize) {
        let output = [self.shape[0], side, side];
        self.push(name, LayerOperation::AdaptiveMean(side), output, Vec::new());
    }

    /// Adds a linear layer on the flattened map.
    pub(crate) fn add_linear(&mut self, linear: LinearSpec<'_>) {
        let input: usize = self.shape.iter().product();
        self.shape = [input, 1, 1];
        let keys = vec![
            Key {
                pointwise: linear.pointwise,
                ..trained(format!("{}.weight", linear.name), linear.weights)
            },
            trained(format!("{}.bias", linear.name), linear.bias),
        ];
        self.push(linear.name, LayerOperation::Linear, [linear.output, 1, 1], keys);
        self.set_activation(linear.activation);
    }

    /// Adds parallel branches that read the same map; their channels are concatenated in order.
    ///
    /// # Panics
    /// When the branches' maps differ in height or width.
    pub(crate) fn add_concat(&mut self, branches: &mut [&mut dyn FnMut(&mut LayerListBuilder)]) {
        let input = self.shape;
        let mut output: Option<[usize; 3]> = None;
        for branch in branches {
            self.shape = input;
            branch(self);
            let [channels, height, width] = self.shape;
            output = Some(match output {
                None => self.shape,
                Some([sum, h, w]) => {
                    assert_eq!([h, w], [height, width], "maps of two branches");
                    [sum + channels, h, w]
                }
            });
        }
        self.shape = output.unwrap_or(input);
    }

    /// Adds the layers of a side branch; the next layer reads the map that the branch read.
    pub(crate) fn branch(&mut self, add: &mut dyn FnMut(&mut LayerListBuilder)) {
        let input = self.shape;
        add(self);
        self.shape = input;
    }

    /// Sets the `[channels, height, width]` of the map that the next layer reads.
    pub(crate) fn set_shape(&mut self, shape: [usize; 3]) {
        self.shape = shape;
    }

    /// Adds an auxiliary head as a side branch.
    pub(crate) fn auxiliary_branch(&mut self, add: &mut dyn FnMut(&mut LayerListBuilder)) {
        self.auxiliary = true;
        self.branch(add);
        self.auxiliary = false;
    }

    /// Sets the distribution of initial weights for the convolutions that are added from here on.
    pub(crate) fn set_conv_init(&mut self, init: Init) {
        self.conv_init = init;
    }
}

/// A linear layer of a [`LayerListBuilder`].
pub(crate) struct LinearSpec<'a> {
    /// Path of the layer in the network.
    pub(crate) name: &'a str,
    /// Number of outputs.
    pub(crate) output: usize,
    /// Activation after the layer.
    pub(crate) activation: Activation,
    /// Distribution of the initial weights.
    pub(crate) weights: Init,
    /// Distribution of the initial bias.
    pub(crate) bias: Init,
    /// Whether weight files hold the layer as a 1x1 convolution.
    pub(crate) pointwise: bool,
}

fn trained(name: String, init: Init) -> Key {
    Key { name, init, pointwise: false, trained: true }
}

/// Names of two layers below one prefix: `[{prefix}.{first}, {prefix}.{second}]`.
pub(crate) fn names_below(prefix: &str, first: &str, second: &str) -> [String; 2] {
    [format!("{prefix}.{first}"), format!("{prefix}.{second}")]
}
