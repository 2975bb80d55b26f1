//! The kernel of a convolution, and the order of its weights. Maps are channels last; weights and
//! their gradients are in torch's order, `[out, in / groups, kh, kw]`.

use std::borrow::Cow;

use burn::tensor::ops::ConvOptions;

use crate::cpu::convolution::{
    PackedStandardConv, f32_conv_nhwc, f32_conv_nhwc_dw, f32_conv_nhwc_dx, f32_conv_pack,
};
use crate::cpu::depthwise::channels_last::{
    f32_depthwise_nhwc, f32_depthwise_nhwc_dw, f32_depthwise_nhwc_dx,
};
use crate::cpu::geometry::{Geometry, StandardConv};
use crate::cpu::layout::{f32_nchw_to_nhwc, f32_nhwc_to_nchw};
use crate::cpu::matmul::weight_gradient::f32_matmul_dw;
use crate::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use crate::isa::Isa;

/// The kernel of a convolution of known extents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConvKernel {
    Pointwise { batch: usize, input: usize, output: usize, size: [usize; 2] },
    Depthwise(Geometry),
    Standard(StandardConv),
}

/// Weights in the order in which a kernel reads them.
#[derive(Clone, Debug)]
pub(crate) enum PackedConv {
    Pointwise(PackedWeights),
    /// `[kh, kw, c]`.
    Depthwise(Vec<f32>),
    Standard(PackedStandardConv),
}

/// Whether [`ConvKernel`] has a kernel for an input and weights of these shapes.
pub(crate) fn supports(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> bool {
    let depthwise = options.groups == x[1] && w[0] == x[1];
    let square =
        options.stride[0] == options.stride[1] && options.dilation[0] == options.dilation[1];
    square && (options.groups == 1 || depthwise)
}

impl ConvKernel {
    pub(crate) fn new(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> Self {
        assert!(supports(x, w, options), "{options:?} on {x:?}");
        let g = Geometry::new(x, [w[2], w[3]], options);
        if options.groups > 1 || (w[1] == 1 && w[0] == x[1] && x[1] == 1) {
            assert_eq!([w[0], w[1]], [x[1], 1], "kernel for {} channels", x[1]);
            return Self::Depthwise(g);
        }
        assert_eq!(w[1], x[1], "channels of the kernel and of the input");
        if g.kernel == [1, 1] && g.stride == 1 && g.input == g.output {
            return Self::Pointwise { batch: x[0], input: x[1], output: w[0], size: g.output };
        }
        Self::Standard(StandardConv { g, filters: w[0] })
    }

    /// The shape of the output, `[b, out, h', w']`.
    pub(crate) fn output(&self) -> [usize; 4] {
        match self {
            Self::Pointwise { batch, output, size, .. } => [*batch, *output, size[0], size[1]],
            Self::Depthwise(g) => [g.batch, g.channels, g.output[0], g.output[1]],
            Self::Standard(conv) => {
                [conv.g.batch, conv.filters, conv.g.output[0], conv.g.output[1]]
            }
        }
    }

    /// Packs weights for [`ConvKernel::run`], each filter times its `scale`.
    pub(crate) fn pack(&self, isa: Isa, w: &[f32], scale: Option<&[f32]>) -> PackedConv {
        match self {
            Self::Pointwise { input, output, .. } => {
                let (matrix, strides) = ([*input, *output], [1, *input]);
                PackedConv::Pointwise(PackedWeights::new(isa, w, matrix, strides, scale))
            }
            Self::Standard(conv) => {
                let w = taps_before_channels(w, conv);
                PackedConv::Standard(f32_conv_pack(isa, &w, conv, scale))
            }
            Self::Depthwise(g) => {
                let mut taps = f32_nchw_to_nhwc(w, 1, g.channels, g.taps());
                if let Some(scale) = scale {
                    for taps in taps.chunks_exact_mut(g.channels) {
                        taps.iter_mut().zip(scale).for_each(|(tap, by)| *tap *= by);
                    }
                }
                PackedConv::Depthwise(taps)
            }
        }
    }

    /// Whether weights that were packed for another size of the input are what
    /// [`ConvKernel::pack`] would give for this one.
    pub(crate) fn fits(&self, w: &PackedConv) -> bool {
        match (self, w) {
            (Self::Standard(conv), PackedConv::Standard(w)) => w.fits(conv),
            (Self::Pointwise { .. }, PackedConv::Pointwise(_))
            | (Self::Depthwise(_), PackedConv::Depthwise(_)) => true,
            _ => false,
        }
    }

    /// The convolution with the epilogue applied, `[b, h', w', out]`.
    ///
    /// # Panics
    /// When the weights were packed for another kernel.
    pub(crate) fn run(
        &self,
        isa: Isa,
        x: &[f32],
        w: &PackedConv,
        epilogue: Epilogue<'_>,
    ) -> Vec<f32> {
        match (self, w) {
            (Self::Pointwise { .. }, PackedConv::Pointwise(w)) => f32_matmul(x, w, epilogue),
            (Self::Standard(conv), PackedConv::Standard(w)) => f32_conv_nhwc(x, w, conv, epilogue),
            (Self::Depthwise(g), PackedConv::Depthwise(w)) => {
                f32_depthwise_nhwc(isa, x, w, g, epilogue)
            }
            _ => panic!("weights were packed for another kind of convolution"),
        }
    }

    /// The gradient of the input, `[b, h, w, in]`.
    pub(crate) fn input_gradient(&self, isa: Isa, w: &[f32], dy: &[f32]) -> Vec<f32> {
        match self {
            Self::Pointwise { input, output, .. } => {
                let w = PackedWeights::new(isa, w, [*output, *input], [*input, 1], None);
                f32_matmul(dy, &w, Epilogue::NONE)
            }
            Self::Standard(conv) => f32_conv_nhwc_dx(isa, &taps_before_channels(w, conv), dy, conv),
            Self::Depthwise(g) => {
                f32_depthwise_nhwc_dx(isa, &f32_nchw_to_nhwc(w, 1, g.channels, g.taps()), dy, g)
            }
        }
    }

    /// The gradient of the weights, in torch's order.
    pub(crate) fn weight_gradient(&self, isa: Isa, x: &[f32], dy: &[f32]) -> Vec<f32> {
        match self {
            Self::Pointwise { input, output, .. } => f32_matmul_dw(isa, dy, x, *output, *input),
            Self::Standard(conv) => {
                let dw = f32_conv_nhwc_dw(isa, x, dy, conv);
                match conv.g.taps() {
                    1 => dw,
                    taps => f32_nhwc_to_nchw(&dw, conv.filters, conv.g.channels, taps),
                }
            }
            Self::Depthwise(g) => {
                let dw = f32_depthwise_nhwc_dw(isa, x, dy, g);
                f32_nhwc_to_nchw(&dw, 1, g.channels, g.taps())
            }
        }
    }
}

/// `[filters, c, taps]` to `[filters, taps, c]`.
fn taps_before_channels<'a>(w: &'a [f32], conv: &StandardConv) -> Cow<'a, [f32]> {
    match conv.g.taps() {
        1 => Cow::Borrowed(w),
        taps => Cow::Owned(f32_nchw_to_nhwc(w, conv.filters, conv.g.channels, taps)),
    }
}
