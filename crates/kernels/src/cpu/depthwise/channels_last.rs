//! The depthwise convolution on channels-last maps `[b, h, w, c]` with weights `[kh, kw, c]`. A
//! vector holds neighbouring channels of one pixel, so that borders, strides and dilation only
//! change addresses.

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::geometry::Geometry;
use crate::cpu::matmul::Epilogue;
use crate::cpu::partial_sums::add_in_order;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// Bytes of the input rows of a chunk of output rows: a share of the second-level cache.
const CHUNK: usize = 192 * 1024;
/// Weights of a block of channels: they stay in the first-level cache.
const WEIGHTS: usize = 3 * 1024;
/// Fewest channels of a block.
const BLOCK: usize = 64;
/// Outputs of a row that are computed together and share the loads of weights and inputs.
const TOGETHER: usize = 4;
/// Vectors of channels of an output that is computed alone.
const VECTORS: usize = 4;
/// Most pixels of a row that [`TOGETHER`] outputs read: stride 2, kernel 5.
const SPAN: usize = (TOGETHER - 1) * 2 + 5;

/// Rows of the output that a thread works on at a time.
fn chunk_rows(g: &Geometry) -> usize {
    let row = g.input[1] * g.channels * 4 * g.stride;
    (CHUNK / row.max(1)).clamp(1, g.output[0].max(1))
}

/// Outputs `from..to` of an axis for which tap `k` lies on the input.
fn reached(g: &Geometry, axis: usize, k: usize) -> (usize, usize) {
    let (before, offset) = (g.before[axis], k * g.dilation);
    let from = before.saturating_sub(offset).div_ceil(g.stride);
    let to = (g.input[axis] + before).saturating_sub(offset).div_ceil(g.stride);
    (from.min(g.output[axis]), to.min(g.output[axis]))
}

/// Taps of an axis, from and to, that lie on the input for an output.
#[inline(always)]
fn on_input(g: &Geometry, axis: usize, output: usize) -> (usize, usize) {
    let (first, before) = (output * g.stride, g.before[axis]);
    let from = before.saturating_sub(first).div_ceil(g.dilation);
    let to = (g.input[axis] + before).saturating_sub(first).div_ceil(g.dilation);
    (from.min(g.kernel[axis]), to.min(g.kernel[axis]))
}

/// `[b, h, w, c]` to `[b, h', w', c]`, with the epilogue applied. Rows in parallel; the bits do not
/// depend on the number of threads.
pub fn f32_depthwise_nhwc(
    isa: Isa,
    x: &[f32],
    w: &[f32],
    g: &Geometry,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let (row, image_len) = (g.output[1] * g.channels, g.input[0] * g.input[1] * g.channels);
    let chunk = match rayon::current_num_threads() {
        // Few images: each thread gets rows of every image.
        threads if g.batch < threads => chunk_rows(g).min(g.output[0].div_ceil(threads)).max(1),
        _ => chunk_rows(g),
    };
    let chunks = g.output[0].div_ceil(chunk);
    assert_eq!([x.len(), w.len()], [g.batch * image_len, g.taps() * g.channels], "values");
    // SAFETY: every output of every row is written.
    unsafe {
        allocator::written(g.outputs(), |y| {
            y.par_chunks_mut(g.output[0] * row).enumerate().for_each(|(image, y)| {
                let x = &x[image * image_len..][..image_len];
                let skip = epilogue.skip.map(|skip| &skip[image * y.len()..][..y.len()]);
                let work = |(i, y): (usize, &mut [std::mem::MaybeUninit<f32>])| {
                    let rows = (i * chunk, (i * chunk + y.len() / row));
                    let skip = skip.map(|skip| &skip[i * chunk * row..][..y.len()]);
                    let epilogue = Epilogue { skip, ..epilogue };
                    let y = y.as_mut_ptr().cast();
                    isa.run(DepthwiseForward { x, w, g, rows, epilogue, y });
                };
                if chunks > 1 {
                    y.par_chunks_mut(chunk * row).enumerate().for_each(work);
                } else {
                    work((0, y));
                }
            });
        })
    }
}

struct DepthwiseForward<'a> {
    /// An image.
    x: &'a [f32],
    w: &'a [f32],
    g: &'a Geometry,
    /// Rows of the output, from and to.
    rows: (usize, usize),
    /// `skip` holds the values of these rows alone.
    epilogue: Epilogue<'a>,
    y: *mut f32,
}

