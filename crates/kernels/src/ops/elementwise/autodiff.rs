//! The elementwise operations on an autodiff device, of any backend.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use crate::ops::autodiff::record;
use crate::ops::branch;
use crate::ops::cpu_tensor::burn_ops_requested;
use crate::ops::elementwise::ElementwiseOps;
use crate::ops::reference;

#[derive(Debug)]
struct SumStep;

impl<B: Backend + ElementwiseOps> Backward<B, 2> for SumStep {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        for node in ops.parents.iter().flatten() {
            branch::register::<B>(grads, node.id, dy.clone());
        }
    }
}

#[derive(Debug)]
struct ReluStep;

impl<B: Backend + ElementwiseOps> Backward<B, 1> for ReluStep {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            branch::register::<B>(grads, node.id, B::rectified_backward(ops.state, dy));
        }
    }
}

#[derive(Debug)]
struct HardSwishStep;

impl<B: Backend + ElementwiseOps> Backward<B, 1> for HardSwishStep {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            branch::register::<B>(grads, node.id, B::hard_swished_backward(ops.state, dy));
        }
    }
}

impl<B: Backend + ElementwiseOps, C: CheckpointStrategy> ElementwiseOps for Autodiff<B, C> {
    fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::sum::<Self>(x, other);
        }
        let nodes = [x.node(), other.node()];
        let sum = B::sum(x.into_primitive(), other.into_primitive());
        record::<B, C, _, 2>(SumStep, nodes, || (), sum)
    }

    fn branched(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match burn_ops_requested() {
            true => x,
            false => branch::tracked::<B, C>(x),
        }
    }

    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::rectified::<Self>(x);
        }
        let nodes = [x.node()];
        let y = B::rectified(x.into_primitive());
        record::<B, C, _, 1>(ReluStep, nodes, || y.clone(), y.clone())
    }

    fn rectified_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("ReLU has no second derivative");
    }

    fn hard_swished(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if burn_ops_requested() {
            return reference::hard_swished::<Self>(x);
        }
        let nodes = [x.node()];
        let x = x.into_primitive();
        let y = B::hard_swished(x.clone());
        record::<B, C, _, 1>(HardSwishStep, nodes, || x, y)
    }

    fn hard_swished_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("hard-swish has no second derivative");
    }
}
