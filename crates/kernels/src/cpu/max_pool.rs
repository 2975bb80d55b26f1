//! Max pooling on maps `[b, h, w, c]`: a vector holds neighbouring channels of one pixel.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::geometry::Geometry;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// A pooling window and the extents of the output.
#[derive(Clone, Copy, Debug)]
pub struct PoolWindow {
    /// Height and width.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Padding above and left.
    pub before: usize,
    /// Height and width of the output.
    pub output: [usize; 2],
}

impl PoolWindow {
    /// The geometry of this window on an input `[b, c, h, w]`.
    pub(crate) fn geometry(&self, [batch, channels, h, w]: [usize; 4]) -> Geometry {
        Geometry {
            batch,
            channels,
            input: [h, w],
            kernel: [self.kernel; 2],
            stride: self.stride,
            dilation: 1,
            before: [self.before; 2],
            output: self.output,
        }
    }
}

/// The maximum of each window, `[b, h, w, c]` to `[b, h', w', c]`; the padding counts as minus
/// infinity. Of a window with NaN it is NaN. Rows in parallel.
pub fn f32_max_pool_nhwc(isa: Isa, x: &[f32], g: &Geometry) -> Vec<f32> {
    let (row, image_len) = (g.output[1] * g.channels, g.input[0] * g.input[1] * g.channels);
    assert_eq!(x.len(), g.batch * image_len, "values of the images");
    // SAFETY: every output of every row is written.
    unsafe {
        allocator::written(g.outputs(), |y| {
            y.par_chunks_mut(row).enumerate().for_each(|(line, y)| {
                let (image, oy) = (line / g.output[0], line % g.output[0]);
                let x = &x[image * image_len..][..image_len];
                isa.run(MaxPoolRow { x, g, oy, y: y.as_mut_ptr().cast(), gradient: None });
            });
        })
    }
}

/// The gradient of the input of [`f32_max_pool_nhwc`], `[b, h, w, c]`: it goes to the first maximum
/// of each window, and to the last NaN where there is one, as in torch. Images in parallel.
pub fn f32_max_pool_nhwc_dx(isa: Isa, x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let line = g.input[1] * g.channels;
    let image_len = g.input[0] * line;
    let row = g.output[1] * g.channels;
    assert_eq!([x.len(), dy.len()], [g.batch * image_len, g.outputs()], "values");
    // SAFETY: zeros are written to every row.
    unsafe {
        allocator::written(x.len(), |dx| {
            dx.par_chunks_mut(image_len).enumerate().for_each(|(image, dx)| {
                let x = &x[image * image_len..][..image_len];
                // A row is set to zero shortly before the first window adds to it, while it is in
                // the cache.
                let mut zeroed = 0;
                for oy in 0..g.output[0] {
                    let last = reach(g, oy, 0).1.max(zeroed);
                    dx[zeroed * line..last * line].fill(MaybeUninit::new(0.0));
                    zeroed = last;
                    let dy = dy[(image * g.output[0] + oy) * row..][..row].as_ptr();
                    let gradient = Some((dy, dx.as_mut_ptr().cast()));
                    isa.run(MaxPoolRow { x, g, oy, y: std::ptr::null_mut(), gradient });
                }
                dx[zeroed * line..].fill(MaybeUninit::new(0.0));
            });
        })
    }
}

/// The pixels of an axis, from and to, that an output's window covers.
#[inline(always)]
fn reach(g: &Geometry, output: usize, axis: usize) -> (usize, usize) {
    let (first, before) = (output * g.stride, g.before[axis]);
    (
        first.saturating_sub(before),
        (first + g.kernel[axis]).saturating_sub(before).min(g.input[axis]),
    )
}

/// Adds the gradient `dy` of one channel of a window with NaN, or without, to that of the pixel
/// that torch takes for the maximum: a NaN replaces whatever came before it.
///
/// # Safety
/// The window's pixels, `strides` values apart, are valid for the channel of `x` and of `dx`.
#[cold]
unsafe fn gradient_of_lane(
    x: *const f32,
    dx: *mut f32,
    dy: f32,
    [down, across]: [usize; 2],
    strides: [usize; 2],
) {
    let (mut best, mut found) = (f32::NEG_INFINITY, 0);
    for (y, column) in (0..down).flat_map(|y| (0..across).map(move |column| (y, column))) {
        let at = y * strides[0] + column * strides[1];
        // SAFETY: the caller's.
        let value = unsafe { *x.add(at) };
        if value > best || value.is_nan() {
            (best, found) = (value, at);
        }
    }
    // SAFETY: the caller's.
    unsafe { *dx.add(found) += dy };
}

/// One row of outputs, or its gradient.
struct MaxPoolRow<'a> {
    /// An image.
    x: &'a [f32],
    g: &'a Geometry,
    oy: usize,
    y: *mut f32,
    /// The gradient of the row and the gradient of the image.
    gradient: Option<(*const f32, *mut f32)>,
}

impl Kernel for MaxPoolRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let g = self.g;
        let rows = reach(g, self.oy, 0);
        for ox in 0..g.output[1] {
            let columns = reach(g, ox, 1);
            // SAFETY: the window's pixels lie in the image.
            unsafe {
                match (rows.1 - rows.0, columns.1 - columns.0) {
                    (3, 3) => self.window::<S, 3>(ox, rows, columns),
                    (2, 2) => self.window::<S, 2>(ox, rows, columns),
                    _ => self.window::<S, 0>(ox, rows, columns),
                }
            }
        }
    }
}

impl MaxPoolRow<'_> {
    /// All channels of a window of `SIDE` by `SIDE` pixels, 0 for any extents.
    #[inline(always)]
    unsafe fn window<S: Simd, const SIDE: usize>(
        &self,
        ox: usize,
        rows: (usize, usize),
        columns: (usize, usize),
    ) {
        let (g, c) = (self.g, self.g.channels);
        let (down, across) = match SIDE {
            0 => (rows.1 - rows.0, columns.1 - columns.0),
            side => (side, side),
        };
        let line = g.input[1] * c;
        let corner = rows.0 * line + columns.0 * c;
        for channel in (0..c).step_by(S::LANES) {
            let count = (c - channel).min(S::LANES);
            // SAFETY: the caller's.
            unsafe {
                let x = self.x.as_ptr().add(corner + channel);
                let mut best = S::splat(f32::NEG_INFINITY);
                for y in 0..down {
                    for column in 0..across {
                        best = S::maximum(best, S::load_some(x.add(y * line + column * c), count));
                    }
                }
                let Some((dy, dx)) = self.gradient else {
                    S::store_some(self.y.add(ox * c + channel), count, best);
                    continue;
                };
                // The gradient goes to the first pixel that is not smaller than the maximum;
                // then nothing is left.
                let (dx, dy) = (dx.add(corner + channel), dy.add(ox * c + channel));
                if S::any_nan(best) {
                    for lane in 0..count {
                        let (x, dx) = (x.add(lane), dx.add(lane));
                        gradient_of_lane(x, dx, *dy.add(lane), [down, across], [line, c]);
                    }
                    continue;
                }
                let mut left = S::load_some(dy, count);
                for y in 0..down {
                    for column in 0..across {
                        let offset = y * line + column * c;
                        let value = S::load_some(x.add(offset), count);
                        let here = S::select(best, value, S::zero(), left);
                        left = S::select(best, value, left, S::zero());
                        let sum = S::add(S::load_some(dx.add(offset), count), here);
                        S::store_some(dx.add(offset), count, sum);
                    }
                }
            }
        }
    }
}
