//! Squeeze-and-excite as one operation: mean over the map, 1x1 convolution, ReLU, 1x1 convolution,
//! hard sigmoid, multiplication (arXiv:1709.01507, arXiv:1905.02244).

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::squeeze_excite::{
    SqueezeExciteWeights, f32_squeeze_excite_nhwc, f32_squeeze_excite_nhwc_backward,
};
use crate::gpu::{self, map};
use crate::isa::Isa;
use crate::ops::autodiff::record;
use crate::ops::cpu_tensor::{CpuBackend, burn_ops_requested, impl_for_cpu_backends};
use crate::ops::reference;

/// Squeeze-and-excite of a map `x` `[b, c, h, w]` with `w1` `[s, c, 1, 1]`, `b1` `[s]`, `w2`
/// `[c, s, 1, 1]`, `b2` `[c]`.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub trait SqueezeExciteOps: Backend {
    /// The result, and the values that the gradient needs: the mean `[b, c]`, the hidden layer
    /// after ReLU `[b, s]`, the gate before the hard sigmoid `[b, c]`.
    #[fusion(default)]
    fn squeeze_excite(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::squeeze_excite::<Self>(x, w1, b1, w2, b2)
    }

    /// The gradients of `x, w1, b1, w2, b2`.
    #[fusion(default)]
    fn squeeze_excite_backward(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        dout: FloatTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        reference::squeeze_excite_backward::<Self>(x, w1, w2, mean, hidden, gate, dout)
    }
}

/// Whether the GPU kernels take a block with these tensors.
fn cube_supports(x: &CubeTensor, squeezed: usize, others: &[&CubeTensor]) -> bool {
    let channels = x.shape()[1];
    map::supports(x)
        && !burn_ops_requested()
        && gpu::squeeze_excite::supports(channels, squeezed)
        && others.iter().all(|tensor| tensor.dtype == DType::F32)
}

impl SqueezeExciteOps for CubeBackend {
    fn squeeze_excite(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let squeezed = b1.shape()[0];
        if !cube_supports(&x, squeezed, &[&w1, &b1, &w2, &b2]) {
            return reference::squeeze_excite::<Self>(x, w1, b1, w2, b2);
        }
        let [b, c, h, w] = x.shape().dims();
        let weights = [w1, b1, w2, b2].map(into_contiguous);
        let (out, mean, hidden, gate) =
            gpu::squeeze_excite::forward(&map::to_nhwc(x), weights, [b, h * w, c], squeezed);
        (map::from_nhwc(map::reshaped(out, &[b, h, w, c])), mean, hidden, gate)
    }

    fn squeeze_excite_backward(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        dout: FloatTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let squeezed = w1.shape()[0];
        let others = [&w1, &w2, &mean, &hidden, &gate];
        if !cube_supports(&x, squeezed, &others) || x.dtype != dout.dtype {
            return reference::squeeze_excite_backward::<Self>(x, w1, w2, mean, hidden, gate, dout);
        }
        let [b, c, h, w] = x.shape().dims();
        let [dx, dw1, db1, dw2, db2] = gpu::squeeze_excite::backward(
            &map::to_nhwc(x),
            [w1, w2].map(into_contiguous),
            [mean, hidden, gate].map(into_contiguous),
            &map::to_nhwc(dout),
            [b, h * w, c],
            squeezed,
        );
        (map::from_nhwc(map::reshaped(dx, &[b, h, w, c])), dw1, db1, dw2, db2)
    }
}

/// The values of weights or of a vector, copied.
fn copied<B: CpuBackend>(tensor: &FloatTensor<B>) -> Vec<f32> {
    B::with_values(tensor, <[f32]>::to_vec)
}

fn forward<B: CpuBackend>(
    x: &FloatTensor<B>,
    [w1, w2]: [&FloatTensor<B>; 2],
    [b1, b2]: [&FloatTensor<B>; 2],
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [b, c, h, w] = x.shape().dims();
    let squeezed = b1.shape()[0];
    let (b1, b2) = (copied::<B>(b1), copied::<B>(b2));
    let result = B::with_nhwc(x, |x| {
        B::with_values(w1, |w1| {
            B::with_values(w2, |w2| {
                let weights = SqueezeExciteWeights { w1, w2 };
                f32_squeeze_excite_nhwc(Isa::chosen(), x, weights, [&b1, &b2], b)
            })
        })
    });
    (
        B::from_nhwc(result.out, [b, c, h, w]),
        B::from_values(result.mean, Shape::from([b, c])),
        B::from_values(result.hidden, Shape::from([b, squeezed])),
        B::from_values(result.gate, Shape::from([b, c])),
    )
}

