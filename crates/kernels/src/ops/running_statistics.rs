//! The running mean and variance of a batch norm, moved towards those of a batch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, NdArray, Scalar, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use crate::gpu::batch_norm::Running;
use crate::gpu::running_statistics;
use crate::ops::cpu_tensor::burn_ops_requested;

/// The running mean and variance of a layer on their way through its forward pass. A backend may
/// blend them with those of the batch; where none did, the caller does it by [`blended`].
#[derive(Clone)]
pub struct RunningBlend(Arc<Mutex<Blend>>);

struct Blend {
    /// Running mean and variance, `[c]` each, without autodiff.
    running: [Tensor<1>; 2],
    /// Weight of the batch's statistics.
    momentum: f64,
    done: bool,
}

impl std::fmt::Debug for RunningBlend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RunningBlend")
    }
}

impl RunningBlend {
    /// Running mean and variance, `[c]` each, without autodiff; `momentum` is the weight of those
    /// of the batch.
    pub fn new(running: [Tensor<1>; 2], momentum: f64) -> Self {
        Self(Arc::new(Mutex::new(Blend { running, momentum, done: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Blend> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blended mean and variance; none if no backend has blended them.
    pub fn result(&self) -> Option<[Tensor<1>; 2]> {
        let blend = self.lock();
        blend.done.then(|| blend.running.clone())
    }

    /// The running statistics on a GPU and their weights in a blend with those of `count` values.
    pub(crate) fn on_cube(&self, count: usize) -> Option<Running> {
        let blend = self.lock();
        let of = |tensor: &Tensor<1>| tensor.clone().try_into_primitive::<CubeBackend>().ok();
        let running = [of(&blend.running[0])?, of(&blend.running[1])?];
        let plain = |t: &CubeTensor| t.is_contiguous() && TensorMetadata::dtype(t) == DType::F32;
        let BlendWeights { kept, of_mean, of_variance } = BlendWeights::new(blend.momentum, count);
        let [kept, of_mean, of_variance] = [kept, of_mean, of_variance].map(|w| w as f32);
        let all = running.iter().all(plain);
        all.then_some(Running { statistics: running, kept, of_mean, of_variance })
    }

    /// Replaces the running statistics by the blended ones.
    pub(crate) fn set_cube(&self, blended: [CubeTensor; 2]) {
        let mut blend = self.lock();
        blend.running = blended.map(Tensor::from_primitive::<CubeBackend>);
        blend.done = true;
    }
}

/// The weights of a blend of running statistics with those of a batch, whose variance is biased.
#[derive(Clone, Copy, Debug)]
pub struct BlendWeights {
    /// Of the running mean and variance.
    pub kept: f64,
    /// Of the batch's mean.
    pub of_mean: f64,
    /// Of the batch's biased variance, so that the unbiased one is blended.
    pub of_variance: f64,
}

impl BlendWeights {
    /// Weights for statistics of `count` values a channel. A single value has no unbiased variance:
    /// torch raises an error, the biased one serves here.
    pub fn new(momentum: f64, count: usize) -> Self {
        let count = count as f64;
        let unbiased = if count > 1.0 { count / (count - 1.0) } else { 1.0 };
        Self { kept: 1.0 - momentum, of_mean: momentum, of_variance: momentum * unbiased }
    }
}

/// The moving averages of batch norm.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"))]
pub trait RunningStatisticsOps: Backend {
    /// `running * kept + batch * weight` of mean and variance.
    #[fusion(default)]
    fn blended(
        running_mean: FloatTensor<Self>,
        running_variance: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        kept: f64,
        of_mean: f64,
        of_variance: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let weights = [of_mean, of_variance];
        composed::<Self>([running_mean, running_variance], [mean, variance], kept, weights)
    }
}

/// The operation of Burn's own ones.
fn composed<B: Backend>(
    running: [FloatTensor<B>; 2],
    batch: [FloatTensor<B>; 2],
    kept: f64,
    weights: [f64; 2],
) -> (FloatTensor<B>, FloatTensor<B>) {
    let blend = |old, new, weight| {
        let old = B::float_mul_scalar(old, Scalar::Float(kept));
        B::float_add(old, B::float_mul_scalar(new, Scalar::Float(weight)))
    };
    let ([old_mean, old_variance], [mean, variance]) = (running, batch);
    (blend(old_mean, mean, weights[0]), blend(old_variance, variance, weights[1]))
}

impl RunningStatisticsOps for NdArray {}
impl RunningStatisticsOps for Flex {}

impl RunningStatisticsOps for CubeBackend {
    fn blended(
        running_mean: FloatTensor<Self>,
        running_variance: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        variance: FloatTensor<Self>,
        kept: f64,
        of_mean: f64,
        of_variance: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let all = [&running_mean, &running_variance, &mean, &variance];
        let plain = |tensor: &&_| TensorMetadata::dtype(*tensor) == DType::F32;
        if burn_ops_requested() || !all.iter().all(|tensor| tensor.is_contiguous() && plain(tensor))
        {
            let weights = [of_mean, of_variance];
            return composed::<Self>(
                [running_mean, running_variance],
                [mean, variance],
                kept,
                weights,
            );
        }
        running_statistics::blend(
            [running_mean, running_variance],
            [mean, variance],
            kept as f32,
            [of_mean as f32, of_variance as f32],
        )
    }
}

/// Running mean and variance blended with those of a batch, without gradients.
///
/// # Shapes
/// `[c]` all. No tensor is on an autodiff device.
pub fn blended(
    [running_mean, running_variance]: [Tensor<1>; 2],
    [mean, variance]: [Tensor<1>; 2],
    BlendWeights { kept, of_mean, of_variance }: BlendWeights,
) -> [Tensor<1>; 2] {
    let (mean, variance) = <Dispatch as RunningStatisticsOps>::blended(
        running_mean.into_dispatch(),
        running_variance.into_dispatch(),
        mean.into_dispatch(),
        variance.into_dispatch(),
        kept,
        of_mean,
        of_variance,
    );
    [mean, variance].map(Tensor::from_dispatch)
}
