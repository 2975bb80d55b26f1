//! Means and sums over the pixels of a map `[b, p, c]`, and factors of whole channels.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::activation::hard_sigmoid;
use crate::gpu::batch_norm::sum_rows;
use crate::gpu::map::{Tiles, UNITS, element, empty};
use crate::gpu::traffic::record;

/// A unit's part of the sum over the pixels of a vector of channels of an image, of `x` or of `x`
/// times `other`: every `y_units`-th pixel. Zero behind the last vector.
#[cube]
pub(crate) fn pixel_sum<E: Float, N: Size>(
    x: &[Vector<E, N>],
    other: &[Vector<E, N>],
    image: usize,
    channel: usize,
    pixels: usize,
    vectors: usize,
    #[comptime] product: bool,
    #[comptime] y_units: usize,
) -> Vector<f32, N> {
    let mut sum = Vector::<f32, N>::new(0.0f32);
    if channel < vectors {
        let mut pixel = UNIT_POS_Y as usize;
        while pixel < pixels {
            let at = (image * pixels + pixel) * vectors + channel;
            let value = Vector::<f32, N>::cast_from(x[at]);
            if comptime!(product) {
                sum += value * Vector::<f32, N>::cast_from(other[at]);
            } else {
                sum += value;
            }
            pixel += y_units;
        }
    }
    sum
}

#[cube(launch)]
fn sum_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    other: &[Vector<E, N>],
    sums_out: &mut [Vector<f32, N>],
    pixels: usize,
    vectors: usize,
    factor: f32,
    #[comptime] product: bool,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let image = CUBE_POS_Y as usize;
    let sum = pixel_sum::<E, N>(x, other, image, channel, pixels, vectors, product, y_units);
    let sum = sum_rows::<N>(sum, &mut sums, x_units, y_units);
    if UNIT_POS_Y == 0 && channel < vectors {
        sums_out[image * vectors + channel] = sum * Vector::new(factor);
    }
}

/// The sum over the pixels of `x`, or of `x` times `other`, times `factor`: `[b, c]` in f32. One
/// launch.
pub(crate) fn spatial_sum(
    x: &CubeTensor,
    other: Option<&CubeTensor>,
    [batch, pixels, channels]: [usize; 3],
    factor: f32,
) -> CubeTensor {
    let tiles = Tiles::new([pixels, channels], pixels, 1, 32);
    let sums = empty(x, &[batch, channels], DType::F32);
    let maps = 1 + usize::from(other.is_some());
    let read = maps * batch * pixels * channels * x.dtype.size();
    record("spatial_sum", [read, batch * channels * 4], pixels.div_ceil(tiles.y) + 8);
    sum_kernel::launch(
        &x.client,
        CubeCount::Static(tiles.vectors.div_ceil(tiles.x) as u32, batch as u32, 1),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        other.unwrap_or(x).clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        pixels,
        tiles.vectors,
        factor,
        other.is_some(),
        tiles.x,
        tiles.y,
        element(x.dtype),
    );
    sums
}

/// What [`scale`] makes of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scale {
    /// The map times the hard sigmoid of the factor.
    Gate,
    /// The same, and the summand.
    GateAndSummand,
    /// The summand alone, times the factor of the launch.
    Summand,
}

#[cube(launch)]
fn scale_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    gate: &[Vector<f32, N>],
    summand: &[Vector<f32, N>],
    out: &mut [Vector<E, N>],
    rows: usize,
    pixels: usize,
    vectors: usize,
    rows_per_unit: usize,
    factor: f32,
    #[comptime] scale: Scale,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    for r in 0..rows_per_unit {
        let row = first + r * y_units;
        if row < rows && channel < vectors {
            let of_image = (row / pixels) * vectors + channel;
            let at = row * vectors + channel;
            let value = match comptime!(scale) {
                Scale::Gate => {
                    Vector::<f32, N>::cast_from(x[at]) * hard_sigmoid::<N>(gate[of_image])
                }
                Scale::GateAndSummand => {
                    Vector::<f32, N>::cast_from(x[at]) * hard_sigmoid::<N>(gate[of_image])
                        + summand[of_image]
                }
                Scale::Summand => summand[of_image] * Vector::new(factor),
            };
            out[at] = Vector::cast_from(value);
        }
    }
}

/// `x [b, p, c]` with the factors and summands `[b, c]` that `scale` names; one launch.
pub(crate) fn scaled(
    x: &CubeTensor,
    [gate, summand]: [&CubeTensor; 2],
    [batch, pixels, channels]: [usize; 3],
    (scale, factor): (Scale, f32),
    dtype: DType,
) -> CubeTensor {
    let tiles = Tiles::new([batch * pixels, channels], 4, usize::MAX, 32);
    let out = empty(x, &[batch, pixels, channels], dtype);
    let bytes = batch * pixels * channels * dtype.size();
    let read = if scale == Scale::Summand { 0 } else { bytes };
    record("spatial_scale", [read + 2 * batch * channels * 4, bytes], 1);
    // Where no map is read, the factors stand in for it: a kernel has no optional operand.
    scale_kernel::launch(
        &x.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        gate.clone().into_buffer_arg(),
        summand.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        batch * pixels,
        pixels,
        tiles.vectors,
        tiles.rows_per_unit,
        factor,
        scale,
        tiles.x,
        tiles.y,
        element(dtype),
    );
    out
}
