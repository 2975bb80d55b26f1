//! The standard convolution on channels-last data as a matrix product over patches: a tile of places at a
//! time, its patches gathered beside each other in the cache. Grouped ones group by group.

use rayon::prelude::*;

use crate::depthwise::Geometry;
use crate::isa::Isa;
use crate::matmul::{self, Finish, Packed};
use crate::memory;

/// A standard convolution: the geometry of its input and the channels of its output.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    /// Input, kernel and extents of the output; `channels` are the input's.
    pub g: Geometry,
    /// Channels of the output.
    pub filters: usize,
}

impl Dense {
    /// Values of a patch.
    pub fn patch(&self) -> usize {
        self.g.taps() * self.g.channels
    }

    fn places(&self) -> usize {
        self.g.output[0] * self.g.output[1]
    }

    fn image(&self) -> usize {
        self.g.input[0] * self.g.input[1] * self.g.channels
    }

    /// Places of a tile.
    fn tile(&self) -> usize {
        let work = self.g.batch * self.places() * self.patch() * self.filters;
        matmul::shared_rows(self.g.batch * self.places(), self.patch(), work).min(self.places())
    }
}

/// Calls `each(patch, input, values)` with the place in the patches and in the picture of every run of
/// values that lies on the picture, for the places `from..to` of a picture.
fn runs(d: &Dense, from: usize, to: usize, mut each: impl FnMut(usize, usize, usize)) {
    let (g, c) = (&d.g, d.g.channels);
    for (i, place) in (from..to).enumerate() {
        let (oy, ox) = (place / g.output[1], place % g.output[1]);
        for ky in 0..g.kernel[0] {
            let y = (oy * g.stride + ky * g.dilation).wrapping_sub(g.before[0]);
            if y >= g.input[0] {
                continue;
            }
            let at = i * d.patch() + ky * g.kernel[1] * c;
            let left = (ox * g.stride) as isize - g.before[1] as isize;
            if g.dilation == 1 {
                // The taps of a row of the kernel that lie on the picture are one run.
                let first = (-left).max(0);
                let last = (g.input[1] as isize - left).min(g.kernel[1] as isize);
                if first < last {
                    let x = (left + first) as usize;
                    let count = (last - first) as usize * c;
                    each(at + first as usize * c, (y * g.input[1] + x) * c, count);
                }
                continue;
            }
            for kx in 0..g.kernel[1] {
                let x = left + (kx * g.dilation) as isize;
                if x >= 0 && (x as usize) < g.input[1] {
                    each(at + kx * c, (y * g.input[1] + x as usize) * c, c);
                }
            }
        }
    }
}

/// Gathers the patches of the places `from..to`.
fn gather(x: &[f32], d: &Dense, from: usize, to: usize, patches: &mut Vec<f32>) {
    patches.clear();
    patches.resize((to - from) * d.patch(), 0.0);
    runs(d, from, to, |patch, input, count| {
        patches[patch..patch + count].copy_from_slice(&x[input..input + count]);
    });
}

/// Packs weights `[filters, kh, kw, c]` for [`forward`].
pub fn pack(isa: Isa, w: &[f32], d: &Dense, scale: Option<&[f32]>) -> Packed {
    Packed::new(isa, w, [d.patch(), d.filters], [1, d.patch()], scale)
}

/// `[b, h, w, c]` to `[b, h', w', filters]`, finished. Tiles in parallel; the bits do not depend on the
/// number of threads.
pub fn forward(x: &[f32], w: &Packed, d: &Dense, finish: Finish<'_>) -> Vec<f32> {
    let (places, image, tile) = (d.places(), d.image(), d.tile());
    let row = d.filters;
    // SAFETY: every tile writes all of its places.
    unsafe {
        memory::written(d.g.batch * places * row, |out| {
            out.par_chunks_mut(places * row).enumerate().for_each(|(picture, out)| {
                let x = &x[picture * image..][..image];
                out.par_chunks_mut(tile * row).enumerate().for_each_init(
                    Vec::new,
                    |patches, (i, out)| {
                        let (from, count) = (i * tile, out.len() / row);
                        gather(x, d, from, from + count, patches);
                        let skip = finish
                            .skip
                            .map(|skip| &skip[(picture * places + from) * row..][..out.len()]);
                        matmul::tile_product(patches, w, Finish { skip, ..finish }, out);
                    },
                );
            });
        })
    }
}

