//! Convolutions of 3x3 at stride 1 by Winograd's minimal filtering (Lavin and Gray,
//! arXiv:1509.09308): a tile of `m x m` outputs from an input tile of `m + 2` by `m + 2` takes `(m
//! + 2)^2` multiplications for a channel and a filter where the definition takes `9 m^2`, 16 for 36
//! with `m` 2.
//!
//! Input tiles and filters are transformed; at each position of a transformed tile the products of
//! all tiles, channels and filters are one matrix product; its results are transformed to outputs.
//! Tiles come in strips whose transformed inputs, and the products of one block of filters, stay in
//! the second-level cache.

pub mod tiles;
mod transforms;

use std::cell::Cell;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::geometry::StandardConv;
use crate::cpu::matmul::weight_gradient::f32_matmul_dw_tile;
use crate::cpu::matmul::{Epilogue, PackedWeights, column_blocks, f32_matmul_tile};
use crate::cpu::partial_sums::add_in_order;
use crate::isa::Isa;
use tiles::{TileSize, Tiles};
use transforms::{
    FilterGradientTransform, FilterTransform, InputTransform, OutputGradientTransform,
    OutputTransform,
};

/// Tiles of a strip in the gradient of the weights, where strips are summed: twice or half as many
/// make no difference.
const SUMMED_TILES: usize = 48;

/// Distance between positions in memory, for so many values at each: an odd number of cache lines,
/// or all positions of a tile would compete for a few sets of the first-level cache.
fn position_stride(values: usize) -> usize {
    (values.div_ceil(16) | 1) * 16
}

thread_local! {
    /// Scratch memory of this thread's last strip, and of its last block of filters.
    static SCRATCH: [Cell<Vec<MaybeUninit<f32>>>; 2] =
        const { [const { Cell::new(Vec::new()) }; 2] };
}

/// Lends scratch memory for so many values that will be written before they are read. A thread
/// keeps it for the next strip: asked of the allocator, small maps took longer to find memory for
/// than to compute. A strip that a thread begins while it waits for the blocks of another gets
/// memory of its own.
fn with_scratch<R>(
    kind: usize,
    count: usize,
    work: impl FnOnce(&mut [MaybeUninit<f32>]) -> R,
) -> R {
    let mut scratch = SCRATCH.with(|all| all[kind].take());
    if scratch.len() < count {
        scratch.clear();
        scratch.reserve_exact(count);
        // SAFETY: values that may be uninitialised need no initialisation.
        unsafe { scratch.set_len(count) };
    }
    let result = work(&mut scratch[..count]);
    SCRATCH.with(|all| all[kind].set(scratch));
    result
}

/// Transformed filters, packed for the products.
#[derive(Clone, Debug)]
pub struct WinogradWeights {
    tile: TileSize,
    isa: Isa,
    depth: usize,
    filters: usize,
    /// Blocks of columns as [`PackedWeights`] makes them; each holds a matrix for every position.
    blocks: Vec<Vec<PackedWeights>>,
}

impl WinogradWeights {
    /// The tile size that the filters were transformed for.
    pub fn tile(&self) -> TileSize {
        self.tile
    }

    /// Transforms and packs filters `[filters, 3, 3, c]`, each times its `scale`.
    pub fn new(
        isa: Isa,
        w: &[f32],
        conv: &StandardConv,
        tile: TileSize,
        scale: Option<&[f32]>,
    ) -> Self {
        let matrix = [conv.g.channels, conv.filters];
        match tile {
            TileSize::Two => Self::transform::<4>(isa, w, matrix, tile, scale, false),
            TileSize::Four => Self::transform::<6>(isa, w, matrix, tile, scale, false),
        }
    }

    /// The filters of the convolution whose result is the gradient of the input: every kernel
    /// rotated by 180 degrees, channels and filters exchanged.
    fn rotated(isa: Isa, w: &[f32], conv: &StandardConv, tile: TileSize) -> Self {
        let matrix = [conv.filters, conv.g.channels];
        match tile {
            TileSize::Two => Self::transform::<4>(isa, w, matrix, tile, None, true),
            TileSize::Four => Self::transform::<6>(isa, w, matrix, tile, None, true),
        }
    }

