//! Batch normalisation with torch's bookkeeping.

use burn::module::{Flag, Module, Param};
use burn::tensor::{Device, Tensor};
use kernels::ops::conv_norm_activation::NormTensors;
use kernels::ops::running_statistics::{BlendWeights, RunningBlend, blended};

use crate::block::running_statistic::RunningStatistic;

/// `(x - mean) / sqrt(var + eps) * gamma + beta` per channel (arXiv:1502.03167).
///
/// Training normalises with the biased variance of the batch and stores the unbiased one, as torch
/// does; Burn's own layer stores the biased one, which differs by `N / (N - 1)`, `N = b * h * w`.
#[derive(Module, Debug)]
pub(crate) struct BatchNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    running_mean: RunningStatistic,
    running_var: RunningStatistic,
    training: Param<Flag>,
    momentum: f64,
    epsilon: f64,
}

impl BatchNorm {
    /// Scale 1, shift 0, running mean 0 and running variance 1 for `channels` channels. `momentum`
    /// is the weight of the new statistic (torch's convention).
    pub(crate) fn new(channels: usize, epsilon: f64, momentum: f64, device: &Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([channels], device)),
            beta: Param::from_tensor(Tensor::zeros([channels], device)),
            running_mean: RunningStatistic::new(Tensor::zeros([channels], device)),
            running_var: RunningStatistic::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
            momentum,
            epsilon,
        }
    }

    /// Whether a forward pass on `x` normalises with the statistics of the batch: on an autodiff
    /// device, unless the layer is frozen.
    pub(crate) fn is_training(&self, x: &Tensor<4>) -> bool {
        x.device().is_autodiff() && self.training.is_enabled()
    }

    /// Scale and shift, `[channels]` each.
    pub(crate) fn tensors(&self) -> NormTensors {
        NormTensors { gamma: self.gamma.val(), beta: self.beta.val() }
    }

    /// The running mean and variance, `[channels]` each.
    pub(crate) fn running_statistics(&self) -> [Tensor<1>; 2] {
        [self.running_mean.value(), self.running_var.value()]
    }

    /// Constant added to the variance.
    pub(crate) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Blends a batch's mean and biased variance into the running statistics; `count` is the number
    /// of values per channel.
    pub(crate) fn update_running_statistics(
        &self,
        mean: Tensor<1>,
        variance: Tensor<1>,
        count: usize,
    ) {
        let plain = |tensors: [Tensor<1>; 2]| tensors.map(Tensor::without_autodiff);
        let (running, batch) = (plain(self.running_statistics()), plain([mean, variance]));
        self.set_running(blended(running, batch, BlendWeights::new(self.momentum, count)));
    }

    /// The running statistics for a backend that blends them in its forward pass.
    pub(crate) fn running_blend(&self) -> RunningBlend {
        let running = self.running_statistics().map(Tensor::without_autodiff);
        RunningBlend::new(running, self.momentum)
    }

    /// Replaces the running statistics.
    pub(crate) fn set_running(&self, statistics: [Tensor<1>; 2]) {
        let [mean, variance] = statistics.map(Tensor::from_inner);
        self.running_mean.set(mean);
        self.running_var.set(variance);
    }
}
