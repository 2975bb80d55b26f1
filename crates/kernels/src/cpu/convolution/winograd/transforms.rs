//! The transforms of Winograd's minimal filtering, two axes at a time and a vector of channels at
//! once: input tiles and filters to positions, products back to outputs, and for the gradient of
//! the weights the transposes of the last two.
//!
//! `F(m x m, 3 x 3)` transforms input tiles of `n x n`, `n = m + 2`, to `n x n` positions. The
//! interpolation points are 0, 1, -1 and infinity for `n` 4; 0, [`A`], -A, [`B`], -B and infinity
//! for `n` 6.

use std::mem::MaybeUninit;

use crate::cpu::convolution::winograd::tiles::Tiles;
use crate::cpu::matmul::Epilogue;
use crate::simd::{Kernel, Simd, unrolled};

/// The first interpolation point of `n` 6. Lavin and Gray chose 1 and 2; 0.625 and 1.5 have less
/// than half of their mean error and about a third of their greatest, because the transforms
/// contain smaller numbers. The best of ten pairs that were measured, on maps after a ReLU.
const A: f32 = 0.625;
/// The second interpolation point of `n` 6.
const B: f32 = 1.5;
/// One over the product of the distances of `A` from the other finite points.
const NEAR: f32 = 1.0 / (2.0 * A * A * (A * A - B * B));
/// One over the product of the distances of `B` from the other finite points.
const FAR: f32 = 1.0 / (2.0 * B * B * (B * B - A * A));

/// A row or column of an input tile to positions, `B^T d`.
#[inline(always)]
unsafe fn input_axis<S: Simd, const N: usize>(d: [S::Vector; N]) -> [S::Vector; N] {
    // SAFETY: the caller's.
    unsafe {
        if N == 4 {
            let mut out = d;
            out[0] = S::sub(d[0], d[2]);
            out[1] = S::add(d[1], d[2]);
            out[2] = S::sub(d[2], d[1]);
            out[3] = S::sub(d[1], d[3]);
            return out;
        }
        let (aa, bb) = (S::splat(-A * A), S::splat(-B * B));
        let (sum, product) = (S::splat(-(A * A + B * B)), S::splat(A * A * B * B));
        let even = [S::fma(bb, d[2], d[4]), S::fma(aa, d[2], d[4])];
        let odd = [
            S::mul(S::splat(A), S::fma(bb, d[1], d[3])),
            S::mul(S::splat(B), S::fma(aa, d[1], d[3])),
        ];
        let mut out = d;
        out[0] = S::fma(product, d[0], S::fma(sum, d[2], d[4]));
        out[1] = S::add(even[0], odd[0]);
        out[2] = S::sub(even[0], odd[0]);
        out[3] = S::add(even[1], odd[1]);
        out[4] = S::sub(even[1], odd[1]);
        out[5] = S::fma(product, d[1], S::fma(sum, d[3], d[5]));
        out
    }
}

/// A row or column of products to outputs, `A^T m`.
#[inline(always)]
unsafe fn output_axis<S: Simd, const M: usize, const N: usize>(
    m: [S::Vector; N],
) -> [S::Vector; M] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = [S::zero(); M];
        let (sum, difference) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        if N == 4 {
            out[0] = S::add(m[0], sum);
            out[1] = S::sub(difference, m[3]);
            return out;
        }
        let (far, apart) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        out[0] = S::add(S::add(m[0], sum), far);
        out[1] = S::fma(S::splat(B), apart, S::mul(S::splat(A), difference));
        out[2] = S::fma(S::splat(B * B), far, S::mul(S::splat(A * A), sum));
        let last = S::fma(S::splat(A * A * A), difference, m[5]);
        out[3] = S::fma(S::splat(B * B * B), apart, last);
        out
    }
}

