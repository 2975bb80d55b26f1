//! Batch norm, the activation behind it and the addition of a skip path, of a map `[m, c]`.
//!
//! Statistics and sums are taken in two launches: every cube reduces some rows in shared memory and
//! writes one partial result, then one cube per group of channels combines the parts. The order of
//! all additions is fixed, so the bits are the same at every run. Mean and squared deviations of
//! parts are combined by Chan's formula (Chan, Golub, LeVeque 1983), so nothing cancels where the
//! mean is large beside the deviation.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::activation::FusedActivation;
use crate::gpu::activation::{activate, slope};
use crate::gpu::map::{Tiles, UNITS, element, empty};
use crate::gpu::traffic::record;

/// Rows that one unit of a reduction takes where the map is large enough for it.
const ROWS_PER_UNIT: usize = 64;
/// The most partial results of a reduction.
const MOST_PARTS: usize = 1024;

/// Mean, sum of squared deviations and number of values of two disjoint sets, combined into the
/// first one.
#[cube]
fn combine<N: Size>(
    mean: &mut Vector<f32, N>,
    deviations: &mut Vector<f32, N>,
    count: &mut f32,
    other_mean: Vector<f32, N>,
    other_deviations: Vector<f32, N>,
    other_count: f32,
) {
    let total = *count + other_count;
    let share = other_count / f32::max(total, 1.0f32);
    let delta = other_mean - *mean;
    *mean += delta * Vector::new(share);
    *deviations += other_deviations + delta * delta * Vector::new(*count * share);
    *count = total;
}

/// Combines the sets of all units along y into that of unit 0.
#[cube]
fn combine_rows<N: Size>(
    mean: &mut Vector<f32, N>,
    deviations: &mut Vector<f32, N>,
    count: &mut f32,
    #[comptime] x: usize,
    #[comptime] y: usize,
) {
    let mut means = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let mut squares = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let mut counts = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    means[unit] = *mean;
    squares[unit] = *deviations;
    counts[unit] = *count;
    sync_cube();
    let mut step = comptime!(y / 2).runtime();
    while step > 0 {
        if (UNIT_POS_Y as usize) < step {
            let other = unit + step * x;
            combine::<N>(mean, deviations, count, means[other], squares[other], counts[other]);
            means[unit] = *mean;
            squares[unit] = *deviations;
            counts[unit] = *count;
        }
        sync_cube();
        step /= 2;
    }
}

/// Mean and squared deviations `[parts, 2, c]` of the rows of every part.
#[cube(launch)]
fn statistics_parts<E: Float, N: Size>(
    y: &[Vector<E, N>],
    parts: &mut [Vector<f32, N>],
    rows: usize,
    vectors: usize,
    rows_per_unit: usize,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    let mut mean = Vector::<f32, N>::new(0.0f32);
    let mut deviations = Vector::<f32, N>::new(0.0f32);
    let mut count = 0.0f32;
    if channel < vectors && first < rows {
        // The first value stands in for the mean, so that the sums of squares stay small.
        let pivot = Vector::<f32, N>::cast_from(y[first * vectors + channel]);
        let mut sum = Vector::<f32, N>::new(0.0f32);
        let mut squares = Vector::<f32, N>::new(0.0f32);
        for i in 0..rows_per_unit {
            let row = first + i * y_units;
            if row < rows {
                let value = Vector::<f32, N>::cast_from(y[row * vectors + channel]) - pivot;
                sum += value;
                squares += value * value;
                count += 1.0f32;
            }
        }
        let share = Vector::<f32, N>::new(1.0f32 / count);
        mean = pivot + sum * share;
        deviations = squares - sum * sum * share;
    }
    combine_rows::<N>(&mut mean, &mut deviations, &mut count, x_units, y_units);
    if UNIT_POS_Y == 0 && channel < vectors {
        let part = (CUBE_POS_Y as usize) * 2 * vectors + channel;
        parts[part] = mean;
        parts[part + vectors] = deviations;
    }
}

