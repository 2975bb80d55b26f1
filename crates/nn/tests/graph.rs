//! The graph is the network: run node by node with plain operations, it gives the module's logits,
//! on every architecture at an odd size that is not square.
//!
//! Mutations caught, each alone: a block's sum omitted; the gate multiplied onto another map;
//! Xception's skip after the ReLU; two branches concatenated in another order; the input's
//! transform omitted.

use std::collections::HashMap;

use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{Device, Tensor, TensorData};
use nn::config::NetworkConfig;
use nn::geometry::Pool;
use nn::graph::NodeOperation;
use nn::init::uniform;
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use nn::models::variants::Variant;
use nn::network::Network;
use nn::preprocessing::imagenet_to_symmetric_terms;
use nn::weights::NamedTensor;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict;

/// Weights that keep the maps' scale, and statistics that are not those of a new network.
fn filled(config: &NetworkConfig, device: &Device) -> (Network, Vec<NamedTensor>) {
    let mut tensors = state_dict(&config.init_zero(device));
    for (number, tensor) in tensors.iter_mut().enumerate() {
        let fan = tensor.shape[1..].iter().product::<usize>() as f64;
        let (offset, scale) = match tensor.shape.len() {
            2 | 4 => (0.0, (6.0 / fan).sqrt()),
            _ if tensor.name.ends_with("running_var") || tensor.name.ends_with("weight") => {
                (1.0, 0.5)
            }
            _ => (0.0, 0.3),
        };
        for (i, value) in tensor.values.iter_mut().enumerate() {
            *value = (offset + scale * (2.0 * uniform(number as u64, i as u64) - 1.0)) as f32;
        }
    }
    let network = load_state_dict(config.init_zero(device), tensors.clone(), HeadPolicy::Exact);
    (network.unwrap().0, tensors)
}

/// Every window reduced by its definition: the maximum of its pixels, or their sum over the whole
/// window.
fn pooled(x: Tensor<4>, pool: Pool, maximum: bool) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let device = x.device();
    let values = x.into_data().convert::<f32>().try_into_vec::<f32>().unwrap();
    let [rows, columns] = pool.output_size([height, width]);
    let mut out = Vec::new();
    for map in values.chunks(height * width) {
        for row in 0..rows {
            for column in 0..columns {
                let start = if maximum { f32::NEG_INFINITY } else { 0.0 };
                let mut reduced = start;
                for dy in 0..pool.kernel {
                    for dx in 0..pool.kernel {
                        let y = (row * pool.stride + dy).checked_sub(pool.padding);
                        let x = (column * pool.stride + dx).checked_sub(pool.padding);
                        if let (Some(y), Some(x)) = (y, x)
                            && y < height
                            && x < width
                        {
                            let value = map[y * width + x];
                            reduced = if maximum { reduced.max(value) } else { reduced + value };
                        }
                    }
                }
                out.push(if maximum {
                    reduced
                } else {
                    reduced / (pool.kernel * pool.kernel) as f32
                });
            }
        }
    }
    Tensor::from_data(TensorData::new(out, [batch, channels, rows, columns]), &device)
}

fn layer(
    layer: &LayerSpec,
    weights: &HashMap<&str, &NamedTensor>,
    epsilon: f64,
    x: Tensor<4>,
) -> Tensor<4> {
    let device = x.device();
    let tensor = |i: usize| weights[layer.keys[i].name.as_str()];
    let vector = |i: usize| {
        let values = tensor(i).values.clone();
        let shape = [1, values.len(), 1, 1];
        Tensor::<4>::from_data(TensorData::new(values, shape), &device)
    };
    let y = match layer.operation {
        LayerOperation::Convolution { conv, bias, norm } => {
            let weight = tensor(0);
            let shape: [usize; 4] = weight.shape.clone().try_into().unwrap();
            let weight =
                Tensor::<4>::from_data(TensorData::new(weight.values.clone(), shape), &device);
            let [.., height, width] = x.dims();
            let [rows, columns] = conv.pads([height, width]);
            let pads = (columns.0, columns.1, rows.0, rows.1);
            let options = ConvOptions {
                stride: [conv.stride; 2],
                padding: [(0, 0); 2],
                dilation: [conv.dilation; 2],
                groups: conv.groups,
            };
            let y = conv2d(x.pad(pads, PadMode::Constant(0.0)), weight, None, options);
            match (bias, norm) {
                (true, _) => y + vector(1),
                (_, true) => {
                    let deviation = (vector(4) + epsilon).sqrt();
                    (y - vector(3)) / deviation * vector(1) + vector(2)
                }
                _ => y,
            }
        }
        LayerOperation::MaxPool(pool) => pooled(x, pool, true),
        LayerOperation::MeanPool(pool) => pooled(x, pool, false),
        LayerOperation::AdaptiveMean(_) => x.mean_dim(3).mean_dim(2),
        LayerOperation::Linear => {
            let [batch, inputs, ..] = x.dims();
            let outputs = layer.output[0];
            let weight = TensorData::new(tensor(0).values.clone(), [outputs, inputs]);
            let weight = Tensor::<2>::from_data(weight, &device).transpose();
            let y = x.reshape([batch, inputs]).matmul(weight);
            y.reshape([batch, outputs, 1, 1]) + vector(1)
        }
    };
    layer.activation.apply(y)
}

