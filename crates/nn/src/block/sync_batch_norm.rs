//! Batch norm over the batches of several processes (SyncBN): the statistics are those of all
//! images, and so are the gradients that go through them.
//!
//! [`within`] says which processes share their statistics. Every process has to run the same layers
//! in the same order, forward and backward. The layers are composed of Burn's operations, and are
//! slower than the fused ones.

#![expect(deprecated, reason = "burn-ndarray is one of the backends")]

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{Tensor, TensorData, try_read_sync};
use burn_cubecl::CubeBackend;

/// How values are replaced by their sums over the processes.
type AddValues = dyn Fn(&mut [f64]) + Send + Sync;

/// The processes that share the statistics of their batches.
#[derive(Clone)]
pub struct NormGroup(Arc<AddValues>);

impl fmt::Debug for NormGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NormGroup")
    }
}

impl NormGroup {
    /// A group in which `add` replaces values by their sums over the processes.
    pub fn new(add: impl Fn(&mut [f64]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(add))
    }
}

thread_local! {
    static GROUP: RefCell<Option<NormGroup>> = const { RefCell::new(None) };
}

/// Runs `work`, in which the layers of the calling thread share their statistics with `group`;
/// without a group each batch has its own.
pub fn within<R>(group: Option<NormGroup>, work: impl FnOnce() -> R) -> R {
    /// The group before comes back, whatever ends the work.
    struct Restore(Option<NormGroup>);
    impl Drop for Restore {
        fn drop(&mut self) {
            GROUP.set(self.0.take());
        }
    }
    let _restore = Restore(GROUP.replace(group));
    work()
}

/// The group of the calling thread.
pub(crate) fn group() -> Option<NormGroup> {
    GROUP.with_borrow(Clone::clone)
}

/// The sum over the processes, with the gradient that it has.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait AddOverProcesses: Backend {
    /// The sums of the values over the group.
    #[fusion(default)]
    fn add_over_processes(x: FloatTensor<Self>, group: NormGroup) -> FloatTensor<Self> {
        let (device, shape, dtype) = (x.device(), x.shape(), x.dtype());
        let data = try_read_sync(Self::float_into_data(x)).expect("a backend that can be read");
        let data = data.expect("values of a tensor").convert::<f64>();
        let mut values = data.try_into_vec::<f64>().expect("f64");
        (group.0)(&mut values);
        Self::float_from_data(TensorData::new(values, shape).convert_dtype(dtype), &device)
    }
}

impl AddOverProcesses for CubeBackend {}
impl AddOverProcesses for burn::backend::NdArray {}
impl AddOverProcesses for burn::backend::Flex {}

#[derive(Debug)]
struct AddStep;

impl<B: Backend + AddOverProcesses> Backward<B, 1> for AddStep {
    type State = NormGroup;

