//! The layer on ndarray and flex: from tensors to values, and to the kernels where they serve.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, NdArray, TensorMetadata};
use burn::tensor::Shape;
use burn::tensor::ops::ConvOptions;

use crate::cpu::batch_norm;
use crate::cpu::batch_norm::{Gradient, Normalised, Slopes};
use crate::cpu::dispatch::{ConvKernel, known};
use crate::cpu::matmul::Epilogue;
use crate::cpu::pointwise_backward;
use crate::isa::Isa;
use crate::ops::conv_norm_activation::{Cache, ConvNormActivation, ConvNormConfig, Folded};
use crate::ops::cpu_tensor::Host;
use crate::ops::reference;

/// Whether the kernels serve a convolution of these tensors.
fn served<B: Host>(x: &FloatTensor<B>, w: &FloatTensor<B>, options: &ConvOptions<2>) -> bool {
    B::serves(x) && known(x.shape().dims(), w.shape().dims(), options)
}

fn convolve<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> ConvKernel {
    ConvKernel::new(x.shape().dims(), w.shape().dims(), options)
}

/// Values of a vector of the layer.
fn vector<B: Host>(tensor: &FloatTensor<B>) -> Vec<f32> {
    B::with(tensor, <[f32]>::to_vec)
}

/// `1 / sqrt(variance + epsilon)`.
fn deviations(variance: &[f32], epsilon: f64) -> Vec<f32> {
    variance.iter().map(|v| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32).collect()
}

fn scales(gamma: &[f32], deviation: &[f32]) -> Vec<f32> {
    gamma.iter().zip(deviation).map(|(gamma, deviation)| gamma * deviation).collect()
}

fn shifts(beta: &[f32], mean: &[f32], scale: &[f32]) -> Vec<f32> {
    beta.iter().zip(mean).zip(scale).map(|((beta, mean), scale)| beta - mean * scale).collect()
}

fn of_vector<B: Host>(values: Vec<f32>) -> FloatTensor<B> {
    let count = values.len();
    B::make(values, Shape::from([count]))
}

fn forward<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> FloatTensor<B> {
    let (conv, isa) = (convolve::<B>(x, w, options), Isa::chosen());
    let w = B::with(w, |w| conv.prepare(isa, w, None));
    B::make_map(B::with_map(x, |x| conv.run(isa, x, &w, Epilogue::NONE)), conv.output())
}

/// The gradients of input and weights from values `[b, h', w', out]`.
fn gradients<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    dy: &[f32],
    options: &ConvOptions<2>,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let (conv, isa) = (convolve::<B>(x, w, options), Isa::chosen());
    let dw = B::with_map(x, |x| conv.weight_gradient(isa, x, dy));
    let dx = input_too
        .then(|| B::make_map(B::with(w, |w| conv.input_gradient(isa, w, dy)), x.shape().dims()));
    (dx, B::make(dw, w.shape()))
}

fn train<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    skip: Option<&FloatTensor<B>>,
    layer: &ConvNormConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (conv, isa) = (convolve::<B>(x, w, &layer.conv), Isa::chosen());
    let w = B::with(w, |w| conv.prepare(isa, w, None));
    let y = B::with_map(x, |x| conv.run(isa, x, &w, Epilogue::NONE));
    let shape = conv.output();
    let (mean, variance) = batch_norm::moments(isa, &y, shape[1]);
    let scale = scales(&vector::<B>(gamma), &deviations(&variance, layer.epsilon));
    let shift = shifts(&vector::<B>(beta), &mean, &scale);
    let apply =
        |skip: Option<&[f32]>| batch_norm::apply(isa, &y, &scale, &shift, layer.activation, skip);
    let out = match skip {
        Some(skip) => B::with_map(skip, |skip| apply(Some(skip))),
        None => apply(None),
    };
    (B::make_map(out, shape), B::make_map(y, shape), of_vector::<B>(mean), of_vector::<B>(variance))
}

fn train_backward<B: Host>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    y: &FloatTensor<B>,
    mean: &FloatTensor<B>,
    variance: &FloatTensor<B>,
    dout: FloatTensor<B>,
    layer: &ConvNormConfig,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let isa = Isa::chosen();
    let mean = vector::<B>(mean);
    let deviation = deviations(&vector::<B>(variance), layer.epsilon);
    let scale = scales(&vector::<B>(gamma), &deviation);
    let shift = shifts(&vector::<B>(beta), &mean, &scale);
    let activation = layer.activation;
    let norm =
        Normalised { mean: &mean, scale: &scale, shift: &shift, deviation: &deviation, activation };
    let places = y.shape().num_elements() / mean.len();
    let one_pass = input_too && pointwise_backward::pays(places, w.shape().num_elements());
    if let (true, &ConvKernel::Pointwise { input, output, .. }) =
        (one_pass, &convolve::<B>(x, w, &layer.conv))
    {
        let sides = [output, input];
        let (dx, dw, dgamma, dbeta) = B::with_map(&dout, |dout| {
            B::with_map(y, |y| {
                let slopes = Slopes::new(isa, y, dout, norm);
                let (dx, dw) = B::with_map(x, |x| {
                    B::with(w, |w| {
                        pointwise_backward::backward(isa, [x, y, dout], w, &slopes, sides)
                    })
                });
                (dx, dw, slopes.dgamma, slopes.dbeta)
            })
        });
        let (dx, dw) = (B::make_map(dx, x.shape().dims()), B::make(dw, w.shape()));
        return (Some(dx), dw, of_vector::<B>(dgamma), of_vector::<B>(dbeta));
    }
    let back = |dout: Gradient<'_>| B::with_map(y, |y| batch_norm::backward(isa, y, dout, norm));
    let (dy, dgamma, dbeta) = match B::take_map(dout) {
        Ok(values) => back(Gradient::Owned(values)),
        Err(dout) => B::with_map(&dout, |dout| back(Gradient::Shared(dout))),
    };
    let (dx, dw) = gradients::<B>(x, w, &dy, &layer.conv, input_too);
    (dx, dw, of_vector::<B>(dgamma), of_vector::<B>(dbeta))
}

