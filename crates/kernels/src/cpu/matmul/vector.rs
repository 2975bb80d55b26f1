//! Products of a matrix and a vector: a linear layer on few images. Memory is the limit, so that
//! every row of the weights is read once, in place.

use rayon::prelude::*;

use crate::cpu::matmul::MIN_WORK;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// `x [k] w [k, n] + bias [n]` for a vector x: every row of the weights is read once, in place.
/// Columns in parallel.
pub fn f32_vecmat(isa: Isa, x: &[f32], w: &[f32], bias: &[f32]) -> Vec<f32> {
    let (k, n) = (x.len(), bias.len());
    assert_eq!(w.len(), n * k, "rows of so many values");
    let mut out = bias.to_vec();
    let share = if n * k < MIN_WORK { n } else { n.div_ceil(rayon::current_num_threads()) };
    let columns = share.next_multiple_of(64);
    out.par_chunks_mut(columns).enumerate().for_each(|(i, out)| {
        let (first, count, out) = (i * columns, out.len(), out.as_mut_ptr());
        isa.run(Columns { x, w, first, n, count, out });
    });
    out
}

/// Rows of the weights that are read together, so that a sum is loaded and stored once for all of
/// them.
const ROWS_AT_ONCE: usize = 8;

struct Columns<'a> {
    x: &'a [f32],
    w: &'a [f32],
    first: usize,
    n: usize,
    count: usize,
    out: *mut f32,
}

impl Kernel for Columns<'_> {
    type Output = ();

    /// Along the rows: memory is read in long runs, and the sums stay in the first-level cache.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (group, x) in self.x.chunks(ROWS_AT_ONCE).enumerate() {
            // SAFETY: the columns lie in the rows.
            unsafe {
                let w = self.w.as_ptr().add(group * ROWS_AT_ONCE * self.n + self.first);
                if x.len() < ROWS_AT_ONCE {
                    for (row, x) in x.iter().enumerate() {
                        self.add::<S, 1>(w.add(row * self.n), std::slice::from_ref(x));
                    }
                } else {
                    self.add::<S, ROWS_AT_ONCE>(w, x);
                }
            }
        }
    }
}

impl Columns<'_> {
    /// Adds `ROWS` rows from `w` on, each times its value of `x`.
    #[inline(always)]
    unsafe fn add<S: Simd, const ROWS: usize>(&self, w: *const f32, x: &[f32]) {
        let (out, count) = (self.out, self.count);
        // SAFETY: the caller's.
        unsafe {
            let mut left = [S::zero(); ROWS];
            unrolled!(r < ROWS => { left[r] = S::splat(x[r]); });
            let mut at = 0;
            while at + S::LANES <= count {
                let mut sum = S::load(out.add(at));
                unrolled!(r < ROWS => {
                    sum = S::fma(left[r], S::load(w.add(r * self.n + at)), sum);
                });
                S::store(out.add(at), sum);
                at += S::LANES;
            }
            if at < count {
                let lanes = count - at;
                let mut sum = S::load_part(out.add(at), lanes);
                unrolled!(r < ROWS => {
                    sum = S::fma(left[r], S::load_part(w.add(r * self.n + at), lanes), sum);
                });
                S::store_part(out.add(at), lanes, sum);
            }
        }
    }
}

/// `w [n, k] x [k]` for a vector x: every row of the weights is read once, in place. Rows in
/// parallel.
pub fn f32_matvec(isa: Isa, w: &[f32], x: &[f32]) -> Vec<f32> {
    let k = x.len();
    let n = w.len() / k;
    assert_eq!(w.len(), n * k, "rows of so many values");
    let mut out = vec![0.0; n];
    let rows = if n * k < MIN_WORK { n } else { n.div_ceil(rayon::current_num_threads()) };
    out.par_chunks_mut(rows.max(1)).enumerate().for_each(|(i, out)| {
        let w = &w[i * rows * k..][..out.len() * k];
        isa.run(Dots { w, x, out });
    });
    out
}

struct Dots<'a> {
    w: &'a [f32],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let k = self.x.len();
        for (row, out) in self.out.iter_mut().enumerate() {
            let mut parts = [0.0; 16];
            // SAFETY: the offsets lie in the row; `parts` holds a vector of every set.
            unsafe {
                let w = self.w.as_ptr().add(row * k);
                let mut sums = [S::zero(); 4];
                let (x, mut at) = (self.x.as_ptr(), 0);
                while at + 4 * S::LANES <= k {
                    unrolled!(i < 4 => {
                        let offset = at + i * S::LANES;
                        sums[i] = S::fma(S::load(w.add(offset)), S::load(x.add(offset)), sums[i]);
                    });
                    at += 4 * S::LANES;
                }
                while at < k {
                    let lanes = (k - at).min(S::LANES);
                    let (w, x) = (S::load_some(w.add(at), lanes), S::load_some(x.add(at), lanes));
                    sums[0] = S::fma(w, x, sums[0]);
                    at += S::LANES;
                }
                let sum = S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]));
                S::store(parts.as_mut_ptr(), sum);
            }
            *out = parts.iter().sum();
        }
    }
}
