//! Pooling: the largest value of a window, the mean of a whole map.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]
#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, Flex, NdArray, TensorMetadata, backend_extension,
};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Shape, Tensor};
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

use crate::allocator;
use crate::cpu::depthwise::Geometry;
use crate::cpu::spatial;
use crate::isa::Isa;
use crate::ops::branch;
use crate::ops::cpu_tensor::{Host, stock};
use crate::ops::elementwise::Elementwise;
use crate::ops::reference;
use crate::simd::{Kernel, Simd};

/// The operations of the extension; `x` `[b, c, h, w]`.
#[backend_extension(
    NdArray,
    Flex,
    Cube,
    Capture: cfg(feature = "capture"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait Pooling: Backend + Elementwise {
    /// The mean over the map, `[b, c]`.
    #[fusion(default)]
    fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::global_mean::<Self>(x)
    }

    /// Its gradient on maps of `h` by `w`.
    #[fusion(default)]
    fn global_mean_backward(dy: FloatTensor<Self>, h: usize, w: usize) -> FloatTensor<Self> {
        reference::global_mean_backward::<Self>(dy, h, w)
    }

    /// The largest value of each window.
    #[fusion(default)]
    fn window_max(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        reference::window_max::<Self>(x, window)
    }

    /// Its gradient: it goes to the first of the largest values.
    #[fusion(default)]
    fn window_max_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        window: Window,
    ) -> FloatTensor<Self> {
        reference::window_max_backward::<Self>(x, dy, window)
    }
}

impl Pooling for CubeBackend {}
#[cfg(feature = "capture")]
impl Pooling for burn::backend::Capture {}

/// A pooling window and the extents of the output.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Height and width.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Padding above and left.
    pub before: usize,
    /// Height and width of the output.
    pub output: [usize; 2],
}

fn geometry(x: &Shape, window: Window) -> Geometry {
    let [batch, channels, h, w] = x.dims();
    Geometry {
        batch,
        channels,
        input: [h, w],
        kernel: [window.kernel; 2],
        stride: window.stride,
        dilation: 1,
        before: [window.before; 2],
        output: window.output,
    }
}

/// The largest value of each window, `[b, h, w, c]` to `[b, h', w', c]`.
fn largest(isa: Isa, x: &[f32], g: &Geometry) -> Vec<f32> {
    let (row, image_len) = (g.output[1] * g.channels, g.input[0] * g.input[1] * g.channels);
    // SAFETY: every output of every row is written.
    unsafe {
        allocator::written(g.outputs(), |y| {
            y.par_chunks_mut(row).enumerate().for_each(|(line, y)| {
                let (image, oy) = (line / g.output[0], line % g.output[0]);
                let x = &x[image * image_len..][..image_len];
                isa.run(Largest { x, g, oy, y: y.as_mut_ptr().cast(), gradient: None });
            });
        })
    }
}

/// The gradient of the input of [`largest`]. Images in parallel.
fn largest_gradient(isa: Isa, x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let line = g.input[1] * g.channels;
    let image_len = g.input[0] * line;
    let row = g.output[1] * g.channels;
    // SAFETY: zeros are written to every row.
    unsafe {
        allocator::written(x.len(), |dx| {
            dx.par_chunks_mut(image_len).enumerate().for_each(|(image, dx)| {
                let x = &x[image * image_len..][..image_len];
                // A row is set to zero shortly before the first window adds to it, while it is in the cache.
                let mut zeroed = 0;
                for oy in 0..g.output[0] {
                    let last = reach(g, oy, 0).1.max(zeroed);
                    dx[zeroed * line..last * line].fill(MaybeUninit::new(0.0));
                    zeroed = last;
                    let dy = dy[(image * g.output[0] + oy) * row..][..row].as_ptr();
                    let gradient = Some((dy, dx.as_mut_ptr().cast()));
                    isa.run(Largest { x, g, oy, y: std::ptr::null_mut(), gradient });
                }
                dx[zeroed * line..].fill(MaybeUninit::new(0.0));
            });
        })
    }
}

