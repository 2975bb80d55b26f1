//! Both networks side by side: the given one in f32, and the rounded one as it is built.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor, TensorData};
use kernels::ops::threads::inside;
use nn::activation::Activation;
use nn::graph::{Graph, NodeOperation};
use nn::layer_spec::{LayerSpec, Naming};
use nn::weights::state_dict::state_dict;

use crate::classifier::Classifier;
use crate::error::Error;
use crate::folding::{FoldedLayer, fold};
use crate::quantization::affine::Affine;
use crate::quantization::executor::{
    Map, Weights, apply, channel_means, linear_part, numbers, per_channel, range,
};
use crate::quantization::quantized::{Quantization, QuantizedLayer};

/// Images in a piece of a map.
const PIECE: usize = 8;
/// Images whose logits are kept, for a comparison with the file.
const SAMPLE: usize = 8;
/// Largest magnitude of a weight, and of a bias, in integers.
const MOST_WEIGHT: f32 = 127.0;
const MOST_BIAS: f64 = (1 << 30) as f64;

/// Rounds a classifier to 8 bits on prepared calibration images `[n, 3, height, width]`, flat: a
/// hundred training images do, prepared as for an evaluation.
///
/// ```
/// use deploy::classifier::Classifier;
/// use deploy::onnx::{Description, to_onnx_int8};
/// use deploy::quantization::quantize;
///
/// let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
/// let classifier = Classifier::load(format!("{here}/fashion.ckpt"))?;
/// let image = classifier.prepare(&std::fs::read(format!("{here}/trouser.png")).unwrap())?;
/// let quantization = quantize(&classifier, image)?;
/// let onnx = to_onnx_int8(&classifier, &Description::default(), &quantization)?;
/// assert!(!onnx.bytes.is_empty());
/// # Ok::<(), deploy::error::Error>(())
/// ```
///
/// # Errors
/// [`Error::Quantization`]: a map that is not finite.
///
/// # Panics
/// Without an image, and when `images` is no whole number of them.
pub fn quantize(classifier: &Classifier, images: Vec<f32>) -> Result<Quantization, Error> {
    let (count, size) = (images.len(), classifier.preprocess().values());
    assert!(count > 0 && count % size == 0, "{count} numbers for images of {size}");
    inside(|| Calibration::new(classifier, images).run())
}

/// A map in f32, and what the rounded network has in its place.
struct Pair {
    exact: Map,
    rounded: Map,
}

struct Calibration {
    graph: Graph,
    folded: HashMap<usize, FoldedLayer>,
    input: Map,
    /// The range of prepared images.
    input_range: [f32; 2],
    /// Nodes that read a node.
    readers: HashMap<usize, Vec<usize>>,
    values: HashMap<usize, Pair>,
    found: Quantization,
    device: Device,
}

impl Calibration {
    fn new(classifier: &Classifier, images: Vec<f32>) -> Self {
        let rule = classifier.preprocess();
        let [height, width] = rule.crop;
        let config = classifier.network().config();
        let graph = config.graph(height, width, Naming::Torchvision);
        let tensors = state_dict(classifier.network());
        let weights = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let layers = graph.layers.iter().enumerate();
        let used = graph.inference_nodes();
        let is_used = |index: usize| {
            used.iter().any(|&node| graph.nodes[node].operation == NodeOperation::Layer(index))
        };
        let folded = layers
            .filter(|(index, _)| is_used(*index))
            .filter_map(|(index, layer)| Some((index, fold(layer, &weights, config.bn_eps)?)))
            .collect();
        let mut readers: HashMap<usize, Vec<usize>> = HashMap::new();
        for &node in &used {
            for &input in &graph.nodes[node].inputs {
                readers.entry(input).or_default().push(node);
            }
        }
        // The CPU, as for every check of an export.
        let device = Device::flex();
        let size = rule.values();
        let pieces = images.chunks(PIECE * size).map(|piece| {
            let data = TensorData::new(piece.to_vec(), [piece.len() / size, 3, height, width]);
            Tensor::from_data(data, &device)
        });
        let input: Map = pieces.collect();
        let channels = rule.mean.iter().zip(&rule.std);
        let input_range = channels.fold([0.0_f32, 0.0], |[least, most], (mean, std)| {
            [least.min(-mean / std), most.max((1.0 - mean) / std)]
        });
        let found = Quantization {
            maps: HashMap::new(),
            before_activation: HashMap::new(),
            inputs: HashMap::new(),
            layers: HashMap::new(),
            images: images.len() / size,
            logits: Vec::new(),
            sample: images[..images.len().min(SAMPLE * size)].to_vec(),
        };
        let values = HashMap::new();
        Self { graph, folded, input, input_range, readers, values, found, device }
    }

    /// Numbers of a prepared image.
    fn input_size(&self) -> usize {
        self.graph.nodes[0].shape.iter().product()
    }

