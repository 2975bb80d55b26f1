//! Squeeze-and-excite as one operation: mean over the map, 1x1 convolution, ReLU, 1x1 convolution, hard
//! sigmoid, multiply (arXiv:1709.01507, arXiv:1905.02244).

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]
#![allow(
    clippy::too_many_arguments,
    clippy::type_complexity,
    reason = "a backend extension passes every tensor of a layer by itself"
)]

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::{Shape, Tensor};
use burn_cubecl::CubeBackend;

use crate::cpu::matmul;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::cpu::spatial;
use crate::isa::Isa;
use crate::ops::cpu_tensor::{Host, stock};
use crate::ops::reference;

/// The operation of the extension; `x` `[b, c, h, w]`, `w1` `[s, c, 1, 1]`, `b1` `[s]`, `w2` `[c, s, 1, 1]`,
/// `b2` `[c]`.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait SqueezeExcite: Backend {
    /// The result, and what the gradient needs: the mean `[b, c]`, the hidden layer after ReLU `[b, s]`,
    /// the gate before its activation `[b, c]`.
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

impl SqueezeExcite for CubeBackend {}
#[cfg(feature = "capture")]
impl SqueezeExcite for burn::backend::Capture {}

/// Images up to which packing the weights costs more than it brings.
const VECTORS: usize = 4;

fn hard_sigmoid(z: f32) -> f32 {
    (z / 6.0 + 0.5).clamp(0.0, 1.0)
}

/// `x [b, k] * w [n, k]^T + bias`.
fn linear(isa: Isa, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let (n, k) = (bias.len(), w.len() / bias.len());
    if x.len() <= VECTORS * k {
        let mut out = Vec::with_capacity(x.len() / k * n);
        for x in x.chunks_exact(k) {
            let row = matmul::times_vector(isa, w, x);
            out.extend(row.iter().zip(bias).map(|(value, bias)| value + bias));
        }
        return out;
    }
    let packed = PackedWeights::new(isa, w, [k, n], [1, k], None);
    matmul::product(x, &packed, Epilogue { bias: Some(bias), ..Epilogue::NONE })
}

/// Sums over the rows of `[b, c]`.
fn column_sums(values: &[f32], c: usize) -> Vec<f32> {
    let mut sums = vec![0.0; c];
    for row in values.chunks_exact(c) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sums
}

type Saved<B> = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

fn forward<B: Host>(
    x: &FloatTensor<B>,
    w1: &FloatTensor<B>,
    b1: &FloatTensor<B>,
    w2: &FloatTensor<B>,
    b2: &FloatTensor<B>,
) -> Saved<B> {
    let isa = Isa::chosen();
    let [b, c, h, w] = x.shape().dims();
    B::with_map(x, |values| {
        let mut mean = spatial::sums(isa, values, None, b, c);
        mean.iter_mut().for_each(|sum| *sum /= (h * w) as f32);
        let mut hidden = B::with(w1, |w| B::with(b1, |bias| linear(isa, &mean, w, bias)));
        hidden.iter_mut().for_each(|value| *value = value.max(0.0));
        let before = B::with(w2, |w| B::with(b2, |bias| linear(isa, &hidden, w, bias)));
        let gate: Vec<f32> = before.iter().copied().map(hard_sigmoid).collect();
        let out = spatial::gated(isa, Some(values), &gate, None, [b, h * w, c]);
        let squeezed = hidden.len() / b.max(1);
        (
            B::make_map(out, [b, c, h, w]),
            B::make(mean, Shape::from([b, c])),
            B::make(hidden, Shape::from([b, squeezed])),
            B::make(before, Shape::from([b, c])),
        )
    })
}