/// The places of an axis, from and to, that an output's window sees.
#[inline(always)]
fn reach(g: &Geometry, output: usize, axis: usize) -> (usize, usize) {
    let (first, before) = (output * g.stride, g.before[axis]);
    (
        first.saturating_sub(before),
        (first + g.kernel[axis]).saturating_sub(before).min(g.input[axis]),
    )
}

/// A row of outputs, or of their gradient.
struct Largest<'a> {
    /// An image.
    x: &'a [f32],
    g: &'a Geometry,
    oy: usize,
    y: *mut f32,
    /// The row's gradient and the image's.
    gradient: Option<(*const f32, *mut f32)>,
}

impl Kernel for Largest<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.g;
        let rows = reach(g, self.oy, 0);
        for ox in 0..g.output[1] {
            let columns = reach(g, ox, 1);
            // SAFETY: the window's places lie in the image.
            unsafe {
                match (rows.1 - rows.0, columns.1 - columns.0) {
                    (3, 3) => self.window::<S, 3>(ox, rows, columns),
                    (2, 2) => self.window::<S, 2>(ox, rows, columns),
                    _ => self.window::<S, 0>(ox, rows, columns),
                }
            }
        }
    }
}

impl Largest<'_> {
    /// All channels of a window of `SIDE` by `SIDE` places, 0 for any extents.
    #[inline(always)]
    unsafe fn window<S: Simd, const SIDE: usize>(
        &self,
        ox: usize,
        rows: (usize, usize),
        columns: (usize, usize),
    ) {
        let (g, c) = (self.g, self.g.channels);
        let (down, across) = match SIDE {
            0 => (rows.1 - rows.0, columns.1 - columns.0),
            side => (side, side),
        };
        let line = g.input[1] * c;
        let corner = rows.0 * line + columns.0 * c;
        for channel in (0..c).step_by(S::LANES) {
            let own = (c - channel).min(S::LANES);
            // SAFETY: the caller's.
            unsafe {
                let x = self.x.as_ptr().add(corner + channel);
                let mut best = S::splat(f32::NEG_INFINITY);
                for y in 0..down {
                    for column in 0..across {
                        best = S::max(S::load_some(x.add(y * line + column * c), own), best);
                    }
                }
                let Some((dy, dx)) = self.gradient else {
                    S::store_some(self.y.add(ox * c + channel), own, best);
                    continue;
                };
                // The gradient goes to the first place that is not smaller than the largest; then nothing is left.
                let dx = dx.add(corner + channel);
                let mut left = S::load_some(dy.add(ox * c + channel), own);
                for y in 0..down {
                    for column in 0..across {
                        let at = y * line + column * c;
                        let value = S::load_some(x.add(at), own);
                        let here = S::select(best, value, S::zero(), left);
                        left = S::select(best, value, left, S::zero());
                        let sum = S::add(S::load_some(dx.add(at), own), here);
                        S::store_some(dx.add(at), own, sum);
                    }
                }
            }
        }
    }
}