    /// Every node once, in both networks.
    fn run(mut self) -> Result<Quantization, Error> {
        for index in self.graph.inference_nodes() {
            let node = self.graph.nodes[index].clone();
            let pair = match node.operation {
                NodeOperation::Layer(layer) if self.folded.contains_key(&layer) => {
                    self.layer(index, layer, node.inputs[0])?
                }
                _ => self.plain(index, &node.operation, &node.inputs)?,
            };
            self.values.insert(index, pair);
            // A map that nobody reads any more makes room.
            for input in node.inputs {
                if self.readers[&input].iter().all(|&reader| reader <= index) {
                    self.values.remove(&input);
                }
            }
        }
        let logits = self.values.remove(&self.graph.output).expect("the last node has run");
        let images = self.found.sample.len() / self.input_size();
        let logits: Vec<f32> = logits.rounded.into_iter().flat_map(numbers).collect();
        self.found.logits = logits[..images * logits.len() / self.found.images].to_vec();
        Ok(self.found)
    }

    /// An operation without weights.
    fn plain(
        &mut self,
        index: usize,
        operation: &NodeOperation,
        inputs: &[usize],
    ) -> Result<Pair, Error> {
        let layers = &self.graph.layers;
        let (exact, rounded) = match operation {
            NodeOperation::Input => (self.input.clone(), self.input.clone()),
            _ => {
                let of = |which: fn(&Pair) -> &Map| -> Map {
                    let maps: Vec<&Map> = inputs.iter().map(|i| which(&self.values[i])).collect();
                    apply(operation, layers, &maps)
                };
                (of(|pair| &pair.exact), of(|pair| &pair.rounded))
            }
        };
        if let Some(same) = same_range(operation, layers) {
            let of = self.found.maps[&inputs[same]];
            self.found.maps.insert(index, of);
            return Ok(Pair { exact, rounded });
        }
        let extent = match operation {
            // Rounded behind the transform.
            NodeOperation::Input if self.is_transformed() => return Ok(Pair { exact, rounded }),
            NodeOperation::Input => self.input_range,
            _ => self.finite(range(&exact), index)?,
        };
        let rounded = self.rounded(index, extent, rounded);
        Ok(Pair { exact, rounded })
    }

    fn is_transformed(&self) -> bool {
        let is =
            |node: &usize| self.graph.nodes[*node].operation == NodeOperation::ImagenetToSymmetric;
        self.readers[&0].iter().any(is)
    }

    /// A convolution or linear layer: weights rounded, bias corrected, activation, map rounded.
    fn layer(&mut self, index: usize, layer: usize, input: usize) -> Result<Pair, Error> {
        let spec = &self.graph.layers[layer];
        let folded = &self.folded[&layer];
        let channels = folded.shape[0];
        let pair = &self.values[&input];
        let input_rule = self.found.maps[&input];
        let input_scale = input_rule.scale;
        let exact_bias = folded.bias.clone().unwrap_or_else(|| vec![0.0; channels]);
        let exact =
            linear_part(spec, &Weights::new(&folded.shape, folded.weights.clone()), &pair.exact);
        let scales = scales(folded, &exact_bias, input_scale);
        let integers = integers(&folded.weights, &scales);
        let size = folded.weights.len() / channels;
        let back = integers.chunks_exact(size).zip(&scales);
        let values =
            back.flat_map(|(row, scale)| row.iter().map(move |&w| f32::from(w) * scale)).collect();
        let rounded = linear_part(spec, &Weights::new(&folded.shape, values), &pair.rounded);
        // What rounding shifts the mean by, on these images.
        let shifts = channel_means(&exact).into_iter().zip(channel_means(&rounded));
        let bias: Vec<i32> = shifts
            .zip(&exact_bias)
            .zip(&scales)
            .map(|(((exact, rounded), bias), scale)| {
                let corrected = f64::from(*bias) + exact - rounded;
                let unit = f64::from(*scale) * f64::from(input_scale);
                (corrected / unit).round_ties_even().clamp(i32::MIN.into(), i32::MAX.into()) as i32
            })
            .collect();
        let rounded_bias: Vec<f32> =
            bias.iter().zip(&scales).map(|(b, scale)| *b as f32 * (scale * input_scale)).collect();
        let plus = |map: Map, bias: &[f32]| -> Map {
            let bias = per_channel(bias, &self.device);
            map.into_iter().map(|piece| piece + bias.clone()).collect()
        };
        let (exact, rounded) = (plus(exact, &exact_bias), plus(rounded, &rounded_bias));
        let activation = spec.activation;
        self.found.inputs.insert(layer, input_rule);
        self.found.layers.insert(layer, QuantizedLayer { weights: integers, scales, bias });
        self.activated(index, activation, Pair { exact, rounded })
    }

