//! The backward pass of a pointwise convolution and of the batch norm behind it, tile by tile. The
//! gradient between the two is made in the cache, gives the input's gradient and its part of the
//! weights' gradient, and is dropped. Three of seven passes over a map are saved; such layers are
//! bound by memory.

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::batch_norm::NormGradient;
use crate::cpu::matmul::weight_gradient::f32_matmul_dw_tile;
use crate::cpu::matmul::{Epilogue, MIN_WORK, PackedWeights, f32_matmul_tile, tile_rows};
use crate::cpu::partial_sums::add_in_order;
use crate::isa::Isa;

/// Fewest rows of a share with sums of its own.
const SHARE: usize = 64;

/// Rows of a thread for each further share that it gets.
const MANY: usize = 2048;

/// Most weights with which one pass is faster: they and their gradient stay in the second-level
/// cache from tile to tile.
const WEIGHTS: usize = 1 << 16;

/// Fewest pixels of all images with which one pass is faster: smaller maps stay in a cache from
/// pass to pass.
const PIXELS: usize = 1 << 13;

/// Whether one pass over maps of so many pixels is faster than three passes.
pub fn is_faster(pixels: usize, weights: usize) -> bool {
    pixels >= PIXELS && weights <= WEIGHTS
}

/// The gradients of the input `[m, k]` and the weights `[n, k]`, from the input `x [m, k]`, the
/// convolution's output `y [m, n]` and the gradient `da [m, n]` behind norm and activation.
///
/// Rows come in one to four times as many shares as there are threads. Each share has its own sums,
/// and the sums are added in order: the bits of the weights' gradient depend on the number of
/// threads and on nothing else, those of the input's gradient not even on that.
pub fn f32_pointwise_norm_backward(
    isa: Isa,
    [x, y, da]: [&[f32]; 3],
    w: &[f32],
    gradient: &NormGradient<'_>,
    [n, k]: [usize; 2],
) -> (Vec<f32>, Vec<f32>) {
    let rows = y.len() / n;
    let lengths = [x.len(), y.len(), da.len(), w.len()];
    assert_eq!(lengths, [rows * k, rows * n, rows * n, n * k], "values of {rows} rows");
    let weights = PackedWeights::new(isa, w, [n, k], [k, 1], None);
    let threads = rayon::current_num_threads();
    let shares = match rows * n * k < MIN_WORK {
        true => 1,
        // Several for each thread where there are many rows: a thread that another process delays
        // takes fewer.
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
                    let spare = &mut between.spare_capacity_mut()[..rows * n];
                    gradient.apply(isa, &y[at.clone()], &da[at], spare);
                    // SAFETY: `apply` has written all of them.
                    between.set_len(rows * n);
                    f32_matmul_tile(&between, &weights, Epilogue::NONE, dx);
                    f32_matmul_dw_tile(isa, &between, x, n, k, dw);
                }
            });
        })
    };
    let mut sums = sums.into_iter();
    let dw = sums.next().expect("one share or more");
    (dx, add_in_order(dw, sums))
}