    fn transform<const N: usize>(
        isa: Isa,
        w: &[f32],
        [depth, filters]: [usize; 2],
        tile: TileSize,
        scale: Option<&[f32]>,
        rotated: bool,
    ) -> Self {
        let c = if rotated { filters } else { depth };
        assert_eq!(w.len(), 9 * depth * filters, "values of the filters");
        let columns = column_blocks(filters, isa);
        let block = |&(first, count): &(usize, usize)| {
            let (some, all) = ((first, first + count), (0, depth));
            let (filters, channels) = if rotated { (all, some) } else { (some, all) };
            let mut values = vec![0.0; N * N * depth * count];
            let to = &mut values;
            isa.run(FilterTransform::<N> { w, c, filters, channels, scale, rotated, to });
            let matrices = values.chunks_exact(depth * count);
            matrices
                .map(|matrix| PackedWeights::new(isa, matrix, [depth, count], [count, 1], None))
                .collect()
        };
        let blocks = columns.par_iter().map(block).collect();
        Self { tile, isa, depth, filters, blocks }
    }
}

/// A pointer that threads share; each writes its own values behind it.
#[derive(Clone, Copy)]
struct SharedPointer(*mut f32);

// SAFETY: each user writes values that no other thread touches.
unsafe impl Send for SharedPointer {}
// SAFETY: as above.
unsafe impl Sync for SharedPointer {}

impl SharedPointer {
    /// A method, so that a closure captures the whole and not the bare pointer.
    fn pointer(self) -> *mut f32 {
        self.0
    }
}

/// `[b, h, w, c]` to `[b, h', w', filters]`, with the epilogue applied. Strips in parallel, and the
/// blocks of a strip; the bits do not depend on the number of threads.
pub fn f32_winograd_3x3_nhwc(
    x: &[f32],
    w: &WinogradWeights,
    conv: &StandardConv,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    match w.tile {
        TileSize::Two => forward::<2, 4>(x, w, conv, epilogue),
        TileSize::Four => forward::<4, 6>(x, w, conv, epilogue),
    }
}

fn forward<const M: usize, const N: usize>(
    x: &[f32],
    w: &WinogradWeights,
    conv: &StandardConv,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let tiles = Tiles::new(conv, w.tile);
    let c = conv.g.channels;
    let outputs = conv.g.batch * conv.pixels() * conv.filters;
    assert_eq!([w.depth, w.filters], [c, conv.filters], "channels and filters of the weights");
    assert_eq!(x.len(), conv.g.batch * conv.image_len(), "values of the images");
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == conv.filters), "a bias for every filter");
    assert!(epilogue.skip.is_none_or(|skip| skip.len() == outputs), "a skip for every output");
    let (zeros, strips) = (vec![0.0; c], tiles.strips(c));
    let strip = |y: SharedPointer, i: usize| {
        let from = tiles.count() * i / strips;
        let count = tiles.count() * (i + 1) / strips - from;
        let stride = position_stride(count * c);
        with_scratch(0, N * N * stride, |inputs| {
            let to = inputs.as_mut_ptr().cast();
            let (zeros, tiles) = (&zeros, &tiles);
            w.isa.run(InputTransform::<M, N> { x, zeros, tiles, from, count, to, stride });
            // SAFETY: the transformed inputs of every position were written.
            let rows = unsafe { std::slice::from_raw_parts(to.cast_const(), N * N * stride) };
            w.blocks.par_iter().enumerate().for_each(|(block, matrices)| {
                let first = w.blocks[..block].iter().map(|block| block[0].columns).sum();
                let across = matrices[0].columns;
                let apart = position_stride(count * across);
                with_scratch(1, N * N * apart, |products| {
                    for (position, matrix) in matrices.iter().enumerate() {
                        let rows = &rows[position * stride..][..count * c];
                        let products = &mut products[position * apart..][..count * across];
                        f32_matmul_tile(rows, matrix, Epilogue::NONE, products);
                    }
                    let (products, stride, y) = (products.as_ptr().cast(), apart, y.pointer());
                    w.isa.run(OutputTransform::<M, N> {
                        products,
                        stride,
                        tiles,
                        from,
                        count,
                        first,
                        across,
                        epilogue,
                        y,
                    });
                });
            });
        });
    };
    // SAFETY: every tile of every block writes its own outputs, and together they are all.
    unsafe {
        allocator::written(outputs, |y| {
            let y = SharedPointer(y.as_mut_ptr().cast());
            (0..strips).into_par_iter().for_each(|i| strip(y, i));
        })
    }
}