/// A row or column of a filter to positions, `G g`.
#[inline(always)]
unsafe fn filter_axis<S: Simd, const N: usize>(g: [S::Vector; 3]) -> [S::Vector; N] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = [S::zero(); N];
        if N == 4 {
            let half = S::splat(0.5);
            let outer = S::mul(half, S::add(g[0], g[2]));
            out[0] = g[0];
            out[1] = S::fma(half, g[1], outer);
            out[2] = S::fma(S::splat(-0.5), g[1], outer);
            out[3] = g[2];
            return out;
        }
        let (aa, bb) = (A * A, B * B);
        let (near, far) = (S::splat(NEAR), S::splat(FAR));
        let even = [
            S::mul(near, S::fma(S::splat(aa), g[2], g[0])),
            S::mul(far, S::fma(S::splat(bb), g[2], g[0])),
        ];
        let odd = [S::mul(near, S::mul(S::splat(A), g[1])), S::mul(far, S::mul(S::splat(B), g[1]))];
        out[0] = S::mul(S::splat(1.0 / (aa * bb)), g[0]);
        out[1] = S::add(even[0], odd[0]);
        out[2] = S::sub(even[0], odd[0]);
        out[3] = S::add(even[1], odd[1]);
        out[4] = S::sub(even[1], odd[1]);
        out[5] = g[2];
        out
    }
}

/// The gradient of a row or column of outputs to positions, `A dy`: the transpose of
/// [`output_axis`].
#[inline(always)]
unsafe fn output_gradient_axis<S: Simd, const M: usize, const N: usize>(
    dy: [S::Vector; M],
) -> [S::Vector; N] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = [S::zero(); N];
        out[0] = dy[0];
        if N == 4 {
            out[1] = S::add(dy[0], dy[1]);
            out[2] = S::sub(dy[0], dy[1]);
            out[3] = S::sub(S::zero(), dy[1]);
            return out;
        }
        let even = [S::fma(S::splat(A * A), dy[2], dy[0]), S::fma(S::splat(B * B), dy[2], dy[0])];
        let odd = [
            S::mul(S::splat(A), S::fma(S::splat(A * A), dy[3], dy[1])),
            S::mul(S::splat(B), S::fma(S::splat(B * B), dy[3], dy[1])),
        ];
        out[1] = S::add(even[0], odd[0]);
        out[2] = S::sub(even[0], odd[0]);
        out[3] = S::add(even[1], odd[1]);
        out[4] = S::sub(even[1], odd[1]);
        out[5] = dy[3];
        out
    }
}

/// A row or column of positions to the gradient of filter taps, `G^T u`: the transpose of
/// [`filter_axis`].
#[inline(always)]
unsafe fn filter_gradient_axis<S: Simd, const N: usize>(u: [S::Vector; N]) -> [S::Vector; 3] {
    // SAFETY: the caller's.
    unsafe {
        let (sum, difference) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
        if N == 4 {
            let half = S::splat(0.5);
            let sum = S::mul(half, sum);
            return [S::add(u[0], sum), S::mul(half, difference), S::add(sum, u[3])];
        }
        let (aa, bb) = (A * A, B * B);
        let (near, far) = (S::splat(NEAR), S::splat(FAR));
        let even = [S::mul(near, sum), S::mul(far, S::add(u[3], u[4]))];
        let odd = [S::mul(near, difference), S::mul(far, S::sub(u[3], u[4]))];
        let first = S::fma(S::splat(1.0 / (aa * bb)), u[0], S::add(even[0], even[1]));
        let second = S::fma(S::splat(B), odd[1], S::mul(S::splat(A), odd[0]));
        let third = S::fma(S::splat(bb), even[1], S::fma(S::splat(aa), even[0], u[5]));
        [first, second, third]
    }
}

/// The transform of a row or column of a tile's pixels to positions.
trait AxisTransform<const R: usize, const N: usize> {
    /// # Safety
    /// The contract of [`Simd`].
    unsafe fn axis<S: Simd>(d: [S::Vector; R]) -> [S::Vector; N];
}

/// [`input_axis`].
struct InputAxis;

impl<const N: usize> AxisTransform<N, N> for InputAxis {
    #[inline(always)]
    unsafe fn axis<S: Simd>(d: [S::Vector; N]) -> [S::Vector; N] {
        // SAFETY: the caller's.
        unsafe { input_axis::<S, N>(d) }
    }
}

/// [`output_gradient_axis`].
struct OutputGradientAxis;

impl<const M: usize, const N: usize> AxisTransform<M, N> for OutputGradientAxis {
    #[inline(always)]
    unsafe fn axis<S: Simd>(d: [S::Vector; M]) -> [S::Vector; N] {
        // SAFETY: the caller's.
        unsafe { output_gradient_axis::<S, M, N>(d) }
    }
}

