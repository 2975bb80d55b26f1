//! The running mean and variance of a batch norm, moved towards those of a batch.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, NdArray, Scalar, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;

use crate::gpu::running_statistics;
use crate::ops::cpu_tensor::burn_ops_requested;

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

/// `running * kept + batch * weight` of mean and variance, without gradients.
///
/// # Shapes
/// `[c]` all. No tensor is on an autodiff device.
pub fn blended(
    [running_mean, running_variance]: [Tensor<1>; 2],
    [mean, variance]: [Tensor<1>; 2],
    kept: f64,
    weights: [f64; 2],
) -> [Tensor<1>; 2] {
    let (mean, variance) = <Dispatch as RunningStatisticsOps>::blended(
        running_mean.into_dispatch(),
        running_variance.into_dispatch(),
        mean.into_dispatch(),
        variance.into_dispatch(),
        kept,
        weights[0],
        weights[1],
    );
    [mean, variance].map(Tensor::from_dispatch)
}
