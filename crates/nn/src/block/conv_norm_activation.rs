//! Convolution, batch norm, activation: what these networks do all day.

use burn::module::Module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use kernels::ops::conv_norm_activation::{
    Cache, ConvNormConfig, conv_norm_activation, conv_norm_activation_inference,
};
use kernels::ops::separable::separable_norm_activation;

use crate::activation::Activation;
use crate::block::batch_norm::BatchNorm;
use crate::block::convolution::{Conv, Convolution};

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
    conv: Convolution,
    norm: BatchNorm,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    cache: Cache,
}

impl ConvNormActivation {
    /// Builds the three layers.
    pub fn new(conv: Conv, norm: Norm, activation: Activation, device: &Device) -> Self {
        Self {
            conv: Convolution::new(conv, device),
            norm: BatchNorm::new(conv.output, norm.epsilon, norm.momentum, device),
            activation,
            cache: Cache::default(),
        }
    }

    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h', w']`, `[h', w'] =` [`Conv::output_size`]`([h, w])`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::conv_norm_activation::{ConvNormActivation, Norm};
    /// use nn::block::convolution::Conv;
    ///
    /// let device = Device::flex();
    /// let norm = Norm { epsilon: 1e-3, momentum: 0.01 };
    /// let conv = Conv::depthwise(8, 5, 2);
    /// let block = ConvNormActivation::new(conv, norm, Activation::HardSwish, &device);
    /// assert_eq!(block.forward(Tensor::zeros([2, 8, 9, 14], &device)).dims(), [2, 8, 5, 7]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_with(x, None)
    }

    /// [`ConvNormActivation::forward`] with `skip` added to the result.
    ///
    /// # Shapes
    /// `skip` is shaped as the result.
    pub fn forward_with(&self, x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
        let layer = self.layer(self.conv.options(&x));
        let (weight, norm) = (self.conv.weight(), self.norm.tensors());
        if !self.norm.is_training(&x) {
            let running = self.norm.running();
            return conv_norm_activation_inference(
                x,
                weight,
                norm,
                running,
                skip,
                layer,
                &self.cache,
            );
        }
        self.kept(conv_norm_activation(x, weight, norm, skip, layer))
    }

    /// A pointwise [`ConvNormActivation::forward`] of what `depthwise` gives, which training does not hold on to.
    pub(crate) fn forward_behind(&self, depthwise: &Convolution, x: Tensor<4>) -> Tensor<4> {
        if !self.norm.is_training(&x) {
            return self.forward(depthwise.forward(x));
        }
        let options = depthwise.options(&x);
        let pointwise =
            ConvOptions { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2], groups: 1 };
        let (weights, norm) = ([depthwise.weight(), self.conv.weight()], self.norm.tensors());
        let layer = self.layer(pointwise);
        self.kept(separable_norm_activation(x, weights, norm, options, layer))
    }

    fn layer(&self, conv: ConvOptions<2>) -> ConvNormConfig {
        ConvNormConfig { conv, epsilon: self.norm.epsilon(), activation: self.activation.kernel() }
    }

    /// Blends the statistics of a training step into the running ones; the result.
    fn kept(&self, (out, mean, variance): (Tensor<4>, Tensor<1>, Tensor<1>)) -> Tensor<4> {
        let [b, _, h, w] = out.dims();
        self.norm.keep(mean, variance, b * h * w);
        out
    }
}
