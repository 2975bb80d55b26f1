//! Runs the operations of a graph one by one, on maps in pieces of a few images.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use kernels::ops::conv_norm_activation::convolution;
use nn::block::pooling::{global_mean, max_pool, mean_pool};
use nn::graph::NodeOperation;
use nn::layer_spec::{LayerOperation, LayerSpec};
use nn::preprocessing::imagenet_to_symmetric_terms;

/// A map `[n, channels, height, width]` of all images, in pieces.
pub(super) type Map = Vec<Tensor<4>>;

/// Weights and bias of a layer on a device.
pub(super) struct Weights {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Weights {
    pub(super) fn new(shape: &[usize], values: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), values }
    }

    fn of_convolution(&self, device: &Device) -> Tensor<4> {
        let shape: [usize; 4] = self.shape.as_slice().try_into().expect("four extents");
        Tensor::from_data(TensorData::new(self.values.clone(), shape), device)
    }
}

/// A vector with an extent of every other axis, to be added to maps.
pub(super) fn per_channel(values: &[f32], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len(), 1, 1]), device)
}

/// A convolution or linear layer without bias and activation.
pub(super) fn linear_part(layer: &LayerSpec, weights: &Weights, x: &Map) -> Map {
    let device = x[0].device();
    match layer.operation {
        LayerOperation::Convolution { conv, .. } => {
            let w = weights.of_convolution(&device);
            let options = ConvOptions {
                stride: [conv.stride; 2],
                padding: conv.pads([layer.input[1], layer.input[2]]),
                dilation: [conv.dilation; 2],
                groups: conv.groups,
            };
            x.iter().map(|x| convolution(x.clone(), w.clone(), None, options.clone())).collect()
        }
        LayerOperation::Linear => {
            let [outputs, inputs] = [weights.shape[0], weights.shape[1]];
            let w = TensorData::new(weights.values.clone(), [outputs, inputs]);
            let w = Tensor::<2>::from_data(w, &device).transpose();
            let run = |x: &Tensor<4>| {
                let images = x.dims()[0];
                let y = x.clone().reshape([images, inputs]).matmul(w.clone());
                y.reshape([images, outputs, 1, 1])
            };
            x.iter().map(run).collect()
        }
        _ => unreachable!("{}: a layer without weights", layer.name),
    }
}

/// Every other operation; `layers` are those of the graph.
pub(super) fn apply(operation: &NodeOperation, layers: &[LayerSpec], inputs: &[&Map]) -> Map {
    let each = |of: &dyn Fn(Tensor<4>) -> Tensor<4>| inputs[0].iter().cloned().map(of).collect();
    let both = |of: &dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<4>| {
        inputs[0].iter().cloned().zip(inputs[1].iter().cloned()).map(|(a, b)| of(a, b)).collect()
    };
    let mean = |x: Tensor<4>| {
        let [images, channels, _, _] = x.dims();
        global_mean(x).reshape([images, channels, 1, 1])
    };
    match operation {
        NodeOperation::Input => inputs[0].clone(),
        NodeOperation::Layer(index) => {
            let layer = &layers[*index];
            match layer.operation {
                LayerOperation::MaxPool(pool) => each(&|x| max_pool(x, pool)),
                LayerOperation::MeanPool(pool) => each(&|x| mean_pool(x, pool)),
                LayerOperation::AdaptiveMean(_) => each(&mean),
                _ => unreachable!("{}: a layer with weights", layer.name),
            }
        }
        NodeOperation::Activation(activation) => each(&|x| activation.apply(x)),
        NodeOperation::HardSigmoid => each(&|x| (x + 3.0).clamp(0.0, 6.0) / 6.0),
        NodeOperation::Mean => each(&mean),
        NodeOperation::Multiply => both(&|x, gate| x * gate),
        NodeOperation::Sum => both(&|x, y| x + y),
        NodeOperation::Concat => (0..inputs[0].len())
            .map(|piece| Tensor::cat(inputs.iter().map(|x| x[piece].clone()).collect(), 1))
            .collect(),
        NodeOperation::ImagenetToSymmetric => {
            let (scale, shift) = imagenet_to_symmetric_terms();
            let device = inputs[0][0].device();
            let (scale, shift) = (per_channel(&scale, &device), per_channel(&shift, &device));
            each(&|x| x * scale.clone() + shift.clone())
        }
    }
}

/// The mean of every channel over all images and pixels.
pub(super) fn channel_means(map: &Map) -> Vec<f64> {
    let channels = map[0].dims()[1];
    let (mut sums, mut count) = (vec![0.0_f64; channels], 0_usize);
    for piece in map {
        let [images, _, height, width] = piece.dims();
        // The mean of an image's map in f32, of all images in f64.
        let means = numbers(global_mean(piece.clone()));
        for row in means.chunks_exact(channels) {
            sums.iter_mut().zip(row).for_each(|(sum, mean)| *sum += f64::from(*mean));
        }
        debug_assert!(height * width > 0);
        count += images;
    }
    sums.into_iter().map(|sum| sum / count as f64).collect()
}

/// The smallest and the largest value.
pub(super) fn range(map: &Map) -> [f32; 2] {
    map.iter().fold([f32::INFINITY, f32::NEG_INFINITY], |[least, most], piece| {
        let low: f32 = piece.clone().min().into_scalar();
        let high: f32 = piece.clone().max().into_scalar();
        [least.min(low), most.max(high)]
    })
}

/// The values of a tensor.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("converted to f32")
}
