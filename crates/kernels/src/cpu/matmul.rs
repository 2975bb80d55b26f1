//! Products of a tall matrix: its rows are the pixels of a map, its columns the channels. A
//! pointwise convolution on channels-last maps is such a product.
//!
//! [`f32_matmul`] `[m, k] x [k, n]` computes the forward pass and the input gradient, with weights
//! that are packed once per call and rows that are read in place. The gradient of the weights and
//! products of a vector are in the files below.

pub mod vector;
pub mod weight_gradient;

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::activation::FusedActivation;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// Most values of a tile of rows of the tall matrix: a share of the second-level cache.
const TILE: usize = 48 * 1024;
/// Fewest and most rows of a tile.
const TILE_ROWS: (usize, usize) = (48, 512);
/// Values of a block of the packed matrix that are used for all rows of a tile before the next
/// part: they stay in the first-level cache.
const PART: usize = 7 * 1024;
/// Multiply-adds from which a second thread saves more than it costs.
pub(crate) const MIN_WORK: usize = 1 << 16;

/// The operations on a value of a product before it is written: `activation(value + bias) + skip`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// A value for every column.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub activation: FusedActivation,
    /// Added last; shaped as the output.
    pub skip: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// No operation.
    pub const NONE: Epilogue<'static> =
        Epilogue { bias: None, activation: FusedActivation::Linear, skip: None };
}

/// A matrix `[depth, columns]` in the order in which [`f32_matmul`] reads it: blocks of one to four
/// vectors of columns, the last vector padded with zeros.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    values: Vec<f32>,
    /// Rows.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
    isa: Isa,
    /// Vectors of each block.
    blocks: Vec<usize>,
}

/// Splits so many vectors into blocks of nearly equal width; the vectors of each.
fn blocks(vectors: usize, isa: Isa) -> Vec<usize> {
    let most = if many_registers(isa) { 4 } else { 3 };
    let count = vectors.div_ceil(most);
    (0..count).map(|i| vectors * (i + 1) / count - vectors * i / count).collect()
}

/// The first column and the columns of each block of [`PackedWeights::new`].
pub(crate) fn column_blocks(columns: usize, isa: Isa) -> Vec<(usize, usize)> {
    let across = blocks(columns.div_ceil(isa.lanes()), isa).into_iter().map(|v| v * isa.lanes());
    let first =
        across.scan(0, |next, across| Some((std::mem::replace(next, *next + across), across)));
    first.map(|(first, across)| (first, across.min(columns - first))).collect()
}

fn many_registers(isa: Isa) -> bool {
    matches!(isa, Isa::Avx512 | Isa::Neon)
}

impl PackedWeights {
    /// The instruction set whose vectors the blocks are made of.
    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// All values, block by block.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Vectors of each block.
    pub(crate) fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// Packs the matrix whose element `(row, column)` is
    /// `values[row * strides[0] + column * strides[1]]`, times `scale[column]`.
    pub fn new(
        isa: Isa,
        values: &[f32],
        [depth, columns]: [usize; 2],
        strides: [usize; 2],
        scale: Option<&[f32]>,
    ) -> Self {
        let lanes = isa.lanes();
        let blocks = blocks(columns.div_ceil(lanes), isa);
        let padded = columns.next_multiple_of(lanes);
        let mut packed = vec![0.0; depth * padded];
        let (mut at, mut first) = (0, 0);
        for &vectors in &blocks {
            let (across, width) = (vectors * lanes, (columns - first).min(vectors * lanes));
            let block = &mut packed[at..at + depth * across];
            if strides[1] == 1 {
                for (row, to) in block.chunks_exact_mut(across).enumerate() {
                    to[..width].copy_from_slice(&values[row * strides[0] + first..][..width]);
                }
            } else {
                // Column by column: the source is read in long runs, the target stays in the cache.
                for column in 0..width {
                    let from = &values[(first + column) * strides[1]..];
                    for row in 0..depth {
                        block[row * across + column] = from[row * strides[0]];
                    }
                }
            }
            if let Some(scale) = scale {
                for to in block.chunks_exact_mut(across) {
                    to.iter_mut().zip(&scale[first..first + width]).for_each(|(to, by)| *to *= by);
                }
            }
            (at, first) = (at + depth * across, first + across);
        }
        Self { values: packed, depth, columns, isa, blocks }
    }
}