fn backward<B: CpuBackend>(
    x: &FloatTensor<B>,
    [w1, w2]: [&FloatTensor<B>; 2],
    [mean, hidden, gate]: [&FloatTensor<B>; 3],
    dout: &FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let [b, c, h, w] = x.shape().dims();
    let squeezed = w1.shape()[0];
    let (mean, hidden, gate) = (copied::<B>(mean), copied::<B>(hidden), copied::<B>(gate));
    let saved = [&mean[..], &hidden, &gate];
    let with_weights = |x: &[f32], dout: &[f32]| {
        B::with_values(w1, |w1| {
            B::with_values(w2, |w2| {
                let weights = SqueezeExciteWeights { w1, w2 };
                f32_squeeze_excite_nhwc_backward(Isa::chosen(), x, weights, saved, dout, b)
            })
        })
    };
    let gradients = B::with_nhwc(dout, |dout| B::with_nhwc(x, |x| with_weights(x, dout)));
    (
        B::from_nhwc(gradients.dx, [b, c, h, w]),
        B::from_values(gradients.dw1, w1.shape()),
        B::from_values(gradients.db1, Shape::from([squeezed])),
        B::from_values(gradients.dw2, w2.shape()),
        B::from_values(gradients.db2, Shape::from([c])),
    )
}

impl_for_cpu_backends! {
    impl SqueezeExciteOps {
        fn squeeze_excite(
            x: FloatTensor<Self>,
            w1: FloatTensor<Self>,
            b1: FloatTensor<Self>,
            w2: FloatTensor<Self>,
            b2: FloatTensor<Self>,
        ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
            match Self::supports(&x) {
                true => forward::<Self>(&x, [&w1, &w2], [&b1, &b2]),
                false => reference::squeeze_excite::<Self>(x, w1, b1, w2, b2),
            }
        }

        fn squeeze_excite_backward(
            x: FloatTensor<Self>,
            w1: FloatTensor<Self>,
            w2: FloatTensor<Self>,
            mean: FloatTensor<Self>,
            hidden: FloatTensor<Self>,
            gate: FloatTensor<Self>,
            dout: FloatTensor<Self>,
        ) -> (
            FloatTensor<Self>,
            FloatTensor<Self>,
            FloatTensor<Self>,
            FloatTensor<Self>,
            FloatTensor<Self>,
        ) {
            match Self::supports(&x) {
                true => backward::<Self>(&x, [&w1, &w2], [&mean, &hidden, &gate], &dout),
                false => reference::squeeze_excite_backward::<Self>(
                    x, w1, w2, mean, hidden, gate, dout,
                ),
            }
        }
    }
}

#[derive(Debug)]
struct SqueezeExciteStep;

impl<B: Backend + SqueezeExciteOps> Backward<B, 5> for SqueezeExciteStep {
    /// `x, w1, w2, mean, hidden, gate`.
    type State = [FloatTensor<B>; 6];

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dout = grads.consume::<B>(&ops.node);
        let [x, w1, w2, mean, hidden, gate] = ops.state;
        let (dx, dw1, db1, dw2, db2) =
            B::squeeze_excite_backward(x, w1, w2, mean, hidden, gate, dout);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dw1, db1, dw2, db2]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: Backend + SqueezeExciteOps, C: CheckpointStrategy> SqueezeExciteOps for Autodiff<B, C> {
    fn squeeze_excite(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if burn_ops_requested() {
            return reference::squeeze_excite::<Self>(x, w1, b1, w2, b2);
        }
        let nodes = [x.node(), w1.node(), b1.node(), w2.node(), b2.node()];
        let [x, w1, b1, w2, b2] = [x, w1, b1, w2, b2].map(|tensor| tensor.into_primitive());
        let (out, mean, hidden, gate) =
            B::squeeze_excite(x.clone(), w1.clone(), b1, w2.clone(), b2);
        let constants =
            [&mean, &hidden, &gate].map(|tensor| FloatTensor::<Self>::new(tensor.clone()));
        let state = || [x, w1, w2, mean, hidden, gate];
        let out = record::<B, C, _, 5>(SqueezeExciteStep, nodes, state, out);
        let [mean, hidden, gate] = constants;
        (out, mean, hidden, gate)
    }

    fn squeeze_excite_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        panic!("squeeze-excite has no second derivative");
    }
}

/// Squeeze-and-excite on any backend, with gradients on an autodiff device. Each of the two 1x1
/// convolutions has weights and a bias.
///
/// # Shapes
/// `x` `[b, c, h, w]`, weights `[s, c, 1, 1]` and `[c, s, 1, 1]`, biases `[s]` and `[c]`; to
/// `[b, c, h, w]`.
pub fn squeeze_excite(
    x: Tensor<4>,
    (w1, b1): (Tensor<4>, Tensor<1>),
    (w2, b2): (Tensor<4>, Tensor<1>),
) -> Tensor<4> {
    let (out, ..) = <Dispatch as SqueezeExciteOps>::squeeze_excite(
        x.into_dispatch(),
        w1.into_dispatch(),
        b1.into_dispatch(),
        w2.into_dispatch(),
        b2.into_dispatch(),
    );
    Tensor::from_dispatch(out)
}
