//! A depthwise convolution, a pointwise one, batch norm and activation as one operation in
//! training, with nothing between the two convolutions (Xception's layer, arXiv:1610.02357).
//!
//! The result of the depthwise convolution is a third of the memory that such a layer would keep
//! for its backward pass, and a hundredth of the layer's arithmetic: the backward pass computes it
//! again. The bits are those of the two separate layers.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, NdArray, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;

use crate::ops::autodiff::{record, register_all};
use crate::ops::conv_norm_activation::{ConvNormOps, NormTensors};
use crate::ops::conv_norm_config::ConvNormConfig;
use crate::ops::cpu_tensor::burn_ops_requested;

/// A separable layer of `x` `[b, in, h, w]` with `depthwise` `[in, 1, kh, kw]` and `pointwise`
/// `[out, in, 1, 1]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait SeparableNormOps: Backend + ConvNormOps {
    /// Returns the same as [`ConvNormOps::conv_norm`]; `layer` describes the pointwise convolution.
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

impl SeparableNormOps for NdArray {}
impl SeparableNormOps for Flex {}
impl SeparableNormOps for CubeBackend {}

/// The backward pass; its parents are `x, depthwise, pointwise, gamma, beta`.
#[derive(Debug)]
struct SeparableStep;

impl<B: Backend + ConvNormOps> Backward<B, 5> for SeparableStep {
    /// `x, depthwise, pointwise, gamma, beta, y, mean, variance`.
    type State = ([FloatTensor<B>; 8], ConvOptions<2>, ConvNormConfig);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let ([x, depthwise, pointwise, gamma, beta, y, mean, variance], options, layer) = ops.state;
        let between = B::convolution(x.clone(), depthwise.clone(), options.clone());
        let (dbetween, dpointwise, dgamma, dbeta) = B::conv_norm_backward(
            between, pointwise, gamma, beta, y, mean, variance, dout, layer, true,
        );
        let dbetween = dbetween.expect("it was requested");
        let input_too = ops.parents[0].is_some();
        let (dx, ddepthwise) = B::convolution_backward(x, depthwise, dbetween, options, input_too);
        let gradients = [dx, Some(ddepthwise), Some(dpointwise), Some(dgamma), Some(dbeta)];
        register_all::<B>(grads, ops.parents.map(|node| node.map(|node| node.id)), gradients);
    }
}

impl<B: Backend + SeparableNormOps, C: CheckpointStrategy> SeparableNormOps for Autodiff<B, C> {
    fn separable_norm(
        x: FloatTensor<Self>,
        depthwise: FloatTensor<Self>,
        pointwise: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        options: ConvOptions<2>,
        layer: ConvNormConfig,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if burn_ops_requested() {
            let (between, no_skip) = (Self::convolution(x, depthwise, options), gamma.clone());
            return Self::conv_norm(between, pointwise, gamma, beta, no_skip, false, layer);
        }
        let nodes = [x.node(), depthwise.node(), pointwise.node(), gamma.node(), beta.node()];
        let tensors = [x, depthwise, pointwise, gamma, beta].map(|t| t.into_primitive());
        let [x, depthwise, pointwise, gamma, beta] = tensors.clone();
        let (out, y, mean, variance) =
            B::separable_norm(x, depthwise, pointwise, gamma, beta, options.clone(), layer.clone());
        let constants = [&y, &mean, &variance].map(|t| FloatTensor::<Self>::new(t.clone()));
        let state = || {
            let [x, depthwise, pointwise, gamma, beta] = tensors;
            ([x, depthwise, pointwise, gamma, beta, y, mean, variance], options, layer)
        };
        let out = record::<B, C, _, 5>(SeparableStep, nodes, state, out);
        let [y, mean, variance] = constants;
        (out, y, mean, variance)
    }
}

/// `activation(norm(pointwise(depthwise(x))))` with the statistics of the batch: the result, and
/// the batch's mean and biased variance without gradients.
///
/// # Shapes
/// `x` `[b, in, h, w]`; weights `[in, 1, kh, kw]` of the depthwise convolution with `options`, and
/// `[out, in, 1, 1]` of the pointwise one that `layer` describes; result `[b, out, h', w']`,
/// statistics `[out]`.
pub fn separable_norm_activation(
    x: Tensor<4>,
    [depthwise, pointwise]: [Tensor<4>; 2],
    norm: NormTensors,
    options: ConvOptions<2>,
    layer: ConvNormConfig,
) -> (Tensor<4>, Tensor<1>, Tensor<1>) {
    let (out, _, mean, variance) = <Dispatch as SeparableNormOps>::separable_norm(
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
