//! Convolution, batch norm and activation as one layer.

use burn::module::Module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use kernels::ops::conv_norm_activation::{
    NormTensors, WeightCache, conv_norm_activation, conv_norm_activation_inference,
};
use kernels::ops::conv_norm_config::ConvNormConfig;
use kernels::ops::running_statistics::RunningBlend;
use kernels::ops::separable::separable_norm_activation;

use crate::activation::Activation;
use crate::block::batch_norm::BatchNorm;
use crate::block::convolution::Convolution;
use crate::block::sync_batch_norm;
use crate::block::sync_batch_norm::NormGroup;
use crate::config::Norm;
use crate::geometry::Conv;

/// A convolution without a bias, then batch norm, then an activation.
#[derive(Module, Debug)]
pub struct ConvNormActivation {
    conv: Convolution,
    norm: BatchNorm,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    cache: WeightCache,
}

impl ConvNormActivation {
    /// Builds the three layers; the weights are zero until [`crate::init::fill`].
    pub fn new(conv: Conv, norm: Norm, activation: Activation, device: &Device) -> Self {
        Self {
            conv: Convolution::new(conv, device),
            norm: BatchNorm::new(conv.output, norm.epsilon, norm.momentum, device),
            activation,
            cache: WeightCache::default(),
        }
    }

    /// The three layers in turn.
    ///
    /// # Shapes
    /// `[b, input, h, w]` to `[b, output, h', w']`, `[h', w'] =` [`Conv::output_size`]`([h, w])`.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    /// use nn::block::conv_norm_activation::ConvNormActivation;
    /// use nn::config::Norm;
    /// use nn::geometry::Conv;
    ///
    /// let device = Device::flex();
    /// let norm = Norm { epsilon: 1e-3, momentum: 0.01 };
    /// let conv = Conv::depthwise(8, 5, 2);
    /// let block = ConvNormActivation::new(conv, norm, Activation::HardSwish, &device);
    /// assert_eq!(block.forward(Tensor::zeros([2, 8, 9, 14], &device)).dims(), [2, 8, 5, 7]);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_with_skip(x, None)
    }

    /// [`ConvNormActivation::forward`] with `skip` added to the result.
    ///
    /// # Shapes
    /// `skip` has the shape of the result.
    pub fn forward_with_skip(&self, x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
        let config = self.kernel_config(self.conv.options(&x));
        let (weight, norm) = (self.conv.weight(), self.norm.tensors());
        if !self.norm.is_training(&x) {
            let running = self.norm.running_statistics();
            return conv_norm_activation_inference(
                x,
                weight,
                norm,
                running,
                skip,
                config,
                &self.cache,
            );
        }
        if let Some(group) = sync_batch_norm::group() {
            return self.synchronised(self.conv.forward(x), skip, &group);
        }
        let running = self.norm.running_blend();
        let config = ConvNormConfig { running: Some(running.clone()), ..config };
        self.with_statistics(conv_norm_activation(x, weight, norm, skip, config), &running)
    }

    /// A pointwise [`ConvNormActivation::forward`] of the output of `depthwise`. Training does not
    /// keep that output for the backward pass.
    pub(crate) fn forward_after_depthwise(
        &self,
        depthwise: &Convolution,
        x: Tensor<4>,
    ) -> Tensor<4> {
        if !self.norm.is_training(&x) {
            return self.forward(depthwise.forward(x));
        }
        if let Some(group) = sync_batch_norm::group() {
            return self.synchronised(self.conv.forward(depthwise.forward(x)), None, &group);
        }
        let options = depthwise.options(&x);
        let pointwise =
            ConvOptions { stride: [1; 2], padding: [(0, 0); 2], dilation: [1; 2], groups: 1 };
        let (weights, norm) = ([depthwise.weight(), self.conv.weight()], self.norm.tensors());
        let running = self.norm.running_blend();
        let config =
            ConvNormConfig { running: Some(running.clone()), ..self.kernel_config(pointwise) };
        let outputs = separable_norm_activation(x, weights, norm, options, config);
        self.with_statistics(outputs, &running)
    }

    /// Norm, activation and skip path behind the convolution's output `y`, with the statistics of
    /// a group of processes.
    fn synchronised(&self, y: Tensor<4>, skip: Option<Tensor<4>>, group: &NormGroup) -> Tensor<4> {
        let (channels, dtype) = (y.dims()[1], y.dtype());
        let NormTensors { gamma, beta } = self.norm.tensors();
        let (y, [mean, variance], count) =
            sync_batch_norm::normalise(y.cast(gamma.dtype()), self.norm.epsilon(), group);
        self.norm.update_running_statistics(mean, variance, count);
        let channels = |values: Tensor<1>| values.reshape([1, channels, 1, 1]);
        let out = self.activation.apply(y * channels(gamma) + channels(beta)).cast(dtype);
        match skip {
            Some(skip) => out + skip,
            None => out,
        }
    }

    fn kernel_config(&self, conv: ConvOptions<2>) -> ConvNormConfig {
        ConvNormConfig {
            conv,
            epsilon: self.norm.epsilon(),
            activation: self.activation.kernel(),
            running: None,
        }
    }

    /// Blends the mean and variance of a training pass into the running statistics, unless the
    /// backend has done it; returns the output.
    fn with_statistics(
        &self,
        (out, mean, variance): (Tensor<4>, Tensor<1>, Tensor<1>),
        running: &RunningBlend,
    ) -> Tensor<4> {
        let [b, _, h, w] = out.dims();
        match running.result() {
            Some(blended) => self.norm.set_running(blended),
            None => self.norm.update_running_statistics(mean, variance, b * h * w),
        }
        out
    }
}
