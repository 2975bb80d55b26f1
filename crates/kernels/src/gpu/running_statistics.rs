//! The running statistics of a batch norm, blended in one launch.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::traffic::record;

#[cube(launch)]
fn blend_kernel(
    running_mean: &[f32],
    running_variance: &[f32],
    mean: &[f32],
    variance: &[f32],
    mean_out: &mut [f32],
    variance_out: &mut [f32],
    channels: usize,
    kept: f32,
    of_mean: f32,
    of_variance: f32,
) {
    if ABSOLUTE_POS < channels {
        let at = ABSOLUTE_POS;
        mean_out[at] = running_mean[at] * kept + mean[at] * of_mean;
        variance_out[at] = running_variance[at] * kept + variance[at] * of_variance;
    }
}

/// `running * kept + batch * weight` of mean and variance, `[c]` each.
pub(crate) fn blend(
    running: [CubeTensor; 2],
    batch: [CubeTensor; 2],
    kept: f32,
    weights: [f32; 2],
) -> (CubeTensor, CubeTensor) {
    let [running_mean, running_variance] = running;
    let [mean, variance] = batch;
    let channels: usize = mean.meta.shape().iter().product();
    let [mean_out, variance_out] = [(); 2].map(|()| empty(&mean, &[channels], DType::F32));
    record("running_statistics", [16 * channels, 8 * channels], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    blend_kernel::launch(
        &mean_out.client,
        cubecl::calculate_cube_count_elemwise(&mean_out.client, channels, units),
        units,
        running_mean.into_buffer_arg(),
        running_variance.into_buffer_arg(),
        mean.into_buffer_arg(),
        variance.into_buffer_arg(),
        mean_out.clone().into_buffer_arg(),
        variance_out.clone().into_buffer_arg(),
        channels,
        kept,
        weights[0],
        weights[1],
    );
    (mean_out, variance_out)
}
