//! A network's graph as an ONNX model: one node an operation, batch norm folded into the convolutions.
//!
//! In 8-bit integers every map stands between a QuantizeLinear and a DequantizeLinear, every weight behind a
//! DequantizeLinear (the form QDQ): a runtime turns `Dequantize, Conv, Quantize` into one integer operation. A
//! convolution left in floats would be rounded per tensor by ONNX Runtime itself, so none is. ReLU and ReLU6
//! before a QuantizeLinear are omitted: the smallest and the largest byte do their work.

use std::collections::{HashMap, HashSet};

use nn::activation::Activation;
use nn::config::NetworkConfig;
use nn::geometry::{Conv, Padding, Pool};
use nn::graph::NodeOperation;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use nn::preprocessing::imagenet_to_symmetric_terms;
use nn::weights::NamedTensor;

use super::proto::{
    Attribute, Dimension, Extent, FLOAT, INT8, INT32, Initializer, Model, OnnxGraph, OnnxNode,
    OperatorSet, Shape, StringEntry, TensorType, UINT8, ValueInfo, ValueType,
};
use crate::folding::fold;
use crate::quantization::{Affine, Quantization, QuantizedLayer};

/// Opset 18 and IR 8: the lowest that hold every node (`HardSwish` needs 14) and all of today's runtimes.
const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;
/// Name of the model's input.
pub const INPUT: &str = "input";
/// Name of the model's output.
pub const LOGITS: &str = "logits";

/// A layer's node, and its index among the layers.
#[derive(Clone, Copy)]
struct LayerNumber {
    node: usize,
    layer: usize,
}

/// The nodes and constants so far.
struct OnnxBuilder<'a> {
    weights: HashMap<&'a str, &'a NamedTensor>,
    epsilon: f64,
    quantization: Option<&'a Quantization>,
    nodes: Vec<OnnxNode>,
    initializers: Vec<Initializer>,
    named: HashSet<String>,
}

/// The model of a network for images of `size` (height, width) at export. The batch is free; the size is
/// free too unless the padding depends on it, as TensorFlow's SAME does. With a quantization the model is in
/// 8-bit integers; its input and output stay floats.
///
/// # Panics
/// When `weights` lack a tensor of the network.
pub(super) fn model(
    config: &NetworkConfig,
    weights: &[NamedTensor],
    size: [usize; 2],
    metadata: Vec<(&str, String)>,
    quantization: Option<&Quantization>,
) -> Model {
    let graph = config.graph(size[0], size[1], Naming::Torchvision);
    let mut builder = OnnxBuilder {
        weights: weights.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        epsilon: config.bn_eps,
        quantization,
        nodes: Vec::new(),
        initializers: Vec::new(),
        named: HashSet::new(),
    };
    let mut values: HashMap<usize, String> = HashMap::new();
    for index in graph.inference_nodes() {
        let node = &graph.nodes[index];
        let inputs: Vec<String> = node.inputs.iter().map(|input| values[input].clone()).collect();
        let value = match &node.operation {
            NodeOperation::Input => INPUT.to_owned(),
            NodeOperation::Layer(layer) => {
                let number = LayerNumber { node: index, layer: *layer };
                builder.layer(&graph.layers[*layer], number, &inputs[0])
            }
            NodeOperation::Activation(activation) => builder.activation(*activation, &inputs[0]),
            NodeOperation::HardSigmoid => {
                // The default of alpha is another function.
                let attributes =
                    vec![Attribute::float("alpha", 1.0 / 6.0), Attribute::float("beta", 0.5)];
                builder.push("HardSigmoid", &inputs[0], inputs.clone(), attributes)
            }
            NodeOperation::Mean => {
                builder.push("GlobalAveragePool", &inputs[0], inputs.clone(), vec![])
            }
            NodeOperation::Multiply => builder.push("Mul", &inputs[0], inputs.clone(), vec![]),
            NodeOperation::Sum => builder.push("Add", &inputs[0], inputs.clone(), vec![]),
            NodeOperation::Concat => {
                let axis = vec![Attribute::int("axis", 1)];
                builder.push("Concat", &inputs[0], inputs.clone(), axis)
            }
            NodeOperation::ImagenetToSymmetric => builder.imagenet_to_symmetric(&inputs[0]),
        };
        let rule = quantization.and_then(|found| found.maps.get(&index));
        let value = match rule {
            Some(rule) => builder.rounded(&value, *rule),
            None => value,
        };
        values.insert(index, value);
    }
    let last = builder.nodes.last_mut().expect("a network has a layer");
    last.output = vec![LOGITS.to_owned()];
    let same = |layer: &LayerSpec| match layer.operation {
        LayerOperation::Convolution { conv, .. } => conv.padding == Padding::Same,
        _ => false,
    };
    let extents = match graph.layers.iter().any(same) {
        true => size.map(|side| Extent::Value(side as i64)),
        false => ["height", "width"].map(|axis| Extent::Param(axis.to_owned())),
    };
    let batch = Extent::Param("batch".to_owned());
    let [height, width] = extents;
    let classes = Extent::Value(config.num_classes as i64);
    let graph = OnnxGraph {
        node: builder.nodes,
        name: config.architecture.name().to_owned(),
        initializer: builder.initializers,
        input: vec![value_info(INPUT, vec![batch.clone(), Extent::Value(3), height, width])],
        output: vec![value_info(LOGITS, vec![batch, classes])],
    };
    let entry = |(key, value): (&str, String)| StringEntry { key: key.to_owned(), value };
    Model {
        ir_version: IR_VERSION,
        producer_name: "kindling".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: metadata.into_iter().map(entry).collect(),
    }
}

