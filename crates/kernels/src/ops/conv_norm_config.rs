//! A layer of convolution, batch norm and activation: its constants, and the tensors that its
//! backward pass needs.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::ops::ConvOptions;

use crate::cpu::activation::FusedActivation;
use crate::ops::running_statistics::RunningBlend;

/// A layer of convolution, batch norm and activation, without its tensors.
#[derive(Clone, Debug)]
pub struct ConvNormConfig {
    /// Stride, padding, dilation, groups.
    pub conv: ConvOptions<2>,
    /// Added to the variance.
    pub epsilon: f64,
    /// Applied after the norm, before the skip path is added.
    pub activation: FusedActivation,
    /// Running statistics that training blends with those of the batch, where the backend can do it
    /// in the launch that makes those.
    pub running: Option<RunningBlend>,
}

/// The tensors of a batch norm that its backward pass needs.
#[derive(Clone)]
pub struct BatchNormState<B: Backend> {
    /// Scale, `[out]`.
    pub gamma: FloatTensor<B>,
    /// Shift, `[out]`.
    pub beta: FloatTensor<B>,
    /// The input of the norm, `[b, out, h', w']`.
    pub y: FloatTensor<B>,
    /// The mean of the batch, `[out]`.
    pub mean: FloatTensor<B>,
    /// The biased variance of the batch, `[out]`.
    pub variance: FloatTensor<B>,
}
