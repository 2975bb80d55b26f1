//! Depthwise convolutions of maps `[b, h, w, c]` with weights `[c, 1, kh, kw]`: forward, gradient of
//! the input, gradient of the weights.
//!
//! A cube keeps the weights of its channels in shared memory, taps first. A unit takes four
//! neighbouring outputs of a row, so that the inputs under two windows are read once.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::activation::FusedActivation;
use crate::cpu::geometry::Geometry;
use crate::gpu::activation::activate;
use crate::gpu::batch_norm::{Norm, sum_rows};
use crate::gpu::map::{Tiles, UNITS, element, empty};
use crate::gpu::traffic::record;

/// Outputs of a row that one unit of the forward pass computes.
const OUTPUTS: usize = 4;
/// The most weights of a cube, in values: 8 KB of shared memory.
const MOST_WEIGHTS: usize = 2048;
/// The largest kernel, in taps: a vector of sums for each lies in registers.
const MOST_TAPS: usize = 25;

/// Whether the kernels take a depthwise convolution; others are pooling windows of odd networks.
pub(crate) fn supports(g: &Geometry) -> bool {
    g.taps() <= MOST_TAPS
}

/// What a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Window {
    kernel_h: usize,
    kernel_w: usize,
    stride: usize,
    dilation: usize,
}

impl Window {
    fn of(g: &Geometry) -> Self {
        let [kernel_h, kernel_w] = g.kernel;
        Self { kernel_h, kernel_w, stride: g.stride, dilation: g.dilation }
    }

    fn taps(&self) -> usize {
        self.kernel_h * self.kernel_w
    }

    /// Columns of the input under `outputs` neighbouring windows.
    fn columns(&self, outputs: usize) -> usize {
        (outputs - 1) * self.stride + (self.kernel_w - 1) * self.dilation + 1
    }
}

/// Height and width of the input and of the output, and the padding above and left of the input.
#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct Extents {
    in_h: u32,
    in_w: u32,
    out_h: u32,
    out_w: u32,
    before_h: i32,
    before_w: i32,
}

fn extents(g: &Geometry) -> ExtentsLaunch {
    ExtentsLaunch::new(
        g.input[0] as u32,
        g.input[1] as u32,
        g.output[0] as u32,
        g.output[1] as u32,
        g.before[0] as i32,
        g.before[1] as i32,
    )
}

/// Reads the weights `[c, taps]` of a cube's channels to `[taps, x]` in shared memory.
#[cube]
fn read_weights<N: Size>(
    weights: &[f32],
    shared: &mut Shared<[Vector<f32, N>]>,
    vectors: usize,
    #[comptime] taps: usize,
    #[comptime] x_units: usize,
) {
    let width = N::value();
    let mut index = UNIT_POS as usize;
    while index < taps * x_units {
        let lane = index % x_units;
        let tap = index / x_units;
        let channel = (CUBE_POS_X as usize) * x_units + lane;
        let mut weight = Vector::<f32, N>::new(0.0f32);
        if channel < vectors {
            #[unroll]
            for i in 0..width {
                weight.insert(i, weights[(channel * width + i) * taps + tap]);
            }
        }
        shared[index] = weight;
        index += UNITS;
    }
    sync_cube();
}

