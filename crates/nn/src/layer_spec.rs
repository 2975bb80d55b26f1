//! What a network consists of, layer by layer, without a tensor: shapes, cost, the key of every weight
//! and its initial distribution, all from the tables.
//!
//! A network's file draws its layers on a [`LayerListBuilder`] in the order in which its module holds them. The
//! cost, the summary, the names in weight files and the initial weights are read off the result, so
//! that they cannot disagree with one another; parity tests hold the module to it.

use crate::activation::Activation;
use crate::block::convolution::Conv;
use crate::block::pooling::Pool;

/// Whose keys a weight file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// torchvision's; for MobileNetV1 and Xception, which it lacks, timm's.
    Torchvision,
    /// timm's; for GoogLeNet, which it lacks, torchvision's.
    Timm,
}

/// The distribution of a tensor's initial values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// A constant: 0 for biases and means, 1 for scales and variances.
    Constant(f64),
    /// Normal around 0.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Normal with variance `2 / (output * kh * kw)`, not divided by the groups (torch's fan-out).
    FanOut,
    /// Normal with variance `2 * groups / (output * kh * kw)` (timm's rule for MobileNetV1).
    FanOutOfGroup,
    /// Uniform between minus and plus the bound.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// A tensor of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name in a weight file.
    pub name: String,
    /// Its initial values.
    pub init: Init,
    /// Whether the file holds a linear weight as a 1x1 convolution (timm's `conv_head`).
    pub pointwise: bool,
    /// Whether it is trained; running statistics are not.
    pub trained: bool,
}

/// What a layer does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// A convolution; its batch norm and activation belong to the row.
    Convolution {
        /// Shape of it.
        conv: Conv,
        /// Whether there is a bias.
        bias: bool,
        /// Whether batch norm follows.
        norm: bool,
    },
    /// Maximum of windows.
    MaxPool(Pool),
    /// Mean of windows.
    MeanPool(Pool),
    /// Mean of the whole map, or of a grid of so many regions per side.
    AdaptiveMean(usize),
    /// A linear layer with bias.
    Linear,
}

/// One row of a summary.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Place in the network.
    pub name: String,
    /// What it does.
    pub operation: Operation,
    /// What follows it.
    pub activation: Activation,
    /// `[channels, height, width]` of what it reads.
    pub input: [usize; 3],
    /// `[channels, height, width]` of what it gives.
    pub output: [usize; 3],
    /// Its tensors in the order of the module walk.
    pub keys: Vec<Key>,
    /// Part of an auxiliary head, which exists in training only.
    pub auxiliary: bool,
}

impl LayerSpec {
    /// Trained values.
    pub fn parameters(&self) -> u64 {
        let count = match self.operation {
            Operation::Convolution { conv, bias, norm } => {
                conv.weights() + conv.output * (usize::from(bias) + 2 * usize::from(norm))
            }
            Operation::Linear => (self.input[0] + 1) * self.output[0],
            _ => 0,
        };
        count as u64
    }

    /// Multiply-adds of a convolution or linear layer for one image.
    pub fn multiply_adds(&self) -> u64 {
        let count = match self.operation {
            Operation::Convolution { conv, .. } => conv.weights() * self.output[1] * self.output[2],
            Operation::Linear => self.input[0] * self.output[0],
            _ => 0,
        };
        count as u64
    }
}

/// Layers in the making.
pub struct LayerListBuilder {
    at: [usize; 3],
    layers: Vec<LayerSpec>,
    weights: Init,
    auxiliary: bool,
}

impl LayerListBuilder {
    /// For images of `[3, height, width]`; convolutions begin as `weights` says.
    pub fn new(height: usize, width: usize, weights: Init) -> Self {
        Self { at: [3, height, width], layers: Vec::new(), weights, auxiliary: false }
    }

    /// The rows, in the order of the module walk.
    pub fn finish(self) -> Vec<LayerSpec> {
        self.layers
    }

    /// `[channels, height, width]` where the drawing stands.
    pub fn at(&self) -> [usize; 3] {
        self.at
    }

    fn row(&mut self, name: &str, operation: Operation, output: [usize; 3], keys: Vec<Key>) {
        let (activation, auxiliary) = (Activation::Linear, self.auxiliary);
        let (name, input) = (name.to_owned(), self.at);
        self.layers.push(LayerSpec { name, operation, activation, input, output, keys, auxiliary });
        self.at = output;
    }

    fn convolve(&mut self, conv: Conv, bias: bool, norm: bool, name: &str, keys: Vec<Key>) {
        assert_eq!(conv.input, self.at[0], "{name}: input of the layer, channels it is given");
        let [height, width] = conv.output_size([self.at[1], self.at[2]]);
        let operation = Operation::Convolution { conv, bias, norm };
        self.row(name, operation, [conv.output, height, width], keys);
    }

    fn follow(&mut self, activation: Activation) {
        if let Some(last) = self.layers.last_mut() {
            last.activation = activation;
        }
    }

    /// A convolution alone.
    pub fn conv(&mut self, name: &str, conv: Conv) {
        let keys = vec![trained(format!("{name}.weight"), self.weights)];
        self.convolve(conv, false, false, name, keys);
    }