impl Kernel for DepthwiseForward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            match (self.g.kernel[1], self.g.stride) {
                (3, 1) => self.channels::<S, 3, 1>(),
                (3, 2) => self.channels::<S, 3, 2>(),
                (5, 1) => self.channels::<S, 5, 1>(),
                (5, 2) => self.channels::<S, 5, 2>(),
                _ => self.channels::<S, 0, 0>(),
            }
        }
    }
}

impl DepthwiseForward<'_> {
    /// Block by block of channels, then along the rows, then the vectors of the block: memory is
    /// read in order. `WIDE` and `STRIDE` are the kernel's width and stride, 0 for any.
    #[inline(always)]
    unsafe fn channels<S: Simd, const WIDE: usize, const STRIDE: usize>(&self) {
        let g = self.g;
        let wide = if WIDE > 0 { WIDE } else { g.kernel[1] };
        // The outputs from `inner` to `end` have all their taps on the input.
        let (mut inner, mut end) = (0, g.output[1]);
        for kx in 0..wide {
            let (from, to) = reached(g, 1, kx);
            (inner, end) = (inner.max(from), end.min(to));
        }
        let (inner, end) = (inner.min(g.output[1]), end.max(inner));
        let grouped = WIDE > 0 && g.dilation == 1 && g.output[1] >= TOGETHER;
        let block = (WEIGHTS / g.taps()).max(BLOCK).next_multiple_of(S::LANES);
        for first in (0..g.channels).step_by(block) {
            let channels = (first, (first + block).min(g.channels));
            for oy in self.rows.0..self.rows.1 {
                // SAFETY: the pixels lie in the image and the chunk.
                unsafe {
                    let mut ox = 0;
                    while ox < g.output[1] {
                        if !grouped {
                            let border = ox < inner || ox >= end;
                            self.block::<S, WIDE, STRIDE, 1>(oy, ox, channels, border);
                            ox += 1;
                            continue;
                        }
                        // The last group overlaps the one before and writes some values again.
                        ox = ox.min(g.output[1] - TOGETHER);
                        if ox < inner || ox + TOGETHER > end {
                            self.block::<S, WIDE, STRIDE, TOGETHER>(oy, ox, channels, true);
                        } else {
                            self.block::<S, WIDE, STRIDE, TOGETHER>(oy, ox, channels, false);
                        }
                        ox += TOGETHER;
                    }
                }
            }
        }
    }

    /// The vectors of a block of channels.
    #[inline(always)]
    unsafe fn block<S: Simd, const WIDE: usize, const STRIDE: usize, const COUNT: usize>(
        &self,
        oy: usize,
        ox: usize,
        (mut channel, to): (usize, usize),
        border: bool,
    ) {
        let y = (oy - self.rows.0) * self.g.output[1] * self.g.channels;
        // SAFETY: the caller's.
        unsafe {
            if COUNT == 1 {
                while channel + VECTORS * S::LANES <= to {
                    self.one::<S>(oy, ox, channel, y + channel);
                    channel += VECTORS * S::LANES;
                }
            }
            while channel + S::LANES <= to {
                let y = y + channel;
                self.some::<S, WIDE, STRIDE, true, COUNT>(oy, ox, channel, S::LANES, y, border);
                channel += S::LANES;
            }
            if channel < to {
                let y = y + channel;
                self.some::<S, WIDE, STRIDE, false, COUNT>(
                    oy,
                    ox,
                    channel,
                    to - channel,
                    y,
                    border,
                );
            }
        }
    }

    /// One output at several vectors of channels, so that no addition waits for the one before. At
    /// a border there are no neighbours to share loads with.
    #[inline(always)]
    unsafe fn one<S: Simd>(&self, oy: usize, ox: usize, channel: usize, y: usize) {
        let (g, c) = (self.g, self.g.channels);
        let rows = on_input(g, 0, oy);
        let columns = on_input(g, 1, ox);
        // SAFETY: the taps lie on the input; the rest is the caller's.
        unsafe {
            let mut sums = [S::zero(); VECTORS];
            for ky in rows.0..rows.1 {
                let row = oy * g.stride + ky * g.dilation - g.before[0];
                let line = self.x.as_ptr().add(row * g.input[1] * c + channel);
                for kx in columns.0..columns.1 {
                    let column = ox * g.stride + kx * g.dilation - g.before[1];
                    let pixel = line.add(column * c);
                    let w = self.w.as_ptr().add((ky * g.kernel[1] + kx) * c + channel);
                    unrolled!(v < VECTORS => {
                        let x = S::load(pixel.add(v * S::LANES));
                        let w = S::load(w.add(v * S::LANES));
                        sums[v] = S::fma(x, w, sums[v]);
                    });
                }
            }
            let output = y + ox * c;
            unrolled!(v < VECTORS => {
                let at = v * S::LANES;
                let bias = match self.epilogue.bias {
                    Some(bias) => S::load(bias.as_ptr().add(channel + at)),
                    None => S::zero(),
                };
                let mut value = self.epilogue.activation.apply::<S>(S::add(sums[v], bias));
                if let Some(skip) = self.epilogue.skip {
                    value = S::add(value, S::load(skip.as_ptr().add(output + at)));
                }
                S::store(self.y.add(output + at), value);
            });
        }
    }

    /// `COUNT` neighbouring outputs; with `border`, every tap is tested whether it lies on the
    /// input.
    #[inline(always)]
    unsafe fn some<
        S: Simd,
        const WIDE: usize,
        const STRIDE: usize,
        const WHOLE: bool,
        const COUNT: usize,
    >(
        &self,
        oy: usize,
        ox: usize,
        channel: usize,
        count: usize,
        y: usize,
        border: bool,
    ) {
        let g = self.g;
        let c = g.channels;
        let wide = if WIDE > 0 { WIDE } else { g.kernel[1] };
        let stride = if STRIDE > 0 { STRIDE } else { g.stride };
        // SAFETY: taps off the input are skipped; the rest is the caller's.
        unsafe {
            let mut sums = [S::zero(); COUNT];
            for ky in 0..g.kernel[0] {
                let row = (oy * stride + ky * g.dilation).wrapping_sub(g.before[0]);
                if row >= g.input[0] {
                    continue;
                }
                let line = self.x.as_ptr().add(row * g.input[1] * c + channel);
                let w = self.w.as_ptr().add(ky * wide * c + channel);
                if (COUNT > 1 || !border) && WIDE > 0 && g.dilation == 1 {
                    // Neighbouring outputs read overlapping runs: each pixel is loaded once. Pixels
                    // off the input are zero.
                    let first = (ox * stride).wrapping_sub(g.before[1]);
                    let pixel = line.wrapping_add(first.wrapping_mul(c));
                    let mut run = [S::zero(); SPAN];
                    let span = (COUNT - 1) * STRIDE + WIDE;
                    unrolled!(i < SPAN => {
                        if i < span && !(border && first.wrapping_add(i) >= g.input[1]) {
                            run[i] = S::load_lanes::<WHOLE>(pixel.wrapping_add(i * c), count);
                        }
                    });
                    unrolled!(kx < WIDE => {
                        let weight = S::load_lanes::<WHOLE>(w.add(kx * c), count);
                        unrolled!(i < COUNT => {
                            sums[i] = S::fma(run[i * STRIDE + kx], weight, sums[i]);
                        });
                    });
                    continue;
                }
                for kx in 0..wide {
                    let column = (ox * stride + kx * g.dilation).wrapping_sub(g.before[1]);
                    if border && column >= g.input[1] {
                        continue;
                    }
                    let weight = S::load_lanes::<WHOLE>(w.add(kx * c), count);
                    unrolled!(i < COUNT => {
                        let pixel = line.add((column + i * stride) * c);
                        sums[i] = S::fma(S::load_lanes::<WHOLE>(pixel, count), weight, sums[i]);
                    });
                }
            }
            let bias = match self.epilogue.bias {
                Some(bias) => S::load_lanes::<WHOLE>(bias.as_ptr().add(channel), count),
                None => S::zero(),
            };
            unrolled!(i < COUNT => {
                let output = y + (ox + i) * g.channels;
                let mut value = self.epilogue.activation.apply::<S>(S::add(sums[i], bias));
                if let Some(skip) = self.epilogue.skip {
                    value = S::add(value, S::load_lanes::<WHOLE>(skip.as_ptr().add(output), count));
                }
                S::store_lanes::<WHOLE>(self.y.add(output), count, value);
            });
        }
    }
}

