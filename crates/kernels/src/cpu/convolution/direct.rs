//! The first convolution of a network, of images with three channels at stride 2, without gathering
//! patches: they hold so few values that gathering takes longer than multiplying. Neighbouring
//! outputs read pixels a fixed number of values apart, so that one address serves them all.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::geometry::StandardConv;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::simd::{Kernel, Simd, unrolled};

/// The only number of channels that this kernel supports.
const CHANNELS: usize = 3;
/// The only stride that this kernel supports.
const STRIDE: usize = 2;
/// Values between the inputs of neighbouring outputs.
const STEP: usize = CHANNELS * STRIDE;
/// Rows of the output that a thread works on at a time.
const ROWS: usize = 14;

/// Whether this kernel supports the convolution.
pub(super) fn supports(conv: &StandardConv) -> bool {
    let g = &conv.g;
    g.channels == CHANNELS && g.stride == STRIDE && g.dilation == 1
}

/// [`super::f32_conv_patches_nhwc`] without patches, from the same packed weights.
pub(super) fn f32_conv_direct_nhwc(
    x: &[f32],
    w: &PackedWeights,
    conv: &StandardConv,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    let (pixels, image_len, row) =
        (conv.pixels(), conv.image_len(), conv.g.output[1] * conv.filters);
    assert!(supports(conv), "{:?}", conv.g);
    assert_eq!(x.len(), conv.g.batch * image_len, "values of the images");
    // SAFETY: every output of every row is written.
    unsafe {
        allocator::written(conv.g.batch * pixels * conv.filters, |y| {
            y.par_chunks_mut(pixels * conv.filters).enumerate().for_each(|(image, y)| {
                let x = &x[image * image_len..][..image_len];
                y.par_chunks_mut(ROWS * row).enumerate().for_each(|(i, y)| {
                    let from = (image * conv.g.output[0] + i * ROWS) * row;
                    let skip = epilogue.skip.map(|skip| &skip[from..from + y.len()]);
                    let rows = (i * ROWS, i * ROWS + y.len() / row);
                    let epilogue = Epilogue { skip, ..epilogue };
                    w.isa().run(DirectConv { x, w, conv, rows, epilogue, y });
                });
            });
        })
    }
}

struct DirectConv<'a> {
    /// An image.
    x: &'a [f32],
    w: &'a PackedWeights,
    conv: &'a StandardConv,
    /// Rows of the output, from and to.
    rows: (usize, usize),
    /// `skip` holds the values of these rows alone.
    epilogue: Epilogue<'a>,
    /// The outputs of these rows.
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for DirectConv<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let (mut block, mut column) = (self.w.values().as_ptr(), 0);
        for &vectors in self.w.blocks() {
            // SAFETY: the blocks lie one behind the other; the rest is the caller's.
            unsafe {
                match (S::REGISTERS >= 32, vectors) {
                    (true, 1) => self.block::<S, 14, 1>(block, column),
                    (true, 2) => self.block::<S, 12, 2>(block, column),
                    (true, 3) => self.block::<S, 8, 3>(block, column),
                    (true, _) => self.block::<S, 6, 4>(block, column),
                    (false, 1) => self.block::<S, 8, 1>(block, column),
                    (false, 2) => self.block::<S, 6, 2>(block, column),
                    (false, _) => self.block::<S, 4, 3>(block, column),
                }
                block = block.add(self.w.depth * vectors * S::LANES);
            }
            column += vectors * S::LANES;
        }
    }
}

/// Taps of an axis, from and to, that lie on the input for an output.
#[inline(always)]
fn taps(conv: &StandardConv, axis: usize, output: usize) -> (usize, usize) {
    let (g, first) = (&conv.g, output * STRIDE);
    let from = g.before[axis].saturating_sub(first);
    let to = (g.input[axis] + g.before[axis]).saturating_sub(first).min(g.kernel[axis]);
    (from.min(to), to)
}

impl DirectConv<'_> {
    /// All outputs of one block of filters, `COUNT` neighbours at a time.
    #[inline(always)]
    unsafe fn block<S: Simd, const COUNT: usize, const VECTORS: usize>(
        &mut self,
        block: *const f32,
        column: usize,
    ) {
        let (g, width) = (&self.conv.g, self.conv.g.output[1]);
        let whole = |ox: &usize| taps(self.conv, 1, *ox) == (0, g.kernel[1]);
        let inner = (0..width).find(whole).unwrap_or(width);
        let end = (inner..width).rfind(whole).map_or(inner, |last| last + 1);
        for oy in self.rows.0..self.rows.1 {
            let mut ox = 0;
            while ox < width {
                // SAFETY: the outputs lie in the row and see whole kernels, or are one.
                unsafe {
                    if ox >= inner && ox < end && end - inner >= COUNT {
                        // The last group overlaps the one before and writes some values again.
                        let first = ox.min(end - COUNT);
                        self.micro::<S, COUNT, VECTORS>(block, column, oy, first);
                        ox = first + COUNT;
                    } else {
                        self.micro::<S, 1, VECTORS>(block, column, oy, ox);
                        ox += 1;
                    }
                }
            }
        }
    }

    /// `COUNT` neighbouring outputs of one block of filters; more than one see whole rows of the
    /// kernel.
    #[inline(always)]
    unsafe fn micro<S: Simd, const COUNT: usize, const VECTORS: usize>(
        &mut self,
        block: *const f32,
        column: usize,
        oy: usize,
        ox: usize,
    ) {
        let g = &self.conv.g;
        let (rows, columns) = (taps(self.conv, 0, oy), taps(self.conv, 1, ox));
        let run = (columns.1 - columns.0) * CHANNELS;
        let left = (ox * STRIDE + columns.0 - g.before[1]) * CHANNELS;
        // SAFETY: the caller's; taps off the image are skipped.
        unsafe {
            let mut sums = [[S::zero(); VECTORS]; COUNT];
            for ky in rows.0..rows.1 {
                let y = oy * STRIDE + ky - g.before[0];
                let x = self.x.as_ptr().add(y * g.input[1] * CHANNELS + left);
                let first = (ky * g.kernel[1] + columns.0) * CHANNELS;
                let w = block.add(first * VECTORS * S::LANES);
                for k in 0..run {
                    let mut right = [S::zero(); VECTORS];
                    unrolled!(v < VECTORS => {
                        right[v] = S::load(w.add((k * VECTORS + v) * S::LANES));
                    });
                    unrolled!(i < COUNT => {
                        let left = S::splat(*x.add(k + i * STEP));
                        unrolled!(v < VECTORS => {
                            sums[i][v] = S::fma(left, right[v], sums[i][v]);
                        });
                    });
                }
            }
            let row = ((oy - self.rows.0) * g.output[1] + ox) * self.conv.filters;
            unrolled!(v < VECTORS => {
                let at = column + v * S::LANES;
                let count = (self.conv.filters - at).min(S::LANES);
                let bias = match self.epilogue.bias {
                    Some(bias) => S::load_some(bias.as_ptr().add(at), count),
                    None => S::zero(),
                };
                unrolled!(i < COUNT => {
                    let offset = row + i * self.conv.filters + at;
                    let mut value = self.epilogue.activation.apply::<S>(S::add(sums[i][v], bias));
                    if let Some(skip) = self.epilogue.skip {
                        value = S::add(value, S::load_some(skip.as_ptr().add(offset), count));
                    }
                    S::store_some(self.y.as_mut_ptr().cast::<f32>().add(offset), count, value);
                });
            });
        }
    }
}
