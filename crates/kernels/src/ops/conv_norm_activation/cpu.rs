//! The layer on ndarray and flex: from tensors to slices, and to the kernels that support them.

use std::sync::Arc;

use burn::backend::TensorMetadata;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Shape;
use burn::tensor::ops::ConvOptions;

use crate::cpu::batch_norm::{
    NormCoefficients, NormGradient, OutputGradient, f32_batch_norm, f32_batch_norm_backward,
    f32_batch_norm_moments,
};
use crate::cpu::dispatch;
use crate::cpu::dispatch::ConvKernel;
use crate::cpu::matmul::Epilogue;
use crate::cpu::pointwise_backward::{f32_pointwise_norm_backward, is_faster};
use crate::isa::Isa;
use crate::ops::conv_norm_activation::{ConvNormOps, Folded, WeightCache};
use crate::ops::conv_norm_config::{BatchNormState, ConvNormConfig};
use crate::ops::cpu_tensor::{CpuBackend, impl_for_cpu_backends};
use crate::ops::reference;

/// Whether the kernels support a convolution of these tensors.
fn supports<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> bool {
    B::supports(x) && dispatch::supports(x.shape().dims(), w.shape().dims(), options)
}

fn kernel<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> ConvKernel {
    ConvKernel::new(x.shape().dims(), w.shape().dims(), options)
}

/// The values of a vector, copied.
fn copied<B: CpuBackend>(tensor: &FloatTensor<B>) -> Vec<f32> {
    B::with_values(tensor, <[f32]>::to_vec)
}

/// `1 / sqrt(variance + epsilon)`.
fn deviations(variance: &[f32], epsilon: f64) -> Vec<f32> {
    variance.iter().map(|v| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32).collect()
}

/// `gamma * deviation`.
fn scales(gamma: &[f32], deviation: &[f32]) -> Vec<f32> {
    gamma.iter().zip(deviation).map(|(gamma, deviation)| gamma * deviation).collect()
}

/// `beta - mean * scale`.
fn shifts(beta: &[f32], mean: &[f32], scale: &[f32]) -> Vec<f32> {
    beta.iter().zip(mean).zip(scale).map(|((beta, mean), scale)| beta - mean * scale).collect()
}

fn vector<B: CpuBackend>(values: Vec<f32>) -> FloatTensor<B> {
    let count = values.len();
    B::from_values(values, Shape::from([count]))
}

fn forward<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    options: &ConvOptions<2>,
) -> FloatTensor<B> {
    let (conv, isa) = (kernel::<B>(x, w, options), Isa::chosen());
    let w = B::with_values(w, |w| conv.pack(isa, w, None));
    B::from_nhwc(B::with_nhwc(x, |x| conv.run(isa, x, &w, Epilogue::NONE)), conv.output())
}

/// The gradients of input and weights from values `dy` `[b, h', w', out]`.
fn gradients<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    dy: &[f32],
    options: &ConvOptions<2>,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>) {
    let (conv, isa) = (kernel::<B>(x, w, options), Isa::chosen());
    let dw = B::with_nhwc(x, |x| conv.weight_gradient(isa, x, dy));
    let dx = input_too.then(|| {
        let dx = B::with_values(w, |w| conv.input_gradient(isa, w, dy));
        B::from_nhwc(dx, x.shape().dims())
    });
    (dx, B::from_values(dw, w.shape()))
}

fn train<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &FloatTensor<B>,
    skip: Option<&FloatTensor<B>>,
    layer: &ConvNormConfig,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (conv, isa) = (kernel::<B>(x, w, &layer.conv), Isa::chosen());
    let w = B::with_values(w, |w| conv.pack(isa, w, None));
    let y = B::with_nhwc(x, |x| conv.run(isa, x, &w, Epilogue::NONE));
    let shape = conv.output();
    let (mean, variance) = f32_batch_norm_moments(isa, &y, shape[1]);
    let scale = scales(&copied::<B>(gamma), &deviations(&variance, layer.epsilon));
    let shift = shifts(&copied::<B>(beta), &mean, &scale);
    let norm =
        |skip: Option<&[f32]>| f32_batch_norm(isa, &y, &scale, &shift, layer.activation, skip);
    let out = match skip {
        Some(skip) => B::with_nhwc(skip, |skip| norm(Some(skip))),
        None => norm(None),
    };
    (B::from_nhwc(out, shape), B::from_nhwc(y, shape), vector::<B>(mean), vector::<B>(variance))
}

fn train_backward<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    state: &BatchNormState<B>,
    dout: FloatTensor<B>,
    layer: &ConvNormConfig,
    input_too: bool,
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (isa, y) = (Isa::chosen(), &state.y);
    let mean = copied::<B>(&state.mean);
    let deviation = deviations(&copied::<B>(&state.variance), layer.epsilon);
    let scale = scales(&copied::<B>(&state.gamma), &deviation);
    let shift = shifts(&copied::<B>(&state.beta), &mean, &scale);
    let norm = NormCoefficients {
        mean: &mean,
        scale: &scale,
        shift: &shift,
        deviation: &deviation,
        activation: layer.activation,
    };
    let pixels = y.shape().num_elements() / mean.len();
    let one_pass = input_too && is_faster(pixels, w.shape().num_elements());
    if let (true, &ConvKernel::Pointwise { input, output, .. }) =
        (one_pass, &kernel::<B>(x, w, &layer.conv))
    {
        return pointwise_backward::<B>(x, w, y, &dout, norm, [output, input]);
    }
    let back =
        |dout: OutputGradient<'_>| B::with_nhwc(y, |y| f32_batch_norm_backward(isa, y, dout, norm));
    let (dy, dgamma, dbeta) = match B::try_into_nhwc(dout) {
        Ok(values) => back(OutputGradient::Owned(values)),
        Err(dout) => B::with_nhwc(&dout, |dout| back(OutputGradient::Shared(dout))),
    };
    let (dx, dw) = gradients::<B>(x, w, &dy, &layer.conv, input_too);
    (dx, dw, vector::<B>(dgamma), vector::<B>(dbeta))
}