/// Mean and biased variance `[c]` from the parts of [`statistics_parts`]; with `blends` also the
/// running statistics blended with them.
#[cube(launch)]
fn statistics_finish<N: Size>(
    parts: &[Vector<f32, N>],
    running_mean: &[Vector<f32, N>],
    running_variance: &[Vector<f32, N>],
    mean_out: &mut [Vector<f32, N>],
    variance_out: &mut [Vector<f32, N>],
    running_mean_out: &mut [Vector<f32, N>],
    running_variance_out: &mut [Vector<f32, N>],
    rows: usize,
    vectors: usize,
    rows_per_part: usize,
    part_count: usize,
    kept: f32,
    of_mean: f32,
    of_variance: f32,
    #[comptime] blends: bool,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
) {
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let mut mean = Vector::<f32, N>::new(0.0f32);
    let mut deviations = Vector::<f32, N>::new(0.0f32);
    let mut count = 0.0f32;
    if channel < vectors {
        let mut part = UNIT_POS_Y as usize;
        while part < part_count {
            let from = part * rows_per_part;
            let here = f32::cast_from(usize::min(rows_per_part, rows - from) as u32);
            let at = part * 2 * vectors + channel;
            combine::<N>(
                &mut mean,
                &mut deviations,
                &mut count,
                parts[at],
                parts[at + vectors],
                here,
            );
            part += y_units;
        }
    }
    combine_rows::<N>(&mut mean, &mut deviations, &mut count, x_units, y_units);
    if UNIT_POS_Y == 0 && channel < vectors {
        let variance = deviations / Vector::new(count);
        mean_out[channel] = mean;
        variance_out[channel] = variance;
        if comptime!(blends) {
            let kept = Vector::new(kept);
            let old_mean = running_mean[channel];
            let old_variance = running_variance[channel];
            let mut new_mean = old_mean * kept + mean * Vector::new(of_mean);
            let mut new_variance = old_variance * kept + variance * Vector::new(of_variance);
            // A batch that is not finite leaves no trace; the weights are guarded likewise.
            #[unroll]
            for lane in 0..N::value() {
                let (m, v) = (new_mean.extract(lane), new_variance.extract(lane));
                if m.is_nan() || m.is_inf() || v.is_nan() || v.is_inf() {
                    new_mean.insert(lane, old_mean.extract(lane));
                    new_variance.insert(lane, old_variance.extract(lane));
                }
            }
            running_mean_out[channel] = new_mean;
            running_variance_out[channel] = new_variance;
        }
    }
}

/// Bytes of a map.
pub(crate) fn map_bytes(map: &CubeTensor, [rows, channels]: [usize; 2]) -> usize {
    rows * channels * map.dtype.size()
}

/// Running statistics, `[c]` each, and the weights with which they are blended with a batch's.
pub(crate) struct Running {
    pub(crate) statistics: [CubeTensor; 2],
    pub(crate) kept: f32,
    pub(crate) of_mean: f32,
    pub(crate) of_variance: f32,
}

