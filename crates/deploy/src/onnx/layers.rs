//! The layers of a network as nodes of ONNX, in floats or in 8-bit integers.
//!
//! In integers every map stands between a QuantizeLinear and a DequantizeLinear, every weight
//! behind a DequantizeLinear (the form QDQ): a runtime turns `Dequantize, Conv, Quantize` into one
//! integer operation. A convolution left in floats would be rounded per tensor by ONNX Runtime
//! itself, so none is. ReLU and ReLU6 before a QuantizeLinear are omitted: the smallest and the
//! largest byte do their work.

use std::collections::HashMap;

use nn::activation::Activation;
use nn::geometry::{Conv, Pool};
use nn::layer_spec::{LayerOperation, LayerSpec};
use nn::preprocessing::imagenet_to_symmetric_terms;
use nn::weights::NamedTensor;

use super::builder::OnnxBuilder;
use super::proto::{Attribute, INT8, INT32, UINT8};
use crate::folding::fold;
use crate::quantization::{Affine, Quantization, QuantizedLayer};

/// A layer's node, and its index among the layers.
#[derive(Clone, Copy)]
pub(super) struct LayerNumber {
    pub(super) node: usize,
    pub(super) layer: usize,
}

/// Adds layers to a graph.
pub(super) struct LayerWriter<'a> {
    pub(super) builder: OnnxBuilder,
    pub(super) weights: HashMap<&'a str, &'a NamedTensor>,
    pub(super) epsilon: f64,
    pub(super) quantization: Option<&'a Quantization>,
}

impl LayerWriter<'_> {
    /// A map as bytes and back.
    pub(super) fn rounded(&mut self, value: &str, rule: Affine) -> String {
        let scale = self.builder.constant(&format!("{value}/scale"), &[], &[rule.scale]);
        let zero_point =
            self.builder.data(&format!("{value}/zero_point"), UINT8, &[], vec![rule.zero_point]);
        let inputs = vec![value.to_owned(), scale.clone(), zero_point.clone()];
        let bytes = self.builder.push("QuantizeLinear", value, inputs, vec![]);
        self.builder.push("DequantizeLinear", value, vec![bytes, scale, zero_point], vec![])
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
        let integers = self.builder.data(weight, INT8, shape, bytes);
        let scale = self.builder.constant(&format!("{weight}/scale"), &[channels], &layer.scales);
        let zeros = vec![0; channels];
        let zero_point =
            self.builder.data(&format!("{weight}/zero_point"), INT8, &[channels], zeros);
        let weight = self.builder.push(
            "DequantizeLinear",
            weight,
            vec![integers, scale, zero_point],
            axis(),
        );
        let bytes = layer.bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
        let integers = self.builder.data(bias, INT32, &[channels], bytes);
        let scales: Vec<f32> = layer.scales.iter().map(|scale| scale * input.scale).collect();
        let scale = self.builder.constant(&format!("{bias}/scale"), &[channels], &scales);
        let zero_point = self.builder.data(
            &format!("{bias}/zero_point"),
            INT32,
            &[channels],
            vec![0; 4 * channels],
        );
        let bias =
            self.builder.push("DequantizeLinear", bias, vec![integers, scale, zero_point], axis());
        [weight, bias]
    }

    /// The names of a layer's weights and bias, in floats or in integers; none for a bias that is
    /// not there.
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
                let weight = self.builder.constant(&folded.name, &folded.shape, &folded.weights);
                let bias = folded.bias.map(|b| self.builder.constant(&bias, &[b.len()], &b));
                std::iter::once(weight).chain(bias).collect()
            }
        }
    }

    pub(super) fn layer(&mut self, layer: &LayerSpec, number: LayerNumber, input: &str) -> String {
        let value = match layer.operation {
            LayerOperation::Convolution { conv, .. } => {
                self.convolution(layer, number, conv, input)
            }
            LayerOperation::MaxPool(pool) => {
                let attributes = pool_attributes(pool);
                self.builder.push("MaxPool", &layer.name, vec![input.to_owned()], attributes)
            }
            LayerOperation::MeanPool(pool) => {
                let mut attributes = pool_attributes(pool);
                // The default leaves the padding out of the mean.
                attributes.push(Attribute::int("count_include_pad", 1));
                self.builder.push("AveragePool", &layer.name, vec![input.to_owned()], attributes)
            }
            LayerOperation::AdaptiveMean(side) => {
                assert_eq!(
                    side, 1,
                    "{}: a grid of means exists in auxiliary heads only",
                    layer.name
                );
                let inputs = vec![input.to_owned()];
                let pooled = self.builder.push("GlobalAveragePool", &layer.name, inputs, vec![]);
                let axis = vec![Attribute::int("axis", 1)];
                self.builder.push("Flatten", &layer.name, vec![pooled], axis)
            }
            LayerOperation::Linear => {
                let mut inputs = vec![input.to_owned()];
                inputs.extend(self.weights(layer, number));
                self.builder.push("Gemm", &layer.name, inputs, vec![Attribute::int("transB", 1)])
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
        self.builder.push("Conv", &layer.name, inputs, attributes)
    }

    pub(super) fn activation(&mut self, activation: Activation, input: &str) -> String {
        let mut inputs = vec![input.to_owned()];
        match activation {
            Activation::Linear => input.to_owned(),
            Activation::Relu => self.builder.push("Relu", input, inputs, vec![]),
            Activation::Relu6 => {
                // From opset 11 on the limits are inputs, scalars of rank 0.
                inputs.push(self.builder.constant("zero", &[], &[0.0]));
                inputs.push(self.builder.constant("six", &[], &[6.0]));
                self.builder.push("Clip", input, inputs, vec![])
            }
            Activation::HardSwish => self.builder.push("HardSwish", input, inputs, vec![]),
        }
    }

    pub(super) fn imagenet_to_symmetric(&mut self, input: &str) -> String {
        let (scale, shift) = imagenet_to_symmetric_terms();
        let scale = self.builder.constant("input_scale", &[1, 3, 1, 1], &scale);
        let shift = self.builder.constant("input_shift", &[1, 3, 1, 1], &shift);
        let scaled = self.builder.push("Mul", input, vec![input.to_owned(), scale], vec![]);
        self.builder.push("Add", input, vec![scaled, shift], vec![])
    }
}

fn pool_attributes(pool: Pool) -> Vec<Attribute> {
    // Runtimes disagree on the last window of a padded pool with ceil_mode. The one padded pool
    // with ceil_mode has stride 1, where it does nothing.
    let ceil = pool.ceil && pool.stride > 1;
    assert!(!ceil || pool.padding == 0, "a padded pool with ceil_mode and stride {}", pool.stride);
    vec![
        Attribute::int("ceil_mode", usize::from(ceil)),
        Attribute::ints("kernel_shape", &[pool.kernel; 2]),
        Attribute::ints("pads", &[pool.padding; 4]),
        Attribute::ints("strides", &[pool.stride; 2]),
    ]
}
