//! Where in an image a class was seen: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).
//!
//! Every network here ends in the mean of its last map and one or two linear layers. The weight of
//! a channel is the derivative of the class's logit by the channel's mean; with one linear layer it
//! is that layer's weight (class activation mapping, Zhou et al. 2016).

use burn::tensor::{Tensor, TensorData};
use image::{Rgb, RgbImage};
use kernels::ops::threads::inside;
use nn::activation::Activation;
use nn::graph::NodeOperation;
use nn::layer_spec::{LayerOperation, Naming};
use nn::weights::state_dict::state_dict;

use crate::classifier::Classifier;
use crate::folding::{FoldedLayer, fold};

/// How much each part of an image speaks for a class.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMap {
    /// Height and width of the network's last map.
    pub size: [usize; 2],
    /// 0 to 1, row by row; all 0 where nothing speaks for the class.
    pub values: Vec<f32>,
}

/// The linear layers behind the mean, first to last.
fn head(classifier: &Classifier) -> Vec<(FoldedLayer, Activation)> {
    let config = classifier.network().config();
    let [height, width] = classifier.preprocess().crop;
    let graph = config.graph(height, width, Naming::Torchvision);
    let tensors = state_dict(classifier.network());
    let weights = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut layers = Vec::new();
    for index in graph.inference_nodes() {
        let NodeOperation::Layer(layer) = graph.nodes[index].operation else { continue };
        let spec = &graph.layers[layer];
        if spec.operation == LayerOperation::Linear {
            let folded = fold(spec, &weights, config.bn_eps).expect("a linear layer has weights");
            layers.push((folded, spec.activation));
        }
    }
    layers
}

/// The derivative of an activation.
fn slope(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Linear => 1.0,
        Activation::Relu => f32::from(u8::from(x > 0.0)),
        Activation::Relu6 => f32::from(u8::from(x > 0.0 && x < 6.0)),
        Activation::HardSwish if x <= -3.0 => 0.0,
        Activation::HardSwish if x >= 3.0 => 1.0,
        Activation::HardSwish => x / 3.0 + 0.5,
    }
}

/// The derivative of a class's logit by the inputs of the head.
fn gradient(head: &[(FoldedLayer, Activation)], means: &[f32], class: usize) -> Vec<f32> {
    let mut x = means.to_vec();
    let mut before = Vec::with_capacity(head.len());
    for (layer, activation) in head {
        let rows = layer.weights.chunks_exact(x.len());
        let bias = layer.bias.iter().flatten().copied().chain(std::iter::repeat(0.0));
        let z: Vec<f32> = rows
            .zip(bias)
            .map(|(row, bias)| row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>() + bias)
            .collect();
        x = z.iter().map(|&z| apply(*activation, z)).collect();
        before.push(z);
    }
    let mut slopes = vec![0.0; x.len()];
    slopes[class] = 1.0;
    for ((layer, activation), z) in head.iter().zip(&before).rev() {
        let inputs = layer.weights.len() / z.len();
        let mut down = vec![0.0; inputs];
        for ((row, slope_above), z) in layer.weights.chunks_exact(inputs).zip(&slopes).zip(z) {
            let factor = slope_above * slope(*activation, *z);
            down.iter_mut().zip(row).for_each(|(down, w)| *down += factor * w);
        }
        slopes = down;
    }
    slopes
}

fn apply(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Linear => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
    }
}

impl Classifier {
    /// Where a prepared image, `[3, height, width]`, flat, speaks for a class.
    ///
    /// ```
    /// use deploy::classifier::Classifier;
    ///
    /// let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    /// let classifier = Classifier::load(format!("{here}/fashion.ckpt"))?;
    /// let image = classifier.prepare(&std::fs::read(format!("{here}/trouser.png")).unwrap())?;
    /// let class = classifier.classify(format!("{here}/trouser.png"))?.best().index;
    /// let map = classifier.class_map(image, class);
    /// assert_eq!(map.values.len(), map.size[0] * map.size[1]);
    /// # Ok::<(), deploy::error::Error>(())
    /// ```
    ///
    /// # Panics
    /// When `values` is not one image, or there is no such class.
    pub fn class_map(&self, values: Vec<f32>, class: usize) -> ClassMap {
        let [height, width] = self.preprocess().crop;
        assert_eq!(values.len(), self.preprocess().values(), "one image");
        let (count, classes) = (class + 1, self.classes().len());
        assert!(count <= classes, "class {class} of {classes}");
        let data = TensorData::new(values, [1, 3, height, width]);
        let (map, size, channels) = inside(|| {
            let images = Tensor::<4>::from_data(data, &self.device());
            let maps = self.network().forward_features(images);
            let map = maps.into_iter().next_back().expect("a network has maps");
            let [_, channels, rows, columns] = map.dims();
            let numbers = map.into_data().convert::<f32>().try_into_vec::<f32>();
            (numbers.expect("converted to f32"), [rows, columns], channels)
        });
        let pixels = size[0] * size[1];
        let means: Vec<f32> = map
            .chunks_exact(pixels)
            .map(|plane| plane.iter().sum::<f32>() / pixels as f32)
            .collect();
        let head = head(self);
        let inputs = head[0].0.weights.len() / head[0].0.shape[0];
        assert_eq!(inputs, channels, "the head reads the last map's channels");
        let weights = gradient(&head, &means, class);
        let mut values = vec![0.0_f32; pixels];
        for (plane, weight) in map.chunks_exact(pixels).zip(weights) {
            values.iter_mut().zip(plane).for_each(|(value, x)| *value += weight * x);
        }
        let most = values.iter().copied().fold(0.0_f32, f32::max);
        let scale = if most > 0.0 { 1.0 / most } else { 0.0 };
        values.iter_mut().for_each(|value| *value = value.max(0.0) * scale);
        ClassMap { size, values }
    }

