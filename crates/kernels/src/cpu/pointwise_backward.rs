//! The backward pass of a pointwise convolution and of the norm behind it, tile by tile: the gradient between the two
//! is made where the cache holds it, gives the input's gradient and its part of the weights', and is forgotten. Three
//! of seven passes over a map are saved, and such layers wait for memory.

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::batch_norm::Slopes;
use crate::cpu::matmul::{
    Epilogue, PackedWeights, WORTH_A_THREAD, add_outer, tile_product, tile_rows,
};
use crate::isa::Isa;

/// Rows from which a thread's share of them is worth a sum of its own.
const SHARE: usize = 64;

/// Rows from which a share of a thread is divided further.
const MANY: usize = 2048;

/// Weights up to which one pass is faster: they and their gradient lie in the second-level cache while tiles pass.
const WEIGHTS: usize = 1 << 16;

/// Places of all images from which it is: smaller maps stay in a cache from pass to pass.
const PLACES: usize = 1 << 13;

/// Whether one pass over maps of so many places is faster than three.
pub fn pays(places: usize, weights: usize) -> bool {
    places >= PLACES && weights <= WEIGHTS
}

/// The gradients of the input `[m, k]` and the weights `[n, k]`, from the input `x [m, k]`, the convolution's output
/// `y [m, n]` and the gradient `da [m, n]` behind norm and activation.
///
/// Rows in one to four times as many shares as there are threads, each with its own sums, added in order: the weights' bits depend on the
/// number of threads and on nothing else, the input's not even on that.
pub fn backward(
    isa: Isa,
    [x, y, da]: [&[f32]; 3],
    w: &[f32],
    slopes: &Slopes<'_>,
    [n, k]: [usize; 2],
) -> (Vec<f32>, Vec<f32>) {
    let rows = y.len() / n;
    let lengths = [x.len(), y.len(), da.len(), w.len()];
    assert_eq!(lengths, [rows * k, rows * n, rows * n, n * k], "values of {rows} rows");
    let weights = PackedWeights::new(isa, w, [n, k], [k, 1], None);
    let threads = rayon::current_num_threads();
    let shares = match rows * n * k < WORTH_A_THREAD {
        true => 1,
        // Several for a thread where there are many rows: one that another process holds up does fewer.
        false => threads.min(rows.div_ceil(SHARE)) * (rows / (threads * MANY)).clamp(1, 4),
    };
    let share = rows.div_ceil(shares.max(1)).max(1);
    let mut sums = vec![vec![0.0; n * k]; rows.div_ceil(share).max(1)];
    let tile = tile_rows(n + k);
    // SAFETY: the tiles of all shares are all rows, and a product writes all of its rows.
    let dx = unsafe {
        allocator::written(rows * k, |dx| {
            let shares = dx.par_chunks_mut(share * k).zip(&mut sums).with_max_len(1);
            shares.enumerate().for_each(|(number, (dx, dw))| {
                let mut between = Vec::new();
                for (i, dx) in dx.chunks_mut(tile * k).enumerate() {
                    let (first, rows) = (number * share + i * tile, dx.len() / k);
                    let (x, at) = (&x[first * k..][..dx.len()], first * n..(first + rows) * n);
                    between.clear();
                    between.reserve(rows * n);
                    let room = &mut between.spare_capacity_mut()[..rows * n];
                    slopes.apply(isa, &y[at.clone()], &da[at], room);
                    // SAFETY: they were written.
                    between.set_len(rows * n);
                    tile_product(&between, &weights, Epilogue::NONE, dx);
                    add_outer(isa, &between, x, n, k, dw);
                }
            });
        })
    };
    let mut sums = sums.into_iter();
    let mut dw = sums.next().expect("one share or more");
    for share in sums {
        dw.iter_mut().zip(&share).for_each(|(sum, value)| *sum += value);
    }
    (dx, dw)
}