/// The convolution whose result is the gradient of the input, with its weights `[c, kh, kw, filters]`: at stride
/// 1 the kernel turned round.
fn turned_round(w: &[f32], d: &Dense) -> Option<(Vec<f32>, Dense)> {
    let (g, taps) = (&d.g, d.g.taps());
    let reach = |axis: usize| (g.kernel[axis] - 1) * g.dilation;
    if g.stride > 1 || g.before[0] > reach(0) || g.before[1] > reach(1) {
        return None;
    }
    let mut turned = vec![0.0; w.len()];
    for (place, value) in w.iter().enumerate() {
        let (filter, tap, channel) =
            (place / g.channels / taps, place / g.channels % taps, place % g.channels);
        turned[(channel * taps + taps - 1 - tap) * d.filters + filter] = *value;
    }
    let before = [reach(0) - g.before[0], reach(1) - g.before[1]];
    let (input, output) = (g.output, g.input);
    let g = Geometry { channels: d.filters, input, output, before, ..*g };
    Some((turned, Dense { g, filters: d.g.channels }))
}

/// The gradient of the input, `[b, h, w, c]`, from weights `[filters, kh, kw, c]`: at stride 1 a convolution,
/// else the gradients of the patches added up, pictures in parallel.
pub fn input_gradient(isa: Isa, w: &[f32], dy: &[f32], d: &Dense) -> Vec<f32> {
    if let Some((w, d)) = turned_round(w, d) {
        return forward(dy, &pack(isa, &w, &d, None), &d, Finish::NONE);
    }
    let packed = Packed::new(isa, w, [d.filters, d.patch()], [d.patch(), 1], None);
    let (places, image) = (d.places(), d.image());
    let tile = matmul::tile_rows(d.patch()).min(places);
    let mut dx = vec![0.0; d.g.batch * image];
    dx.par_chunks_mut(image).enumerate().for_each(|(picture, dx)| {
        let dy = &dy[picture * places * d.filters..][..places * d.filters];
        for from in (0..places).step_by(tile) {
            let to = (from + tile).min(places);
            let rows = &dy[from * d.filters..to * d.filters];
            // SAFETY: the product writes every value.
            let patches = unsafe {
                memory::written((to - from) * d.patch(), |out| {
                    matmul::tile_product(rows, &packed, Finish::NONE, out);
                })
            };
            runs(d, from, to, |patch, input, count| {
                let sums = dx[input..input + count].iter_mut();
                sums.zip(&patches[patch..patch + count]).for_each(|(sum, value)| *sum += value);
            });
        }
    });
    dx
}

/// The gradient of the weights, `[filters, kh, kw, c]`. Pictures in as many parts as there are threads, their
/// sums added in order: the bits depend on the number of threads and on nothing else.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], d: &Dense) -> Vec<f32> {
    let (places, image) = (d.places(), d.image());
    let tile = matmul::tile_rows(d.patch() + d.filters).min(places);
    let tiles = places.div_ceil(tile);
    let all = d.g.batch * tiles;
    let parts = rayon::current_num_threads().min(all).max(1);
    let sums = |part: usize| {
        let mut dw = vec![0.0; d.filters * d.patch()];
        let mut patches = Vec::new();
        for i in all * part / parts..all * (part + 1) / parts {
            let (picture, from) = (i / tiles, i % tiles * tile);
            let to = (from + tile).min(places);
            gather(&x[picture * image..][..image], d, from, to, &mut patches);
            let first = (picture * places + from) * d.filters;
            let rows = &dy[first..first + (to - from) * d.filters];
            matmul::add_outer(isa, rows, &patches, d.filters, d.patch(), &mut dw);
        }
        dw
    };
    let parts: Vec<Vec<f32>> = (0..parts).into_par_iter().with_max_len(1).map(sums).collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        total.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
    }
    total
}