    /// The activation of a layer and the rounding of its map.
    fn activated(
        &mut self,
        index: usize,
        activation: Activation,
        before: Pair,
    ) -> Result<Pair, Error> {
        let Pair { exact, mut rounded } = before;
        let extent = self.finite(range(&exact), index)?;
        if activation == Activation::HardSwish {
            // Below -3 the function is zero: no byte is spent there.
            let of = Affine::of_range([extent[0].max(-3.0), extent[1]]);
            self.found.before_activation.insert(index, of);
            rounded = rounded.into_iter().map(|piece| of.rounded(piece)).collect();
        }
        let act = |map: Map| -> Map { map.into_iter().map(|x| activation.apply(x)).collect() };
        let (exact, rounded) = (act(exact), act(rounded));
        if index == self.graph.output {
            // The logits stay numbers.
            return Ok(Pair { exact, rounded });
        }
        let gates = self.readers[&index]
            .iter()
            .all(|&reader| self.graph.nodes[reader].operation == NodeOperation::HardSigmoid);
        let extent = match gates {
            // Outside of it the function is constant.
            true => [extent[0].max(-3.0), extent[1].min(3.0)],
            false => range(&exact),
        };
        let rounded = self.rounded(index, extent, rounded);
        Ok(Pair { exact, rounded })
    }

    /// Rounds the map of a node by its range, and remembers the rule.
    fn rounded(&mut self, index: usize, extent: [f32; 2], map: Map) -> Map {
        let of = Affine::of_range(extent);
        self.found.maps.insert(index, of);
        map.into_iter().map(|piece| of.rounded(piece)).collect()
    }

    fn finite(&self, extent: [f32; 2], index: usize) -> Result<[f32; 2], Error> {
        match extent.iter().all(|value| value.is_finite()) {
            true => Ok(extent),
            false => {
                let layer = match self.graph.nodes[index].operation {
                    NodeOperation::Layer(layer) => self.graph.layers[layer].name.clone(),
                    ref other => format!("{other:?}"),
                };
                Err(Error::Quantization {
                    why: format!(
                        "{layer} gives numbers that are not finite on a calibration image"
                    ),
                })
            }
        }
    }
}

/// The input whose bytes the operation passes on as they are.
pub(crate) fn same_range(operation: &NodeOperation, layers: &[LayerSpec]) -> Option<usize> {
    use nn::layer_spec::LayerOperation::MaxPool;
    match operation {
        NodeOperation::Layer(layer) => matches!(layers[*layer].operation, MaxPool(_)).then_some(0),
        _ => None,
    }
}

/// The scale of every output channel: its largest weight is 127. A channel of tiny weights and a
/// large bias gets a larger one, so that the bias fits 32 bits.
fn scales(folded: &FoldedLayer, bias: &[f32], input_scale: f32) -> Vec<f32> {
    let size = folded.weights.len() / folded.shape[0];
    let rows = folded.weights.chunks_exact(size).zip(bias);
    rows.map(|(row, bias)| {
        let largest = row.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
        let least = (f64::from(bias.abs()) / (f64::from(input_scale) * MOST_BIAS)) as f32;
        // A channel of zeros has any scale.
        let scale = if largest > 0.0 { largest / MOST_WEIGHT } else { 1.0 };
        scale.max(least).max(f32::MIN_POSITIVE)
    })
    .collect()
}

/// The weights in units of their channel's scale.
fn integers(weights: &[f32], scales: &[f32]) -> Vec<i8> {
    let rows = weights.chunks_exact(weights.len() / scales.len()).zip(scales);
    let integer = |weight: f32, scale: f32| (weight / scale).round_ties_even() as i8;
    rows.flat_map(|(row, scale)| row.iter().map(move |&weight| integer(weight, *scale))).collect()
}

#[cfg(test)]
mod tests {
    use super::{integers, scales};
    use crate::folding::FoldedLayer;

    /// Mutations caught, each alone: one scale for all channels; a bias beyond 32 bits; a scale of
    /// zero.
    #[test]
    fn every_channel_has_its_scale_and_room_for_its_bias() {
        let weights = vec![1.27, -0.5, 0.0127, 0.005, 0.0, 0.0, 1e-12, 0.0];
        let folded = FoldedLayer { name: "w".into(), shape: vec![4, 2], weights, bias: None };
        let bias = [0.0, 0.0, 3.0, 40.0];
        let scales = scales(&folded, &bias, 0.02);
        assert!((scales[0] - 0.01).abs() < 1e-8 && (scales[1] - 1e-4).abs() < 1e-10, "{scales:?}");
        assert!(scales.iter().all(|scale| *scale > 0.0));
        for (scale, bias) in scales.iter().zip(bias) {
            assert!(f64::from(bias) / (f64::from(*scale) * 0.02) < f64::from(i32::MAX), "{scale}");
        }
        assert_eq!(integers(&folded.weights, &scales)[..6], [127, -50, 127, 50, 0, 0]);
    }
}
