//! The depthwise-separable convolution in its two forms.
//!
//! Xception (arXiv:1610.02357) puts nothing between the depthwise and the pointwise convolution;
//! MobileNetV1 (arXiv:1704.04861, figure 3) puts batch norm and ReLU there. The "extreme" Inception
//! module has the opposite order: first the 1x1 convolution, then a ReLU, then the depthwise one.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::convolution::Convolution;
use crate::block::stages::StridedBlock;
use crate::config::Norm;
use crate::geometry::Conv;

/// A depthwise and a pointwise convolution without their weights.
///
/// Relative to a standard convolution the pair costs `1/N + 1/k^2` (N outputs, kernel k): 8 to 9
/// times less for a 3x3 kernel, from N = 72 on.
///
/// ```
/// use nn::block::separable::Separable;
/// assert_eq!(Separable::new(3, 4, 3, 1).weights(), 27 + 12);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Separable {
    /// Mixes neighbouring pixels.
    pub depthwise: Conv,
    /// Mixes channels.
    pub pointwise: Conv,
}

impl Separable {
    /// The pair from `input` to `output` channels; kernel and stride are the depthwise
    /// convolution's.
    pub const fn new(input: usize, output: usize, kernel: usize, stride: usize) -> Self {
        let depthwise = Conv::depthwise(input, kernel, stride);
        Self { depthwise, pointwise: Conv::pointwise(input, output) }
    }

    /// Number of weights of both.
    pub const fn weights(&self) -> usize {
        self.depthwise.weights() + self.pointwise.weights()
    }
}

/// Xception's form: depthwise, pointwise, batch norm, activation.
#[derive(Module, Debug)]
pub struct SeparableConvolution {
    depthwise: Convolution,
    pointwise: ConvNormActivation,
}

impl SeparableConvolution {
    /// Builds the layers; the weights are zero until [`crate::init::fill`].
    pub fn new(separable: Separable, norm: Norm, activation: Activation, device: &Device) -> Self {
        Self {
            depthwise: Convolution::new(separable.depthwise, device),
            pointwise: ConvNormActivation::new(separable.pointwise, norm, activation, device),
        }
    }

    /// The layers in turn.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::separable::{Separable, SeparableConvolution};
    /// use nn::config::Norm;
    ///
    /// let (device, norm) = (Device::flex(), Norm { epsilon: 1e-5, momentum: 0.1 });
    /// let separable = Separable::new(6, 10, 3, 1);
    /// let block = SeparableConvolution::new(separable, norm, Activation::Relu, &device);
    /// assert_eq!(block.forward(Tensor::zeros([1, 6, 9, 5], &device)).dims(), [1, 10, 9, 5]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.pointwise.forward_after_depthwise(&self.depthwise, x)
    }
}

/// MobileNetV1's form: depthwise, batch norm, activation, pointwise, batch norm, activation.
#[derive(Module, Debug)]
pub struct DepthwiseSeparable {
    depthwise: ConvNormActivation,
    pointwise: ConvNormActivation,
    stride: usize,
}

impl DepthwiseSeparable {
    /// Builds the layers; the weights are zero until [`crate::init::fill`].
    pub fn new(separable: Separable, norm: Norm, activation: Activation, device: &Device) -> Self {
        Self {
            depthwise: ConvNormActivation::new(separable.depthwise, norm, activation, device),
            pointwise: ConvNormActivation::new(separable.pointwise, norm, activation, device),
            stride: separable.depthwise.stride,
        }
    }

    /// The layers in turn.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, ceil(h / stride), ceil(w / stride)]`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::separable::{DepthwiseSeparable, Separable};
    /// use nn::config::Norm;
    ///
    /// let (device, norm) = (Device::flex(), Norm { epsilon: 1e-5, momentum: 0.1 });
    /// let separable = Separable::new(32, 64, 3, 2);
    /// let block = DepthwiseSeparable::new(separable, norm, Activation::Relu6, &device);
    /// assert_eq!(block.forward(Tensor::zeros([1, 32, 9, 6], &device)).dims(), [1, 64, 5, 3]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.pointwise.forward(self.depthwise.forward(x))
    }
}

impl StridedBlock for DepthwiseSeparable {
    fn stride(&self) -> usize {
        self.stride
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        DepthwiseSeparable::forward(self, x)
    }
}