/// The gradient of the input, `[b, h, w, c]`. At stride 1 it is a convolution with the kernel
/// rotated by 180 degrees; otherwise every input gathers from the outputs that read it.
pub fn f32_depthwise_nhwc_dx(isa: Isa, w: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let c = g.channels;
    if let Some(rotated) = g.input_gradient() {
        let w: Vec<f32> = w.chunks_exact(c).rev().flatten().copied().collect();
        return f32_depthwise_nhwc(isa, dy, &w, &rotated, Epilogue::NONE);
    }
    let (row, image_len) = (g.input[1] * c, g.output[0] * g.output[1] * c);
    // The outputs that read each row or column, and the tap through which they do.
    let readers = |axis: usize| -> Vec<Vec<(usize, usize)>> {
        let mut readers = vec![Vec::new(); g.input[axis]];
        for k in 0..g.kernel[axis] {
            for o in 0..g.output[axis] {
                let input = (o * g.stride + k * g.dilation).wrapping_sub(g.before[axis]);
                if input < g.input[axis] {
                    readers[input].push((k, o));
                }
            }
        }
        readers
    };
    let (above, beside) = (readers(0), readers(1));
    // SAFETY: every input of every row is written.
    unsafe {
        allocator::written(g.batch * g.input[0] * row, |dx| {
            dx.par_chunks_mut(row).enumerate().for_each(|(line, dx)| {
                let (image, y) = (line / g.input[0], line % g.input[0]);
                let dy = &dy[image * image_len..][..image_len];
                let dx = dx.as_mut_ptr().cast();
                isa.run(DepthwiseInputGradient { dy, w, g, above: &above[y], beside: &beside, dx });
            });
        })
    }
}