/// Rows of a tile where one row of all matrices has so many values together.
pub(crate) fn tile_rows(values: usize) -> usize {
    (TILE / values.max(1)).clamp(TILE_ROWS.0, TILE_ROWS.1)
}

/// Rows of a tile, so that every thread gets several tiles; `work` counts multiply-adds.
pub(crate) fn shared_rows(rows: usize, values: usize, work: usize) -> usize {
    let threads = rayon::current_num_threads();
    if work < MIN_WORK || threads == 1 {
        return rows.max(1);
    }
    // Few rows are distributed evenly, in as few tiles as fit the cache; many rows in multiples of
    // the microkernels' rows.
    let (share, most) = (rows.div_ceil(threads), tile_rows(values));
    if share < 240 {
        return share.div_ceil(share.div_ceil(most).max(1)).max(1);
    }
    most.min(share.next_multiple_of(24))
}

/// `a [m, depth] x b [depth, columns]`, with the epilogue applied. Rows in parallel; the bits do
/// not depend on the number of threads.
pub fn f32_matmul(a: &[f32], b: &PackedWeights, epilogue: Epilogue<'_>) -> Vec<f32> {
    let rows = a.len() / b.depth;
    let tile = shared_rows(rows, b.depth, a.len() * b.columns);
    // SAFETY: every tile writes all of its rows.
    unsafe {
        allocator::written(rows * b.columns, |out| {
            out.par_chunks_mut(tile * b.columns).enumerate().for_each(|(i, out)| {
                let rows = out.len() / b.columns;
                let first = i * tile;
                let a = &a[first * b.depth..][..rows * b.depth];
                let skip = epilogue.skip.map(|skip| &skip[first * b.columns..][..out.len()]);
                f32_matmul_tile(a, b, Epilogue { skip, ..epilogue }, out);
            });
        })
    }
}

/// [`f32_matmul`] of one tile, on the calling thread.
pub(crate) fn f32_matmul_tile(
    a: &[f32],
    b: &PackedWeights,
    epilogue: Epilogue<'_>,
    out: &mut [MaybeUninit<f32>],
) {
    let rows = out.len() / b.columns;
    assert_eq!(a.len(), rows * b.depth, "values of so many rows");
    if rows > 0 {
        b.isa.run(Tile { a, b, rows, epilogue, out: out.as_mut_ptr().cast() });
    }
}

struct Tile<'a> {
    a: &'a [f32],
    b: &'a PackedWeights,
    rows: usize,
    epilogue: Epilogue<'a>,
    out: *mut f32,
}

impl Kernel for Tile<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut block = self.b.values.as_ptr();
        let mut column = 0;
        for &vectors in &self.b.blocks {
            // SAFETY: the blocks lie one behind the other; the rest is the caller's.
            unsafe {
                match (S::REGISTERS >= 32, vectors) {
                    (true, 1) => self.columns::<S, 14, 5, 1>(block, column),
                    (true, 2) => self.columns::<S, 12, 4, 2>(block, column),
                    (true, 3) => self.columns::<S, 8, 3, 3>(block, column),
                    (true, _) => self.columns::<S, 6, 2, 4>(block, column),
                    (false, 1) => self.columns::<S, 8, 3, 1>(block, column),
                    (false, 2) => self.columns::<S, 6, 2, 2>(block, column),
                    (false, _) => self.columns::<S, 4, 2, 3>(block, column),
                }
                block = block.add(self.b.depth * vectors * S::LANES);
            }
            column += vectors * S::LANES;
        }
    }
}