#[cube(launch)]
fn forward_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    weights: &[f32],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    mean: &[Vector<f32, N>],
    variance: &[Vector<f32, N>],
    y: &mut [Vector<E, N>],
    epsilon: f32,
    extents: Extents,
    groups: usize,
    groups_of_row: usize,
    vectors: usize,
    rows_per_unit: usize,
    #[comptime] window: Window,
    #[comptime] norms: bool,
    #[comptime] activation: FusedActivation,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let taps = comptime!(window.taps());
    let columns = comptime!(window.columns(OUTPUTS));
    let (stride, dilation) = comptime!((window.stride, window.dilation));
    let (kernel_h, kernel_w) = comptime!((window.kernel_h, window.kernel_w));
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!(taps * x_units));
    read_weights::<N>(weights, &mut shared, vectors, taps, x_units);
    let lane = UNIT_POS_X as usize;
    let channel = (CUBE_POS_X as usize) * x_units + lane;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    let (out_h, out_w) = (extents.out_h as usize, extents.out_w as usize);
    let (in_h, in_w) = (extents.in_h as usize, extents.in_w as usize);
    for r in 0..rows_per_unit {
        let group = first + r * y_units;
        if group < groups && channel < vectors {
            let from = (group % groups_of_row) * OUTPUTS;
            let line = group / groups_of_row;
            let row = (line % out_h) as i32 * stride as i32 - extents.before_h;
            let image = line / out_h;
            let column = from as i32 * stride as i32 - extents.before_w;
            let mut sums = Array::<Vector<f32, N>>::new(OUTPUTS);
            #[unroll]
            for t in 0..OUTPUTS {
                sums[t] = Vector::new(0.0f32);
            }
            #[unroll]
            for i in 0..kernel_h {
                let h = row + (i * dilation) as i32;
                if h >= 0 && (h as usize) < in_h {
                    let base = (image * in_h + h as usize) * in_w;
                    #[unroll]
                    for j in 0..columns {
                        let w = column + j as i32;
                        if w >= 0 && (w as usize) < in_w {
                            let at = (base + w as usize) * vectors + channel;
                            let value = Vector::<f32, N>::cast_from(x[at]);
                            #[unroll]
                            for t in 0..OUTPUTS {
                                // The tap of output t that reads column j, if there is one.
                                let offset = comptime!(j as isize - (t * stride) as isize);
                                let reads = comptime!(
                                    offset >= 0
                                        && (offset as usize).is_multiple_of(dilation)
                                        && (offset as usize / dilation) < kernel_w
                                );
                                if comptime!(reads) {
                                    let tap = comptime!(i * kernel_w + offset as usize / dilation);
                                    sums[t] += value * shared[tap * x_units + lane];
                                }
                            }
                        }
                    }
                }
            }
            let base = line * out_w + from;
            #[unroll]
            for t in 0..OUTPUTS {
                if from + t < out_w {
                    let mut value = sums[t];
                    if comptime!(norms) {
                        let deviation = (variance[channel] + Vector::new(epsilon)).sqrt();
                        let scale = gamma[channel] / deviation;
                        let z = (value - mean[channel]) * scale + beta[channel];
                        value = activate::<N>(z, activation);
                    }
                    y[(base + t) * vectors + channel] = Vector::cast_from(value);
                }
            }
        }
    }
}

/// The gradient of the input: every input gathers from the outputs that read it.
#[cube(launch)]
fn dx_kernel<E: Float, N: Size>(
    dy: &[Vector<E, N>],
    weights: &[f32],
    dx: &mut [Vector<E, N>],
    extents: Extents,
    pixels: usize,
    vectors: usize,
    rows_per_unit: usize,
    #[comptime] window: Window,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let taps = comptime!(window.taps());
    let (stride, dilation) = comptime!((window.stride, window.dilation));
    let (kernel_h, kernel_w) = comptime!((window.kernel_h, window.kernel_w));
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!(taps * x_units));
    read_weights::<N>(weights, &mut shared, vectors, taps, x_units);
    let lane = UNIT_POS_X as usize;
    let channel = (CUBE_POS_X as usize) * x_units + lane;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    let (out_h, out_w) = (extents.out_h as usize, extents.out_w as usize);
    let (in_h, in_w) = (extents.in_h as usize, extents.in_w as usize);
    for r in 0..rows_per_unit {
        let pixel = first + r * y_units;
        if pixel < pixels && channel < vectors {
            let w = (pixel % in_w) as i32 + extents.before_w;
            let line = pixel / in_w;
            let h = (line % in_h) as i32 + extents.before_h;
            let image = line / in_h;
            let mut sum = Vector::<f32, N>::new(0.0f32);
            #[unroll]
            for i in 0..kernel_h {
                let down = h - (i * dilation) as i32;
                let row = down / stride as i32;
                if down >= 0 && row * stride as i32 == down && (row as usize) < out_h {
                    let base = (image * out_h + row as usize) * out_w;
                    #[unroll]
                    for j in 0..kernel_w {
                        let right = w - (j * dilation) as i32;
                        let column = right / stride as i32;
                        if right >= 0
                            && column * stride as i32 == right
                            && (column as usize) < out_w
                        {
                            let at = (base + column as usize) * vectors + channel;
                            let tap = comptime!(i * kernel_w + j);
                            sum +=
                                Vector::<f32, N>::cast_from(dy[at]) * shared[tap * x_units + lane];
                        }
                    }
                }
            }
            dx[pixel * vectors + channel] = Vector::cast_from(sum);
        }
    }
}

