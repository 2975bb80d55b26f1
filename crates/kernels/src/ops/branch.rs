//! Gradient accumulation at a branch, a map that several layers read. The gradients of its readers
//! are added channels last, in place, on all threads.
//!
//! Burn adds the gradients of a tensor's readers as they come. Its addition runs on one thread and
//! returns a strided map in torch's order, which every layer further back would have to transpose.
//! So the readers hand their gradients to the branch, and the branch gives their sum to Burn once.
//! The gradient of a reader outside this crate goes through Burn and is added there.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch};
use burn::tensor::Tensor;

use crate::ops::elementwise::ElementwiseOps;

/// The sum of the gradients that a branch's readers have handed in so far, a tensor of the backend.
#[derive(Default)]
struct GradientSum(Mutex<Option<Box<dyn Any + Send>>>);

impl std::fmt::Debug for GradientSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GradientSum")
    }
}

/// The branches of the graphs that exist, by node: a backward pass looks its input up here. The
/// graph owns the sum, so an entry dies with its graph.
static BRANCHES: LazyLock<Mutex<HashMap<u64, Weak<GradientSum>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers the gradient of a tensor: with the branch where the tensor is one, else with Burn.
pub(crate) fn register<B: Backend + ElementwiseOps>(
    grads: &mut Gradients,
    node: NodeId,
    gradient: FloatTensor<B>,
) {
    let branch = lock(&BRANCHES).get(&node.value).and_then(Weak::upgrade);
    let Some(branch) = branch else {
        return grads.register::<B>(node, gradient);
    };
    let mut sum = lock(&branch.0);
    let before = sum
        .take()
        .map(|before| before.downcast::<FloatTensor<B>>().expect("a graph has one backend"));
    *sum = Some(Box::new(match before {
        Some(before) => B::sum(gradient, *before),
        None => gradient,
    }));
}

#[derive(Debug)]
struct BranchStep;

impl<B: Backend> Backward<B, 1> for BranchStep {
    type State = Arc<GradientSum>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        if let Some(sum) = lock(&ops.state.0).take() {
            let sum = sum.downcast::<FloatTensor<B>>().expect("a graph has one backend");
            // Added to the gradients of readers outside this crate.
            grads.register::<B>(ops.node.id, *sum);
        }
        let sum = grads.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            grads.register::<B>(node.id, sum);
        }
    }
}

/// [`branch`] on an autodiff backend.
pub(crate) fn tracked<B: Backend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let node = x.node();
    match BranchStep.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let sum = Arc::new(GradientSum::default());
            let y = step.finish(Arc::clone(&sum), x.into_primitive());
            let mut branches = lock(&BRANCHES);
            branches.retain(|_, branch| branch.strong_count() > 0);
            branches.insert(y.id().value, Arc::downgrade(&sum));
            y
        }
        OpsKind::UnTracked(step) => step.finish(x.into_primitive()),
    }
}

/// Marks a map that several layers read; the values are unchanged.
///
/// # Shapes
/// `[b, c, h, w]` to the same.
pub fn branch(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ElementwiseOps>::branched(x.into_dispatch()))
}
