//! Batch normalisation with torch's bookkeeping.

use burn::module::{Flag, Module, Param, RunningState};
use burn::tensor::module::{batch_norm, batch_norm_train};
use burn::tensor::{Device, Tensor};

/// `(x - mean) / sqrt(var + eps) * gamma + beta` per channel (arXiv:1502.03167).
///
/// Training normalises with the biased variance of the batch and stores the unbiased one, as torch
/// does; Burn's own layer stores the biased one, which differs by `N / (N - 1)`, `N = b * h * w`.
#[derive(Module, Debug)]
pub struct BatchNorm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
    training: Param<Flag>,
    momentum: f64,
    epsilon: f64,
}

impl BatchNorm {
    /// For `channels` channels; `momentum` in torch's convention (the weight of the new value).
    pub fn new(channels: usize, epsilon: f64, momentum: f64, device: &Device) -> Self {
        Self {
            gamma: Param::from_tensor(Tensor::ones([channels], device)),
            beta: Param::from_tensor(Tensor::zeros([channels], device)),
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
            training: Param::from_bool(true),
            momentum,
            epsilon,
        }
    }

    /// Batch statistics on an autodiff device, running ones elsewhere.
    ///
    /// # Shapes
    /// `[b, c, h, w]` to the same.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        if !(x.device().is_autodiff() && self.training.is_enabled()) {
            let (mean, var) = (self.running_mean.value(), self.running_var.value());
            return batch_norm(x, gamma, beta, mean, var, self.epsilon);
        }
        let [b, _, h, w] = x.dims();
        let count = (b * h * w) as f64;
        let out = batch_norm_train(x, gamma, beta, self.epsilon);
        // One value has no unbiased variance; torch refuses, here the statistic then stays biased.
        let unbiased = if count > 1.0 { count / (count - 1.0) } else { 1.0 };
        let blend = |old: Tensor<1>, new: Tensor<1>, scale: f64| {
            old.mul_scalar(1.0 - self.momentum) + new.mul_scalar(self.momentum * scale)
        };
        let mean = blend(self.running_mean.value_sync(), out.mean.detach(), 1.0);
        let var = blend(self.running_var.value_sync(), out.variance.detach(), unbiased);
        self.running_mean.update(mean.detach());
        self.running_var.update(var.detach());
        out.output
    }
}
