//! Convolutions of 3x3 at stride 1 by Winograd's minimal filtering (Lavin and Gray, arXiv:1509.09308): a tile of `m x m`
//! outputs from a window of `m + 2` by `m + 2` takes `(m + 2)^2` multiplications for a channel and a filter where the
//! definition takes `9 m^2`, 16 for 36 with `m` 2.
//!
//! Windows and filters are transformed; at each of the positions the products of all tiles, channels and filters are
//! one matrix product; its results are transformed to outputs. Tiles come in strips whose transformed windows, and the
//! products of one block of filters, stay in the second-level cache.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

mod transforms;

use std::cell::Cell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::convolution::StandardConv;
use crate::cpu::matmul;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::isa::Isa;
use transforms::{Outputs, Positions, Slopes, Taps, Windows};

/// Values of a strip's transformed windows: a share of the second-level cache.
const STRIP: usize = 128 * 1024;
/// Tiles of a strip at least, where there are as many, and at most: weights are read once for so many.
const STRIP_TILES: (usize, usize) = (24, 96);
/// The same for the gradient of the weights, where they are what is summed: twice or half as many make no difference.
const SUMMED_TILES: usize = 48;

/// Outputs of a tile along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `F(2x2, 3x3)`.
    Two,
    /// `F(4x4, 3x3)`.
    Four,
}

impl Side {
    fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Whether a convolution is one of 3x3 at stride 1.
pub fn knows(d: &StandardConv) -> bool {
    d.g.kernel == [3, 3] && d.g.stride == 1 && d.g.dilation == 1
}

/// Channels and filters from which the transforms are worth their time.
const CHANNELS: usize = 16;
/// Tiles of two that share the weights, of all images, from which reading 16 values for 9 is worth it: fewer wait for
/// the weights.
const SHARING: usize = 32;
/// Tiles of four of an image from which 36 values for 9 are.
const LARGE: usize = 36;

/// The tiles by which minimal filtering is faster than the product over patches, if it is; measured with the layers of
/// GoogLeNet and Inception v3, forward and for both gradients.
pub fn wins(d: &StandardConv) -> Option<Side> {
    if !knows(d) || d.g.channels < CHANNELS || d.filters < CHANNELS {
        return None;
    }
    let tiles = |side: usize| d.g.output.map(|extent| extent.div_ceil(side)).iter().product();
    let (two, four): (usize, usize) = (tiles(2), tiles(4));
    match (d.g.batch * two >= SHARING, four >= LARGE) {
        (false, _) => None,
        (true, false) => Some(Side::Two),
        (true, true) => Some(Side::Four),
    }
}

/// The tiles of all images, numbered image by image and row by row.
struct Tiles {
    d: StandardConv,
    side: usize,
    /// Down and across an image; the last ones may reach past the map.
    grid: [usize; 2],
}

impl Tiles {
    fn new(d: &StandardConv, side: Side) -> Self {
        assert!(knows(d), "{:?}", d.g);
        let side = side.outputs();
        Self { d: *d, side, grid: d.g.output.map(|extent| extent.div_ceil(side)) }
    }

    fn count(&self) -> usize {
        self.d.g.batch * self.grid[0] * self.grid[1]
    }

    /// A tile's image and its first output.
    #[inline(always)]
    fn place(&self, tile: usize) -> (usize, [usize; 2]) {
        let (row, column) = (tile / self.grid[1], tile % self.grid[1]);
        (row / self.grid[0], [row % self.grid[0] * self.side, column * self.side])
    }

    /// Strips of nearly equal size for windows of so many values at every position.
    fn strips(&self, values: usize) -> usize {
        let positions = (self.side + 2).pow(2);
        let most = (STRIP / (positions * values)).clamp(STRIP_TILES.0, STRIP_TILES.1);
        self.count().div_ceil(most)
    }
}

/// Values from one position to the next, for so many at each: an odd number of cache lines, or the positions of a place
/// would meet in a few sets of the first-level cache.
fn apart(values: usize) -> usize {
    (values.div_ceil(16) | 1) * 16
}

thread_local! {
    /// What the last strip, and the last block of filters, left behind.
    static LEFT: [Cell<Vec<MaybeUninit<f32>>>; 2] = const { [const { Cell::new(Vec::new()) }; 2] };
}

/// Lends room for so many values that will be written before they are read. A thread keeps it for the next strip: asked of
/// the allocator, small maps took longer to find memory for than to compute. A strip that a thread begins while it waits
/// for the blocks of another gets room of its own.
fn with_room<R>(kind: usize, count: usize, work: impl FnOnce(&mut [MaybeUninit<f32>]) -> R) -> R {
    let mut room = LEFT.with(|left| left[kind].take());
    if room.len() < count {
        room.clear();
        room.reserve_exact(count);
        // SAFETY: values that may be uninitialised need no initialisation.
        unsafe { room.set_len(count) };
    }
    let result = work(&mut room[..count]);
    LEFT.with(|left| left[kind].set(room));
    result
}

/// Transformed filters, ready for the products.
#[derive(Clone, Debug)]
pub struct Weights {
    side: Side,
    isa: Isa,
    depth: usize,
    filters: usize,
    /// Blocks of columns as [`PackedWeights`] makes them, of each a matrix for every position.
    blocks: Vec<Vec<PackedWeights>>,
}

impl Weights {
    /// Of the tiles that they are for.
    pub fn side(&self) -> Side {
        self.side
    }