/// Transforms a tile's pixels, `channels` values each, to positions `stride` values apart.
///
/// # Safety
/// The contract of [`Simd`]; every pixel and every position has so many values.
#[inline(always)]
unsafe fn transform_tile<S: Simd, T: AxisTransform<R, N>, const R: usize, const N: usize>(
    pixels: &[[*const f32; R]; R],
    channels: usize,
    to: *mut f32,
    stride: usize,
) {
    let mut at = 0;
    // SAFETY: the caller's.
    unsafe {
        while at + S::LANES <= channels {
            transform_vector::<S, T, R, N, true>(pixels, at, S::LANES, to, stride);
            at += S::LANES;
        }
        if at < channels {
            transform_vector::<S, T, R, N, false>(pixels, at, channels - at, to, stride);
        }
    }
}

/// [`transform_tile`] of `count` channels from `at` on, a whole vector where `WHOLE`.
#[inline(always)]
unsafe fn transform_vector<
    S: Simd,
    T: AxisTransform<R, N>,
    const R: usize,
    const N: usize,
    const WHOLE: bool,
>(
    pixels: &[[*const f32; R]; R],
    at: usize,
    count: usize,
    to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut d = [[S::zero(); R]; N];
        unrolled!(j < R => {
            let mut column = [S::zero(); R];
            unrolled!(i < R => {
                column[i] = S::load_lanes::<WHOLE>(pixels[i][j].add(at), count);
            });
            let column = T::axis::<S>(column);
            unrolled!(i < N => { d[i][j] = column[i]; });
        });
        unrolled!(i < N => {
            let row = T::axis::<S>(d[i]);
            unrolled!(j < N => {
                S::store_lanes::<WHOLE>(to.add((i * N + j) * stride + at), count, row[j]);
            });
        });
    }
}

/// Pointers to `R` by `R` pixels of an image of a map `[b, h, w, c]`, from `corner` on. Pixels
/// beside the image are read from `zeros`: no vector asks where it lies.
#[inline(always)]
fn pixels<const R: usize>(
    map: &[f32],
    zeros: &[f32],
    [image, h, w, c]: [usize; 4],
    corner: [usize; 2],
) -> [[*const f32; R]; R] {
    assert!(zeros.len() >= c, "a zero for every channel");
    let mut pixels = [[zeros.as_ptr(); R]; R];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        let row = corner[0].wrapping_add(i);
        if row < h {
            for (j, pixel) in pixels.iter_mut().enumerate() {
                let column = corner[1].wrapping_add(j);
                if column < w {
                    let at = (image * h + row) * w + column;
                    *pixel = map[at * c..][..c].as_ptr();
                }
            }
        }
    }
    pixels
}

/// Input tiles to positions: `to[position][tile][channel]`, positions `stride` values apart.
pub(super) struct InputTransform<'a, const M: usize, const N: usize> {
    /// All images.
    pub x: &'a [f32],
    /// A zero for every channel: the padding.
    pub zeros: &'a [f32],
    pub tiles: &'a Tiles,
    pub from: usize,
    pub count: usize,
    pub to: *mut f32,
    pub stride: usize,
}

impl<const M: usize, const N: usize> Kernel for InputTransform<'_, M, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = &self.tiles.conv.g;
        let ([h, w], c) = (g.input, g.channels);
        for tile in 0..self.count {
            let (image, [top, left]) = self.tiles.locate(self.from + tile);
            let corner = [top.wrapping_sub(g.before[0]), left.wrapping_sub(g.before[1])];
            let pixels = pixels::<N>(self.x, self.zeros, [image, h, w, c], corner);
            let to = self.to.wrapping_add(tile * c);
            // SAFETY: every pixel has `c` values, every position the rows of all tiles.
            unsafe { transform_tile::<S, InputAxis, N, N>(&pixels, c, to, self.stride) };
        }
    }
}

/// The gradient of the outputs of tiles to positions: `to[position][tile][filter]`, positions
/// `stride` values apart.
pub(super) struct OutputGradientTransform<'a, const M: usize, const N: usize> {
    /// All images.
    pub dy: &'a [f32],
    /// A zero for every filter: outputs of a tile beyond the map.
    pub zeros: &'a [f32],
    pub tiles: &'a Tiles,
    pub from: usize,
    pub count: usize,
    pub to: *mut f32,
    pub stride: usize,
}

