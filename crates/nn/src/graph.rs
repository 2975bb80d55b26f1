//! The graph of a network: its layers and which map each of them reads.
//!
//! The graph is data: an exporter, a quantiser or another executor reads the order of the
//! operations, the branches, skips and gates from it. The test `graph` runs it beside the module.

use crate::activation::Activation;
use crate::layer_spec::LayerSpec;

/// What a node computes from its inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NodeOperation {
    /// The images, `[b, 3, h, w]`.
    Input,
    /// The layer with this index in [`Graph::layers`]; it reads one map.
    Layer(usize),
    /// An activation that belongs to no layer.
    Activation(Activation),
    /// `min(max(x + 3, 0), 6) / 6`, the gate of squeeze-excite.
    HardSigmoid,
    /// The mean of each channel, `[b, c, h, w]` to `[b, c, 1, 1]`.
    Mean,
    /// The first map times the gates of the second, `[b, c, h, w]` and `[b, c, 1, 1]`.
    Multiply,
    /// The sum of two maps of one shape.
    Sum,
    /// The channels of all maps, one after the other.
    Concat,
    /// ImageNet's normalisation to [-1, 1], as torchvision's `transform_input`:
    /// [`crate::preprocessing::imagenet_to_symmetric_terms`].
    ImagenetToSymmetric,
}

/// An operation and the nodes whose outputs it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operation.
    pub operation: NodeOperation,
    /// Indices in [`Graph::nodes`], each smaller than the node's own.
    pub inputs: Vec<usize>,
    /// Shape of the output for one image, `[channels, height, width]`.
    pub shape: [usize; 3],
}

/// A network as data.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The layers, in parameter order.
    pub layers: Vec<LayerSpec>,
    /// The operations; every node follows those that it reads. The first is the input.
    pub nodes: Vec<Node>,
    /// The node of the logits.
    pub output: usize,
}

impl Graph {
    /// The nodes on which the logits depend, in an order in which they can run; the auxiliary heads
    /// are not among them.
    pub fn inference_nodes(&self) -> Vec<usize> {
        let mut needed = vec![false; self.nodes.len()];
        needed[self.output] = true;
        for index in (0..=self.output).rev() {
            if needed[index] {
                self.nodes[index].inputs.iter().for_each(|&input| needed[input] = true);
            }
        }
        (0..=self.output).filter(|&index| needed[index]).collect()
    }
}
