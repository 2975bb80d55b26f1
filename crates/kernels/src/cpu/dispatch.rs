//! Any convolution on channels-last values: which kernel serves it, and the order of its weights.
//! Weights and their gradients are in torch's order, `[out, in / groups, kh, kw]`.

use std::borrow::Cow;

use burn::tensor::ops::ConvOptions;

use crate::cpu::convolution;
use crate::cpu::convolution::StandardConv;
use crate::cpu::depthwise::{Geometry, channels_last};
use crate::cpu::layout::{channels_first, channels_last};
use crate::cpu::matmul;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::isa::Isa;

/// A convolution of known extents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConvKernel {
    Pointwise { batch: usize, input: usize, output: usize, size: [usize; 2] },
    Depthwise(Geometry),
    StandardConv(StandardConv),
}

/// Weights in the order in which a kernel reads them.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    PackedWeights(PackedWeights),
    StandardConv(convolution::Weights),
    /// `[kh, kw, c]`.
    Taps(Vec<f32>),
}

/// Whether [`ConvKernel`] knows a convolution of weights of this shape.
pub(crate) fn known(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> bool {
    let depthwise = options.groups == x[1] && w[0] == x[1];
    let square =
        options.stride[0] == options.stride[1] && options.dilation[0] == options.dilation[1];
    square && (options.groups == 1 || depthwise)
}

impl ConvKernel {
    pub(crate) fn new(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> Self {
        assert!(known(x, w, options), "{options:?} on {x:?}");
        if options.groups > 1 || (w[1] == 1 && w[0] == x[1] && x[1] == 1) {
            return Self::Depthwise(Geometry::new(x, w, options));
        }
        assert_eq!(w[1], x[1], "channels of the kernel and of the input");
        let g = Geometry::of(x, [w[2], w[3]], options);
        if g.kernel == [1, 1] && g.stride == 1 && g.input == g.output {
            return Self::Pointwise { batch: x[0], input: x[1], output: w[0], size: g.output };
        }
        Self::StandardConv(StandardConv { g, filters: w[0] })
    }

    /// `[b, out, h', w']`.
    pub(crate) fn output(&self) -> [usize; 4] {
        match self {
            Self::Pointwise { batch, output, size, .. } => [*batch, *output, size[0], size[1]],
            Self::Depthwise(g) => [g.batch, g.channels, g.output[0], g.output[1]],
            Self::StandardConv(d) => [d.g.batch, d.filters, d.g.output[0], d.g.output[1]],
        }
    }

    /// Weights for [`ConvKernel::run`], the filters scaled.
    pub(crate) fn prepare(&self, isa: Isa, w: &[f32], scale: Option<&[f32]>) -> Prepared {
        match self {
            Self::Pointwise { input, output, .. } => Prepared::PackedWeights(PackedWeights::new(
                isa,
                w,
                [*input, *output],
                [1, *input],
                scale,
            )),
            Self::StandardConv(d) => Prepared::StandardConv(convolution::pack(
                isa,
                &taps_before_channels(w, d),
                d,
                scale,
            )),
            Self::Depthwise(g) => {
                let mut taps = channels_last(w, 1, g.channels, g.taps());
                if let Some(scale) = scale {
                    for taps in taps.chunks_exact_mut(g.channels) {
                        taps.iter_mut().zip(scale).for_each(|(tap, by)| *tap *= by);
                    }
                }
                Prepared::Taps(taps)
            }
        }
    }

    /// Whether weights that were prepared at another size of the input are what [`ConvKernel::prepare`] would give at
    /// this one.
    pub(crate) fn suits(&self, w: &Prepared) -> bool {
        match (self, w) {
            (Self::StandardConv(d), Prepared::StandardConv(w)) => w.suit(d),
            (Self::Pointwise { .. }, Prepared::PackedWeights(_))
            | (Self::Depthwise(_), Prepared::Taps(_)) => true,
            _ => false,
        }
    }

    /// The convolution, finished.
    pub(crate) fn run(&self, isa: Isa, x: &[f32], w: &Prepared, finish: Epilogue<'_>) -> Vec<f32> {
        match (self, w) {
            (Self::Pointwise { .. }, Prepared::PackedWeights(w)) => matmul::product(x, w, finish),
            (Self::StandardConv(d), Prepared::StandardConv(w)) => {
                convolution::forward(x, w, d, finish)
            }
            (Self::Depthwise(g), Prepared::Taps(w)) => channels_last::forward(isa, x, w, g, finish),
            _ => panic!("weights were prepared for another kind of convolution"),
        }
    }

    pub(crate) fn input_gradient(&self, isa: Isa, w: &[f32], dy: &[f32]) -> Vec<f32> {
        match self {
            Self::Pointwise { input, output, .. } => {
                let w = PackedWeights::new(isa, w, [*output, *input], [*input, 1], None);
                matmul::product(dy, &w, Epilogue::NONE)
            }
            Self::StandardConv(d) => {
                convolution::input_gradient(isa, &taps_before_channels(w, d), dy, d)
            }
            Self::Depthwise(g) => channels_last::input_gradient(
                isa,
                &channels_last(w, 1, g.channels, g.taps()),
                dy,
                g,
            ),
        }
    }

    pub(crate) fn weight_gradient(&self, isa: Isa, x: &[f32], dy: &[f32]) -> Vec<f32> {
        match self {
            Self::Pointwise { input, output, .. } => {
                matmul::weight_gradient(isa, dy, x, *output, *input)
            }
            Self::StandardConv(d) => {
                let dw = convolution::weight_gradient(isa, x, dy, d);
                match d.g.taps() {
                    1 => dw,
                    taps => channels_first(&dw, d.filters, d.g.channels, taps),
                }
            }
            Self::Depthwise(g) => {
                let dw = channels_last::weight_gradient(isa, x, dy, g);
                channels_first(&dw, 1, g.channels, g.taps())
            }
        }
    }
}

/// `[filters, c, taps]` to `[filters, taps, c]`.
fn taps_before_channels<'a>(w: &'a [f32], d: &StandardConv) -> Cow<'a, [f32]> {
    match d.g.taps() {
        1 => Cow::Borrowed(w),
        taps => Cow::Owned(channels_last(w, d.filters, d.g.channels, taps)),
    }
}
