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
fn activation_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    vectors: usize,
    #[comptime] activation: FusedActivation,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let x = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
        y[ABSOLUTE_POS] = Vector::cast_from(activate::<N>(x, activation));
    }
}

#[cube(launch)]
fn activation_backward_kernel<E: Float, N: Size>(
    z: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    dx: &mut [Vector<E, N>],
    vectors: usize,
    #[comptime] activation: FusedActivation,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let z = Vector::<f32, N>::cast_from(z[ABSOLUTE_POS]);
        let dy = Vector::<f32, N>::cast_from(dy[ABSOLUTE_POS]);
        dx[ABSOLUTE_POS] = Vector::cast_from(slope::<N>(z, dy, activation));
    }
}

/// How many values a unit takes at once.
fn width(values: usize) -> usize {
    if values.is_multiple_of(4) { 4 } else { 1 }
}

/// The activation of contiguous values; NaN stays NaN.
pub(crate) fn activation(x: &CubeTensor, activation: FusedActivation) -> CubeTensor {
    let shape: Vec<usize> = x.meta.shape().to_vec();
    let values: usize = shape.iter().product();
    let (y, width) = (empty(x, &shape, x.dtype), width(values));
    let bytes = values * x.dtype.size();
    record("activation", [bytes, bytes], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    activation_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, values / width, units),
        units,
        width,
        x.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        values / width,
        activation,
        element(x.dtype),
    );
    y
}

/// `dy` times the slope at `z`, the input of [`activation`], for which the result of ReLU serves too.
pub(crate) fn activation_backward(
    z: &CubeTensor,
    dy: &CubeTensor,
    activation: FusedActivation,
) -> CubeTensor {
    let shape: Vec<usize> = z.meta.shape().to_vec();
    let values: usize = shape.iter().product();
    let (dx, width) = (empty(z, &shape, z.dtype), width(values));
    let bytes = values * z.dtype.size();
    record("activation_backward", [2 * bytes, bytes], 1);
    let units = CubeDim::new_1d(UNITS as u32);
    activation_backward_kernel::launch(
        &z.client,
        cubecl::calculate_cube_count_elemwise(&z.client, values / width, units),
        units,
        width,
        z.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        values / width,
        activation,
        element(z.dtype),
    );
    dx
}
