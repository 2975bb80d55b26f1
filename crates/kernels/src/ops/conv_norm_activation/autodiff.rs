//! The layer on an autodiff device, of any backend: the tensors that training keeps, and the
//! backward pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};
use burn::tensor::ops::ConvOptions;

use crate::ops::autodiff::{record, register_all};
use crate::ops::branch;
use crate::ops::conv_norm_activation::{ConvNormOps, WeightCache};
use crate::ops::conv_norm_config::ConvNormConfig;
use crate::ops::cpu_tensor::burn_ops_requested;
use crate::ops::reference;

/// The backward pass of [`ConvNormOps::conv_norm`] with 4 parents, `x, w, gamma, beta`, or 5 with
/// the skip path.
#[derive(Debug)]
struct ConvNormStep<const N: usize>;

impl<B: Backend + ConvNormOps, const N: usize> Backward<B, N> for ConvNormStep<N> {
    /// `x, w, gamma, beta, y, mean, variance`.
    type State = ([FloatTensor<B>; 7], ConvNormConfig);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let ([x, w, gamma, beta, y, mean, variance], layer) = ops.state;
        if let Some(Some(skip)) = ops.parents.get(4) {
            branch::register::<B>(grads, skip.id, dout.clone());
        }
        let input_too = ops.parents[0].is_some();
        let (dx, dw, dgamma, dbeta) =
            B::conv_norm_backward(x, w, gamma, beta, y, mean, variance, dout, layer, input_too);
        let gradients = [dx, Some(dw), Some(dgamma), Some(dbeta)];
        register_all::<B>(grads, ops.parents.map(|node| node.map(|node| node.id)), gradients);
    }
}

#[derive(Debug)]
struct ConvolutionStep;

impl<B: Backend + ConvNormOps> Backward<B, 2> for ConvolutionStep {
    type State = (FloatTensor<B>, FloatTensor<B>, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (x, w, options) = ops.state;
        let [x_node, w_node] = ops.parents;
        let (dx, dw) = B::convolution_backward(x, w, dy, options, x_node.is_some());
        if let (Some(node), Some(dx)) = (x_node, dx) {
            branch::register::<B>(grads, node.id, dx);
        }
        if let Some(node) = w_node {
            grads.register::<B>(node.id, dw);
        }
    }
}

impl<B: Backend + ConvNormOps, C: CheckpointStrategy> ConvNormOps for Autodiff<B, C> {
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::convolution::<Self>(x, w, options);
        }
        let nodes = [x.node(), w.node()];
        let (x, w) = (x.into_primitive(), w.into_primitive());
        let y = B::convolution(x.clone(), w.clone(), options.clone());
        record::<B, C, _, 2>(ConvolutionStep, nodes, || (x, w, options), y)
    }

    fn convolution_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvOptions<2>,
        _: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        panic!("a convolution has no second derivative here");
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
        if burn_ops_requested() {
            return reference::conv_norm::<Self>(x, w, gamma, beta, skips.then_some(skip), layer);
        }
        let nodes = [x.node(), w.node(), gamma.node(), beta.node()];
        let tensors = [x, w, gamma, beta].map(|tensor| tensor.into_primitive());
        if skips {
            let [x, w, gamma, beta] = nodes;
            let nodes = [x, w, gamma, beta, skip.node()];
            return tracked::<B, C, 5>(nodes, tensors, skip.into_primitive(), layer);
        }
        tracked::<B, C, 4>(nodes, tensors, skip.into_primitive(), layer)
    }

    fn conv_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvNormConfig,
        _: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("a layer has no second derivative");
    }

    /// A frozen layer in training: behind the convolution, Burn's own operations with gradients.
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
        _: WeightCache,
    ) -> FloatTensor<Self> {
        let y = Self::convolution(x, w, layer.conv.clone());
        let (running, skip) = ([mean, variance], skips.then_some(skip));
        reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer)
    }
}

type ConvNormOutputs<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

fn tracked<B: Backend + ConvNormOps, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    tensors: [FloatTensor<B>; 4],
    skip: FloatTensor<B>,
    layer: ConvNormConfig,
) -> ConvNormOutputs<Autodiff<B, C>> {
    let [x, w, gamma, beta] = tensors.clone();
    let (out, y, mean, variance) = B::conv_norm(x, w, gamma, beta, skip, N == 5, layer.clone());
    let constants =
        [&y, &mean, &variance].map(|tensor| FloatTensor::<Autodiff<B, C>>::new(tensor.clone()));
    let state = || {
        let [x, w, gamma, beta] = tensors;
        ([x, w, gamma, beta, y, mean, variance], layer)
    };
    let out = record::<B, C, _, N>(ConvNormStep::<N>, nodes, state, out);
    let [y, mean, variance] = constants;
    (out, y, mean, variance)
}
