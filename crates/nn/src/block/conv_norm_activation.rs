//! Convolution, batch norm, activation: what these networks do all day.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::block::batch_norm::BatchNorm;

/// What a convolution is, before its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub output: usize,
    /// Kernel height and width.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Dilation of both axes.
    pub dilation: usize,
    /// 1 for standard and pointwise, `input` for depthwise.
    pub groups: usize,
}

impl Conv {
    /// A 1x1 convolution.
    pub const fn pointwise(input: usize, output: usize) -> Self {
        Self { input, output, kernel: 1, stride: 1, dilation: 1, groups: 1 }
    }

    /// One filter per channel.
    pub const fn depthwise(channels: usize, kernel: usize, stride: usize, dilation: usize) -> Self {
        Self { input: channels, output: channels, kernel, stride, dilation, groups: channels }
    }

    /// PyTorch's symmetric padding `(k - 1) / 2 * dilation`.
    pub const fn padding(&self) -> usize {
        (self.kernel - 1) / 2 * self.dilation
    }

    /// Length of an output axis for an input axis of `size`.
    pub const fn output_size(&self, size: usize) -> usize {
        (size + 2 * self.padding() - self.dilation * (self.kernel - 1) - 1) / self.stride + 1
    }

    /// A plain Burn convolution, weights zero until [`crate::init::fill`].
    pub fn init(&self, bias: bool, device: &Device) -> Conv2d {
        let pad = self.padding();
        Conv2dConfig::new([self.input, self.output], [self.kernel, self.kernel])
            .with_stride([self.stride, self.stride])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_dilation([self.dilation, self.dilation])
            .with_groups(self.groups)
            .with_bias(bias)
            .with_initializer(Initializer::Zeros)
            .init(device)
    }
}

/// Constants of every batch norm of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Added to the variance.
    pub epsilon: f64,
    /// Weight of the new statistic (torch's convention).
    pub momentum: f64,
}

/// Convolution without bias, batch norm, activation.
#[derive(Module, Debug)]
pub struct ConvNormActivation {
    conv: Conv2d,
    norm: BatchNorm,
    #[module(skip)]
    activation: Activation,
}

impl ConvNormActivation {
    /// Builds the three layers.
    pub fn new(conv: Conv, norm: Norm, activation: Activation, device: &Device) -> Self {
        Self {
            conv: conv.init(false, device),
            norm: BatchNorm::new(conv.output, norm.epsilon, norm.momentum, device),
            activation,
        }
    }

    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h', w']`, `h' =` [`Conv::output_size`]`(h)`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::conv_norm_activation::{Conv, ConvNormActivation, Norm};
    ///
    /// let device = Device::flex();
    /// let norm = Norm { epsilon: 1e-3, momentum: 0.01 };
    /// let conv = Conv::depthwise(8, 5, 2, 1);
    /// let block = ConvNormActivation::new(conv, norm, Activation::HardSwish, &device);
    /// assert_eq!(block.forward(Tensor::zeros([2, 8, 9, 14], &device)).dims(), [2, 8, 5, 7]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.activation.apply(self.norm.forward(self.conv.forward(x)))
    }
}