    /// Every process's loss depends on the sum, so that its gradient is the sum of theirs.
    fn backward(self, ops: Ops<NormGroup, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let gradient = B::add_over_processes(gradient, ops.state);
        if let [Some(parent)] = ops.parents {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

impl<B: Backend + AddOverProcesses, C: CheckpointStrategy> AddOverProcesses for Autodiff<B, C> {
    fn add_over_processes(x: FloatTensor<Self>, group: NormGroup) -> FloatTensor<Self> {
        let node = x.node();
        let out = B::add_over_processes(x.into_primitive(), group.clone());
        match AddStep.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(group, out),
            OpsKind::UnTracked(step) => step.finish(out),
        }
    }
}

fn add(x: Tensor<1>, group: &NormGroup) -> Tensor<1> {
    let x = x.into_dispatch();
    Tensor::from_dispatch(<Dispatch as AddOverProcesses>::add_over_processes(x, group.clone()))
}

/// The normalised values of a group of processes, `[b, c, h, w]`; the mean and the biased variance
/// of all its values, `[c]` each; and their number.
pub(crate) fn normalise(
    y: Tensor<4>,
    epsilon: f64,
    group: &NormGroup,
) -> (Tensor<4>, [Tensor<1>; 2], usize) {
    let [b, c, h, w] = y.dims();
    let mut count = [(b * h * w) as f64];
    (group.0)(&mut count);
    let sums = |map: Tensor<4>| map.sum_dim(3).sum_dim(2).sum_dim(0).reshape([c]);
    let channels = |values: Tensor<1>| values.reshape([1, c, 1, 1]);
    // Two sums: a variance from the sums of values and squares would lose half of the digits.
    let mean = add(sums(y.clone()), group).div_scalar(count[0]);
    let centred = y - channels(mean.clone());
    let variance = add(sums(centred.clone().square()), group).div_scalar(count[0]);
    let deviation = variance.clone().add_scalar(epsilon).sqrt();
    (centred / channels(deviation), [mean, variance], count[0] as usize)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::{Barrier, Mutex};

    use burn::tensor::activation::relu;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{DType, Device};
    use kernels::cpu::activation::FusedActivation;
    use kernels::ops::conv_norm_activation::{NormTensors, conv_norm_activation, convolution};
    use kernels::ops::conv_norm_config::ConvNormConfig;

    use super::*;
    use crate::init::uniform;

    const EPSILON: f64 = 1e-3;

    fn options() -> ConvOptions<2> {
        ConvOptions { stride: [1; 2], padding: [(1, 1); 2], dilation: [1; 2], groups: 1 }
    }

    /// The rows of a tensor of f64 whose values are a function of the seed.
    fn tensor<const D: usize>(seed: u64, shape: [usize; D], rows: &Range<usize>) -> Tensor<D> {
        let size = shape[1..].iter().product::<usize>();
        let values: Vec<f64> =
            (rows.start * size..rows.end * size).map(|i| uniform(seed, i as u64) - 0.3).collect();
        let mut part = shape;
        part[0] = rows.len();
        let device = Device::flex().autodiff();
        Tensor::from_data(TensorData::new(values, part), (&device, DType::F64))
    }

    /// Mean, variance, and the gradients of images, convolution, scale and shift for these rows of
    /// a batch of 16: with a group by [`normalise`], otherwise by the fused layer.
    fn step(rows: &Range<usize>, group: Option<&NormGroup>) -> Vec<Vec<f64>> {
        let x = tensor(1, [16, 3, 5, 5], rows).require_grad();
        let w = tensor(2, [4, 3, 3, 3], &(0..4)).require_grad();
        let (gamma, beta) = (tensor(3, [4], &(0..4)), tensor(4, [4], &(0..4)));
        let (gamma, beta) = (gamma.require_grad(), beta.require_grad());
        let (out, mean, variance) = match group {
            Some(group) => {
                let y = convolution(x.clone(), w.clone(), None, options());
                let (y, [mean, variance], count) = normalise(y, EPSILON, group);
                assert_eq!(count, 16 * 25);
                let wide = |values: &Tensor<1>| values.clone().reshape([1, 4, 1, 1]);
                (relu(y * wide(&gamma) + wide(&beta)), mean, variance)
            }
            None => {
                let norm = NormTensors { gamma: gamma.clone(), beta: beta.clone() };
                let activation = FusedActivation::Relu;
                let layer =
                    ConvNormConfig { conv: options(), epsilon: EPSILON, activation, running: None };
                conv_norm_activation(x.clone(), w.clone(), norm, None, layer)
            }
        };
        let loss = (out * tensor(5, [16, 4, 5, 5], rows)).sum().div_scalar(16.0);
        let gradients = loss.backward();
        let values = |data: TensorData| data.try_into_vec::<f64>().expect("f64");
        vec![
            values(mean.into_data()),
            values(variance.into_data()),
            values(x.grad(&gradients).expect("of the images").into_data()),
            values(w.grad(&gradients).expect("of the convolution").into_data()),
            values(gamma.grad(&gradients).expect("of the scale").into_data()),
            values(beta.grad(&gradients).expect("of the shift").into_data()),
        ]
    }

    /// Two processes as two threads with 8 images each, and 11 and 5, against the fused layer on
    /// all 16.
    ///
    /// Mutations caught: the gradient of a sum taken for that of the own summand; the
    /// count of the own values.
    #[test]
    fn shares_of_a_batch_are_normalised_as_the_batch() {
        let whole = step(&(0..16), None);
        for cut in [8, 11] {
            let slots = Arc::new((Mutex::new([Vec::new(), Vec::new()]), Barrier::new(2)));
            let group = |rank: usize| {
                let slots = Arc::clone(&slots);
                NormGroup::new(move |values: &mut [f64]| {
                    slots.0.lock().expect("no panic")[rank] = values.to_vec();
                    slots.1.wait();
                    let sum = slots.0.lock().expect("no panic").clone();
                    values.iter_mut().zip(sum[0].iter().zip(&sum[1])).for_each(|(v, (a, b))| {
                        *v = a + b;
                    });
                    slots.1.wait();
                })
            };
            let [first, second] = std::thread::scope(|scope| {
                [(0, 0..cut), (1, cut..16)]
                    .map(|(rank, rows)| {
                        let group = group(rank);
                        scope.spawn(move || step(&rows, Some(&group)))
                    })
                    .map(|thread| thread.join().expect("no panic"))
            });
            let joined: Vec<Vec<f64>> = (0..6)
                .map(|i| match i {
                    0 | 1 => first[i].clone(),
                    2 => [&first[i][..], &second[i]].concat(),
                    _ => first[i].iter().zip(&second[i]).map(|(a, b)| a + b).collect(),
                })
                .collect();
            for (number, (got, want)) in joined.iter().zip(&whole).enumerate() {
                assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(want) {
                    let apart = (got - want).abs();
                    assert!(apart < 1e-7, "{cut}: tensor {number}: {got} for {want}");
                }
            }
        }
    }
}