/// The gradient of the weights over the outputs of every part, `[parts, taps, c]`.
#[cube(launch)]
fn dw_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    dy: &[Vector<E, N>],
    parts: &mut [Vector<f32, N>],
    extents: Extents,
    outputs: usize,
    vectors: usize,
    rows_per_unit: usize,
    #[comptime] window: Window,
    #[comptime] x_units: usize,
    #[comptime] y_units: usize,
    #[define(E)] _dtype: ElemType,
) {
    let taps = comptime!(window.taps());
    let (stride, dilation) = comptime!((window.stride, window.dilation));
    let (kernel_h, kernel_w) = comptime!((window.kernel_h, window.kernel_w));
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let channel = (CUBE_POS_X as usize) * x_units + UNIT_POS_X as usize;
    let first = (CUBE_POS_Y as usize) * rows_per_unit * y_units + UNIT_POS_Y as usize;
    let (out_h, out_w) = (extents.out_h as usize, extents.out_w as usize);
    let (in_h, in_w) = (extents.in_h as usize, extents.in_w as usize);
    let mut sums = Array::<Vector<f32, N>>::new(taps);
    #[unroll]
    for tap in 0..taps {
        sums[tap] = Vector::new(0.0f32);
    }
    for r in 0..rows_per_unit {
        let output = first + r * y_units;
        if output < outputs && channel < vectors {
            let gradient = Vector::<f32, N>::cast_from(dy[output * vectors + channel]);
            let column = (output % out_w) as i32 * stride as i32 - extents.before_w;
            let line = output / out_w;
            let row = (line % out_h) as i32 * stride as i32 - extents.before_h;
            let image = line / out_h;
            #[unroll]
            for i in 0..kernel_h {
                let h = row + (i * dilation) as i32;
                if h >= 0 && (h as usize) < in_h {
                    let base = (image * in_h + h as usize) * in_w;
                    #[unroll]
                    for j in 0..kernel_w {
                        let w = column + (j * dilation) as i32;
                        if w >= 0 && (w as usize) < in_w {
                            let at = (base + w as usize) * vectors + channel;
                            sums[comptime!(i * kernel_w + j)] +=
                                gradient * Vector::<f32, N>::cast_from(x[at]);
                        }
                    }
                }
            }
        }
    }
    #[unroll]
    for tap in 0..taps {
        let sum = sum_rows::<N>(sums[tap], &mut shared, x_units, y_units);
        if UNIT_POS_Y == 0 && channel < vectors {
            parts[((CUBE_POS_Y as usize) * taps + tap) * vectors + channel] = sum;
        }
    }
}

/// The sums over the parts of `[parts, taps, c]`, as `[c, taps]`.
#[cube(launch)]
fn dw_finish(
    parts: &[f32],
    dw: &mut [f32],
    part_count: usize,
    channels: usize,
    #[comptime] taps: usize,
) {
    let index = ABSOLUTE_POS;
    if index < taps * channels {
        let mut sum = 0.0f32;
        for part in 0..part_count {
            sum += parts[part * taps * channels + index];
        }
        dw[(index % channels) * taps + index / channels] = sum;
    }
}

/// The units of a cube along the channels whose weights fit in its shared memory.
fn most_x(window: Window, channels: usize) -> usize {
    let width = if channels.is_multiple_of(4) { 4 } else { 1 };
    let most = (MOST_WEIGHTS / (window.taps() * width)).max(1);
    // The largest power of two that is not above it.
    (1 << most.ilog2()).min(32)
}

/// Bytes of a map of `pixels` pixels an image, read or written as `like`.
fn bytes(g: &Geometry, pixels: [usize; 2], like: &CubeTensor) -> usize {
    g.batch * pixels[0] * pixels[1] * g.channels * like.dtype.size()
}

