//! A depthwise convolution, a pointwise one, batch norm and activation as one operation in training, nothing
//! between the two convolutions (Xception's, arXiv:1610.02357).
//!
//! What the depthwise convolution gives is a third of what such a layer would keep for its backward pass, and
//! costs a hundredth of the layer's arithmetic: it is computed again there. The bits are those of the two layers.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]
#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, NdArray, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;

use crate::ops::branch;
use crate::ops::conv_norm_activation::{ConvNormActivation, ConvNormConfig, NormTensors};
use crate::ops::cpu_tensor::stock;

/// The operation of the extension; `x` `[b, in, h, w]`, `depthwise` `[in, 1, kh, kw]`, `pointwise`
/// `[out, in, 1, 1]`.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait SeparableNorm: Backend + ConvNormActivation {
    /// As [`ConvNormActivation::conv_norm`]; `layer` is the pointwise one.
    #[fusion(default)]
    fn separable_norm(
        x: FloatTensor<Self>,
        depthwise: FloatTensor<Self>,
        pointwise: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: ConvOptions<2>,
        layer: ConvNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let between = Self::convolution(x, depthwise, options);
        let no_skip = gamma.clone();
        Self::conv_norm(between, pointwise, gamma, beta, no_skip, false, layer)
    }
}

impl SeparableNorm for NdArray {}
impl SeparableNorm for Flex {}
impl SeparableNorm for CubeBackend {}
#[cfg(feature = "capture")]
impl SeparableNorm for burn::backend::Capture {}

/// The backward pass; its parents are `x, depthwise, pointwise, gamma, beta`.
#[derive(Debug)]
struct SeparableStep;

impl<B: Backend + ConvNormActivation> Backward<B, 5> for SeparableStep {
    /// `x, depthwise, pointwise, gamma, beta, y, mean, variance`.
    type State = ([FloatTensor<B>; 8], ConvOptions<2>, ConvNormConfig);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let ([x, depthwise, pointwise, gamma, beta, y, mean, variance], options, layer) = ops.state;
        let between = B::convolution(x.clone(), depthwise.clone(), options.clone());
        let (dbetween, dpointwise, dgamma, dbeta) = B::conv_norm_backward(
            between, pointwise, gamma, beta, y, mean, variance, dout, layer, true,
        );
        let dbetween = dbetween.expect("it was wanted");
        let input_too = ops.parents[0].is_some();
        let (dx, ddepthwise) = B::convolution_backward(x, depthwise, dbetween, options, input_too);
        let gradients = [dx, Some(ddepthwise), Some(dpointwise), Some(dgamma), Some(dbeta)];
        for (node, gradient) in ops.parents.iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                branch::register::<B>(grads, node.id, gradient);
            }
        }
    }
}

impl<B: Backend + SeparableNorm, C: CheckpointStrategy> SeparableNorm for Autodiff<B, C> {
    fn separable_norm(
        x: FloatTensor<Self>,
        depthwise: FloatTensor<Self>,
        pointwise: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: ConvOptions<2>,
        layer: ConvNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if stock() {
            let (between, no_skip) = (Self::convolution(x, depthwise, options), gamma.clone());
            return Self::conv_norm(between, pointwise, gamma, beta, no_skip, false, layer);
        }
        let nodes = [x.node(), depthwise.node(), pointwise.node(), gamma.node(), beta.node()];
        let tensors = [x, depthwise, pointwise, gamma, beta].map(|t| t.into_primitive());
        let [x, depthwise, pointwise, gamma, beta] = tensors.clone();
        let (out, y, mean, variance) =
            B::separable_norm(x, depthwise, pointwise, gamma, beta, options.clone(), layer.clone());
        let constants = [&y, &mean, &variance].map(|t| FloatTensor::<Self>::new(t.clone()));
        let out = match SeparableStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let [x, depthwise, pointwise, gamma, beta] = tensors;
                let kept = [x, depthwise, pointwise, gamma, beta, y, mean, variance];
                step.finish((kept, options, layer), out)
            }
            OpsKind::UnTracked(step) => step.finish(out),
        };
        let [y, mean, variance] = constants;
        (out, y, mean, variance)
    }
}

/// `activation(norm(pointwise(depthwise(x))))` with the statistics of the batch: the result, and the batch's mean
/// and biased variance without gradients.
///
/// # Shapes
/// `x` `[b, in, h, w]`, weights `[in, 1, kh, kw]` of the depthwise convolution with `options`, `[out, in, 1, 1]` of
/// the pointwise one as `layer` says; result `[b, out, h', w']`, statistics `[out]`.
pub fn separable_norm_activation(
    x: Tensor<4>,
    [depthwise, pointwise]: [Tensor<4>; 2],
    norm: NormTensors,
    options: ConvOptions<2>,
    layer: ConvNormConfig,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    let (out, _, mean, variance) = <Dispatch as SeparableNorm>::separable_norm(
        x.into_dispatch(),
        depthwise.into_dispatch(),
        pointwise.into_dispatch(),
        norm.gamma.into_dispatch(),
        norm.beta.into_dispatch(),
        options,
        layer,
    );
    (Tensor::from_dispatch(out), Tensor::from_dispatch(mean), Tensor::from_dispatch(variance))
}