fn infer<B: Host>(
    x: &FloatTensor<B>,
    tensors: [FloatTensor<B>; 5],
    skip: Option<&FloatTensor<B>>,
    layer: &ConvNormConfig,
    cache: &Cache,
) -> FloatTensor<B>
where
    FloatTensor<B>: Send + 'static,
{
    let isa = Isa::chosen();
    let conv = convolve::<B>(x, &tensors[0], &layer.conv);
    let places: Vec<usize> =
        tensors.iter().map(|t| B::with(t, |values| values.as_ptr() as usize)).collect();
    let weights = {
        let mut cache = cache.0.lock().expect("nothing panics while it is held");
        match &*cache {
            Some(folded) if folded.places == places && conv.suits(&folded.weights.0) => {
                folded.weights.clone()
            }
            _ => {
                let [w, gamma, beta, mean, variance] = &tensors;
                let deviation = deviations(&vector::<B>(variance), layer.epsilon);
                let scale = scales(&vector::<B>(gamma), &deviation);
                let shift = shifts(&vector::<B>(beta), &vector::<B>(mean), &scale);
                let w = B::with(w, |w| conv.prepare(isa, w, Some(&scale)));
                let weights = Arc::new((w, shift));
                *cache =
                    Some(Folded { places, _held: Box::new(tensors), weights: weights.clone() });
                weights
            }
        }
    };
    let (w, shift) = (&weights.0, Some(&weights.1[..]));
    let run = |skip: Option<&[f32]>| {
        let finish = Epilogue { bias: shift, activation: layer.activation, skip };
        B::with_map(x, |x| conv.run(isa, x, w, finish))
    };
    let out = match skip {
        Some(skip) => B::with_map(skip, |skip| run(Some(skip))),
        None => run(None),
    };
    B::make_map(out, conv.output())
}

macro_rules! on_host {
    ($backend:ty) => {
        impl ConvNormActivation for $backend {
            fn convolution(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                options: ConvOptions<2>,
            ) -> FloatTensor<Self> {
                match served::<Self>(&x, &w, &options) {
                    true => forward::<Self>(&x, &w, &options),
                    false => reference::convolution::<Self>(x, w, options),
                }
            }

            fn convolution_backward(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                dy: FloatTensor<Self>,
                options: ConvOptions<2>,
                input_too: bool,
            ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
                if !served::<Self>(&x, &w, &options) {
                    return reference::convolution_backward::<Self>(x, w, dy, options, input_too);
                }
                Self::with_map(&dy, |dy| gradients::<Self>(&x, &w, dy, &options, input_too))
            }

            fn conv_norm(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                skip: FloatTensor<Self>,
                skips: bool,
                layer: ConvNormConfig,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                if !served::<Self>(&x, &w, &layer.conv) {
                    let skip = skips.then_some(skip);
                    return reference::conv_norm::<Self>(x, w, gamma, beta, skip, layer);
                }
                train::<Self>(&x, &w, &gamma, &beta, skips.then_some(&skip), &layer)
            }

            fn conv_norm_backward(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                y: FloatTensor<Self>,
                mean: FloatTensor<Self>,
                variance: FloatTensor<Self>,
                dout: FloatTensor<Self>,
                layer: ConvNormConfig,
                input_too: bool,
            ) -> (
                Option<FloatTensor<Self>>,
                FloatTensor<Self>,
                FloatTensor<Self>,
                FloatTensor<Self>,
            ) {
                if !served::<Self>(&x, &w, &layer.conv) {
                    return reference::conv_norm_backward::<Self>(
                        x, w, gamma, beta, y, mean, variance, dout, layer, input_too,
                    );
                }
                train_backward::<Self>(
                    &x, &w, &gamma, &beta, &y, &mean, &variance, dout, &layer, input_too,
                )
            }

            fn conv_norm_inference(
                x: FloatTensor<Self>,
                w: FloatTensor<Self>,
                gamma: FloatTensor<Self>,
                beta: FloatTensor<Self>,
                mean: FloatTensor<Self>,
                variance: FloatTensor<Self>,
                skip: FloatTensor<Self>,
                skips: bool,
                layer: ConvNormConfig,
                cache: Cache,
            ) -> FloatTensor<Self> {
                if !served::<Self>(&x, &w, &layer.conv) {
                    let y = reference::convolution::<Self>(x, w, layer.conv.clone());
                    let (running, skip) = ([mean, variance], skips.then_some(skip));
                    return reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer);
                }
                let tensors = [w, gamma, beta, mean, variance];
                infer::<Self>(&x, tensors, skips.then_some(&skip), &layer, &cache)
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);
