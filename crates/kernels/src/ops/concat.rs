//! Concatenation of maps along their channels, without leaving the channels-last order.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

use crate::allocator;
use crate::cpu::concat::{f32_concat_part_nhwc, f32_slice_channels_nhwc};
use crate::ops::autodiff::record;
use crate::ops::cpu_tensor::{CpuBackend, burn_ops_requested, impl_for_cpu_backends};
use crate::ops::reference;

/// Concatenation and slicing along the channels of maps `[b, c, h, w]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait ConcatOps: Backend {
    /// The channels of the first `count` maps, 1 to 4, one map after the other; the other maps are
    /// not read.
    #[fusion(default)]
    fn concat_channels(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        let mut parts = vec![first, second, third, fourth];
        parts.truncate(count);
        reference::concat_channels::<Self>(parts)
    }

    /// Channels `from..from + count` of a map.
    #[fusion(default)]
    fn slice_channels(x: FloatTensor<Self>, from: usize, count: usize) -> FloatTensor<Self> {
        reference::slice_channels::<Self>(x, from, count)
    }
}

impl ConcatOps for CubeBackend {}

fn concat_parts<B: CpuBackend>(parts: &[FloatTensor<B>]) -> FloatTensor<B> {
    let shapes: Vec<[usize; 4]> = parts.iter().map(|part| part.shape().dims()).collect();
    let [b, _, h, w] = shapes[0];
    let c: usize = shapes.iter().map(|shape| shape[1]).sum();
    // SAFETY: the parts' channels are all channels.
    let values = unsafe {
        allocator::written(b * h * w * c, |out| {
            let mut first = 0;
            for (part, [_, count, _, _]) in parts.iter().zip(shapes) {
                B::with_nhwc(part, |part| f32_concat_part_nhwc(part, count, out, c, first));
                first += count;
            }
        })
    };
    B::from_nhwc(values, [b, c, h, w])
}

fn slice<B: CpuBackend>(x: &FloatTensor<B>, from: usize, count: usize) -> FloatTensor<B> {
    let [b, c, h, w] = x.shape().dims();
    let values = B::with_nhwc(x, |x| f32_slice_channels_nhwc(x, c, from, count));
    B::from_nhwc(values, [b, count, h, w])
}

impl_for_cpu_backends! {
    impl ConcatOps {
        fn concat_channels(
            first: FloatTensor<Self>,
            second: FloatTensor<Self>,
            third: FloatTensor<Self>,
            fourth: FloatTensor<Self>,
            count: usize,
        ) -> FloatTensor<Self> {
            let mut parts = vec![first, second, third, fourth];
            parts.truncate(count);
            match parts.iter().all(Self::supports) {
                true => concat_parts::<Self>(&parts),
                false => reference::concat_channels::<Self>(parts),
            }
        }

        fn slice_channels(x: FloatTensor<Self>, from: usize, count: usize) -> FloatTensor<Self> {
            match Self::supports(&x) {
                true => slice::<Self>(&x, from, count),
                false => reference::slice_channels::<Self>(x, from, count),
            }
        }
    }
}

#[derive(Debug)]
struct ConcatStep<const N: usize>;

impl<B: Backend + ConcatOps, const N: usize> Backward<B, N> for ConcatStep<N> {
    /// Channels of each part.
    type State = [usize; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let mut from = 0;
        for (node, count) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                grads.register::<B>(node.id, B::slice_channels(dy.clone(), from, count));
            }
            from += count;
        }
    }
}

fn tracked<B: Backend + ConcatOps, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    parts: [FloatTensor<B>; 4],
) -> FloatTensor<Autodiff<B, C>> {
    let widths: [usize; N] = std::array::from_fn(|i| parts[i].shape()[1]);
    let [first, second, third, fourth] = parts;
    let out = B::concat_channels(first, second, third, fourth, N);
    record::<B, C, _, N>(ConcatStep::<N>, nodes, || widths, out)
}

impl<B: Backend + ConcatOps, C: CheckpointStrategy> ConcatOps for Autodiff<B, C> {
    fn concat_channels(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        count: usize,
    ) -> FloatTensor<Self> {
        let parts = [first, second, third, fourth];
        if burn_ops_requested() {
            return reference::concat_channels::<Self>(parts.into_iter().take(count).collect());
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

    fn slice_channels(_: FloatTensor<Self>, _: usize, _: usize) -> FloatTensor<Self> {
        panic!("concatenation has no second derivative");
    }
}

/// Concatenates maps along their channels, on any backend.
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
    let out = <Dispatch as ConcatOps>::concat_channels(first, second, third, fourth, count);
    Tensor::from_dispatch(out)
}
