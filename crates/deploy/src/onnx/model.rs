//! A network's graph as an ONNX model: one node an operation, batch norm folded into the
//! convolutions.

use std::collections::HashMap;

use nn::config::NetworkConfig;
use nn::geometry::Padding;
use nn::graph::NodeOperation;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use nn::weights::NamedTensor;
use transforms::preprocess::Preprocess;

use super::builder::OnnxBuilder;
use super::layers::{LayerNumber, LayerWriter};
use super::preparation::{IMAGE, prepared};
use super::proto::{
    Attribute, Dimension, Extent, FLOAT, Model, OnnxGraph, OperatorSet, Shape, StringEntry,
    TensorType, UINT8, ValueInfo, ValueType,
};
use crate::quantization::Quantization;

/// Opset 18 and IR 8: the lowest that hold every node (`HardSwish` needs 14) and all of today's
/// runtimes.
const OPSET: i64 = 18;
const IR_VERSION: i64 = 8;
/// Name of the model's input.
pub const INPUT: &str = "input";
/// Name of the model's output.
pub const LOGITS: &str = "logits";

/// The model of a network for images of `size` (height, width) at export. The batch is free; the
/// size is free too unless the padding depends on it, as TensorFlow's SAME does. With a
/// quantization the model is in 8-bit integers; its input and output stay floats. With a
/// preparation its input is `image`, bytes `[batch, height, width, 3]`, images of any size but of
/// one size a batch.
///
/// # Panics
/// When `weights` lack a tensor of the network.
pub(super) fn model(
    config: &NetworkConfig,
    weights: &[NamedTensor],
    size: [usize; 2],
    metadata: Vec<(&str, String)>,
    quantization: Option<&Quantization>,
    preparation: Option<&Preprocess>,
) -> Model {
    let graph = config.graph(size[0], size[1], Naming::Torchvision);
    let mut writer = LayerWriter {
        builder: OnnxBuilder::default(),
        weights: weights.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect(),
        epsilon: config.bn_eps,
        quantization,
    };
    let mut values: HashMap<usize, String> = HashMap::new();
    for index in graph.inference_nodes() {
        let node = &graph.nodes[index];
        let inputs: Vec<String> = node.inputs.iter().map(|input| values[input].clone()).collect();
        let value = match &node.operation {
            NodeOperation::Input => match preparation {
                Some(rule) => prepared(&mut writer.builder, rule),
                None => INPUT.to_owned(),
            },
            NodeOperation::Layer(layer) => {
                let number = LayerNumber { node: index, layer: *layer };
                writer.layer(&graph.layers[*layer], number, &inputs[0])
            }
            NodeOperation::Activation(activation) => writer.activation(*activation, &inputs[0]),
            NodeOperation::HardSigmoid => {
                // The default of alpha is another function.
                let attributes =
                    vec![Attribute::float("alpha", 1.0 / 6.0), Attribute::float("beta", 0.5)];
                writer.builder.push("HardSigmoid", &inputs[0], inputs.clone(), attributes)
            }
            NodeOperation::Mean => {
                writer.builder.push("GlobalAveragePool", &inputs[0], inputs.clone(), vec![])
            }
            NodeOperation::Multiply => {
                writer.builder.push("Mul", &inputs[0], inputs.clone(), vec![])
            }
            NodeOperation::Sum => writer.builder.push("Add", &inputs[0], inputs.clone(), vec![]),
            NodeOperation::Concat => {
                let axis = vec![Attribute::int("axis", 1)];
                writer.builder.push("Concat", &inputs[0], inputs.clone(), axis)
            }
            NodeOperation::ImagenetToSymmetric => writer.imagenet_to_symmetric(&inputs[0]),
        };
        let rule = quantization.and_then(|found| found.maps.get(&index));
        let value = match rule {
            Some(rule) => writer.rounded(&value, *rule),
            None => value,
        };
        values.insert(index, value);
    }
    let last = writer.builder.nodes.last_mut().expect("a network has a layer");
    last.output = vec![LOGITS.to_owned()];
    let batch = || Extent::Param("batch".to_owned());
    let classes = Extent::Value(config.num_classes as i64);
    let input = match preparation {
        Some(_) => {
            let [height, width] = ["height", "width"].map(|axis| Extent::Param(axis.to_owned()));
            value_info(IMAGE, UINT8, vec![batch(), height, width, Extent::Value(3)])
        }
        None => {
            let [height, width] = extents(&graph.layers, size);
            value_info(INPUT, FLOAT, vec![batch(), Extent::Value(3), height, width])
        }
    };
    let graph = OnnxGraph {
        node: writer.builder.nodes,
        name: config.architecture.name().to_owned(),
        initializer: writer.builder.initializers,
        input: vec![input],
        output: vec![value_info(LOGITS, FLOAT, vec![batch(), classes])],
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

/// Height and width of the input: free, unless the padding of a layer depends on them.
fn extents(layers: &[LayerSpec], size: [usize; 2]) -> [Extent; 2] {
    let same = |layer: &LayerSpec| match layer.operation {
        LayerOperation::Convolution { conv, .. } => conv.padding == Padding::Same,
        _ => false,
    };
    match layers.iter().any(same) {
        true => size.map(|side| Extent::Value(side as i64)),
        false => ["height", "width"].map(|axis| Extent::Param(axis.to_owned())),
    }
}

fn value_info(name: &str, elem_type: i32, extents: Vec<Extent>) -> ValueInfo {
    let dim = extents.into_iter().map(|extent| Dimension { extent: Some(extent) }).collect();
    let tensor = TensorType { elem_type, shape: Some(Shape { dim }) };
    ValueInfo { name: name.to_owned(), kind: Some(ValueType { tensor: Some(tensor) }) }
}