/// The mean and the biased variance `[c]` of every channel of a map `[m, c]`, two launches; the
/// running statistics are blended with them in the second, and come back as mean and variance.
pub(crate) fn statistics(
    y: &CubeTensor,
    shape: [usize; 2],
    running: Option<Running>,
) -> ([CubeTensor; 2], Option<[CubeTensor; 2]>) {
    let [rows, channels] = shape;
    let tiles = Tiles::new(shape, ROWS_PER_UNIT, MOST_PARTS, 32);
    let parts = empty(y, &[tiles.parts, 2, channels], DType::F32);
    let partial = tiles.parts * 2 * channels * 4;
    record("batch_norm_statistics", [map_bytes(y, shape), partial], tiles.rows_per_unit + 8);
    statistics_parts::launch(
        &y.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        y.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        rows,
        tiles.vectors,
        tiles.rows_per_unit,
        tiles.x,
        tiles.y,
        element(y.dtype),
    );
    let [mean, variance] = [(); 2].map(|()| empty(y, &[channels], DType::F32));
    let chain = tiles.parts.div_ceil(tiles.y) + 8;
    let blends = running.is_some();
    let bytes = if blends { 4 * channels * 4 } else { 2 * channels * 4 };
    record("batch_norm_statistics_finish", [partial, bytes], chain);
    // Without running statistics, others stand in: a kernel has no optional operand.
    let Running { statistics: [old_mean, old_variance], kept, of_mean, of_variance } = running
        .unwrap_or_else(|| Running {
            statistics: [(); 2].map(|()| parts.clone()),
            kept: 0.0,
            of_mean: 0.0,
            of_variance: 0.0,
        });
    let places = if blends { channels } else { tiles.width };
    let new = [(); 2].map(|()| empty(y, &[places], DType::F32));
    let [new_mean, new_variance] = new.clone();
    statistics_finish::launch(
        &y.client,
        CubeCount::Static(tiles.vectors.div_ceil(tiles.x) as u32, 1, 1),
        tiles.units(),
        tiles.width,
        parts.into_buffer_arg(),
        old_mean.into_buffer_arg(),
        old_variance.into_buffer_arg(),
        mean.clone().into_buffer_arg(),
        variance.clone().into_buffer_arg(),
        new_mean.into_buffer_arg(),
        new_variance.into_buffer_arg(),
        rows,
        tiles.vectors,
        tiles.rows_per_unit * tiles.y,
        tiles.parts,
        kept,
        of_mean,
        of_variance,
        blends,
        tiles.x,
        tiles.y,
    );
    ([mean, variance], blends.then_some(new))
}

/// `activation((y - mean) / deviation * gamma + beta) + skip`.
#[cube(launch)]
fn apply<E: Float, N: Size>(
    y: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    skip: &[Vector<E, N>],
    out: &mut [Vector<E, N>],
    rows: usize,
    vectors: usize,
    rows_per_unit: usize,
    epsilon: f32,
    #[comptime] skips: bool,
    #[comptime] activation: FusedActivation,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    if channel < vectors {
        let deviation = (variance[channel] + Vector::new(epsilon)).sqrt();
        let scale = gamma[channel] / deviation;
        let (mean, beta) = (mean[channel], beta[channel]);
        for i in 0..rows_per_unit {
            let row = first + i * y_units;
            if row < rows {
                let at = row * vectors + channel;
                let z = (Vector::<f32, N>::cast_from(y[at]) - mean) * scale + beta;
                let mut value = activate::<N>(z, activation);
                if comptime!(skips) {
                    value += Vector::<f32, N>::cast_from(skip[at]);
                }
                out[at] = Vector::cast_from(value);
            }
        }
    }
}

/// The parameters and the statistics of a norm, `[c]` each.
#[derive(Clone)]
pub(crate) struct Norm {
    pub(crate) gamma: CubeTensor,
    pub(crate) beta: CubeTensor,
    pub(crate) mean: CubeTensor,
    pub(crate) variance: CubeTensor,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// Any tensor in the places of a norm that is not there.
    pub(crate) fn of_none(any: &CubeTensor) -> Self {
        let [gamma, beta, mean, variance] = [(); 4].map(|()| any.clone());
        Self { gamma, beta, mean, variance, epsilon: 0.0 }
    }
}

/// Norm, activation and skip path of a map `[m, c]`, one launch.
pub(crate) fn normalise(
    y: &CubeTensor,
    shape: [usize; 2],
    norm: Norm,
    skip: Option<CubeTensor>,
    activation: FusedActivation,
) -> CubeTensor {
    let [rows, channels] = shape;
    let tiles = Tiles::new(shape, 4, usize::MAX, 32);
    let out = empty(y, &[rows, channels], y.dtype);
    let (bytes, skips) = (map_bytes(y, shape), skip.is_some());
    record("batch_norm_apply", [bytes * (1 + usize::from(skips)) + 16 * channels, bytes], 1);
    apply::launch(
        &y.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        y.clone().into_buffer_arg(),
        norm.gamma.into_buffer_arg(),
        norm.beta.into_buffer_arg(),
        norm.mean.into_buffer_arg(),
        norm.variance.into_buffer_arg(),
        skip.unwrap_or_else(|| y.clone()).into_buffer_arg(),
        out.clone().into_buffer_arg(),
        rows,
        tiles.vectors,
        tiles.rows_per_unit,
        norm.epsilon,
        skips,
        activation,
        tiles.x,
        tiles.y,
        element(y.dtype),
    );
    out
}

