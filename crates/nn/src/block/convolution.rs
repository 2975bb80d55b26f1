//! Convolutions: standard, depthwise, pointwise, grouped. What one is ([`Conv`]) is data, known before
//! any weight; [`Convolution`] is the layer.
//!
//! The classic comparison for a 3x3 kernel, 3 channels in, 4 out: a standard convolution holds
//! 3*3*3*4 = 108 weights, a depthwise 3*3*3 = 27, a pointwise 3*4 = 12; depthwise and pointwise
//! together 39 = 108 * (1/4 + 1/9).

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use kernels::ops::conv_norm_activation::convolution;
use serde::{Deserialize, Serialize};

/// How the border is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// `(k - 1) / 2 * dilation` zeros on every side, as in PyTorch.
    Symmetric,
    /// TensorFlow's SAME: `ceil(size / stride)` outputs, the odd zero at the end.
    Same,
    /// None.
    Valid,
}

/// What a convolution is, before its weights.
///
/// ```
/// use nn::block::convolution::Conv;
///
/// assert_eq!(Conv::standard(3, 4, 3, 1).weights(), 108);
/// assert_eq!(Conv::depthwise(3, 3, 1).weights(), 27);
/// assert_eq!(Conv::pointwise(3, 4).weights(), 12);
/// assert_eq!(Conv::standard(3, 4, 3, 1).multiply_adds([5, 5]), 2700);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub output: usize,
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Stride of both axes.
    pub stride: usize,
    /// Dilation of both axes.
    pub dilation: usize,
    /// 1 for standard and pointwise, `input` for depthwise.
    pub groups: usize,
    /// Border.
    pub padding: Padding,
}

impl Conv {
    /// Every output channel sees every input channel; symmetric padding.
    pub const fn standard(input: usize, output: usize, kernel: usize, stride: usize) -> Self {
        let (kernel, padding) = ([kernel, kernel], Padding::Symmetric);
        Self { input, output, kernel, stride, dilation: 1, groups: 1, padding }
    }

    /// A 1x1 convolution: mixes channels, sees one place.
    pub const fn pointwise(input: usize, output: usize) -> Self {
        Self::standard(input, output, 1, 1)
    }

    /// One filter per channel: sees places, mixes no channels.
    pub const fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { groups: channels, ..Self::standard(channels, channels, kernel, stride) }
    }

    /// The same with a kernel of other extents, such as 1x7.
    #[must_use]
    pub const fn with_kernel(self, kernel: [usize; 2]) -> Self {
        Self { kernel, ..self }
    }

    /// The same with another border.
    #[must_use]
    pub const fn with_padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// The same, its taps so far apart.
    #[must_use]
    pub const fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// The same in so many groups.
    ///
    /// # Panics
    /// When the groups do not divide both channel counts.
    #[must_use]
    pub const fn with_groups(self, groups: usize) -> Self {
        assert!(self.input.is_multiple_of(groups) && self.output.is_multiple_of(groups));
        Self { groups, ..self }
    }

    /// Zeros before and after, rows then columns, for an input of `size`.
    pub fn pads(&self, size: [usize; 2]) -> [(usize, usize); 2] {
        std::array::from_fn(|axis| {
            let reach = (self.kernel[axis] - 1) * self.dilation;
            match self.padding {
                Padding::Valid => (0, 0),
                Padding::Symmetric => {
                    let side = (self.kernel[axis] - 1) / 2 * self.dilation;
                    (side, side)
                }
                Padding::Same => {
                    let outputs = size[axis].div_ceil(self.stride);
                    let total =
                        ((outputs - 1) * self.stride + reach + 1).saturating_sub(size[axis]);
                    (total / 2, total - total / 2)
                }
            }
        })
    }

    /// Extents of the output for an input of `size`.
    ///
    /// # Panics
    /// When the padded input is smaller than the kernel.
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        let pads = self.pads(size);
        std::array::from_fn(|axis| {
            let padded = size[axis] + pads[axis].0 + pads[axis].1;
            let reach = (self.kernel[axis] - 1) * self.dilation + 1;
            assert!(padded >= reach, "{padded} padded pixels for a kernel that reaches {reach}");
            (padded - reach) / self.stride + 1
        })
    }

    /// Weights, without a bias.
    pub const fn weights(&self) -> usize {
        self.output * self.input / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Multiply-adds for one image of `size`.
    pub fn multiply_adds(&self, size: [usize; 2]) -> usize {
        let [height, width] = self.output_size(size);
        self.weights() * height * width
    }

    /// Whether there is one filter per channel.
    pub const fn is_depthwise(&self) -> bool {
        self.groups == self.input && self.input == self.output && self.groups > 1
    }

    /// Whether it sees one place only.
    pub const fn is_pointwise(&self) -> bool {
        self.kernel[0] == 1 && self.kernel[1] == 1 && self.groups == 1 && self.stride == 1
    }
}