struct DepthwiseInputGradient<'a> {
    /// An image.
    dy: &'a [f32],
    w: &'a [f32],
    g: &'a Geometry,
    /// Kernel row and output row of each reader of this row.
    above: &'a [(usize, usize)],
    /// Kernel column and output column of each reader of every column.
    beside: &'a [Vec<(usize, usize)>],
    dx: *mut f32,
}

impl Kernel for DepthwiseInputGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.g;
        let c = g.channels;
        for channel in (0..c).step_by(S::LANES) {
            let count = (c - channel).min(S::LANES);
            for (x, beside) in self.beside.iter().enumerate() {
                // SAFETY: the readers lie in the output, the taps in the kernel.
                unsafe {
                    let mut sum = S::zero();
                    for &(ky, oy) in self.above {
                        for &(kx, ox) in beside {
                            let output = (oy * g.output[1] + ox) * c + channel;
                            let tap = (ky * g.kernel[1] + kx) * c + channel;
                            let dy = S::load_some(self.dy.as_ptr().add(output), count);
                            let weight = S::load_some(self.w.as_ptr().add(tap), count);
                            sum = S::fma(dy, weight, sum);
                        }
                    }
                    S::store_some(self.dx.add(x * c + channel), count, sum);
                }
            }
        }
    }
}

/// The gradient of the weights, `[kh, kw, c]`. Images in parallel, their sums added in order: the
/// bits do not depend on the number of threads.
pub fn f32_depthwise_nhwc_dw(isa: Isa, x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let c = g.channels;
    let (image_len, out_image_len) = (g.input[0] * g.input[1] * c, g.output[0] * g.output[1] * c);
    assert_eq!([x.len(), dy.len()], [g.batch * image_len, g.batch * out_image_len], "values");
    let chunk = chunk_rows(g);
    // Few images are cut into strips, so that there is work for several threads.
    let strips = if g.batch >= 8 { 1 } else { 4.min(g.output[0].div_ceil(chunk)) };
    let strip = g.output[0].div_ceil(strips.max(1));
    let parts: Vec<Vec<f32>> = (0..g.batch * strips)
        .into_par_iter()
        .map(|part| {
            let image = part / strips;
            let (from, to) = ((part % strips) * strip, (part % strips + 1) * strip);
            let mut dw = vec![0.0; g.taps() * c];
            for first in (from..to.min(g.output[0])).step_by(chunk) {
                let rows = (first, (first + chunk).min(to).min(g.output[0]));
                let (x, dy) = (
                    &x[image * image_len..][..image_len],
                    &dy[image * out_image_len..][..out_image_len],
                );
                isa.run(DepthwiseWeightGradient { x, dy, g, rows, dw: dw.as_mut_ptr() });
            }
            dw
        })
        .collect();
    add_in_order(vec![0.0; g.taps() * c], parts)
}

struct DepthwiseWeightGradient<'a> {
    /// An image.
    x: &'a [f32],
    /// An image.
    dy: &'a [f32],
    g: &'a Geometry,
    /// Rows of the output, from and to.
    rows: (usize, usize),
    dw: *mut f32,
}