impl Tile<'_> {
    /// All rows of one block of columns, `ROWS` at a time; the last few, `LEFT` at a time. A deep
    /// block is multiplied in parts that stay in the first-level cache from row to row.
    #[inline(always)]
    unsafe fn columns<S: Simd, const ROWS: usize, const LEFT: usize, const VECTORS: usize>(
        &self,
        block: *const f32,
        column: usize,
    ) {
        let depth = self.b.depth;
        let parts = (depth * VECTORS * S::LANES).div_ceil(PART).min(depth).max(1);
        for part in 0..parts {
            let ks = (depth * part / parts, depth * (part + 1) / parts);
            let mut row = 0;
            // SAFETY: the rows lie in the tile.
            unsafe {
                let block = block.add(ks.0 * VECTORS * S::LANES);
                while row + LEFT < self.rows {
                    let count = (self.rows - row).min(ROWS);
                    self.micro::<S, ROWS, VECTORS>(block, ks, row, count, column);
                    row += ROWS;
                }
                while row < self.rows {
                    let count = (self.rows - row).min(LEFT);
                    self.micro::<S, LEFT, VECTORS>(block, ks, row, count, column);
                    row += LEFT;
                }
            }
        }
    }

    /// `ROWS` rows (of which `count` exist) times the rows `ks` of one block, added to the sums of
    /// the rows before.
    #[inline(always)]
    unsafe fn micro<S: Simd, const ROWS: usize, const VECTORS: usize>(
        &self,
        block: *const f32,
        ks: (usize, usize),
        row: usize,
        count: usize,
        column: usize,
    ) {
        // SAFETY: rows that do not exist are read as the last that does; vectors that reach past
        // the columns are read from the padded block and written in part.
        unsafe {
            let (depth, columns) = (self.b.depth, self.b.columns);
            let a: [*const f32; ROWS] =
                std::array::from_fn(|r| self.a.as_ptr().add((row + r.min(count - 1)) * depth));
            let mut sums = [[S::zero(); VECTORS]; ROWS];
            let output = |r: usize, v: usize| {
                let at = column + v * S::LANES;
                (self.out.add((row + r) * columns + at), (columns - at).min(S::LANES))
            };
            if ks.0 > 0 {
                unrolled!(r < ROWS => {
                    if r < count {
                        unrolled!(v < VECTORS => {
                            let (to, lanes) = output(r, v);
                            sums[r][v] = S::load_some(to, lanes);
                        });
                    }
                });
            }
            let mut b = block;
            for k in ks.0..ks.1 {
                let mut right = [S::zero(); VECTORS];
                unrolled!(v < VECTORS => { right[v] = S::load(b.add(v * S::LANES)); });
                unrolled!(r < ROWS => {
                    let left = S::splat(*a[r].add(k));
                    unrolled!(v < VECTORS => { sums[r][v] = S::fma(left, right[v], sums[r][v]); });
                });
                b = b.add(VECTORS * S::LANES);
            }
            if ks.1 < depth {
                unrolled!(r < ROWS => {
                    if r < count {
                        unrolled!(v < VECTORS => {
                            let (to, lanes) = output(r, v);
                            S::store_some(to, lanes, sums[r][v]);
                        });
                    }
                });
                return;
            }
            unrolled!(v < VECTORS => {
                let at = column + v * S::LANES;
                let lanes = (columns - at).min(S::LANES);
                let bias = match self.epilogue.bias {
                    Some(bias) => S::load_some(bias.as_ptr().add(at), lanes),
                    None => S::zero(),
                };
                unrolled!(r < ROWS => {
                    if r < count {
                        let offset = (row + r) * columns + at;
                        let sum = S::add(sums[r][v], bias);
                        let mut value = self.epilogue.activation.apply::<S>(sum);
                        if let Some(skip) = self.epilogue.skip {
                            value = S::add(value, S::load_some(skip.as_ptr().add(offset), lanes));
                        }
                        S::store_some(self.out.add(offset), lanes, value);
                    }
                });
            });
        }
    }
}