    /// The pixels of a prepared image, as the network sees them.
    ///
    /// # Panics
    /// When `values` is not one image.
    pub fn pixels(&self, values: &[f32]) -> RgbImage {
        let rule = self.preprocess();
        let [height, width] = rule.crop;
        assert_eq!(values.len(), rule.values(), "one image");
        let byte = |channel: usize, at: usize| {
            let value = values[channel * height * width + at];
            (255.0 * (value * rule.std[channel] + rule.mean[channel])).round() as u8
        };
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            Rgb([0, 1, 2].map(|channel| byte(channel, at)))
        })
    }
}

impl ClassMap {
    /// The value at a point of an image, both axes 0 to 1, between the map's pixels bilinear.
    fn at(&self, y: f32, x: f32) -> f32 {
        let [rows, columns] = self.size;
        let axis = |share: f32, count: usize| {
            let position = (share * count as f32 - 0.5).clamp(0.0, (count - 1) as f32);
            let first = position as usize;
            (first, (first + 1).min(count - 1), position - first as f32)
        };
        let ((top, bottom, down), (left, right, across)) = (axis(y, rows), axis(x, columns));
        let value = |row: usize, column: usize| self.values[row * columns + column];
        let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
        let upper = mix(value(top, left), value(top, right), across);
        mix(upper, mix(value(bottom, left), value(bottom, right), across), down)
    }

    /// An image beside the same with the map over it, from clear over red to yellow.
    pub fn drawn(&self, image: &RgbImage) -> RgbImage {
        /// Small images are enlarged to be looked at.
        const LEAST: u32 = 224;
        let (width, height) = image.dimensions();
        let times = LEAST.div_ceil(width.min(height)).max(1);
        let (wide, high) = (width * times, height * times);
        let gap = 8;
        RgbImage::from_fn(2 * wide + gap, high, |x, y| {
            if (wide..wide + gap).contains(&x) {
                return Rgb([255; 3]);
            }
            let over = x >= wide;
            let column = if over { x - wide - gap } else { x };
            let pixel = *image.get_pixel(column / times, y / times);
            if !over {
                return pixel;
            }
            let share = |at: u32, of: u32| (at as f32 + 0.5) / of as f32;
            let heat = self.at(share(y, high), share(column, wide));
            let colour = [255.0, 255.0 * (2.0 * heat - 1.0).clamp(0.0, 1.0), 30.0];
            let gray = pixel.0.iter().map(|&c| f32::from(c)).sum::<f32>() / 3.0;
            let mix = |i: usize| gray + (colour[i] - gray) * 0.75 * heat;
            Rgb([0, 1, 2].map(|i| mix(i).round() as u8))
        })
    }
}

#[cfg(test)]
mod tests {
    use nn::activation::Activation;

    use super::{apply, gradient};
    use crate::folding::FoldedLayer;

    fn layer(outputs: usize, inputs: usize, seed: u64) -> FoldedLayer {
        let number = |i: u64| (2.0 * nn::init::uniform(seed, i) - 1.0) as f32;
        FoldedLayer {
            name: "head".into(),
            shape: vec![outputs, inputs],
            weights: (0..(outputs * inputs) as u64).map(number).collect(),
            bias: Some((1000..1000 + outputs as u64).map(number).collect()),
        }
    }

    /// Against finite differences. Mutations caught, each alone: the slope of hard-swish omitted;
    /// the wrong class.
    #[test]
    fn the_gradient_of_a_head_is_that_of_finite_differences() {
        let head = [(layer(7, 5, 1), Activation::HardSwish), (layer(3, 7, 2), Activation::Linear)];
        let means = [0.3_f32, -1.0, 2.0, 0.7, 0.1];
        let logit = |means: &[f64]| -> f64 {
            let mut x = means.to_vec();
            for (layer, activation) in &head {
                let bias = layer.bias.as_ref().unwrap();
                let rows = layer.weights.chunks_exact(x.len()).zip(bias);
                x = rows
                    .map(|(row, bias)| {
                        let z: f64 = row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum();
                        f64::from(apply(*activation, (z + f64::from(*bias)) as f32))
                    })
                    .collect();
            }
            x[1]
        };
        let ours = gradient(&head, &means, 1);
        for (i, own) in ours.iter().enumerate() {
            let moved = |by: f64| {
                let mut means = means.map(f64::from);
                means[i] += by;
                logit(&means)
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((f64::from(*own) - difference).abs() < 1e-3, "{i}: {own} {difference}");
        }
    }
}