/// The layer: weights `[output, input / groups, kh, kw]`, as in torch, and perhaps a bias.
#[derive(Module, Debug)]
pub struct Convolution {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    conv: Conv,
}

impl Convolution {
    /// Weights zero until [`crate::init::fill`].
    pub fn new(conv: Conv, device: &Device) -> Self {
        let [kh, kw] = conv.kernel;
        let shape = [conv.output, conv.input / conv.groups, kh, kw];
        Self { weight: Initializer::Zeros.init(shape, device), bias: None, conv }
    }

    /// The same with a bias for every output channel.
    pub fn with_bias(conv: Conv, device: &Device) -> Self {
        let bias = Some(Initializer::Zeros.init([conv.output], device));
        Self { bias, ..Self::new(conv, device) }
    }

    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h', w']`, `[h', w'] =` [`Conv::output_size`]`([h, w])`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::block::convolution::{Conv, Convolution, Padding};
    ///
    /// let device = Device::flex();
    /// let x = || Tensor::zeros([2, 8, 10, 7], &device);
    /// let depthwise = Convolution::new(Conv::depthwise(8, 5, 2), &device);
    /// assert_eq!(depthwise.forward(x()).dims(), [2, 8, 5, 4]);
    /// let valid = Conv::standard(8, 6, 3, 2).with_padding(Padding::Valid);
    /// assert_eq!(Convolution::new(valid, &device).forward(x()).dims(), [2, 6, 4, 3]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let options = self.options(&x);
        convolution(x, self.weight(), self.bias(), options)
    }

    /// Stride, padding, dilation and groups on this input.
    pub(crate) fn options(&self, x: &Tensor<4>) -> ConvOptions<2> {
        let [_, _, height, width] = x.dims();
        ConvOptions {
            stride: [self.conv.stride; 2],
            padding: self.conv.pads([height, width]),
            dilation: [self.conv.dilation; 2],
            groups: self.conv.groups,
        }
    }

    /// Weights `[output, input / groups, kh, kw]`.
    pub(crate) fn weight(&self) -> Tensor<4> {
        self.weight.val()
    }

    /// Bias `[output]`, if there is one.
    pub(crate) fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TensorFlow's rule (architectures: Padding): k3 pads (0, 1), k5 (1, 2) on even sizes at stride 2,
    /// and agrees with the symmetric one at stride 1 and on odd sizes.
    #[test]
    fn same_padding_differs_from_symmetric_on_even_sizes_at_stride_2_only() {
        let pads = |k, s, n| Conv::depthwise(4, k, s).with_padding(Padding::Same).pads([n, n])[0];
        assert_eq!(pads(3, 2, 224), (0, 1));
        assert_eq!(pads(5, 2, 28), (1, 2));
        assert_eq!(pads(3, 2, 113), (1, 1));
        assert_eq!(pads(5, 1, 14), (2, 2));
        let same = Conv::standard(3, 8, 3, 2).with_padding(Padding::Same);
        assert_eq!(same.output_size([7, 8]), [4, 4]);
    }

    #[test]
    fn a_dilated_kernel_reaches_further_and_keeps_the_size() {
        let conv = Conv::depthwise(4, 5, 1).with_dilation(2);
        assert_eq!(conv.pads([9, 9]), [(4, 4), (4, 4)]);
        assert_eq!(conv.output_size([9, 11]), [9, 11]);
    }
}