/// Adds `value` of all units along y into that of unit 0.
#[cube]
pub(crate) fn sum_rows<N: Size>(
    value: Vector<f32, N>,
    sums: &mut Shared<[Vector<f32, N>]>,
    #[comptime] x: usize,
    #[comptime] y: usize,
) -> Vector<f32, N> {
    let unit = UNIT_POS as usize;
    sums[unit] = value;
    sync_cube();
    let mut step = comptime!(y / 2).runtime();
    while step > 0 {
        if (UNIT_POS_Y as usize) < step {
            let other = sums[unit + step * x];
            sums[unit] += other;
        }
        sync_cube();
        step /= 2;
    }
    let sum = sums[UNIT_POS_X as usize];
    // The next sum writes where others may still read this one.
    sync_cube();
    sum
}

/// The sums of `dz` and of `dz` times the normalised value, `[parts, 2, c]`.
#[cube(launch)]
fn backward_parts<E: Float, N: Size>(
    y: &[Vector<E, N>],
    dout: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    parts: &mut [Vector<f32, N>],
    rows: usize,
    vectors: usize,
    rows_per_unit: usize,
    epsilon: f32,
    #[comptime] activation: FusedActivation,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    let mut dbeta = Vector::<f32, N>::new(0.0f32);
    let mut dgamma = Vector::<f32, N>::new(0.0f32);
    if channel < vectors {
        let deviation = (variance[channel] + Vector::new(epsilon)).sqrt();
        let inverse = Vector::<f32, N>::new(1.0f32) / deviation;
        let (mean, gamma, beta) = (mean[channel], gamma[channel], beta[channel]);
        for i in 0..rows_per_unit {
            let row = first + i * y_units;
            if row < rows {
                let at = row * vectors + channel;
                let normalised = (Vector::<f32, N>::cast_from(y[at]) - mean) * inverse;
                let z = normalised * gamma + beta;
                let dz = slope::<N>(z, Vector::<f32, N>::cast_from(dout[at]), activation);
                dbeta += dz;
                dgamma += dz * normalised;
            }
        }
    }
    let dbeta = sum_rows::<N>(dbeta, &mut sums, x_units, y_units);
    let dgamma = sum_rows::<N>(dgamma, &mut sums, x_units, y_units);
    if UNIT_POS_Y == 0 && channel < vectors {
        let part = (CUBE_POS_Y as usize) * 2 * vectors + channel;
        parts[part] = dgamma;
        parts[part + vectors] = dbeta;
    }
}

/// The sums over the first axis of `[parts, 2, c]`, as two vectors `[c]`.
#[cube(launch)]
fn backward_finish<N: Size>(
    parts: &[Vector<f32, N>],
    dgamma_out: &mut [Vector<f32, N>],
    dbeta_out: &mut [Vector<f32, N>],
    vectors: usize,
    part_count: usize,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
) {
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let mut dgamma = Vector::<f32, N>::new(0.0f32);
    let mut dbeta = Vector::<f32, N>::new(0.0f32);
    if channel < vectors {
        let mut part = UNIT_POS_Y as usize;
        while part < part_count {
            let at = part * 2 * vectors + channel;
            dgamma += parts[at];
            dbeta += parts[at + vectors];
            part += y_units;
        }
    }
    let dgamma = sum_rows::<N>(dgamma, &mut sums, x_units, y_units);
    let dbeta = sum_rows::<N>(dbeta, &mut sums, x_units, y_units);
    if UNIT_POS_Y == 0 && channel < vectors {
        dgamma_out[channel] = dgamma;
        dbeta_out[channel] = dbeta;
    }
}

