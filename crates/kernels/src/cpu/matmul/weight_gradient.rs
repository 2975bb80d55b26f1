//! The gradient of a pointwise convolution's weights: [`f32_matmul_dw`] `[m, n]^T x [m, k]` sums
//! over the rows of two tall matrices.

use rayon::prelude::*;

use crate::cpu::matmul::{MIN_WORK, tile_rows};
use crate::cpu::partial_sums::add_in_order;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// `dy [m, n]^T x x [m, k]`, the gradient `[n, k]` of a pointwise convolution's weights.
///
/// Rows in as many chunks as there are threads, each with its own sums, added in order: the bits
/// depend on the number of threads and on nothing else.
pub fn f32_matmul_dw(isa: Isa, dy: &[f32], x: &[f32], n: usize, k: usize) -> Vec<f32> {
    let rows = dy.len() / n;
    assert_eq!([dy.len(), x.len()], [rows * n, rows * k], "values of so many rows");
    let threads = rayon::current_num_threads();
    let parts = if rows * n * k < MIN_WORK { 1 } else { threads.min(rows.div_ceil(64)) };
    let chunk = rows.div_ceil(parts.max(1)).max(1);
    let sums = |part: usize| {
        let from = (part * chunk).min(rows);
        let to = (from + chunk).min(rows);
        let mut dw = vec![0.0; n * k];
        let tile = tile_rows(n + k);
        for first in (from..to).step_by(tile) {
            let last = (first + tile).min(to);
            f32_matmul_dw_tile(
                isa,
                &dy[first * n..last * n],
                &x[first * k..last * k],
                n,
                k,
                &mut dw,
            );
        }
        dw
    };
    let mut parts: Vec<Vec<f32>> =
        (0..parts.max(1)).into_par_iter().with_max_len(1).map(sums).collect();
    let total = parts.swap_remove(0);
    // swap_remove has moved the last part to the front; the order is fixed all the same.
    add_in_order(total, parts)
}

/// Adds `dy [m, n]^T x x [m, k]` to `dw [n, k]`, on the calling thread.
pub(crate) fn f32_matmul_dw_tile(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    n: usize,
    k: usize,
    dw: &mut [f32],
) {
    let rows = dy.len() / n;
    assert_eq!([dy.len(), x.len(), dw.len()], [rows * n, rows * k, n * k], "values");
    if rows > 0 {
        isa.run(Outer { dy, x, rows, n, k, dw: dw.as_mut_ptr() });
    }
}

struct Outer<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    rows: usize,
    n: usize,
    k: usize,
    dw: *mut f32,
}

impl Kernel for Outer<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let vectors = self.k.div_ceil(S::LANES);
        let most = if S::REGISTERS >= 32 { 4 } else { 3 };
        let count = vectors.div_ceil(most);
        for i in 0..count {
            let (from, to) = (vectors * i / count, vectors * (i + 1) / count);
            let column = from * S::LANES;
            // SAFETY: the columns lie in the matrix.
            unsafe {
                match (S::REGISTERS >= 32, to - from) {
                    (true, 1) => self.columns::<S, 14, 1>(column),
                    (true, 2) => self.columns::<S, 12, 2>(column),
                    (true, 3) => self.columns::<S, 8, 3>(column),
                    (true, _) => self.columns::<S, 6, 4>(column),
                    (false, 1) => self.columns::<S, 8, 1>(column),
                    (false, 2) => self.columns::<S, 6, 2>(column),
                    (false, _) => self.columns::<S, 4, 3>(column),
                }
            }
        }
    }
}

impl Outer<'_> {
    #[inline(always)]
    unsafe fn columns<S: Simd, const ROWS: usize, const VECTORS: usize>(&self, column: usize) {
        let whole = column + VECTORS * S::LANES <= self.k;
        let mut first = 0;
        while first < self.n {
            let count = (self.n - first).min(ROWS);
            // SAFETY: the caller's.
            unsafe {
                if whole {
                    self.micro::<S, ROWS, VECTORS, true>(first, count, column);
                } else {
                    self.micro::<S, ROWS, VECTORS, false>(first, count, column);
                }
            }
            first += ROWS;
        }
    }

    /// `ROWS` rows of the result (of which `count` exist) and `VECTORS` vectors of its columns; the
    /// last vector is read and written in part unless `WHOLE`.
    #[inline(always)]
    unsafe fn micro<S: Simd, const ROWS: usize, const VECTORS: usize, const WHOLE: bool>(
        &self,
        first: usize,
        count: usize,
        column: usize,
    ) {
        // SAFETY: rows of the result that do not exist are summed as the last that does, and not
        // written.
        unsafe {
            let lanes = (self.k - column - (VECTORS - 1) * S::LANES).min(S::LANES);
            let rows: [usize; ROWS] = std::array::from_fn(|r| first + r.min(count - 1));
            let mut sums = [[S::zero(); VECTORS]; ROWS];
            let (mut dy, mut x) = (self.dy.as_ptr(), self.x.as_ptr().add(column));
            for _ in 0..self.rows {
                let mut right = [S::zero(); VECTORS];
                unrolled!(v < VECTORS => {
                    right[v] = if WHOLE || v + 1 < VECTORS {
                        S::load(x.add(v * S::LANES))
                    } else {
                        S::load_some(x.add(v * S::LANES), lanes)
                    };
                });
                unrolled!(r < ROWS => {
                    let left = S::splat(*dy.add(rows[r]));
                    unrolled!(v < VECTORS => { sums[r][v] = S::fma(left, right[v], sums[r][v]); });
                });
                dy = dy.add(self.n);
                x = x.add(self.k);
            }
            unrolled!(r < ROWS => {
                if r < count {
                    unrolled!(v < VECTORS => {
                        let to = self.dw.add((first + r) * self.k + column + v * S::LANES);
                        let lanes = if v + 1 < VECTORS { S::LANES } else { lanes };
                        S::store_some(to, lanes, S::add(S::load_some(to, lanes), sums[r][v]));
                    });
                }
            });
        }
    }
}
