//! Kernels that take whole maps value by value, in any order in which both lie.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::activation::FusedActivation;
use crate::gpu::activation::{activate, slope};
use crate::gpu::map::{UNITS, element, empty};
use crate::gpu::traffic::record;

#[cube(launch)]
fn relu_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = Vector::cast_from(activate::<N>(x, FusedActivation::Relu));
    }
}

#[cube(launch)]
fn relu_backward_kernel<E: Float, N: Size>(
    y: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    dx: &mut [Vector<E, N>],
    vectors: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let y = Vector::<f32, N>::cast_from(y[ABSOLUTE_POS]);
        let dy = Vector::<f32, N>::cast_from(dy[ABSOLUTE_POS]);
        dx[ABSOLUTE_POS] = Vector::cast_from(slope::<N>(y, dy, FusedActivation::Relu));
    }
}

/// How many values a unit takes at once.
fn width(values: usize) -> usize {
    if values.is_multiple_of(4) { 4 } else { 1 }
}

/// `max(x, 0)` of contiguous values; NaN stays NaN.
pub(crate) fn relu(x: &CubeTensor) -> CubeTensor {
    let shape: Vec<usize> = x.meta.shape().to_vec();
    let values: usize = shape.iter().product();
    let (y, width) = (empty(x, &shape, x.dtype), width(values));
    let bytes = values * x.dtype.size();
    record("relu", [bytes, bytes], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    relu_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, values / width, units),
        units,
        width,
        x.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        values / width,
        element(x.dtype),
    );
    y
}

/// `dy` where the result `y` of [`relu`] is not 0 or below.
pub(crate) fn relu_backward(y: &CubeTensor, dy: &CubeTensor) -> CubeTensor {
    let shape: Vec<usize> = y.meta.shape().to_vec();
    let values: usize = shape.iter().product();
    let (dx, width) = (empty(y, &shape, y.dtype), width(values));
    let bytes = values * y.dtype.size();
    record("relu_backward", [2 * bytes, bytes], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    relu_backward_kernel::launch(
        &y.client,
        cubecl::calculate_cube_count_elemwise(&y.client, values / width, units),
        units,
        width,
        y.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        values / width,
        element(y.dtype),
    );
    dx
}