/// The gradient of the norm's input: `(dz - dbeta / m - normalised * dgamma / m) * gamma /
/// deviation`.
#[cube(launch)]
fn backward_apply<E: Float, N: Size>(
    y: &[Vector<E, N>],
    dout: &[Vector<E, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    dgamma: &[Vector<f32, N>],
    dbeta: &[Vector<f32, N>],
    dy: &mut [Vector<E, N>],
    rows: usize,
    vectors: usize,
    rows_per_unit: usize,
    epsilon: f32,
    #[comptime] activation: FusedActivation,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    if channel < vectors {
        let deviation = (variance[channel] + Vector::new(epsilon)).sqrt();
        let inverse = Vector::<f32, N>::new(1.0f32) / deviation;
        let count = Vector::<f32, N>::new(1.0f32 / f32::cast_from(rows as u32));
        let (mean, gamma, beta) = (mean[channel], gamma[channel], beta[channel]);
        let of_mean = dbeta[channel] * count;
        let of_variance = dgamma[channel] * count;
        for i in 0..rows_per_unit {
            let row = first + i * y_units;
            if row < rows {
                let at = row * vectors + channel;
                let normalised = (Vector::<f32, N>::cast_from(y[at]) - mean) * inverse;
                let z = normalised * gamma + beta;
                let dz = slope::<N>(z, Vector::<f32, N>::cast_from(dout[at]), activation);
                let centred = dz - of_mean - normalised * of_variance;
                dy[at] = Vector::cast_from(centred * (gamma * inverse));
            }
        }
    }
}

/// The gradients of the norm's input `[m, c]`, of gamma and of beta `[c]`; three launches. The
/// normalised values and the derivative of the activation are computed again from `y`.
pub(crate) fn backward(
    y: &CubeTensor,
    dout: &CubeTensor,
    shape: [usize; 2],
    norm: Norm,
    activation: FusedActivation,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [rows, channels] = shape;
    let tiles = Tiles::new(shape, ROWS_PER_UNIT, MOST_PARTS, 32);
    let parts = empty(y, &[tiles.parts, 2, channels], DType::F32);
    let (bytes, partial) = (map_bytes(y, shape), tiles.parts * 2 * channels * 4);
    record("batch_norm_backward_sums", [2 * bytes, partial], tiles.rows_per_unit + 8);
    backward_parts::launch(
        &y.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        y.clone().into_buffer_arg(),
        dout.clone().into_buffer_arg(),
        norm.gamma.clone().into_buffer_arg(),
        norm.beta.clone().into_buffer_arg(),
        norm.mean.clone().into_buffer_arg(),
        norm.variance.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        rows,
        tiles.vectors,
        tiles.rows_per_unit,
        norm.epsilon,
        activation,
        tiles.x,
        tiles.y,
        element(y.dtype),
    );
    let [dgamma, dbeta] = [(); 2].map(|()| empty(y, &[channels], DType::F32));
    let chain = tiles.parts.div_ceil(tiles.y) + 8;
    record("batch_norm_backward_finish", [partial, 2 * channels * 4], chain);
    backward_finish::launch(
        &y.client,
        CubeCount::Static(tiles.vectors.div_ceil(tiles.x) as u32, 1, 1),
        tiles.units(),
        tiles.width,
        parts.into_buffer_arg(),
        dgamma.clone().into_buffer_arg(),
        dbeta.clone().into_buffer_arg(),
        tiles.vectors,
        tiles.parts,
        tiles.x,
        tiles.y,
    );
    let tiles = Tiles::new(shape, 4, usize::MAX, 32);
    let dy = empty(y, &[rows, channels], y.dtype);
    record("batch_norm_backward_apply", [2 * bytes, bytes], 1);
    backward_apply::launch(
        &y.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        y.clone().into_buffer_arg(),
        dout.clone().into_buffer_arg(),
        norm.gamma.into_buffer_arg(),
        norm.beta.into_buffer_arg(),
        norm.mean.into_buffer_arg(),
        norm.variance.into_buffer_arg(),
        dgamma.clone().into_buffer_arg(),
        dbeta.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        rows,
        tiles.vectors,
        tiles.rows_per_unit,
        norm.epsilon,
        activation,
        tiles.x,
        tiles.y,
        element(y.dtype),
    );
    (dy, dgamma, dbeta)
}
