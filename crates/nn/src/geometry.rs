//! Convolutions and pooling windows as data: kernel, stride, border and what follows from them,
//! without a weight or a tensor. The layers stand in [`crate::block`].
//!
//! The classic comparison for a 3x3 kernel, 3 channels in and 4 out: a standard convolution has
//! 3*3*3*4 = 108 weights, a depthwise one 3*3*3 = 27 and a pointwise one 3*4 = 12. Depthwise and
//! pointwise together have 39 = 108 * (1/4 + 1/9).

use serde::{Deserialize, Serialize};

/// How the border is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// `(k - 1) / 2 * dilation` zeros on every side, as in PyTorch.
    Symmetric,
    /// TensorFlow's SAME: `ceil(size / stride)` outputs, the odd zero at the end.
    Same,
    /// No padding.
    Valid,
}

/// A convolution without its weights.
///
/// ```
/// use nn::geometry::Conv;
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
    /// How the border is filled.
    pub padding: Padding,
}

impl Conv {
    /// A convolution whose every output channel reads every input channel; symmetric padding.
    pub const fn standard(input: usize, output: usize, kernel: usize, stride: usize) -> Self {
        let (kernel, padding) = ([kernel, kernel], Padding::Symmetric);
        Self { input, output, kernel, stride, dilation: 1, groups: 1, padding }
    }

    /// A 1x1 convolution: it mixes the channels of one pixel.
    pub const fn pointwise(input: usize, output: usize) -> Self {
        Self::standard(input, output, 1, 1)
    }

    /// One filter per channel: it mixes neighbouring pixels and no channels.
    pub const fn depthwise(channels: usize, kernel: usize, stride: usize) -> Self {
        Self { groups: channels, ..Self::standard(channels, channels, kernel, stride) }
    }

    /// This convolution with another kernel, such as 1x7.
    #[must_use]
    pub const fn with_kernel(self, kernel: [usize; 2]) -> Self {
        Self { kernel, ..self }
    }

    /// This convolution with another border.
    #[must_use]
    pub const fn with_padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// This convolution with its filter taps `dilation` pixels apart.
    #[must_use]
    pub const fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// This convolution in `groups` groups.
    ///
    /// # Panics
    /// When the groups do not divide both channel counts.
    #[must_use]
    pub const fn with_groups(self, groups: usize) -> Self {
        assert!(self.input.is_multiple_of(groups) && self.output.is_multiple_of(groups));
        Self { groups, ..self }
    }

    /// Zeros before and after, rows then columns, for an input of `[height, width]`.
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

    /// Height and width of the output for an input of `[height, width]`.
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

    /// Number of weights, without a bias.
    pub const fn weights(&self) -> usize {
        self.output * self.input / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// Multiply-adds for one input of `[height, width]`.
    pub fn multiply_adds(&self, size: [usize; 2]) -> usize {
        let [height, width] = self.output_size(size);
        self.weights() * height * width
    }

    /// Whether there is one filter per channel.
    pub const fn is_depthwise(&self) -> bool {
        self.groups == self.input && self.input == self.output && self.groups > 1
    }

    /// Whether every output pixel reads the one input pixel at its position.
    pub const fn is_pointwise(&self) -> bool {
        self.kernel[0] == 1 && self.kernel[1] == 1 && self.groups == 1 && self.stride == 1
    }
}

/// A square pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Height and width.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Padding of every side.
    pub padding: usize,
    /// Whether a last window that begins inside the input may reach past its end.
    pub ceil: bool,
}

impl Pool {
    /// A window without padding.
    pub const fn new(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: 0, ceil: false }
    }

    /// This window with `padding` pixels of padding on every side.
    #[must_use]
    pub const fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// This window with torch's `ceil_mode`.
    #[must_use]
    pub const fn ceil(self) -> Self {
        Self { ceil: true, ..self }
    }

    /// Height and width of the output for an input of `[height, width]`.
    ///
    /// # Panics
    /// When the padded input is smaller than the window.
    ///
    /// ```
    /// use nn::geometry::Pool;
    /// assert_eq!(Pool::new(3, 2).output_size([112, 111]), [55, 55]);
    /// assert_eq!(Pool::new(3, 2).ceil().output_size([112, 111]), [56, 55]);
    /// ```
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| {
            let padded = side + 2 * self.padding;
            assert!(padded >= self.kernel, "{padded} padded pixels, a window of {}", self.kernel);
            let steps = padded - self.kernel;
            match self.ceil {
                false => steps / self.stride + 1,
                true => {
                    let count = steps.div_ceil(self.stride) + 1;
                    // A window that would begin in the padding behind the input does not exist.
                    count - usize::from((count - 1) * self.stride >= side + self.padding)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TensorFlow's rule: on even sizes at stride 2 a 3x3 kernel pads (0, 1) and a 5x5 kernel (1,
    /// 2). At stride 1 and on odd sizes the rule agrees with symmetric padding.
    ///
    /// Mutations caught: the odd zero in front.
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

    /// Mutations caught, each alone: symmetric padding, and the reach of SAME, without the
    /// dilation.
    #[test]
    fn a_dilated_kernel_reaches_further_and_keeps_the_size() {
        let conv = Conv::depthwise(4, 5, 1).with_dilation(2);
        assert_eq!(conv.pads([9, 9]), [(4, 4), (4, 4)]);
        assert_eq!(conv.output_size([9, 11]), [9, 11]);
        let same = Conv::depthwise(4, 3, 1).with_dilation(2).with_padding(Padding::Same);
        assert_eq!(same.pads([9, 9]), [(2, 2), (2, 2)]);
    }
}