fn backward<B: Host>(
    x: &FloatTensor<B>,
    w1: &FloatTensor<B>,
    w2: &FloatTensor<B>,
    [mean, hidden, before]: [&FloatTensor<B>; 3],
    dout: &FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let isa = Isa::chosen();
    let [b, c, h, w] = x.shape().dims();
    let squeezed = w1.shape()[0];
    let copy = |tensor: &FloatTensor<B>| B::with(tensor, <[f32]>::to_vec);
    let (mean, hidden, before) = (copy(mean), copy(hidden), copy(before));
    B::with_map(dout, |dout| {
        let dgate = B::with_map(x, |x| spatial::sums(isa, dout, Some(x), b, c));
        let inside = |z: f32| if z > -3.0 && z < 3.0 { 1.0 / 6.0 } else { 0.0 };
        let dz: Vec<f32> = dgate.iter().zip(&before).map(|(d, &z)| d * inside(z)).collect();
        let mut dhidden = B::with(w2, |w2| {
            let packed = PackedWeights::new(isa, w2, [c, squeezed], [squeezed, 1], None);
            matmul::product(&dz, &packed, Epilogue::NONE)
        });
        for (d, &value) in dhidden.iter_mut().zip(&hidden) {
            *d = if value > 0.0 { *d } else { 0.0 };
        }
        let mut dmean = B::with(w1, |w1| {
            let packed = PackedWeights::new(isa, w1, [squeezed, c], [c, 1], None);
            matmul::product(&dhidden, &packed, Epilogue::NONE)
        });
        dmean.iter_mut().for_each(|d| *d /= (h * w) as f32);
        let gate: Vec<f32> = before.iter().copied().map(hard_sigmoid).collect();
        let dx = spatial::gated(isa, Some(dout), &gate, Some(&dmean), [b, h * w, c]);
        let dw2 = matmul::weight_gradient(isa, &dz, &hidden, c, squeezed);
        let dw1 = matmul::weight_gradient(isa, &dhidden, &mean, squeezed, c);
        (
            B::make_map(dx, [b, c, h, w]),
            B::make(dw1, w1.shape()),
            B::make(column_sums(&dhidden, squeezed), Shape::from([squeezed])),
            B::make(dw2, w2.shape()),
            B::make(column_sums(&dz, c), Shape::from([c])),
        )
    })
}

macro_rules! on_host {
    ($backend:ty) => {
        impl SqueezeExcite for $backend {
            fn squeeze_excite(
                x: FloatTensor<Self>,
                w1: FloatTensor<Self>,
                b1: FloatTensor<Self>,
                w2: FloatTensor<Self>,
                b2: FloatTensor<Self>,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                match Self::serves(&x) {
                    true => forward::<Self>(&x, &w1, &b1, &w2, &b2),
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
                if !Self::serves(&x) {
                    return reference::squeeze_excite_backward::<Self>(
                        x, w1, w2, mean, hidden, gate, dout,
                    );
                }
                backward::<Self>(&x, &w1, &w2, [&mean, &hidden, &gate], &dout)
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

#[derive(Debug)]
struct Step;

impl<B: Backend + SqueezeExcite> Backward<B, 5> for Step {
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

impl<B: Backend + SqueezeExcite, C: CheckpointStrategy> SqueezeExcite for Autodiff<B, C> {
    fn squeeze_excite(
        x: FloatTensor<Self>,
        w1: FloatTensor<Self>,
        b1: FloatTensor<Self>,
        w2: FloatTensor<Self>,
        b2: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if stock() {
            return reference::squeeze_excite::<Self>(x, w1, b1, w2, b2);
        }
        let nodes = [x.node(), w1.node(), b1.node(), w2.node(), b2.node()];
        let [x, w1, b1, w2, b2] = [x, w1, b1, w2, b2].map(|tensor| tensor.into_primitive());
        let (out, mean, hidden, gate) =
            B::squeeze_excite(x.clone(), w1.clone(), b1, w2.clone(), b2);
        let constants =
            [&mean, &hidden, &gate].map(|tensor| FloatTensor::<Self>::new(tensor.clone()));
        let out = match Step.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish([x, w1, w2, mean, hidden, gate], out),
            OpsKind::UnTracked(step) => step.finish(out),
        };
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
        panic!("the gradient of squeeze-excite has no gradient here");
    }
}

/// Squeeze-and-excite on any backend, with gradients on an autodiff device; each convolution its weights and
/// bias.
///
/// # Shapes
/// `x` `[b, c, h, w]`, weights `[s, c, 1, 1]` and `[c, s, 1, 1]`, biases `[s]` and `[c]`; to `[b, c, h, w]`.
pub fn squeeze_excite(
    x: Tensor<4>,
    (w1, b1): (Tensor<4>, Tensor<1>),
    (w2, b2): (Tensor<4>, Tensor<1>),
) -> Tensor<4> {
    let (out, ..) = <Dispatch as SqueezeExcite>::squeeze_excite(
        x.into_dispatch(),
        w1.into_dispatch(),
        b1.into_dispatch(),
        w2.into_dispatch(),
        b2.into_dispatch(),
    );
    Tensor::from_dispatch(out)
}
