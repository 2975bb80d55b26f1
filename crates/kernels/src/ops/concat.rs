//! Maps side by side, channel after channel, without leaving the channels-last order.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

use crate::allocator;
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
pub trait Concat: Backend {
    /// The first `count` maps, 1 to 4, side by side; the others are not read.
    #[fusion(default)]
    fn side_by_side(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        let mut parts = vec![first, second, third, fourth];
        parts.truncate(count);
        reference::side_by_side::<Self>(parts)
    }

    /// Channels `from..from + count` of a map.
    #[fusion(default)]
    fn channels(x: FloatTensor<Self>, from: usize, count: usize) -> FloatTensor<Self> {
        reference::channels::<Self>(x, from, count)
    }
}

impl Concat for CubeBackend {}
#[cfg(feature = "capture")]
impl Concat for burn::backend::Capture {}

/// Rows that are copied at a time.
const ROWS: usize = 64;

fn joined<B: Host>(parts: &[FloatTensor<B>]) -> FloatTensor<B> {
    let shapes: Vec<[usize; 4]> = parts.iter().map(|part| part.shape().dims()).collect();
    let [b, _, h, w] = shapes[0];
    let c: usize = shapes.iter().map(|shape| shape[1]).sum();
    // SAFETY: the parts' channels are all channels.
    let values = unsafe {
        allocator::written(b * h * w * c, |out| {
            let mut at = 0;
            for (part, [_, own, _, _]) in parts.iter().zip(&shapes) {
                B::with_map(part, |values| {
                    let blocks = out.par_chunks_mut(ROWS * c).zip(values.par_chunks(ROWS * own));
                    blocks.for_each(|(out, values)| {
                        for (out, row) in out.chunks_exact_mut(c).zip(values.chunks_exact(*own)) {
                            out[at..at + own].write_copy_of_slice(row);
                        }
                    });
                });
                at += own;
            }
        })
    };
    B::make_map(values, [b, c, h, w])
}

fn part<B: Host>(x: &FloatTensor<B>, from: usize, count: usize) -> FloatTensor<B> {
    let [b, c, h, w] = x.shape().dims();
    let values = B::with_map(x, |values| {
        // SAFETY: every row of every block is written.
        unsafe {
            allocator::written(b * h * w * count, |out| {
                let blocks = out.par_chunks_mut(ROWS * count).zip(values.par_chunks(ROWS * c));
                blocks.for_each(|(out, values)| {
                    for (out, row) in out.chunks_exact_mut(count).zip(values.chunks_exact(c)) {
                        out.write_copy_of_slice(&row[from..from + count]);
                    }
                });
            })
        }
    });
    B::make_map(values, [b, count, h, w])
}

macro_rules! on_host {
    ($backend:ty) => {
        impl Concat for $backend {
            fn side_by_side(
                first: FloatTensor<Self>,
                second: FloatTensor<Self>,
                third: FloatTensor<Self>,
                fourth: FloatTensor<Self>,
                count: usize,
            ) -> FloatTensor<Self> {
                let mut parts = vec![first, second, third, fourth];
                parts.truncate(count);
                match parts.iter().all(Self::serves) {
                    true => joined::<Self>(&parts),
                    false => reference::side_by_side::<Self>(parts),
                }
            }

            fn channels(x: FloatTensor<Self>, from: usize, count: usize) -> FloatTensor<Self> {
                match Self::serves(&x) {
                    true => part::<Self>(&x, from, count),
                    false => reference::channels::<Self>(x, from, count),
                }
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

#[derive(Debug)]
struct Step<const N: usize>;

impl<B: Backend + Concat, const N: usize> Backward<B, N> for Step<N> {
    /// Channels of each part.
    type State = [usize; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let mut from = 0;
        for (node, count) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::channels(dy.clone(), from, count));
            }
            from += count;
        }
    }
}

fn tracked<B: Backend + Concat, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    parts: [FloatTensor<B>; 4],
) -> FloatTensor<Autodiff<B, C>> {
    let widths: [usize; N] = std::array::from_fn(|i| parts[i].shape()[1]);
    let [first, second, third, fourth] = parts;
    let out = B::side_by_side(first, second, third, fourth, N);
    match Step::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(widths, out),
        OpsKind::UnTracked(step) => step.finish(out),
    }
}

impl<B: Backend + Concat, C: CheckpointStrategy> Concat for Autodiff<B, C> {
    fn side_by_side(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        let parts = [first, second, third, fourth];
        if stock() {
            return reference::side_by_side::<Self>(parts.into_iter().take(count).collect());
        }
        let [a, b, c, d] = parts.each_ref().map(|part| part.node());
        let parts = parts.map(|part| part.into_primitive());
        match count {
            1 => tracked::<B, C, 1>([a], parts),
            2 => tracked::<B, C, 2>([a, b], parts),
            3 => tracked::<B, C, 3>([a, b, c], parts),
            _ => tracked::<B, C, 4>([a, b, c, d], parts),
        }
    }

    fn channels(_: FloatTensor<Self>, _: usize, _: usize) -> FloatTensor<Self> {
        panic!("the gradient of a concatenation has no gradient here");
    }
}

/// Maps side by side, channel after channel, on any backend.
///
/// # Shapes
/// `[b, c_i, h, w]` each, to `[b, c_1 + c_2 + .., h, w]`.
pub fn concat(parts: Vec<Tensor<4>>) -> Tensor<4> {
    if !(2..=4).contains(&parts.len()) {
        return Tensor::cat(parts, 1);
    }
    let count = parts.len();
    let mut parts = parts.into_iter().map(Tensor::into_dispatch);
    let first = parts.next().expect("two parts or more");
    let mut next = || parts.next().unwrap_or_else(|| first.clone());
    let (second, third, fourth) = (next(), next(), next());
    Tensor::from_dispatch(<Dispatch as Concat>::side_by_side(first, second, third, fourth, count))
}