impl<const M: usize, const N: usize> Kernel for OutputGradientTransform<'_, M, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let ([h, w], filters) = (self.tiles.conv.g.output, self.tiles.conv.filters);
        for tile in 0..self.count {
            let (image, corner) = self.tiles.locate(self.from + tile);
            let pixels = pixels::<M>(self.dy, self.zeros, [image, h, w, filters], corner);
            let to = self.to.wrapping_add(tile * filters);
            // SAFETY: every pixel has all filters, every position the rows of all tiles.
            unsafe {
                transform_tile::<S, OutputGradientAxis, M, N>(&pixels, filters, to, self.stride);
            };
        }
    }
}

/// Products of a block of filters back to the outputs of tiles, with the epilogue applied.
pub(super) struct OutputTransform<'a, const M: usize, const N: usize> {
    /// `[position][tile][filter of the block]`, positions `stride` values apart.
    pub products: *const f32,
    pub stride: usize,
    pub tiles: &'a Tiles,
    pub from: usize,
    pub count: usize,
    /// The first filter of the block.
    pub first: usize,
    /// Filters of the block, at most [`ACROSS`].
    pub across: usize,
    pub epilogue: Epilogue<'a>,
    /// All images.
    pub y: *mut f32,
}

/// Most filters of a block: four vectors of the largest instruction set.
pub(super) const ACROSS: usize = 64;

impl<const M: usize, const N: usize> Kernel for OutputTransform<'_, M, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (g, filters) = (&self.tiles.conv.g, self.tiles.conv.filters);
        assert!(self.across <= ACROSS, "{} filters in a block", self.across);
        // Outputs of a tile that lie beyond the map are written here: no vector asks which exist.
        let (mut beyond, none) = ([MaybeUninit::<f32>::uninit(); ACROSS], [0.0; ACROSS]);
        let beyond = beyond.as_mut_ptr().cast::<f32>();
        for tile in 0..self.count {
            let (image, [top, left]) = self.tiles.locate(self.from + tile);
            let mut pixels = [[beyond; M]; M];
            let mut skips = [[none.as_ptr(); M]; M];
            for (i, j) in (0..M).flat_map(|i| (0..M).map(move |j| (i, j))) {
                if top + i < g.output[0] && left + j < g.output[1] {
                    let pixel = (image * g.output[0] + top + i) * g.output[1] + left + j;
                    let at = pixel * filters + self.first;
                    // SAFETY: the output lies on the map.
                    pixels[i][j] = unsafe { self.y.add(at) };
                    if let Some(skip) = self.epilogue.skip {
                        skips[i][j] = skip[at..][..self.across].as_ptr();
                    }
                }
            }
            // SAFETY: every pixel has room for the block's filters.
            unsafe {
                let from = self.products.add(tile * self.across);
                let mut at = 0;
                while at + S::LANES <= self.across {
                    self.vector::<S, true>(from, &pixels, &skips, at, S::LANES);
                    at += S::LANES;
                }
                if at < self.across {
                    self.vector::<S, false>(from, &pixels, &skips, at, self.across - at);
                }
            }
        }
    }
}

impl<const M: usize, const N: usize> OutputTransform<'_, M, N> {
    #[inline(always)]
    unsafe fn vector<S: Simd, const WHOLE: bool>(
        &self,
        from: *const f32,
        pixels: &[[*mut f32; M]; M],
        skips: &[[*const f32; M]; M],
        at: usize,
        count: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut d = [[S::zero(); N]; M];
            unrolled!(j < N => {
                let mut column = [S::zero(); N];
                unrolled!(i < N => {
                    let product = from.add((i * N + j) * self.stride + at);
                    column[i] = S::load_lanes::<WHOLE>(product, count);
                });
                let column = output_axis::<S, M, N>(column);
                unrolled!(i < M => { d[i][j] = column[i]; });
            });
            let bias = match self.epilogue.bias {
                Some(bias) => S::load_lanes::<WHOLE>(bias.as_ptr().add(self.first + at), count),
                None => S::zero(),
            };
            unrolled!(i < M => {
                let row = output_axis::<S, M, N>(d[i]);
                unrolled!(j < M => {
                    let mut value = self.epilogue.activation.apply::<S>(S::add(row[j], bias));
                    if self.epilogue.skip.is_some() {
                        value = S::add(value, S::load_lanes::<WHOLE>(skips[i][j].add(at), count));
                    }
                    S::store_lanes::<WHOLE>(pixels[i][j].add(at), count, value);
                });
            });
        }
    }
}