    /// From filters `[filters, 3, 3, c]`, scaled.
    pub fn new(isa: Isa, w: &[f32], d: &StandardConv, side: Side, scale: Option<&[f32]>) -> Self {
        let matrix = [d.g.channels, d.filters];
        match side {
            Side::Two => Self::of::<4>(isa, w, matrix, side, scale, false),
            Side::Four => Self::of::<6>(isa, w, matrix, side, scale, false),
        }
    }

    /// Of the convolution whose result is the gradient of the input: every kernel turned round, channels and filters
    /// exchanged.
    fn turned(isa: Isa, w: &[f32], d: &StandardConv, side: Side) -> Self {
        let matrix = [d.filters, d.g.channels];
        match side {
            Side::Two => Self::of::<4>(isa, w, matrix, side, None, true),
            Side::Four => Self::of::<6>(isa, w, matrix, side, None, true),
        }
    }

    fn of<const N: usize>(
        isa: Isa,
        w: &[f32],
        [depth, filters]: [usize; 2],
        side: Side,
        scale: Option<&[f32]>,
        turned: bool,
    ) -> Self {
        let c = if turned { filters } else { depth };
        assert_eq!(w.len(), 9 * depth * filters, "values of the filters");
        let columns = matmul::column_blocks(filters, isa);
        let block = |&(first, own): &(usize, usize)| {
            let (some, all) = ((first, first + own), (0, depth));
            let (filters, channels) = if turned { (all, some) } else { (some, all) };
            let mut values = vec![0.0; N * N * depth * own];
            isa.run(Positions::<N> { w, c, filters, channels, scale, turned, to: &mut values });
            let matrices = values.chunks_exact(depth * own);
            matrices
                .map(|matrix| PackedWeights::new(isa, matrix, [depth, own], [own, 1], None))
                .collect()
        };
        let blocks = columns.par_iter().map(block).collect();
        Self { side, isa, depth, filters, blocks }
    }
}

/// A place in memory that threads share, each its own values of it.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever uses it writes values that no other thread touches.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// By a method, so that a closure takes the whole.
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// `[b, h, w, c]` to `[b, h', w', filters]`, finished. Strips in parallel, and the blocks of a strip; the bits do not depend
/// on the number of threads.
pub fn forward(x: &[f32], w: &Weights, d: &StandardConv, finish: Epilogue<'_>) -> Vec<f32> {
    match w.side {
        Side::Two => forward_of::<2, 4>(x, w, d, finish),
        Side::Four => forward_of::<4, 6>(x, w, d, finish),
    }
}

fn forward_of<const M: usize, const N: usize>(
    x: &[f32],
    w: &Weights,
    d: &StandardConv,
    finish: Epilogue<'_>,
) -> Vec<f32> {
    let tiles = Tiles::new(d, w.side);
    let c = d.g.channels;
    let outputs = d.g.batch * d.places() * d.filters;
    assert_eq!([w.depth, w.filters], [c, d.filters], "channels and filters of the weights");
    assert_eq!(x.len(), d.g.batch * d.image(), "values of the images");
    assert!(finish.bias.is_none_or(|bias| bias.len() == d.filters), "a bias for every filter");
    assert!(finish.skip.is_none_or(|skip| skip.len() == outputs), "a skip for every output");
    let (zeros, strips) = (vec![0.0; c], tiles.strips(c));
    let strip = |y: Shared, i: usize| {
        let from = tiles.count() * i / strips;
        let count = tiles.count() * (i + 1) / strips - from;
        let stride = apart(count * c);
        with_room(0, N * N * stride, |windows| {
            let to = windows.as_mut_ptr().cast();
            let (zeros, tiles) = (&zeros, &tiles);
            w.isa.run(Windows::<M, N> { x, zeros, tiles, from, count, to, stride });
            // SAFETY: the windows of every position were written.
            let rows = unsafe { std::slice::from_raw_parts(to.cast_const(), N * N * stride) };
            w.blocks.par_iter().enumerate().for_each(|(block, matrices)| {
                let first = w.blocks[..block].iter().map(|block| block[0].columns).sum();
                let across = matrices[0].columns;
                let apart = apart(count * across);
                with_room(1, N * N * apart, |products| {
                    for (position, matrix) in matrices.iter().enumerate() {
                        let rows = &rows[position * stride..][..count * c];
                        let products = &mut products[position * apart..][..count * across];
                        matmul::tile_product(rows, matrix, Epilogue::NONE, products);
                    }
                    let (products, stride, y) = (products.as_ptr().cast(), apart, y.pointer());
                    w.isa.run(Outputs::<M, N> {
                        products,
                        stride,
                        tiles,
                        from,
                        count,
                        first,
                        across,
                        finish,
                        y,
                    });
                });
            });
        });
    };
    // SAFETY: every tile of every block writes its own outputs, and together they are all.
    unsafe {
        allocator::written(outputs, |y| {
            let y = Shared(y.as_mut_ptr().cast());
            (0..strips).into_par_iter().for_each(|i| strip(y, i));
        })
    }
}

/// The gradient of the input, `[b, h, w, c]`, from weights `[filters, 3, 3, c]`: the convolution of `dy` with the kernels
/// turned round.
///
/// # Panics
/// When more than two zeros lie before the input.
pub fn input_gradient(isa: Isa, w: &[f32], dy: &[f32], d: &StandardConv, side: Side) -> Vec<f32> {
    let turned = super::turned_geometry(d).expect("at most two zeros before the input");
    forward(dy, &Weights::turned(isa, w, d, side), &turned, Epilogue::NONE)
}

/// The gradient of the weights, `[filters, 3, 3, c]`: at every position the product of the transformed gradient of the
/// outputs and the transformed windows. Tiles in as many parts as there are threads, their sums added in order: the
/// bits depend on the number of threads and on nothing else.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], d: &StandardConv, side: Side) -> Vec<f32> {
    match side {
        Side::Two => weight_gradient_of::<2, 4>(isa, x, dy, d, side),
        Side::Four => weight_gradient_of::<4, 6>(isa, x, dy, d, side),
    }
}

