//! Kernels that take maps value by value, in whatever order the values lie: sums, ReLU. Plain loops
//! that the compiler vectorises; they wait for memory on every instruction set.

use rayon::prelude::*;

use crate::allocator;

/// Values that a thread works on at a time.
const PART: usize = 1 << 14;

/// `to[i] = f(to[i], from[i])`.
///
/// # Panics
/// When the lengths differ.
pub fn f32_zip_in_place(to: &mut [f32], from: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert_eq!(to.len(), from.len(), "{} values and {}", to.len(), from.len());
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = f(*to, *from));
    });
}

/// `f(x[i], y[i])`.
///
/// # Panics
/// When the lengths differ.
pub fn f32_zip(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    assert_eq!(x.len(), y.len(), "{} values and {}", x.len(), y.len());
    // SAFETY: the three have equal lengths and equal chunks, so every value is written.
    unsafe {
        allocator::written(x.len(), |out| {
            let parts = x.par_chunks(PART).zip(y.par_chunks(PART));
            out.par_chunks_mut(PART).zip(parts).for_each(|(out, (x, y))| {
                for (out, (x, y)) in out.iter_mut().zip(x.iter().zip(y)) {
                    out.write(f(*x, *y));
                }
            });
        })
    }
}

/// `max(x, 0)`; `f32::max` would make 0 of NaN.
pub(crate) fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// `dy` where `y`, a result of [`relu`], is not 0; NaN is not, as in torch.
pub(crate) fn relu_slope(y: f32, dy: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { dy }
}

/// `x[i] = max(x[i], 0)`; NaN stays NaN.
pub fn f32_relu_in_place(x: &mut [f32]) {
    x.par_chunks_mut(PART).for_each(|part| {
        part.iter_mut().for_each(|value| *value = relu(*value));
    });
}

/// `max(x[i], 0)`; of NaN it is NaN.
pub fn f32_relu(x: &[f32]) -> Vec<f32> {
    // SAFETY: both have equal lengths and equal chunks, so every value is written.
    unsafe {
        allocator::written(x.len(), |out| {
            out.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(out, x)| {
                out.iter_mut().zip(x).for_each(|(out, x)| {
                    out.write(relu(*x));
                });
            });
        })
    }
}