/// [`train_backward`] of a pointwise layer in one pass over its maps; `sides` are those of the
/// weights, `[out, in]`.
fn pointwise_backward<B: CpuBackend>(
    x: &FloatTensor<B>,
    w: &FloatTensor<B>,
    y: &FloatTensor<B>,
    dout: &FloatTensor<B>,
    norm: NormCoefficients<'_>,
    sides: [usize; 2],
) -> (Option<FloatTensor<B>>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let isa = Isa::chosen();
    let (dx, dw, dgamma, dbeta) = B::with_nhwc(dout, |dout| {
        B::with_nhwc(y, |y| {
            let gradient = NormGradient::new(isa, y, dout, norm);
            let (dx, dw) = B::with_nhwc(x, |x| {
                B::with_values(w, |w| {
                    f32_pointwise_norm_backward(isa, [x, y, dout], w, &gradient, sides)
                })
            });
            (dx, dw, gradient.dgamma, gradient.dbeta)
        })
    });
    let (dx, dw) = (B::from_nhwc(dx, x.shape().dims()), B::from_values(dw, w.shape()));
    (Some(dx), dw, vector::<B>(dgamma), vector::<B>(dbeta))
}

fn infer<B: CpuBackend>(
    x: &FloatTensor<B>,
    tensors: [FloatTensor<B>; 5],
    skip: Option<&FloatTensor<B>>,
    layer: &ConvNormConfig,
    cache: &WeightCache,
) -> FloatTensor<B>
where
    FloatTensor<B>: Send + 'static,
{
    let isa = Isa::chosen();
    let conv = kernel::<B>(x, &tensors[0], &layer.conv);
    let addresses: Vec<usize> =
        tensors.iter().map(|t| B::with_values(t, |values| values.as_ptr() as usize)).collect();
    let weights = {
        let mut cache = cache.0.lock().expect("no thread panics while it holds the lock");
        match &*cache {
            Some(folded) if folded.addresses == addresses && conv.fits(&folded.weights.0) => {
                folded.weights.clone()
            }
            _ => {
                let [w, gamma, beta, mean, variance] = &tensors;
                let deviation = deviations(&copied::<B>(variance), layer.epsilon);
                let scale = scales(&copied::<B>(gamma), &deviation);
                let shift = shifts(&copied::<B>(beta), &copied::<B>(mean), &scale);
                let w = B::with_values(w, |w| conv.pack(isa, w, Some(&scale)));
                let (weights, tensors) = (Arc::new((w, shift)), Box::new(tensors));
                let folded = Folded { addresses, _tensors: tensors, weights: weights.clone() };
                *cache = Some(folded);
                weights
            }
        }
    };
    let (w, shift) = (&weights.0, Some(&weights.1[..]));
    let run = |skip: Option<&[f32]>| {
        let epilogue = Epilogue { bias: shift, activation: layer.activation, skip };
        B::with_nhwc(x, |x| conv.run(isa, x, w, epilogue))
    };
    let out = match skip {
        Some(skip) => B::with_nhwc(skip, |skip| run(Some(skip))),
        None => run(None),
    };
    B::from_nhwc(out, conv.output())
}

impl_for_cpu_backends! {
    impl ConvNormOps {
        fn convolution(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            options: ConvOptions<2>,
        ) -> FloatTensor<Self> {
            match supports::<Self>(&x, &w, &options) {
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
            if !supports::<Self>(&x, &w, &options) {
                return reference::convolution_backward::<Self>(x, w, dy, options, input_too);
            }
            Self::with_nhwc(&dy, |dy| gradients::<Self>(&x, &w, dy, &options, input_too))
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
            if !supports::<Self>(&x, &w, &layer.conv) {
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
        ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>)
        {
            let norm = BatchNormState { gamma, beta, y, mean, variance };
            if !supports::<Self>(&x, &w, &layer.conv) {
                return reference::conv_norm_backward::<Self>(x, w, norm, dout, layer, input_too);
            }
            train_backward::<Self>(&x, &w, &norm, dout, &layer, input_too)
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
            cache: WeightCache,
        ) -> FloatTensor<Self> {
            if !supports::<Self>(&x, &w, &layer.conv) {
                let y = reference::convolution::<Self>(x, w, layer.conv.clone());
                let (running, skip) = ([mean, variance], skips.then_some(skip));
                return reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer);
            }
            let tensors = [w, gamma, beta, mean, variance];
            infer::<Self>(&x, tensors, skips.then_some(&skip), &layer, &cache)
        }
    }
}