fn weight_gradient_of<const M: usize, const N: usize>(
    isa: Isa,
    x: &[f32],
    dy: &[f32],
    d: &StandardConv,
    side: Side,
) -> Vec<f32> {
    let tiles = Tiles::new(d, side);
    let (c, filters, all) = (d.g.channels, d.filters, tiles.count());
    assert_eq!(x.len(), d.g.batch * d.image(), "values of the images");
    assert_eq!(dy.len(), d.g.batch * d.places() * filters, "values of the gradient");
    let (zeros, matrix) = (vec![0.0; c.max(filters)], filters * c);
    let parts = rayon::current_num_threads().min(all).max(1);
    let sums = |part: usize| {
        let (first, last) = (all * part / parts, all * (part + 1) / parts);
        let strips = (last - first).div_ceil(SUMMED_TILES);
        let mut sums = vec![0.0; N * N * matrix];
        for i in 0..strips {
            let from = first + (last - first) * i / strips;
            let count = first + (last - first) * (i + 1) / strips - from;
            let [stride, apart] = [apart(count * c), apart(count * filters)];
            with_room(0, N * N * (stride + apart), |room| {
                let to = room.as_mut_ptr().cast::<f32>();
                let (zeros, tiles) = (&zeros, &tiles);
                isa.run(Windows::<M, N> { x, zeros, tiles, from, count, to, stride });
                // SAFETY: the room behind the windows is as large as it needs to be.
                let to = unsafe { to.add(N * N * stride) };
                isa.run(Slopes::<M, N> { dy, zeros, tiles, from, count, to, stride: apart });
                // SAFETY: all of it was written just now.
                let room =
                    unsafe { std::slice::from_raw_parts(room.as_ptr().cast::<f32>(), room.len()) };
                let (windows, slopes) = room.split_at(N * N * stride);
                for (position, sums) in sums.chunks_exact_mut(matrix).enumerate() {
                    let slopes = &slopes[position * apart..][..count * filters];
                    let windows = &windows[position * stride..][..count * c];
                    matmul::add_outer(isa, slopes, windows, filters, c, sums);
                }
            });
        }
        sums
    };
    let parts: Vec<Vec<f32>> = (0..parts).into_par_iter().with_max_len(1).map(sums).collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
    }
    let mut dw = vec![0.0; filters * 9 * c];
    dw.par_chunks_mut(9 * c).enumerate().for_each(|(filter, to)| {
        isa.run(Taps::<N> { sums: &total, filters, filter, c, to });
    });
    dw
}
