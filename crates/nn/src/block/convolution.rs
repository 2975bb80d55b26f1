//! The convolution layer: standard, depthwise, pointwise or grouped, as its [`Conv`] says.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use kernels::ops::conv_norm_activation::convolution;

use crate::geometry::Conv;

/// A convolution with weights `[output, input / groups, kh, kw]`, as in torch, and an optional
/// bias.
#[derive(Module, Debug)]
pub struct Convolution {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    conv: Conv,
}

impl Convolution {
    /// A layer without bias; its weights are zero until [`crate::init::fill`].
    pub fn new(conv: Conv, device: &Device) -> Self {
        let [kh, kw] = conv.kernel;
        let shape = [conv.output, conv.input / conv.groups, kh, kw];
        Self { weight: Initializer::Zeros.init(shape, device), bias: None, conv }
    }

    /// A layer with a bias for every output channel, zero as the weights are.
    pub fn with_bias(conv: Conv, device: &Device) -> Self {
        let bias = Some(Initializer::Zeros.init([conv.output], device));
        Self { bias, ..Self::new(conv, device) }
    }

    /// The convolution of a batch of maps.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h', w']`, `[h', w'] =` [`Conv::output_size`]`([h, w])`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::block::convolution::Convolution;
    /// use nn::geometry::{Conv, Padding};
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

    /// Stride, padding, dilation and groups for an input of this height and width.
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