macro_rules! on_host {
    ($backend:ty) => {
        impl Pooling for $backend {
            fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
                if !Self::serves(&x) {
                    return reference::global_mean::<Self>(x);
                }
                let [b, c, h, w] = x.shape().dims();
                let mut mean = Self::with_map(&x, |x| spatial::sums(Isa::chosen(), x, None, b, c));
                mean.iter_mut().for_each(|sum| *sum /= (h * w) as f32);
                Self::make(mean, Shape::from([b, c]))
            }

            fn global_mean_backward(
                dy: FloatTensor<Self>,
                h: usize,
                w: usize,
            ) -> FloatTensor<Self> {
                if !Self::serves(&dy) {
                    return reference::global_mean_backward::<Self>(dy, h, w);
                }
                let [b, c] = dy.shape().dims();
                let share: Vec<f32> =
                    Self::with(&dy, |dy| dy.iter().map(|d| d / (h * w) as f32).collect());
                let dx = spatial::gated(Isa::chosen(), None, &share, None, [b, h * w, c]);
                Self::make_map(dx, [b, c, h, w])
            }

            fn window_max(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
                if !Self::serves(&x) {
                    return reference::window_max::<Self>(x, window);
                }
                let g = geometry(&x.shape(), window);
                let y = Self::with_map(&x, |x| largest(Isa::chosen(), x, &g));
                Self::make_map(y, [g.batch, g.channels, g.output[0], g.output[1]])
            }

            fn window_max_backward(
                x: FloatTensor<Self>,
                dy: FloatTensor<Self>,
                window: Window,
            ) -> FloatTensor<Self> {
                if !Self::serves(&x) {
                    return reference::window_max_backward::<Self>(x, dy, window);
                }
                let g = geometry(&x.shape(), window);
                let dx = Self::with_map(&x, |x| {
                    Self::with_map(&dy, |dy| largest_gradient(Isa::chosen(), x, dy, &g))
                });
                Self::make_map(dx, x.shape().dims())
            }
        }
    };
}

on_host!(NdArray);
on_host!(Flex);

#[derive(Debug)]
struct MeanStep;

impl<B: Backend + Pooling> Backward<B, 1> for MeanStep {
    type State = [usize; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ([h, w], [node]) = (ops.state, ops.parents);
        if let Some(node) = node {
            grads.register::<B>(node.id, B::global_mean_backward(dy, h, w));
        }
    }
}

#[derive(Debug)]
struct MaxStep;

impl<B: Backend + Pooling> Backward<B, 1> for MaxStep {
    type State = (FloatTensor<B>, Window);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let ((x, window), [node]) = (ops.state, ops.parents);
        if let Some(node) = node {
            branch::register::<B>(grads, node.id, B::window_max_backward(x, dy, window));
        }
    }
}

impl<B: Backend + Pooling, C: CheckpointStrategy> Pooling for Autodiff<B, C> {
    fn global_mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if stock() {
            return reference::global_mean::<Self>(x);
        }
        let [_, _, h, w] = x.shape().dims();
        match MeanStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish([h, w], B::global_mean(x.into_primitive())),
            OpsKind::UnTracked(step) => step.finish(B::global_mean(x.into_primitive())),
        }
    }

    fn global_mean_backward(_: FloatTensor<Self>, _: usize, _: usize) -> FloatTensor<Self> {
        panic!("the gradient of a pooling has no gradient here");
    }

    fn window_max(x: FloatTensor<Self>, window: Window) -> FloatTensor<Self> {
        if stock() {
            return reference::window_max::<Self>(x, window);
        }
        match MaxStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let x = x.into_primitive();
                step.finish((x.clone(), window), B::window_max(x, window))
            }
            OpsKind::UnTracked(step) => step.finish(B::window_max(x.into_primitive(), window)),
        }
    }

    fn window_max_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Window,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a pooling has no gradient here");
    }
}

/// The mean over the whole map, on any backend.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c]`.
pub fn global_mean(x: Tensor<4>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Pooling>::global_mean(x.into_dispatch()))
}

/// The largest value of each window, on any backend; the padding is minus infinity.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`, `[h', w']` the window's output.
pub fn max_pool(x: Tensor<4>, window: Window) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Pooling>::window_max(x.into_dispatch(), window))
}

/// The mean of each window with the padding's zeros counted, by a depthwise convolution with equal weights.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`.
pub fn mean_pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let channels = x.dims()[1];
    let weight = 1.0 / (kernel * kernel) as f64;
    let shape = [channels, 1, kernel, kernel];
    let w = Tensor::<4>::full(shape, weight, (&x.device(), x.dtype()));
    let options = ConvOptions {
        stride: [stride; 2],
        padding: [(padding, padding); 2],
        dilation: [1; 2],
        groups: channels,
    };
    crate::ops::conv_norm_activation::convolution(x, w, None, options)
}
