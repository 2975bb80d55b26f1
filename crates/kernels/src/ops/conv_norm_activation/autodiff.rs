//! The layer on an autodiff device, of any backend: what is kept, and the one backward pass.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};
use burn::tensor::ops::ConvOptions;

use crate::ops::branch;

use crate::ops::conv_norm_activation::{Cache, ConvNormActivation, ConvNormConfig};
use crate::ops::cpu_tensor::stock;
use crate::ops::reference;

/// The backward pass of [`ConvNormActivation::conv_norm`] with `N` parents: `x, w, gamma, beta` and perhaps
/// the skip path.
#[derive(Debug)]
struct ConvNormStep<const N: usize>;

impl<B: Backend + ConvNormActivation, const N: usize> Backward<B, N> for ConvNormStep<N> {
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
        for (node, gradient) in ops.parents.iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                branch::register::<B>(grads, node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct ConvolutionStep;

impl<B: Backend + ConvNormActivation> Backward<B, 2> for ConvolutionStep {
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

impl<B: Backend + ConvNormActivation, C: CheckpointStrategy> ConvNormActivation for Autodiff<B, C> {
    fn convolution(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Self> {
        if stock() {
            return reference::convolution::<Self>(x, w, options);
        }
        match ConvolutionStep.prepare::<C>([x.node(), w.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let (x, w) = (x.into_primitive(), w.into_primitive());
                let y = B::convolution(x.clone(), w.clone(), options.clone());
                step.finish((x, w, options), y)
            }
            OpsKind::UnTracked(step) => {
                step.finish(B::convolution(x.into_primitive(), w.into_primitive(), options))
            }
        }
    }

    fn convolution_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: ConvOptions<2>,
        _: bool,
    ) -> (Option<FloatTensor<Self>>, FloatTensor<Self>) {
        panic!("the gradient of a convolution has no gradient here");
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
        if stock() {
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
        panic!("the gradient of a layer has no gradient here");
    }

    /// With gradients, by Burn behind the convolution: what a frozen layer does in training.
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
        _: Cache,
    ) -> FloatTensor<Self> {
        let y = Self::convolution(x, w, layer.conv.clone());
        let (running, skip) = ([mean, variance], skips.then_some(skip));
        reference::norm_inference::<Self>(y, gamma, beta, running, skip, &layer)
    }
}

type Outputs<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

fn tracked<B: Backend + ConvNormActivation, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    tensors: [FloatTensor<B>; 4],
    skip: FloatTensor<B>,
    layer: ConvNormConfig,
) -> Outputs<Autodiff<B, C>> {
    let [x, w, gamma, beta] = tensors.clone();
    let (out, y, mean, variance) = B::conv_norm(x, w, gamma, beta, skip, N == 5, layer.clone());
    let constants =
        [&y, &mean, &variance].map(|tensor| FloatTensor::<Autodiff<B, C>>::new(tensor.clone()));
    let out = match ConvNormStep::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let [x, w, gamma, beta] = tensors;
            step.finish(([x, w, gamma, beta, y, mean, variance], layer), out)
        }
        OpsKind::UnTracked(step) => step.finish(out),
    };
    let [y, mean, variance] = constants;
    (out, y, mean, variance)
}
