//! Whole maps against one value for every image and channel, on channels-last values `[b, places, c]`: the
//! mean of a map, a map times a gate. Images in parallel; the bits do not depend on the number of threads.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

use rayon::prelude::*;

use crate::allocator;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// Rows that are summed in f32 before the sum joins the others.
const RUN: usize = 256;

/// Rows that a thread scales at a time.
const PART: usize = 98;

/// Values of an image below which a second thread costs more than it brings.
const WORTH_SHARING: usize = 1 << 14;

/// Per image and channel the sum over the places of `x`, or of `x * other`: `[b, c]`.
pub fn sums(isa: Isa, x: &[f32], other: Option<&[f32]>, batch: usize, c: usize) -> Vec<f32> {
    let image_len = x.len() / batch.max(1);
    let mut sums = vec![0.0; batch * c];
    // Few images: every thread gets channels of each.
    let threads = rayon::current_num_threads();
    let share = if batch >= threads || image_len < WORTH_SHARING { c } else { c.div_ceil(threads) };
    let share = share.next_multiple_of(isa.lanes());
    sums.par_chunks_mut(c).enumerate().for_each(|(image, sums)| {
        sums.par_chunks_mut(share).enumerate().for_each(|(i, sums)| {
            let part = |values: &[f32]| values[image * image_len + i * share..].as_ptr();
            let kernel = Sums {
                x: part(x),
                other: other.map(part),
                places: image_len / c,
                c,
                own: sums.len(),
                to: sums.as_mut_ptr(),
            };
            isa.run(kernel);
        });
    });
    sums
}

struct Sums {
    x: *const f32,
    other: Option<*const f32>,
    places: usize,
    /// From a place to the next.
    c: usize,
    /// Channels that are summed.
    own: usize,
    to: *mut f32,
}

impl Kernel for Sums {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.c;
        for first in (0..self.places).step_by(RUN) {
            let last = (first + RUN).min(self.places);
            for channel in (0..self.own).step_by(S::LANES) {
                let own = (self.own - channel).min(S::LANES);
                // SAFETY: the places lie in the image.
                unsafe {
                    // Two sums: one addition does not wait for the one before.
                    let (mut even, mut odd) = (S::zero(), S::zero());
                    let mut place = first;
                    while place + 2 <= last {
                        even = self.with::<S>(place * c + channel, own, even);
                        odd = self.with::<S>((place + 1) * c + channel, own, odd);
                        place += 2;
                    }
                    if place < last {
                        even = self.with::<S>(place * c + channel, own, even);
                    }
                    let to = self.to.add(channel);
                    let total = S::add(S::load_some(to, own), S::add(even, odd));
                    S::store_some(to, own, total);
                }
            }
        }
    }
}

impl Sums {
    /// The sum with the value at `at`.
    #[inline(always)]
    unsafe fn with<S: Simd>(&self, at: usize, own: usize, sum: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            let x = S::load_some(self.x.add(at), own);
            match self.other {
                Some(other) => S::fma(x, S::load_some(other.add(at), own), sum),
                None => S::add(x, sum),
            }
        }
    }
}

/// `x * gate + shift`, gate and shift `[b, c]`; without x, the shift alone.
pub fn gated(
    isa: Isa,
    x: Option<&[f32]>,
    gate: &[f32],
    shift: Option<&[f32]>,
    [batch, places, c]: [usize; 3],
) -> Vec<f32> {
    let threads = rayon::current_num_threads();
    let share = places.div_ceil(threads).clamp(1, PART);
    let part = if batch >= threads || places * c < WORTH_SHARING { PART } else { share };
    // SAFETY: every value is written.
    unsafe {
        allocator::written(batch * places * c, |out| {
            out.par_chunks_mut(places * c).enumerate().for_each(|(image, out)| {
                let row = image * c..(image + 1) * c;
                out.par_chunks_mut(part * c).enumerate().for_each(|(i, out)| {
                    let from = (image * places + i * part) * c;
                    let kernel = Gated {
                        x: x.map(|x| x[from..].as_ptr()),
                        gate: gate[row.clone()].as_ptr(),
                        shift: shift.map(|shift| shift[row.clone()].as_ptr()),
                        places: out.len() / c,
                        c,
                        out: out.as_mut_ptr().cast(),
                    };
                    isa.run(kernel);
                });
            });
        })
    }
}

struct Gated {
    x: Option<*const f32>,
    gate: *const f32,
    shift: Option<*const f32>,
    places: usize,
    c: usize,
    out: *mut f32,
}

impl Kernel for Gated {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.c;
        for place in 0..self.places {
            for channel in (0..c).step_by(S::LANES) {
                let own = (c - channel).min(S::LANES);
                let at = place * c + channel;
                // SAFETY: the places lie in the image.
                unsafe {
                    let mut value = S::load_some(self.gate.add(channel), own);
                    if let Some(x) = self.x {
                        value = S::mul(S::load_some(x.add(at), own), value);
                    }
                    if let Some(shift) = self.shift {
                        value = S::add(value, S::load_some(shift.add(channel), own));
                    }
                    S::store_some(self.out.add(at), own, value);
                }
            }
        }
    }
}
