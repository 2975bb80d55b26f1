//! Sums of partial results.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::map::{UNITS, empty};
use crate::gpu::traffic::record;

#[cube(launch)]
fn sum_parts_kernel<E: Float>(
    parts: &[E],
    sums: &mut [f32],
    part_count: usize,
    values: usize,
    #[define(E)] _dtype: cubecl::ir::ElemType,
) {
    if ABSOLUTE_POS < values {
        let mut sum = 0.0f32;
        for part in 0..part_count {
            sum += f32::cast_from(parts[part * values + ABSOLUTE_POS]);
        }
        sums[ABSOLUTE_POS] = sum;
    }
}

/// The sum over the first axis of `[parts, ...]`, of the shape `shape` and in f32.
pub(crate) fn sum_parts(parts: CubeTensor, count: usize, shape: &[usize]) -> CubeTensor {
    let values: usize = shape.iter().product();
    let sums = empty(&parts, shape, DType::F32);
    record("sum_parts", [count * values * parts.dtype.size(), values * 4], count);
    let units = CubeDim::new_1d(UNITS as u32);
    let dtype = crate::gpu::map::element(parts.dtype);
    sum_parts_kernel::launch(
        &sums.client,
        cubecl::calculate_cube_count_elemwise(&sums.client, values, units),
        units,
        parts.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        count,
        values,
        dtype,
    );
    sums
}
