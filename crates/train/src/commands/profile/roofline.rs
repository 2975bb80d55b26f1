//! What this machine's cores do at best: the speed of a matrix product in the cache, and of a copy.

use std::hint::black_box;
use std::time::Instant;

use kernels::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use kernels::isa::Isa;
use rayon::prelude::*;
use serde::Serialize;

/// Measured at the start of a profile.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roof {
    /// Speed of a matrix product of this crate's kernels on all threads.
    pub gflops: f64,
    /// Bytes read and written by a copy of more than the caches hold, all threads.
    pub gbytes_per_s: f64,
}

/// Rows, depth and columns of the product: each thread's part stays in its cache.
const PRODUCT: [usize; 3] = [3072, 256, 192];
/// Values of the copy: 128 MB.
const COPY: usize = 32 << 20;

impl Roof {
    /// Takes about a second.
    pub fn measure() -> Self {
        let [m, k, n] = PRODUCT;
        let (a, b) = (vec![0.5_f32; m * k], vec![0.25_f32; k * n]);
        let b = PackedWeights::new(Isa::chosen(), &b, [k, n], [n, 1], None);
        let seconds = best(30, || {
            black_box(f32_matmul(black_box(&a), &b, Epilogue::NONE));
        });
        let gflops = 2.0 * (m * k * n) as f64 / seconds / 1e9;
        let (from, mut to) = (vec![1.0_f32; COPY], vec![0.0_f32; COPY]);
        let part = COPY.div_ceil(4 * rayon::current_num_threads());
        let seconds = best(7, || {
            let parts = to.par_chunks_mut(part).zip(from.par_chunks(part));
            parts.for_each(|(to, from)| to.copy_from_slice(from));
        });
        Self { gflops, gbytes_per_s: 8.0 * COPY as f64 / seconds / 1e9 }
    }

    /// The time of so many operations and bytes, whichever takes longer.
    pub fn milliseconds(&self, operations: f64, bytes: f64) -> f64 {
        (operations / self.gflops).max(bytes / self.gbytes_per_s) / 1e6
    }
}

/// Seconds of the fastest of so many runs: a roof is what can be reached.
fn best(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut time = || {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..runs).map(|_| time()).fold(f64::INFINITY, f64::min)
}