fn value_info(name: &str, extents: Vec<Extent>) -> ValueInfo {
    let dim = extents.into_iter().map(|extent| Dimension { extent: Some(extent) }).collect();
    let tensor = TensorType { elem_type: FLOAT, shape: Some(Shape { dim }) };
    ValueInfo { name: name.to_owned(), kind: Some(ValueType { tensor: Some(tensor) }) }
}

impl OnnxBuilder<'_> {
    /// Adds a node and returns the name of its output: the operation behind the name of the layer.
    fn push(
        &mut self,
        operation: &str,
        behind: &str,
        inputs: Vec<String>,
        attributes: Vec<Attribute>,
    ) -> String {
        let base = format!("{behind}/{operation}");
        // One map may be read by two nodes of a kind.
        let mut name = base.clone();
        let mut number = 2;
        while !self.named.insert(name.clone()) {
            name = format!("{base}.{number}");
            number += 1;
        }
        self.nodes.push(OnnxNode {
            input: inputs,
            output: vec![name.clone()],
            name: name.clone(),
            op_type: operation.to_owned(),
            attribute: attributes,
        });
        name
    }

    /// Adds a constant, once a name.
    fn data(&mut self, name: &str, data_type: i32, shape: &[usize], raw_data: Vec<u8>) -> String {
        if self.named.insert(name.to_owned()) {
            self.initializers.push(Initializer {
                dims: shape.iter().map(|&extent| extent as i64).collect(),
                data_type,
                name: name.to_owned(),
                raw_data,
            });
        }
        name.to_owned()
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.data(name, FLOAT, shape, bytes)
    }

    /// A map as bytes and back.
    fn rounded(&mut self, value: &str, rule: Affine) -> String {
        let scale = self.constant(&format!("{value}/scale"), &[], &[rule.scale]);
        let zero_point =
            self.data(&format!("{value}/zero_point"), UINT8, &[], vec![rule.zero_point]);
        let inputs = vec![value.to_owned(), scale.clone(), zero_point.clone()];
        let bytes = self.push("QuantizeLinear", value, inputs, vec![]);
        self.push("DequantizeLinear", value, vec![bytes, scale, zero_point], vec![])
    }

    /// Weights and bias of a layer in integers, and back.
    fn integers(
        &mut self,
        [weight, bias]: [&str; 2],
        shape: &[usize],
        layer: &QuantizedLayer,
        input: Affine,
    ) -> [String; 2] {
        let channels = layer.scales.len();
        let axis = || vec![Attribute::int("axis", 0)];
        let bytes = layer.weights.iter().map(|&weight| weight as u8).collect();
        let integers = self.data(weight, INT8, shape, bytes);
        let scale = self.constant(&format!("{weight}/scale"), &[channels], &layer.scales);
        let zeros = vec![0; channels];
        let zero_point = self.data(&format!("{weight}/zero_point"), INT8, &[channels], zeros);
        let weight =
            self.push("DequantizeLinear", weight, vec![integers, scale, zero_point], axis());
        let bytes = layer.bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
        let integers = self.data(bias, INT32, &[channels], bytes);
        let scales: Vec<f32> = layer.scales.iter().map(|scale| scale * input.scale).collect();
        let scale = self.constant(&format!("{bias}/scale"), &[channels], &scales);
        let zero_point =
            self.data(&format!("{bias}/zero_point"), INT32, &[channels], vec![0; 4 * channels]);
        let bias = self.push("DequantizeLinear", bias, vec![integers, scale, zero_point], axis());
        [weight, bias]
    }

    /// The names of a layer's weights and bias, in floats or in integers; none for a bias that is not there.
    fn weights(&mut self, layer: &LayerSpec, number: LayerNumber) -> Vec<String> {
        let folded = fold(layer, &self.weights, self.epsilon).expect("a layer with weights");
        let bias = format!("{}.bias", layer.name);
        match self.quantization {
            Some(found) => {
                let graph_input = found.inputs[&number.layer];
                let own = &found.layers[&number.layer];
                self.integers([&folded.name, &bias], &folded.shape, own, graph_input).into()
            }
            None => {
                let weight = self.constant(&folded.name, &folded.shape, &folded.weights);
                let bias = folded.bias.map(|b| self.constant(&bias, &[b.len()], &b));
                std::iter::once(weight).chain(bias).collect()
            }
        }
    }

    fn layer(&mut self, layer: &LayerSpec, number: LayerNumber, input: &str) -> String {
        let value = match layer.operation {
            LayerOperation::Convolution { conv, .. } => {
                self.convolution(layer, number, conv, input)
            }
            LayerOperation::MaxPool(pool) => {
                let attributes = pool_attributes(pool);
                self.push("MaxPool", &layer.name, vec![input.to_owned()], attributes)
            }
            LayerOperation::MeanPool(pool) => {
                let mut attributes = pool_attributes(pool);
                // The default leaves the padding out of the mean.
                attributes.push(Attribute::int("count_include_pad", 1));
                self.push("AveragePool", &layer.name, vec![input.to_owned()], attributes)
            }
            LayerOperation::AdaptiveMean(side) => {
                assert_eq!(
                    side, 1,
                    "{}: a grid of means exists in auxiliary heads only",
                    layer.name
                );
                let inputs = vec![input.to_owned()];
                let pooled = self.push("GlobalAveragePool", &layer.name, inputs, vec![]);
                let axis = vec![Attribute::int("axis", 1)];
                self.push("Flatten", &layer.name, vec![pooled], axis)
            }
            LayerOperation::Linear => {
                let mut inputs = vec![input.to_owned()];
                inputs.extend(self.weights(layer, number));
                self.push("Gemm", &layer.name, inputs, vec![Attribute::int("transB", 1)])
            }
        };
        let Some(found) = self.quantization else {
            return self.activation(layer.activation, &value);
        };
        match layer.activation {
            // The bytes of the map end where the function does.
            Activation::Relu | Activation::Relu6 if found.maps.contains_key(&number.node) => value,
            activation => {
                let value = match found.before_activation.get(&number.node) {
                    Some(rule) => self.rounded(&value, *rule),
                    None => value,
                };
                self.activation(activation, &value)
            }
        }
    }

    fn convolution(
        &mut self,
        layer: &LayerSpec,
        number: LayerNumber,
        conv: Conv,
        input: &str,
    ) -> String {
        let mut inputs = vec![input.to_owned()];
        inputs.extend(self.weights(layer, number));
        let [(top, bottom), (left, right)] = conv.pads([layer.input[1], layer.input[2]]);
        let attributes = vec![
            Attribute::ints("dilations", &[conv.dilation; 2]),
            Attribute::int("group", conv.groups),
            Attribute::ints("kernel_shape", &conv.kernel),
            Attribute::ints("pads", &[top, left, bottom, right]),
            Attribute::ints("strides", &[conv.stride; 2]),
        ];
        self.push("Conv", &layer.name, inputs, attributes)
    }

    fn activation(&mut self, activation: Activation, input: &str) -> String {
        let mut inputs = vec![input.to_owned()];
        match activation {
            Activation::Linear => input.to_owned(),
            Activation::Relu => self.push("Relu", input, inputs, vec![]),
            Activation::Relu6 => {
                // From opset 11 on the limits are inputs, scalars of rank 0.
                inputs.push(self.constant("zero", &[], &[0.0]));
                inputs.push(self.constant("six", &[], &[6.0]));
                self.push("Clip", input, inputs, vec![])
            }
            Activation::HardSwish => self.push("HardSwish", input, inputs, vec![]),
        }
    }

    fn imagenet_to_symmetric(&mut self, input: &str) -> String {
        let (scale, shift) = imagenet_to_symmetric_terms();
        let scale = self.constant("input_scale", &[1, 3, 1, 1], &scale);
        let shift = self.constant("input_shift", &[1, 3, 1, 1], &shift);
        let scaled = self.push("Mul", input, vec![input.to_owned(), scale], vec![]);
        self.push("Add", input, vec![scaled, shift], vec![])
    }
}

fn pool_attributes(pool: Pool) -> Vec<Attribute> {
    // Runtimes disagree on the last window of a padded pool with ceil_mode. The one padded pool with
    // ceil_mode has stride 1, where it does nothing.
    let ceil = pool.ceil && pool.stride > 1;
    assert!(!ceil || pool.padding == 0, "a padded pool with ceil_mode and stride {}", pool.stride);
    vec![
        Attribute::int("ceil_mode", usize::from(ceil)),
        Attribute::ints("kernel_shape", &[pool.kernel; 2]),
        Attribute::ints("pads", &[pool.padding; 4]),
        Attribute::ints("strides", &[pool.stride; 2]),
    ]
}
