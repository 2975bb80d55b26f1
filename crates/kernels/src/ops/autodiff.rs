//! Recording of an operation with a hand-written backward pass on an autodiff device.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use crate::ops::branch;
use crate::ops::elementwise::ElementwiseOps;

/// Records `out` as the result of an operation on `parents` whose backward pass is `step`. The
/// state is made only if a parent requires a gradient.
pub(crate) fn record<B, C, S, const N: usize>(
    step: S,
    parents: [NodeGuard; N],
    state: impl FnOnce() -> S::State,
    out: FloatTensor<B>,
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Backward<B, N>,
{
    match step.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(state(), out),
        OpsKind::UnTracked(step) => step.finish(out),
    }
}

/// Registers gradients with the parents that require one, through branches where parents are
/// branches.
pub(crate) fn register_all<B: Backend + ElementwiseOps>(
    grads: &mut Gradients,
    parents: impl IntoIterator<Item = Option<NodeId>>,
    gradients: impl IntoIterator<Item = Option<FloatTensor<B>>>,
) {
    for (parent, gradient) in parents.into_iter().zip(gradients) {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            branch::register::<B>(grads, parent, gradient);
        }
    }
}
