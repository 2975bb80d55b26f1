//! Reductions of whole maps `[b, pixels, c]` to one value for every image and channel, and the
//! reverse: spatial sums and means, a map times a gate. Images in parallel; the bits do not depend
//! on the number of threads.

use rayon::prelude::*;

use crate::allocator;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// Pixels that are summed in f32 before their sum is added to the total.
const RUN: usize = 256;

/// Pixels that a thread scales at a time.
const PART: usize = 98;

/// Values of an image from which a second thread saves more than it costs.
const WORTH_SHARING: usize = 1 << 14;

/// The sums over the pixels of `x`, or of `x * other`: `[b, pixels, c]` to `[b, c]`.
pub fn f32_spatial_sum_nhwc(
    isa: Isa,
    x: &[f32],
    other: Option<&[f32]>,
    batch: usize,
    c: usize,
) -> Vec<f32> {
    let image_len = x.len() / batch.max(1);
    let mut sums = vec![0.0; batch * c];
    // Few images: each thread sums a part of the channels.
    let threads = rayon::current_num_threads();
    let share = if batch >= threads || image_len < WORTH_SHARING { c } else { c.div_ceil(threads) };
    let share = share.next_multiple_of(isa.lanes());
    sums.par_chunks_mut(c).enumerate().for_each(|(image, sums)| {
        sums.par_chunks_mut(share).enumerate().for_each(|(i, sums)| {
            let part = |values: &[f32]| values[image * image_len + i * share..].as_ptr();
            let kernel = SpatialSum {
                x: part(x),
                other: other.map(part),
                pixels: image_len / c,
                c,
                count: sums.len(),
                to: sums.as_mut_ptr(),
            };
            isa.run(kernel);
        });
    });
    sums
}

/// The means over the pixels: `[b, pixels, c]` to `[b, c]`.
pub fn f32_spatial_mean_nhwc(isa: Isa, x: &[f32], batch: usize, c: usize) -> Vec<f32> {
    let pixels = x.len() / (batch * c).max(1);
    let mut mean = f32_spatial_sum_nhwc(isa, x, None, batch, c);
    mean.iter_mut().for_each(|sum| *sum /= pixels as f32);
    mean
}

struct SpatialSum {
    x: *const f32,
    other: Option<*const f32>,
    pixels: usize,
    /// Values from a pixel to the next.
    c: usize,
    /// Channels that are summed.
    count: usize,
    to: *mut f32,
}

impl Kernel for SpatialSum {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.c;
        for first in (0..self.pixels).step_by(RUN) {
            let last = (first + RUN).min(self.pixels);
            for channel in (0..self.count).step_by(S::LANES) {
                let count = (self.count - channel).min(S::LANES);
                // SAFETY: the pixels lie in the image.
                unsafe {
                    // Two sums: no addition waits for the one before.
                    let (mut even, mut odd) = (S::zero(), S::zero());
                    let mut pixel = first;
                    while pixel + 2 <= last {
                        even = self.with::<S>(pixel * c + channel, count, even);
                        odd = self.with::<S>((pixel + 1) * c + channel, count, odd);
                        pixel += 2;
                    }
                    if pixel < last {
                        even = self.with::<S>(pixel * c + channel, count, even);
                    }
                    let to = self.to.add(channel);
                    let total = S::add(S::load_some(to, count), S::add(even, odd));
                    S::store_some(to, count, total);
                }
            }
        }
    }
}

impl SpatialSum {
    /// `sum` plus the value at offset `at`.
    #[inline(always)]
    unsafe fn with<S: Simd>(&self, at: usize, count: usize, sum: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            let x = S::load_some(self.x.add(at), count);
            match self.other {
                Some(other) => S::fma(x, S::load_some(other.add(at), count), sum),
                None => S::add(x, sum),
            }
        }
    }
}

/// `x * gate + shift`, gate and shift `[b, c]`, at every pixel; `gate + shift` without `x`.
pub fn f32_spatial_scale_nhwc(
    isa: Isa,
    x: Option<&[f32]>,
    gate: &[f32],
    shift: Option<&[f32]>,
    [batch, pixels, c]: [usize; 3],
) -> Vec<f32> {
    let threads = rayon::current_num_threads();
    let share = pixels.div_ceil(threads).clamp(1, PART);
    let part = if batch >= threads || pixels * c < WORTH_SHARING { PART } else { share };
    // SAFETY: every value is written.
    unsafe {
        allocator::written(batch * pixels * c, |out| {
            out.par_chunks_mut(pixels * c).enumerate().for_each(|(image, out)| {
                let row = image * c..(image + 1) * c;
                out.par_chunks_mut(part * c).enumerate().for_each(|(i, out)| {
                    let from = (image * pixels + i * part) * c;
                    let kernel = SpatialScale {
                        x: x.map(|x| x[from..].as_ptr()),
                        gate: gate[row.clone()].as_ptr(),
                        shift: shift.map(|shift| shift[row.clone()].as_ptr()),
                        pixels: out.len() / c,
                        c,
                        out: out.as_mut_ptr().cast(),
                    };
                    isa.run(kernel);
                });
            });
        })
    }
}

struct SpatialScale {
    x: Option<*const f32>,
    gate: *const f32,
    shift: Option<*const f32>,
    pixels: usize,
    c: usize,
    out: *mut f32,
}

impl Kernel for SpatialScale {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.c;
        for pixel in 0..self.pixels {
            for channel in (0..c).step_by(S::LANES) {
                let count = (c - channel).min(S::LANES);
                let at = pixel * c + channel;
                // SAFETY: the pixels lie in the image.
                unsafe {
                    let mut value = S::load_some(self.gate.add(channel), count);
                    if let Some(x) = self.x {
                        value = S::mul(S::load_some(x.add(at), count), value);
                    }
                    if let Some(shift) = self.shift {
                        value = S::add(value, S::load_some(shift.add(channel), count));
                    }
                    S::store_some(self.out.add(at), count, value);
                }
            }
        }
    }
}
