//! Concatenation along the channels of channels-last maps, and its inverse: runs of channels are
//! copied from pixel to pixel.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;

/// Pixels that are copied at a time.
const PIXELS: usize = 64;

/// Copies a map `[pixels, count]` to channels `first..first + count` of a map `[pixels, c]`.
///
/// # Panics
/// When the channels do not fit or the maps differ in pixels.
pub fn f32_concat_part_nhwc(
    part: &[f32],
    count: usize,
    out: &mut [MaybeUninit<f32>],
    c: usize,
    first: usize,
) {
    assert_eq!(
        part.len() / count.max(1),
        out.len() / c.max(1),
        "pixels of a part and of the whole"
    );
    let blocks = out.par_chunks_mut(PIXELS * c).zip(part.par_chunks(PIXELS * count));
    blocks.for_each(|(out, part)| {
        for (out, values) in out.chunks_exact_mut(c).zip(part.chunks_exact(count)) {
            out[first..first + count].write_copy_of_slice(values);
        }
    });
}

/// Channels `first..first + count` of a map `[pixels, c]`, as a map `[pixels, count]`.
///
/// # Panics
/// When the map has fewer channels.
pub fn f32_slice_channels_nhwc(x: &[f32], c: usize, first: usize, count: usize) -> Vec<f32> {
    // SAFETY: every pixel of every block is written.
    unsafe {
        allocator::written(x.len() / c * count, |out| {
            let blocks = out.par_chunks_mut(PIXELS * count).zip(x.par_chunks(PIXELS * c));
            blocks.for_each(|(out, x)| {
                for (out, values) in out.chunks_exact_mut(count).zip(x.chunks_exact(c)) {
                    out.write_copy_of_slice(&values[first..first + count]);
                }
            });
        })
    }
}