/// The logits of a graph, one operation after the other.
fn run(config: &NetworkConfig, tensors: &[NamedTensor], images: Tensor<4>) -> Tensor<2> {
    let [batch, _, height, width] = images.dims();
    let device = images.device();
    let graph = config.graph(height, width, Naming::Torchvision);
    let weights = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let per_channel = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
    };
    let mut values: HashMap<usize, Tensor<4>> = HashMap::new();
    for index in graph.inference_nodes() {
        let node = &graph.nodes[index];
        let input = |i: usize| values[&node.inputs[i]].clone();
        let value = match &node.operation {
            NodeOperation::Input => images.clone(),
            NodeOperation::Layer(i) => layer(&graph.layers[*i], &weights, config.bn_eps, input(0)),
            NodeOperation::Activation(activation) => activation.apply(input(0)),
            NodeOperation::HardSigmoid => (input(0) + 3.0).clamp(0.0, 6.0) / 6.0,
            NodeOperation::Mean => input(0).mean_dim(3).mean_dim(2),
            NodeOperation::Multiply => input(0) * input(1),
            NodeOperation::Sum => input(0) + input(1),
            NodeOperation::Concat => Tensor::cat((0..node.inputs.len()).map(input).collect(), 1),
            NodeOperation::ImagenetToSymmetric => {
                let (scale, shift) = imagenet_to_symmetric_terms();
                input(0) * per_channel(scale) + per_channel(shift)
            }
        };
        let [_, channels, rows, columns] = value.dims();
        assert_eq!([channels, rows, columns], node.shape, "node {index}: {:?}", node.operation);
        values.insert(index, value);
    }
    values.remove(&graph.output).unwrap().reshape([batch, config.num_classes])
}

fn agrees(name: &str, change: impl FnOnce(&mut NetworkConfig)) {
    let device = Device::flex();
    let mut config = Variant::parse(name).unwrap().config(7);
    change(&mut config);
    let (network, tensors) = filled(&config, &device);
    let shape = [2, 3, 79, 101];
    let count = shape.iter().product::<usize>() as u64;
    let values: Vec<f32> = (0..count).map(|i| (2.0 * uniform(9, i) - 1.0) as f32).collect();
    let images = Tensor::<4>::from_data(TensorData::new(values, shape), &device);
    let ours = network.forward(images.clone());
    let scale: f32 = ours.clone().square().mean().sqrt().into_scalar();
    let error: f32 = (run(&config, &tensors, images) - ours).abs().max().into_scalar();
    // Rounding grows through the networks with random gates; a wrong edge changes the first digit.
    assert!(scale > 1e-6 && error < 1e-3 * scale, "{name}: {error} of {scale}");
}

#[test]
fn the_graph_of_every_architecture_gives_the_modules_logits() {
    for name in [
        "mobilenet_v1",
        "tf_mobilenet_v1",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "mobilenet_v3_small",
        "googlenet",
        "inception_v3",
        "xception",
    ] {
        agrees(name, |_| ());
    }
}

#[test]
fn auxiliary_heads_are_beside_the_graph_of_the_logits_and_the_input_may_be_transformed() {
    for name in ["googlenet", "inception_v3"] {
        agrees(name, |config| {
            config.auxiliary = true;
            config.transform_input = true;
        });
    }
}
