//! A network's graph as an ONNX model: one node an operation, batch norm folded into the convolutions.

use std::collections::{HashMap, HashSet};

use nn::activation::Activation;
use nn::config::NetworkConfig;
use nn::geometry::{Conv, Padding, Pool};
use nn::graph::NodeOperation;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use nn::preprocessing::imagenet_to_symmetric_terms;
use nn::weights::NamedTensor;

use super::proto::{
    Attribute, Dimension, Extent, FLOAT, Initializer, Model, OnnxGraph, OnnxNode, OperatorSet,
    Shape, StringEntry, TensorType, ValueInfo, ValueType,
};

/// Opset 18 and IR 8: the lowest that hold every node (`HardSwish` needs 14) and all of today's runtimes.
const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;
/// Name of the model's input.
pub const INPUT: &str = "input";
/// Name of the model's output.
pub const LOGITS: &str = "logits";

/// The nodes and constants so far.
struct OnnxBuilder<'a> {
    weights: HashMap<&'a str, &'a NamedTensor>,
    epsilon: f64,
    nodes: Vec<OnnxNode>,
    initializers: Vec<Initializer>,
    named: HashSet<String>,
}

/// The model of a network for images of `size` (height, width) at export. The batch is free; the size is
/// free too unless the padding depends on it, as TensorFlow's SAME does.
///
/// # Panics
/// When `weights` lack a tensor of the network.
pub(super) fn model(
    config: &NetworkConfig,
    weights: &[NamedTensor],
    size: [usize; 2],
    metadata: Vec<(&str, String)>,
) -> Model {
    let graph = config.graph(size[0], size[1], Naming::Torchvision);
    let mut builder = OnnxBuilder {
        weights: weights.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        epsilon: config.bn_eps,
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
            NodeOperation::Layer(layer) => builder.layer(&graph.layers[*layer], &inputs[0]),
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

    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        if self.named.insert(name.to_owned()) {
            self.initializers.push(Initializer {
                dims: shape.iter().map(|&extent| extent as i64).collect(),
                data_type: FLOAT,
                name: name.to_owned(),
                raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            });
        }
        name.to_owned()
    }

    fn tensor(&self, name: &str) -> &NamedTensor {
        self.weights.get(name).unwrap_or_else(|| panic!("{name}: not among the weights"))
    }

    fn layer(&mut self, layer: &LayerSpec, input: &str) -> String {
        let value = match layer.operation {
            LayerOperation::Convolution { conv, bias, norm } => {
                self.convolution(layer, conv, input, bias, norm)
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
                let [weight, bias] = [0, 1].map(|i| self.tensor(&layer.keys[i].name).clone());
                let shape = [layer.output[0], layer.input.iter().product()];
                let weight = self.constant(&weight.name, &shape, &weight.values);
                let bias = self.constant(&bias.name, &[layer.output[0]], &bias.values);
                let inputs = vec![input.to_owned(), weight, bias];
                self.push("Gemm", &layer.name, inputs, vec![Attribute::int("transB", 1)])
            }
        };
        self.activation(layer.activation, &value)
    }

    fn convolution(
        &mut self,
        layer: &LayerSpec,
        conv: Conv,
        input: &str,
        bias: bool,
        norm: bool,
    ) -> String {
        let keys: Vec<&NamedTensor> = layer.keys.iter().map(|key| self.tensor(&key.name)).collect();
        let weight = keys[0].clone();
        let (values, bias) = match (norm, bias) {
            (true, _) => {
                let statistics = [keys[1], keys[2], keys[3], keys[4]].map(|t| &t.values[..]);
                let (values, bias) = folded(&weight.values, statistics, self.epsilon);
                (values, Some(bias))
            }
            (false, true) => (weight.values.clone(), Some(keys[1].values.clone())),
            (false, false) => (weight.values.clone(), None),
        };
        let mut inputs = vec![input.to_owned()];
        inputs.push(self.constant(&weight.name, &weight.shape, &values));
        if let Some(bias) = bias {
            let name = format!("{}.bias", layer.name);
            inputs.push(self.constant(&name, &[conv.output], &bias));
        }
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

/// A convolution's weights and bias with batch norm folded in, computed in f64. `norm` is scale, shift,
/// running mean and running variance.
fn folded(weights: &[f32], norm: [&[f32]; 4], epsilon: f64) -> (Vec<f32>, Vec<f32>) {
    let [gamma, beta, mean, variance] = norm;
    let size = weights.len() / gamma.len();
    let factors: Vec<f64> = gamma
        .iter()
        .zip(variance)
        .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let values = weights
        .chunks_exact(size)
        .zip(&factors)
        .flat_map(|(filter, factor)| filter.iter().map(move |w| (f64::from(*w) * factor) as f32))
        .collect();
    let bias = beta
        .iter()
        .zip(mean)
        .zip(&factors)
        .map(|((&beta, &mean), factor)| (f64::from(beta) - f64::from(mean) * factor) as f32)
        .collect();
    (values, bias)
}
