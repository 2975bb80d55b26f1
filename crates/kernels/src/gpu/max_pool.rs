//! Max pooling of maps `[b, h, w, c]`. The padding counts as minus infinity; of a window with NaN
//! the maximum is NaN.

use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::geometry::Geometry;
use crate::gpu::map::{UNITS, element, empty};
use crate::gpu::traffic::record;

#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Extents {
    channels: u32,
    in_h: u32,
    in_w: u32,
    out_h: u32,
    out_w: u32,
    before: i32,
}

fn extents(g: &Geometry) -> ExtentsLaunch {
    ExtentsLaunch::new(
        g.channels as u32,
        g.input[0] as u32,
        g.input[1] as u32,
        g.output[0] as u32,
        g.output[1] as u32,
        g.before[0] as i32,
    )
}

/// The position in `x` of a window's maximum: the first of equal ones, the last NaN.
#[cube]
fn position_of_maximum<E: Float>(
    x: &[E],
    extents: &Extents,
    image: usize,
    top: i32,
    left: i32,
    channel: usize,
    #[comptime] kernel: usize,
) -> usize {
    let (channels, in_w) = (extents.channels as usize, extents.in_w as usize);
    let mut best = f32::new(0.0f32);
    let mut position = 0usize;
    let mut found = false;
    for i in 0..kernel {
        let h = top + i as i32;
        if h >= 0 && h < extents.in_h as i32 {
            for j in 0..kernel {
                let w = left + j as i32;
                if w >= 0 && w < extents.in_w as i32 {
                    let line = image * extents.in_h as usize + h as usize;
                    let at = (line * in_w + w as usize) * channels + channel;
                    let value = f32::cast_from(x[at]);
                    // NaN replaces what there is, and only NaN replaces NaN.
                    if !found || value.is_nan() || value > best {
                        best = value;
                        position = at;
                        found = true;
                    }
                }
            }
        }
    }
    position
}

#[cube(launch)]
fn forward_kernel<E: Float>(
    x: &[E],
    y: &mut [E],
    extents: Extents,
    values: usize,
    #[comptime] kernel: usize,
    #[comptime] stride: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < values {
        let channels = extents.channels as usize;
        let channel = ABSOLUTE_POS % channels;
        let pixel = ABSOLUTE_POS / channels;
        let line = pixel / extents.out_w as usize;
        let image = line / extents.out_h as usize;
        let top = ((line % extents.out_h as usize) * stride) as i32 - extents.before;
        let left = ((pixel % extents.out_w as usize) * stride) as i32 - extents.before;
        let at = position_of_maximum::<E>(x, &extents, image, top, left, channel, kernel);
        y[ABSOLUTE_POS] = x[at];
    }
}

#[cube(launch)]
fn dx_kernel<E: Float>(
    x: &[E],
    dy: &[E],
    dx: &mut [E],
    extents: Extents,
    values: usize,
    #[comptime] kernel: usize,
    #[comptime] stride: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < values {
        let channels = extents.channels as usize;
        let channel = ABSOLUTE_POS % channels;
        let pixel = ABSOLUTE_POS / channels;
        let w = (pixel % extents.in_w as usize) as i32 + extents.before;
        let line = pixel / extents.in_w as usize;
        let h = (line % extents.in_h as usize) as i32 + extents.before;
        let image = line / extents.in_h as usize;
        let mut sum = 0.0f32;
        for i in 0..kernel {
            let down = h - i as i32;
            let row = down / stride as i32;
            if down >= 0 && row * stride as i32 == down && row < extents.out_h as i32 {
                for j in 0..kernel {
                    let right = w - j as i32;
                    let column = right / stride as i32;
                    let reads = right >= 0 && column * stride as i32 == right;
                    if reads && column < extents.out_w as i32 {
                        let top = down - extents.before;
                        let left = right - extents.before;
                        let at = position_of_maximum::<E>(
                            x, &extents, image, top, left, channel, kernel,
                        );
                        if at == ABSOLUTE_POS {
                            let line = image * extents.out_h as usize + row as usize;
                            let from = line * extents.out_w as usize + column as usize;
                            sum += f32::cast_from(dy[from * channels + channel]);
                        }
                    }
                }
            }
        }
        dx[ABSOLUTE_POS] = E::cast_from(sum);
    }
}

/// The maxima of `x` `[b, h, w, c]`, `[b, h', w', c]`; one launch.
pub(crate) fn forward(x: &CubeTensor, g: &Geometry) -> CubeTensor {
    let y = empty(x, &[g.batch, g.output[0], g.output[1], g.channels], x.dtype);
    let inputs = g.batch * g.input[0] * g.input[1] * g.channels;
    record("max_pool", [inputs * x.dtype.size(), g.outputs() * x.dtype.size()], g.taps());
    let units = CubeDim::new_1d(UNITS as u32);
    forward_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, g.outputs(), units),
        units,
        x.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        extents(g),
        g.outputs(),
        g.kernel[0],
        g.stride,
        element(x.dtype),
    );
    y
}

/// The gradient of the input from `dy` `[b, h', w', c]`, `[b, h, w, c]`; one launch, which locates
/// the maxima again.
pub(crate) fn dx(x: &CubeTensor, dy: &CubeTensor, g: &Geometry) -> CubeTensor {
    let dx = empty(x, &[g.batch, g.input[0], g.input[1], g.channels], x.dtype);
    let inputs = g.batch * g.input[0] * g.input[1] * g.channels;
    let size = x.dtype.size();
    record("max_pool_dx", [(inputs + g.outputs()) * size, inputs * size], g.taps() * g.taps());
    let units = CubeDim::new_1d(UNITS as u32);
    dx_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, inputs, units),
        units,
        x.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        extents(g),
        inputs,
        g.kernel[0],
        g.stride,
        element(x.dtype),
    );
    dx
}
