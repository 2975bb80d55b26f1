//! The builder of a network's [`Graph`]: one method a kind of layer.

use crate::activation::Activation;
use crate::geometry::{Conv, Pool};
use crate::graph::{Graph, Node, NodeOperation};
use crate::layer_spec::{Init, Key, LayerOperation, LayerSpec};

/// Builder of a network's graph. Every added layer reads the output of the one before it.
pub(crate) struct GraphBuilder {
    /// `[channels, height, width]` of the map that the next layer reads.
    shape: [usize; 3],
    /// The node that makes this map.
    node: usize,
    graph: Graph,
    conv_init: Init,
    auxiliary: bool,
}

impl GraphBuilder {
    /// A builder for images of `[3, height, width]`; `conv_init` is the distribution of the
    /// convolutions' initial weights.
    pub(crate) fn new(height: usize, width: usize, conv_init: Init) -> Self {
        let shape = [3, height, width];
        let input = Node { operation: NodeOperation::Input, inputs: Vec::new(), shape };
        let graph = Graph { layers: Vec::new(), nodes: vec![input], output: 0 };
        Self { shape, node: 0, graph, conv_init, auxiliary: false }
    }

    /// The graph; its output is the last map.
    pub(crate) fn finish(mut self) -> Graph {
        self.graph.output = self.node;
        self.graph
    }

    /// Adds a node; the next layer reads its output of `shape`.
    fn push_node(&mut self, operation: NodeOperation, inputs: Vec<usize>, shape: [usize; 3]) {
        self.node = self.graph.nodes.len();
        self.graph.nodes.push(Node { operation, inputs, shape });
        self.shape = shape;
    }

    /// `[channels, height, width]` of the map that the next layer reads.
    pub(crate) fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn push(&mut self, name: &str, operation: LayerOperation, output: [usize; 3], keys: Vec<Key>) {
        let (activation, auxiliary) = (Activation::Linear, self.auxiliary);
        let (name, input) = (name.to_owned(), self.shape);
        let layers = &mut self.graph.layers;
        layers.push(LayerSpec { name, operation, activation, input, output, keys, auxiliary });
        let layer = NodeOperation::Layer(layers.len() - 1);
        self.push_node(layer, vec![self.node], output);
    }

    fn push_conv(&mut self, conv: Conv, bias: bool, norm: bool, name: &str, keys: Vec<Key>) {
        assert_eq!(conv.input, self.shape[0], "{name}: input of the layer, channels of the map");
        let [height, width] = conv.output_size([self.shape[1], self.shape[2]]);
        let operation = LayerOperation::Convolution { conv, bias, norm };
        self.push(name, operation, [conv.output, height, width], keys);
    }

    fn set_activation(&mut self, activation: Activation) {
        if let Some(last) = self.graph.layers.last_mut() {
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
        let (map, shape) = (self.node, self.shape);
        let channels = shape[0];
        self.push_node(NodeOperation::Mean, vec![map], [channels, 1, 1]);
        self.add_conv_bias(&names[0], Conv::pointwise(channels, squeezed), Activation::Relu);
        self.add_conv_bias(&names[1], Conv::pointwise(squeezed, channels), Activation::Linear);
        self.push_node(NodeOperation::HardSigmoid, vec![self.node], [channels, 1, 1]);
        self.push_node(NodeOperation::Multiply, vec![map, self.node], shape);
    }

    /// Adds an activation without a layer of its own.
    pub(crate) fn add_activation(&mut self, activation: Activation) {
        self.push_node(NodeOperation::Activation(activation), vec![self.node], self.shape);
    }

    /// Adds the map from ImageNet's normalisation to [-1, 1].
    pub(crate) fn add_imagenet_to_symmetric(&mut self) {
        self.push_node(NodeOperation::ImagenetToSymmetric, vec![self.node], self.shape);
    }

    /// The map that the next layer reads, for [`GraphBuilder::add_sum`].
    pub(crate) fn map(&self) -> usize {
        self.node
    }

    /// Adds the sum of this map and of another one.
    ///
    /// # Panics
    /// When the maps differ in shape.
    pub(crate) fn add_sum(&mut self, other: usize) {
        assert_eq!(self.graph.nodes[other].shape, self.shape, "maps of a sum");
        self.push_node(NodeOperation::Sum, vec![self.node, other], self.shape);
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
    pub(crate) fn add_concat(&mut self, branches: &mut [&mut dyn FnMut(&mut GraphBuilder)]) {
        let (input, map) = (self.shape, self.node);
        let mut output: Option<[usize; 3]> = None;
        let mut maps = Vec::new();
        for branch in branches {
            (self.shape, self.node) = (input, map);
            branch(self);
            maps.push(self.node);
            let [channels, height, width] = self.shape;
            output = Some(match output {
                None => self.shape,
                Some([sum, h, w]) => {
                    assert_eq!([h, w], [height, width], "maps of two branches");
                    [sum + channels, h, w]
                }
            });
        }
        self.push_node(NodeOperation::Concat, maps, output.unwrap_or(input));
    }

    /// Adds the layers of a side branch and returns its map; the next layer reads the map that the
    /// branch read.
    pub(crate) fn branch(&mut self, add: &mut dyn FnMut(&mut GraphBuilder)) -> usize {
        let (input, map) = (self.shape, self.node);
        add(self);
        let output = self.node;
        (self.shape, self.node) = (input, map);
        output
    }

    /// Sets the `[channels, height, width]` of the map that the next layer reads.
    pub(crate) fn set_shape(&mut self, shape: [usize; 3]) {
        self.shape = shape;
    }

    /// Adds an auxiliary head as a side branch.
    pub(crate) fn auxiliary_branch(&mut self, add: &mut dyn FnMut(&mut GraphBuilder)) {
        self.auxiliary = true;
        self.branch(add);
        self.auxiliary = false;
    }

    /// Sets the distribution of initial weights for the convolutions that are added from here on.
    pub(crate) fn set_conv_init(&mut self, init: Init) {
        self.conv_init = init;
    }
}

/// A linear layer of a [`GraphBuilder`].
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