    /// A convolution with bias and an activation.
    pub fn conv_bias(&mut self, name: &str, conv: Conv, activation: Activation) {
        let zero = Init::Constant(0.0);
        let keys = vec![
            trained(format!("{name}.weight"), self.weights),
            trained(format!("{name}.bias"), zero),
        ];
        self.convolve(conv, true, false, name, keys);
        self.follow(activation);
    }

    /// A convolution, batch norm and an activation; the names of the first two.
    pub fn conv_norm(&mut self, names: &[String; 2], conv: Conv, activation: Activation) {
        let [conv_name, norm] = names;
        let statistic =
            |name: String, value| Key { trained: false, ..trained(name, Init::Constant(value)) };
        let keys = vec![
            trained(format!("{conv_name}.weight"), self.weights),
            trained(format!("{norm}.weight"), Init::Constant(1.0)),
            trained(format!("{norm}.bias"), Init::Constant(0.0)),
            statistic(format!("{norm}.running_mean"), 0.0),
            statistic(format!("{norm}.running_var"), 1.0),
        ];
        self.convolve(conv, false, true, conv_name, keys);
        self.follow(activation);
    }

    /// The two convolutions of squeeze-excite; the map itself keeps its shape.
    pub fn squeeze_excite(&mut self, names: &[String; 2], squeezed: usize) {
        let [channels, height, width] = self.at;
        self.at = [channels, 1, 1];
        self.conv_bias(&names[0], Conv::pointwise(channels, squeezed), Activation::Relu);
        self.conv_bias(&names[1], Conv::pointwise(squeezed, channels), Activation::Linear);
        self.at = [channels, height, width];
    }

    /// Maximum of windows.
    pub fn max_pool(&mut self, name: &str, pool: Pool) {
        let [height, width] = pool.output_size([self.at[1], self.at[2]]);
        self.row(name, Operation::MaxPool(pool), [self.at[0], height, width], Vec::new());
    }

    /// Mean of windows.
    pub fn mean_pool(&mut self, name: &str, pool: Pool) {
        let [height, width] = pool.output_size([self.at[1], self.at[2]]);
        self.row(name, Operation::MeanPool(pool), [self.at[0], height, width], Vec::new());
    }

    /// Means of a grid of `side` by `side` regions; 1 is the mean of the whole map.
    pub fn adaptive_mean(&mut self, name: &str, side: usize) {
        let output = [self.at[0], side, side];
        self.row(name, Operation::AdaptiveMean(side), output, Vec::new());
    }

    /// A linear layer on the flattened map. `pointwise`: the file holds it as a 1x1 convolution.
    pub fn linear(&mut self, line: LinearSpec<'_>) {
        let input: usize = self.at.iter().product();
        self.at = [input, 1, 1];
        let keys = vec![
            Key {
                pointwise: line.pointwise,
                ..trained(format!("{}.weight", line.name), line.weights)
            },
            trained(format!("{}.bias", line.name), line.bias),
        ];
        self.row(line.name, Operation::Linear, [line.output, 1, 1], keys);
        self.follow(line.activation);
    }

    /// Parallel branches on the same input, their channels concatenated in order.
    ///
    /// # Panics
    /// When the branches' maps differ in size.
    pub fn concat(&mut self, branches: &mut [&mut dyn FnMut(&mut LayerListBuilder)]) {
        let from = self.at;
        let mut to: Option<[usize; 3]> = None;
        for branch in branches {
            self.at = from;
            branch(self);
            let [channels, height, width] = self.at;
            to = Some(match to {
                None => self.at,
                Some([sum, h, w]) => {
                    assert_eq!([h, w], [height, width], "maps of two branches");
                    [sum + channels, h, w]
                }
            });
        }
        self.at = to.unwrap_or(from);
    }

    /// Layers beside the main line, which goes on from where it stood.
    pub fn aside(&mut self, draw: &mut dyn FnMut(&mut LayerListBuilder)) {
        let from = self.at;
        draw(self);
        self.at = from;
    }

    /// Goes on from a map of `[channels, height, width]`.
    pub fn stand_at(&mut self, at: [usize; 3]) {
        self.at = at;
    }

    /// An auxiliary head, beside the main line.
    pub fn auxiliary(&mut self, draw: &mut dyn FnMut(&mut LayerListBuilder)) {
        self.auxiliary = true;
        self.aside(draw);
        self.auxiliary = false;
    }

    /// Convolutions drawn from here on begin with this distribution.
    pub fn begin_with(&mut self, weights: Init) {
        self.weights = weights;
    }
}

/// A linear layer of a [`LayerListBuilder`].
pub struct LinearSpec<'a> {
    /// Place in the network.
    pub name: &'a str,
    /// Outputs.
    pub output: usize,
    /// What follows.
    pub activation: Activation,
    /// Initial weights.
    pub weights: Init,
    /// Initial bias.
    pub bias: Init,
    /// Whether weight files hold it as a 1x1 convolution.
    pub pointwise: bool,
}

fn trained(name: String, init: Init) -> Key {
    Key { name, init, pointwise: false, trained: true }
}

/// `[{prefix}.{conv}, {prefix}.{norm}]`.
pub fn pair(prefix: &str, conv: &str, norm: &str) -> [String; 2] {
    [format!("{prefix}.{conv}"), format!("{prefix}.{norm}")]
}