/// The gradient of the input, `[b, h, w, c]`, from weights `[filters, 3, 3, c]`: the convolution of
/// `dy` with the kernels rotated by 180 degrees.
///
/// # Panics
/// When more than two zeros lie before the input.
pub fn f32_winograd_3x3_nhwc_dx(
    isa: Isa,
    w: &[f32],
    dy: &[f32],
    conv: &StandardConv,
    tile: TileSize,
) -> Vec<f32> {
    let rotated = conv.input_gradient().expect("at most two zeros before the input");
    let weights = WinogradWeights::rotated(isa, w, conv, tile);
    f32_winograd_3x3_nhwc(dy, &weights, &rotated, Epilogue::NONE)
}

/// The gradient of the weights, `[filters, 3, 3, c]`: at every position the product of the
/// transformed gradient of the outputs and the transformed inputs. Tiles in as many parts as there
/// are threads, their sums added in order: the bits depend on the number of threads and on nothing
/// else.
pub fn f32_winograd_3x3_nhwc_dw(
    isa: Isa,
    x: &[f32],
    dy: &[f32],
    conv: &StandardConv,
    tile: TileSize,
) -> Vec<f32> {
    match tile {
        TileSize::Two => weight_gradient::<2, 4>(isa, x, dy, conv, tile),
        TileSize::Four => weight_gradient::<4, 6>(isa, x, dy, conv, tile),
    }
}

fn weight_gradient<const M: usize, const N: usize>(
    isa: Isa,
    x: &[f32],
    dy: &[f32],
    conv: &StandardConv,
    tile: TileSize,
) -> Vec<f32> {
    let tiles = Tiles::new(conv, tile);
    let (c, filters, all) = (conv.g.channels, conv.filters, tiles.count());
    assert_eq!(x.len(), conv.g.batch * conv.image_len(), "values of the images");
    assert_eq!(dy.len(), conv.g.batch * conv.pixels() * filters, "values of the gradient");
    let (zeros, matrix) = (vec![0.0; c.max(filters)], filters * c);
    let parts = rayon::current_num_threads().min(all).max(1);
    let sums = |part: usize| {
        let (first, last) = (all * part / parts, all * (part + 1) / parts);
        let strips = (last - first).div_ceil(SUMMED_TILES);
        let mut sums = vec![0.0; N * N * matrix];
        for i in 0..strips {
            let from = first + (last - first) * i / strips;
            let count = first + (last - first) * (i + 1) / strips - from;
            let [stride, apart] = [position_stride(count * c), position_stride(count * filters)];
            with_scratch(0, N * N * (stride + apart), |scratch| {
                let to = scratch.as_mut_ptr().cast::<f32>();
                let (zeros, tiles) = (&zeros, &tiles);
                isa.run(InputTransform::<M, N> { x, zeros, tiles, from, count, to, stride });
                // SAFETY: the scratch memory has room for the gradients behind the inputs.
                let to = unsafe { to.add(N * N * stride) };
                isa.run(OutputGradientTransform::<M, N> {
                    dy,
                    zeros,
                    tiles,
                    from,
                    count,
                    to,
                    stride: apart,
                });
                // SAFETY: all of it was written just now.
                let values = unsafe {
                    std::slice::from_raw_parts(scratch.as_ptr().cast::<f32>(), scratch.len())
                };
                let (inputs, gradients) = values.split_at(N * N * stride);
                for (position, sums) in sums.chunks_exact_mut(matrix).enumerate() {
                    let gradients = &gradients[position * apart..][..count * filters];
                    let inputs = &inputs[position * stride..][..count * c];
                    f32_matmul_dw_tile(isa, gradients, inputs, filters, c, sums);
                }
            });
        }
        sums
    };
    let parts: Vec<Vec<f32>> = (0..parts).into_par_iter().with_max_len(1).map(sums).collect();
    let mut parts = parts.into_iter();
    let total = parts.next().unwrap_or_default();
    let total = add_in_order(total, parts);
    let mut dw = vec![0.0; filters * 9 * c];
    dw.par_chunks_mut(9 * c).enumerate().for_each(|(filter, to)| {
        isa.run(FilterGradientTransform::<N> { sums: &total, filters, filter, c, to });
    });
    dw
}
