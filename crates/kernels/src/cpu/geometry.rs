//! The extents of a spatial convolution: plain numbers that every convolution kernel shares.

use burn::tensor::ops::ConvOptions;

/// The extents of a convolution or a pooling; they say which pixels each output reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Images.
    pub batch: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Stride of both axes.
    pub stride: usize,
    /// Dilation of both axes.
    pub dilation: usize,
    /// Padding above and left of the input.
    pub before: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl Geometry {
    /// Builds the geometry of an input `[b, c, h, w]` under a kernel `[kh, kw]`.
    ///
    /// # Panics
    /// When the axes have different strides or dilations, or the kernel exceeds the padded input.
    pub(crate) fn new(x: [usize; 4], kernel: [usize; 2], options: &ConvOptions<2>) -> Self {
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

    /// Taps of the kernel, `kh kw`.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Values of an output with as many channels as the input, `b h' w' c`.
    pub fn outputs(&self) -> usize {
        self.batch * self.channels * self.output[0] * self.output[1]
    }

    /// The geometry of the convolution whose result is the gradient of the input: the input is the
    /// gradient of the output, the kernels are rotated by 180 degrees.
    ///
    /// `None` at strides other than 1, and where the padding before the input exceeds the kernel's
    /// reach: such a border is touched by no tap.
    pub(crate) fn input_gradient(&self) -> Option<Self> {
        let reach = |axis: usize| (self.kernel[axis] - 1) * self.dilation;
        if self.stride > 1 || self.before[0] > reach(0) || self.before[1] > reach(1) {
            return None;
        }
        let before = [reach(0) - self.before[0], reach(1) - self.before[1]];
        Some(Self { input: self.output, output: self.input, before, ..*self })
    }
}

/// A standard convolution: every filter reads every channel.
#[derive(Clone, Copy, Debug)]
pub struct StandardConv {
    /// Input, kernel and extents of the output; `channels` are the input's.
    pub g: Geometry,
    /// Channels of the output.
    pub filters: usize,
}

impl StandardConv {
    /// Values of a patch: the inputs of one output pixel, `kh kw c`.
    pub fn patch(&self) -> usize {
        self.g.taps() * self.g.channels
    }

    /// Output pixels of an image.
    pub(crate) fn pixels(&self) -> usize {
        self.g.output[0] * self.g.output[1]
    }

    /// Values of an input image, `h w c`.
    pub(crate) fn image_len(&self) -> usize {
        self.g.input[0] * self.g.input[1] * self.g.channels
    }

    /// [`Geometry::input_gradient`] with channels and filters exchanged.
    pub(crate) fn input_gradient(&self) -> Option<Self> {
        let g = Geometry { channels: self.filters, ..self.g.input_gradient()? };
        Some(Self { g, filters: self.g.channels })
    }
}