/// The convolution of `x` `[b, h, w, c]`, `[b, h', w', c]`, and with `norm` that norm and activation
/// behind it; one launch.
pub(crate) fn forward(
    x: &CubeTensor,
    weights: CubeTensor,
    g: &Geometry,
    norm: Option<(Norm, FusedActivation)>,
) -> CubeTensor {
    let window = Window::of(g);
    let groups_of_row = g.output[1].div_ceil(OUTPUTS);
    let groups = g.batch * g.output[0] * groups_of_row;
    let tiles = Tiles::new([groups, g.channels], 2, usize::MAX, most_x(window, g.channels));
    let y = empty(x, &[g.batch, g.output[0], g.output[1], g.channels], x.dtype);
    record("depthwise", [bytes(g, g.input, x), bytes(g, g.output, x)], window.taps());
    let norms = norm.is_some();
    // Where there is no norm, the weights stand in: a kernel has no optional operand.
    let (norm, activation) =
        norm.unwrap_or_else(|| (Norm::of_none(&weights), FusedActivation::Linear));
    forward_kernel::launch(
        &x.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        weights.into_buffer_arg(),
        norm.gamma.into_buffer_arg(),
        norm.beta.into_buffer_arg(),
        norm.mean.into_buffer_arg(),
        norm.variance.into_buffer_arg(),
        y.clone().into_buffer_arg(),
        norm.epsilon,
        extents(g),
        groups,
        groups_of_row,
        tiles.vectors,
        tiles.rows_per_unit,
        window,
        norms,
        activation,
        tiles.x,
        tiles.y,
        element(x.dtype),
    );
    y
}

/// The gradient of the input from `dy` `[b, h', w', c]`, `[b, h, w, c]`; one launch.
pub(crate) fn dx(dy: &CubeTensor, weights: CubeTensor, g: &Geometry) -> CubeTensor {
    let window = Window::of(g);
    let pixels = g.batch * g.input[0] * g.input[1];
    let tiles = Tiles::new([pixels, g.channels], 4, usize::MAX, most_x(window, g.channels));
    let dx = empty(dy, &[g.batch, g.input[0], g.input[1], g.channels], dy.dtype);
    record("depthwise_dx", [bytes(g, g.output, dy), bytes(g, g.input, dy)], window.taps());
    dx_kernel::launch(
        &dy.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        dy.clone().into_buffer_arg(),
        weights.into_buffer_arg(),
        dx.clone().into_buffer_arg(),
        extents(g),
        pixels,
        tiles.vectors,
        tiles.rows_per_unit,
        window,
        tiles.x,
        tiles.y,
        element(dy.dtype),
    );
    dx
}

/// The gradient of the weights, `[c, 1, kh, kw]` in f32; two launches.
pub(crate) fn dw(x: &CubeTensor, dy: &CubeTensor, g: &Geometry) -> CubeTensor {
    let window = Window::of(g);
    let outputs = g.batch * g.output[0] * g.output[1];
    let tiles = Tiles::new([outputs, g.channels], 64, 256, 32);
    let parts = empty(x, &[tiles.parts, window.taps(), g.channels], DType::F32);
    let partial = tiles.parts * window.taps() * g.channels * 4;
    let read = bytes(g, g.input, x) + bytes(g, g.output, dy);
    record("depthwise_dw", [read, partial], tiles.rows_per_unit + 8);
    dw_kernel::launch(
        &x.client,
        tiles.cubes(),
        tiles.units(),
        tiles.width,
        x.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        extents(g),
        outputs,
        tiles.vectors,
        tiles.rows_per_unit,
        window,
        tiles.x,
        tiles.y,
        element(x.dtype),
    );
    let dw = empty(x, &[g.channels, 1, g.kernel[0], g.kernel[1]], DType::F32);
    let values = window.taps() * g.channels;
    record("depthwise_dw_finish", [partial, values * 4], tiles.parts);
    dw_finish::launch(
        &x.client,
        CubeCount::Static(values.div_ceil(UNITS) as u32, 1, 1),
        CubeDim::new_1d(UNITS as u32),
        parts.into_buffer_arg(),
        dw.clone().into_buffer_arg(),
        tiles.parts,
        g.channels,
        window.taps(),
    );
    dw
}