/// Filters `[filters, 3, 3, c]` to positions, some channels of some filters.
pub(super) struct FilterTransform<'a, const N: usize> {
    pub w: &'a [f32],
    pub c: usize,
    /// The filters that are transformed, from and to.
    pub filters: (usize, usize),
    /// The channels that are transformed, from and to.
    pub channels: (usize, usize),
    /// A factor for every filter.
    pub scale: Option<&'a [f32]>,
    /// `to[position][channel][filter]`; or, with the kernels rotated by 180 degrees,
    /// `to[position][filter][channel]`.
    pub rotated: bool,
    pub to: &'a mut [f32],
}

impl<const N: usize> Kernel for FilterTransform<'_, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (filters, channels) = (self.filters, self.channels);
        let [rows, columns] = [channels.1 - channels.0, filters.1 - filters.0];
        assert_eq!(self.to.len(), N * N * rows * columns, "positions of a block of filters");
        assert!(self.w.len() >= filters.1 * 9 * self.c && channels.1 <= self.c, "filters");
        // Channels in the outer loop: lines that are written across the rows of the target stay in
        // the first-level cache.
        for first in (channels.0..channels.1).step_by(S::LANES) {
            let count = (channels.1 - first).min(S::LANES);
            for filter in filters.0..filters.1 {
                // SAFETY: the taps lie in the filter, the positions in the target.
                unsafe {
                    let from = self.w.as_ptr().add(filter * 9 * self.c + first);
                    let scale = S::splat(self.scale.map_or(1.0, |scale| scale[filter]));
                    let mut g = [[S::zero(); 3]; 3];
                    unrolled!(i < 3 => {
                        unrolled!(j < 3 => {
                            let tap = if self.rotated { 8 - (3 * i + j) } else { 3 * i + j };
                            let tap = S::load_some(from.add(tap * self.c), count);
                            g[i][j] = S::mul(scale, tap);
                        });
                    });
                    let mut u = [[S::zero(); 3]; N];
                    unrolled!(j < 3 => {
                        let column = filter_axis::<S, N>([g[0][j], g[1][j], g[2][j]]);
                        unrolled!(i < N => { u[i][j] = column[i]; });
                    });
                    unrolled!(i < N => {
                        let row = filter_axis::<S, N>(u[i]);
                        unrolled!(j < N => {
                            let position = (i * N + j) * rows * columns;
                            let (filter, channel) = (filter - filters.0, first - channels.0);
                            if self.rotated {
                                let to = self.to.as_mut_ptr().add(position + filter * rows);
                                S::store_some(to.add(channel), count, row[j]);
                            } else {
                                let mut lanes = [0.0; 16];
                                S::store(lanes.as_mut_ptr(), row[j]);
                                let at = position + channel * columns + filter;
                                for (lane, value) in lanes[..count].iter().enumerate() {
                                    self.to[at + lane * columns] = *value;
                                }
                            }
                        });
                    });
                }
            }
        }
    }
}

/// Sums of positions `[position][filters, c]` to the gradient of one filter: `[3, 3, c]`.
pub(super) struct FilterGradientTransform<'a, const N: usize> {
    pub sums: &'a [f32],
    pub filters: usize,
    pub filter: usize,
    pub c: usize,
    pub to: &'a mut [f32],
}

impl<const N: usize> Kernel for FilterGradientTransform<'_, N> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (c, matrix) = (self.c, self.filters * self.c);
        assert_eq!([self.sums.len(), self.to.len()], [N * N * matrix, 9 * c], "values");
        assert!(self.filter < self.filters, "a filter");
        let mut at = 0;
        while at < c {
            let count = (c - at).min(S::LANES);
            // SAFETY: the filter lies in every matrix, the channels in the filter.
            unsafe {
                let from = self.sums.as_ptr().add(self.filter * c + at);
                let mut u = [[S::zero(); N]; 3];
                unrolled!(j < N => {
                    let mut column = [S::zero(); N];
                    unrolled!(i < N => {
                        column[i] = S::load_some(from.add((i * N + j) * matrix), count);
                    });
                    let column = filter_gradient_axis::<S, N>(column);
                    unrolled!(i < 3 => { u[i][j] = column[i]; });
                });
                unrolled!(i < 3 => {
                    let row = filter_gradient_axis::<S, N>(u[i]);
                    unrolled!(j < 3 => {
                        let to = self.to.as_mut_ptr().add((3 * i + j) * c + at);
                        S::store_some(to, count, row[j]);
                    });
                });
            }
            at += S::LANES;
        }
    }
}
