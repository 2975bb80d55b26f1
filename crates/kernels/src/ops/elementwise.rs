//! What happens to whole maps value by value, without leaving the channels-last order: ReLU, the sum of two maps.
//! Burn's own operations give a strided map back in torch's order, on one thread.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

use crate::allocator;
use crate::ops::branch;
use crate::ops::cpu_tensor::{Host, stock};
use crate::ops::reference;

/// The operations of the extension, on maps `[b, c, h, w]`.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait Elementwise: Backend {
    /// `x + other`.
    #[fusion(default)]
    fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::sum::<Self>(x, other)
    }

    /// `x`, several layers' input: see [`mod@crate::ops::branch`].
    #[fusion(default)]
    fn forked(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// `max(x, 0)`.
    #[fusion(default)]
    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::rectified::<Self>(x)
    }

    /// The gradient of [`Elementwise::rectified`] from its result `y`.
    #[fusion(default)]
    fn rectified_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::rectified_backward::<Self>(y, dy)
    }
}

impl Elementwise for CubeBackend {}
#[cfg(feature = "capture")]
impl Elementwise for burn::backend::Capture {}

/// Values that a thread works on at a time.
const PART: usize = 1 << 14;

/// `to[i] = f(to[i], from[i])`.
fn onto(to: &mut [f32], from: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(to.len(), from.len(), "{} values and {}", to.len(), from.len());
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*to, *from));
    });
}

/// `f(x, y)` of two maps: in the memory of the first where nobody else holds it, else in the second's or in new.
fn zipped<B: Host>(
    x: FloatTensor<B>,
    y: FloatTensor<B>,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> FloatTensor<B> {
    let shape = x.shape().dims();
    let x = match B::take_map(x) {
        Ok(mut values) => {
            B::with_map(&y, |y| onto(&mut values, y, f));
            return B::make_map(values, shape);
        }
        Err(x) => x,
    };
    let values = match B::take_map(y) {
        Ok(mut values) => {
            B::with_map(&x, |x| onto(&mut values, x, |y, x| f(x, y)));
            values
        }
        Err(y) => B::with_map(&x, |x| {
            B::with_map(&y, |y| {
                assert_eq!(x.len(), y.len(), "{} values and {}", x.len(), y.len());
                // SAFETY: the three have equally many values and are cut at the same places, so all are written.
                unsafe {
                    allocator::written(x.len(), |out| {
                        let parts = x.par_chunks(PART).zip(y.par_chunks(PART));
                        out.par_chunks_mut(PART).zip(parts).for_each(|(out, (x, y))| {
                            for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
                                out.write(f(*x, *y));
                            }
                        });
                    })
                }
            })
        }),
    };
    B::make_map(values, shape)
}

fn rectify<B: Host>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape().dims();
    let values = match B::take_map(x) {
        Ok(mut values) => {
            values.par_chunks_mut(PART).for_each(|part| {
                part.iter_mut().for_each(|value| *value = value.max(0.0));
            });
            values
        }
        Err(x) => B::with_map(&x, |x| {
            // SAFETY: both are cut at the same places, so all are written.
            unsafe {
                allocator::written(x.len(), |out| {
                    out.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(out, x)| {
                        out.iter_mut().zip(x).for_each(|(out, x)| {
                            out.write(x.max(0.0));
                        });
                    });
                })
            }
        }),
    };
    B::make_map(values, shape)
}

macro_rules! on_host {
    ($backend:ty) => {
        impl Elementwise for $backend {
            fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
                match Self::serves(&x) {
                    true => zipped::<Self>(x, other, |x, other| x + other),
                    false => reference::sum::<Self>(x, other),
                }
            }

            fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
                match Self::serves(&x) {
                    true => rectify::<Self>(x),
                    false => reference::rectified::<Self>(x),
                }
            }

            fn rectified_backward(
                y: FloatTensor<Self>,
                dy: FloatTensor<Self>,
            ) -> FloatTensor<Self> {
                match Self::serves(&y) {
                    true => zipped::<Self>(dy, y, |dy, y| if y > 0.0 { dy } else { 0.0 }),
                    false => reference::rectified_backward::<Self>(y, dy),
                }
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

#[derive(Debug)]
struct SumStep;

impl<B: Backend + Elementwise> Backward<B, 2> for SumStep {
    type State = ();

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        for node in ops.parents.iter().flatten() {
            branch::register::<B>(grads, node.id, dy.clone());
        }
    }
}

#[derive(Debug)]
struct RectifiedStep;

impl<B: Backend + Elementwise> Backward<B, 1> for RectifiedStep {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = &ops.parents {
            branch::register::<B>(grads, node.id, B::rectified_backward(ops.state, dy));
        }
    }
}

impl<B: Backend + Elementwise, C: CheckpointStrategy> Elementwise for Autodiff<B, C> {
    fn sum(x: FloatTensor<Self>, other: FloatTensor<Self>) -> FloatTensor<Self> {
        if stock() {
            return reference::sum::<Self>(x, other);
        }
        let nodes = [x.node(), other.node()];
        let sum = B::sum(x.into_primitive(), other.into_primitive());
        match SumStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish((), sum),
            OpsKind::UnTracked(step) => step.finish(sum),
        }
    }

    fn forked(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match stock() {
            true => x,
            false => branch::forked::<B, C>(x),
        }
    }

    fn rectified(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if stock() {
            return reference::rectified::<Self>(x);
        }
        let nodes = [x.node()];
        let y = B::rectified(x.into_primitive());
        match RectifiedStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(y.clone(), y),
            OpsKind::UnTracked(step) => step.finish(y),
        }
    }

    fn rectified_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of a ReLU has no gradient here");
    }
}

/// `max(x, 0)` of a map, on any backend.
///
/// # Shapes
/// `[b, c, h, w]`, as the result.
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Elementwise>::rectified(x.into_dispatch()))
}

/// The sum of two maps of one shape, on any backend.
///
/// # Shapes
/// `[b, c, h, w]` both, as the result.
///
/// # Panics
/// When the shapes differ.
pub fn sum(x: Tensor<4>, other: Tensor<4>) -> Tensor<4> {
    assert_eq!(x.dims(), other.dims(), "maps {:?} and {:?}", x.dims(), other.dims());
    Tensor::from_dispatch(<Dispatch as Elementwise>::sum(x.into_dispatch(), other.into_dispatch()))
}