impl Kernel for DepthwiseWeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.g;
        for channel in (0..g.channels).step_by(S::LANES) {
            let count = (g.channels - channel).min(S::LANES);
            for ky in 0..g.kernel[0] {
                // SAFETY: the caller's.
                unsafe {
                    match (g.kernel[1], count == S::LANES) {
                        (3, true) => self.taps::<S, 3, true>(channel, count, ky, 0),
                        (3, false) => self.taps::<S, 3, false>(channel, count, ky, 0),
                        (5, true) => self.taps::<S, 5, true>(channel, count, ky, 0),
                        (5, false) => self.taps::<S, 5, false>(channel, count, ky, 0),
                        (wide, true) => {
                            for kx in 0..wide {
                                self.taps::<S, 1, true>(channel, count, ky, kx);
                            }
                        }
                        (wide, false) => {
                            for kx in 0..wide {
                                self.taps::<S, 1, false>(channel, count, ky, kx);
                            }
                        }
                    }
                }
            }
        }
    }
}

impl DepthwiseWeightGradient<'_> {
    /// Taps `first..first + WIDE` of row `ky` of the kernel.
    #[inline(always)]
    unsafe fn taps<S: Simd, const WIDE: usize, const WHOLE: bool>(
        &self,
        channel: usize,
        count: usize,
        ky: usize,
        first: usize,
    ) {
        let g = self.g;
        let c = g.channels;
        let (from, to) = reached(g, 0, ky);
        let (mut inner, mut end) = (0, g.output[1]);
        for kx in first..first + WIDE {
            let (from, to) = reached(g, 1, kx);
            (inner, end) = (inner.max(from), end.min(to));
        }
        let end = end.max(inner);
        // SAFETY: taps off the input are skipped.
        unsafe {
            // Two sums for each tap: no addition waits for the one before.
            let mut sums = [[S::zero(); WIDE]; 2];
            for oy in self.rows.0.max(from)..self.rows.1.min(to) {
                let row = oy * g.stride + ky * g.dilation - g.before[0];
                let line = self.x.as_ptr().add(row * g.input[1] * c + channel);
                let dy = self.dy.as_ptr().add(oy * g.output[1] * c + channel);
                for ox in 0..inner.min(g.output[1]) {
                    self.border::<S, WIDE, WHOLE>(line, dy, count, ox, first, &mut sums[0]);
                }
                let mut ox = inner;
                while ox + 2 <= end {
                    unrolled!(i < 2 => {
                        let dy = S::load_lanes::<WHOLE>(dy.add((ox + i) * c), count);
                        let column = (ox + i) * g.stride + first * g.dilation - g.before[1];
                        let pixel = line.add(column * c);
                        unrolled!(kx < WIDE => {
                            let x = S::load_lanes::<WHOLE>(pixel.add(kx * g.dilation * c), count);
                            sums[i][kx] = S::fma(dy, x, sums[i][kx]);
                        });
                    });
                    ox += 2;
                }
                for ox in ox..g.output[1] {
                    self.border::<S, WIDE, WHOLE>(line, dy, count, ox, first, &mut sums[0]);
                }
            }
            unrolled!(kx < WIDE => {
                let to = self.dw.add((ky * g.kernel[1] + first + kx) * c + channel);
                let sum = S::add(sums[0][kx], sums[1][kx]);
                S::store_some(to, count, S::add(S::load_some(to, count), sum));
            });
        }
    }

    /// One output of a row; each tap is tested whether it lies on the input.
    #[inline(always)]
    unsafe fn border<S: Simd, const WIDE: usize, const WHOLE: bool>(
        &self,
        line: *const f32,
        dy: *const f32,
        count: usize,
        ox: usize,
        first: usize,
        sums: &mut [S::Vector; WIDE],
    ) {
        let (g, c) = (self.g, self.g.channels);
        // SAFETY: taps off the input are skipped.
        unsafe {
            let dy = S::load_lanes::<WHOLE>(dy.add(ox * c), count);
            unrolled!(kx < WIDE => {
                let column = (ox * g.stride + (first + kx) * g.dilation).wrapping_sub(g.before[1]);
                if column < g.input[1] {
                    let x = S::load_lanes::<WHOLE>(line.add(column * c), count);
                    sums[kx] = S::fma(dy, x, sums[kx]);
                }
            });
        }
    }
}
