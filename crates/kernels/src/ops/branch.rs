//! A map that several layers read: their gradients are added in channels-last order, in place, on all threads.
//!
//! Burn adds the gradients of a tensor's readers as they come, and its addition gives strided maps back in torch's
//! order, on one thread; every layer further back would have to turn them. So the readers of a fork hand their
//! gradients to it, and it gives their sum to Burn once. A reader that is not of this crate goes to Burn as ever.

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

use crate::ops::elementwise::Elementwise;

/// The sum so far of what a fork's readers handed in, a tensor of the backend.
#[derive(Default)]
pub(crate) struct Sum(Mutex<Option<Box<dyn Any + Send>>>);

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sum")
    }
}

/// The forks of graphs that exist, by their node: a backward pass finds the one it reads by it. The graph holds the
/// sum itself, so an entry ends with it.
static FORKS: LazyLock<Mutex<HashMap<u64, Weak<Sum>>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands in the gradient of a tensor: to the fork, where it is one, else to Burn.
pub(crate) fn register<B: Backend + Elementwise>(
    grads: &mut Gradients,
    node: NodeId,
    gradient: FloatTensor<B>,
) {
    let fork = lock(&FORKS).get(&node.value).and_then(Weak::upgrade);
    let Some(fork) = fork else {
        return grads.register::<B>(node, gradient);
    };
    let mut sum = lock(&fork.0);
    let before = sum
        .take()
        .map(|before| before.downcast::<FloatTensor<B>>().expect("a graph has one backend"));
    *sum = Some(Box::new(match before {
        Some(before) => B::sum(gradient, *before),
        None => gradient,
    }));
}

#[derive(Debug)]
struct ForkStep;

impl<B: Backend> Backward<B, 1> for ForkStep {
    type State = Arc<Sum>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        if let Some(sum) = lock(&ops.state.0).take() {
            let sum = sum.downcast::<FloatTensor<B>>().expect("a graph has one backend");
            // Onto what readers that are not of this crate gave.
            grads.register::<B>(ops.node.id, *sum);
        }
        let sum = grads.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            grads.register::<B>(node.id, sum);
        }
    }
}

/// The operation on an autodiff backend.
pub(crate) fn forked<B: Backend, C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<B, C>>,
) -> FloatTensor<Autodiff<B, C>> {
    let node = x.node();
    match ForkStep.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(step) => {
            let sum = Arc::new(Sum::default());
            let y = step.finish(Arc::clone(&sum), x.into_primitive());
            let mut forks = lock(&FORKS);
            forks.retain(|_, fork| fork.strong_count() > 0);
            forks.insert(y.id().value, Arc::downgrade(&sum));
            y
        }
        OpsKind::UnTracked(step) => step.finish(x.into_primitive()),
    }
}

/// The same map, to be read by several layers.
///
/// # Shapes
/// `[b, c, h, w]`, as the result.
pub fn fork(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Elementwise>::forked(x.into_dispatch()))
}
