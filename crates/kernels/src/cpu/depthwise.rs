//! The numbers of a spatial convolution, and the depthwise one: [`rows`] and its [`naive`] twin.

pub mod channels_last;
pub mod naive;

use burn::tensor::ops::ConvOptions;

/// The numbers of a convolution: what each output reads. `channels` are the input's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Channels.
    pub channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Stride of both axes.
    pub stride: usize,
    /// Dilation of both axes.
    pub dilation: usize,
    /// Zeros above and left of the input.
    pub before: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Geometry {
    /// From the input's `[b, c, h, w]` and a depthwise kernel's `[c, 1, kh, kw]`.
    ///
    /// # Panics
    /// When the kernel is no depthwise one for the input, or the axes have different strides or dilations.
    pub fn new(x: [usize; 4], w: [usize; 4], options: &ConvOptions<2>) -> Self {
        assert_eq!([w[0], w[1]], [x[1], 1], "kernel for {} channels", x[1]);
        Self::of(x, [w[2], w[3]], options)
    }

    /// From the input's `[b, c, h, w]` and the kernel's `[kh, kw]`.
    pub(crate) fn of(x: [usize; 4], kernel: [usize; 2], options: &ConvOptions<2>) -> Self {
        assert_eq!(options.stride[0], options.stride[1], "strides of the two axes");
        assert_eq!(options.dilation[0], options.dilation[1], "dilations of the two axes");
        let (stride, dilation) = (options.stride[0], options.dilation[0]);
        let output = std::array::from_fn(|axis| {
            let (before, after) = options.padding[axis];
            let reach = (kernel[axis] - 1) * dilation + 1;
            let padded = x[2 + axis] + before + after;
            assert!(padded >= reach, "{padded} padded pixels for a kernel that reaches {reach}");
            (padded - reach) / stride + 1
        });
        let before = [options.padding[0].0, options.padding[1].0];
        let input = [x[2], x[3]];
        Self { batch: x[0], channels: x[1], input, kernel, stride, dilation, before, output }
    }

    /// Taps of a kernel.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values of the output, with as many channels as the input.
    pub fn outputs(&self) -> usize {
        self.batch * self.channels * self.output[0] * self.output[1]
    }
}
