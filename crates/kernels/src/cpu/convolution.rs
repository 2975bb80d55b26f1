//! The standard convolution on channels-last data as a matrix product over patches: a tile of places at a
//! time, its patches gathered beside each other in the cache. Grouped ones group by group.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

mod direct;
pub mod winograd;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::depthwise::Geometry;
use crate::cpu::matmul;
use crate::cpu::matmul::{Epilogue, PackedWeights};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// A standard convolution: the geometry of its input and the channels of its output.
#[derive(Clone, Copy, Debug)]
pub struct StandardConv {
    /// Input, kernel and extents of the output; `channels` are the input's.
    pub g: Geometry,
    /// Channels of the output.
    pub filters: usize,
}

impl StandardConv {
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

/// Calls `each(patch, input, values)` with the place in the patches and in the image of every run of
/// values that lies on the image, for the places `from..to` of an image.
fn runs(d: &StandardConv, from: usize, to: usize, mut each: impl FnMut(usize, usize, usize)) {
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
                // The taps of a row of the kernel that lie on the image are one run.
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
fn gather(isa: Isa, x: &[f32], d: &StandardConv, from: usize, to: usize, patches: &mut Vec<f32>) {
    let count = (to - from) * d.patch();
    if d.g.dilation == 1 {
        patches.resize(count, 0.0); // what is there already is written over
        assert_eq!(x.len(), d.image(), "values of an image");
        isa.run(Gather { x, d, from, to, patches: patches.as_mut_ptr() });
        return;
    }
    patches.clear();
    patches.resize(count, 0.0);
    runs(d, from, to, |patch, input, count| {
        patches[patch..patch + count].copy_from_slice(&x[input..input + count]);
    });
}

/// [`gather`] at dilation 1: the taps of a row of the kernel that lie on the image are one run, what is left of
/// the row on either side is zero.
struct Gather<'a> {
    x: &'a [f32],
    d: &'a StandardConv,
    from: usize,
    to: usize,
    patches: *mut f32,
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (g, c) = (&self.d.g, self.d.g.channels);
        let row = g.kernel[1] * c;
        let mut to = self.patches;
        for place in self.from..self.to {
            let (oy, ox) = (place / g.output[1], place % g.output[1]);
            let left = (ox * g.stride) as isize - g.before[1] as isize;
            let first = (-left).clamp(0, g.kernel[1] as isize);
            let last = (g.input[1] as isize - left).clamp(first, g.kernel[1] as isize);
            let x = (left + first).max(0) as usize;
            let (first, last) = (first as usize * c, last as usize * c);
            for ky in 0..g.kernel[0] {
                let y = (oy * g.stride + ky).wrapping_sub(g.before[0]);
                // SAFETY: the run lies on the image, the row in the patches.
                unsafe {
                    if y < g.input[0] && first < last {
                        zero::<S>(to, first);
                        let from = self.x.as_ptr().add((y * g.input[1] + x) * c);
                        copy::<S>(from, to.add(first), last - first);
                        zero::<S>(to.add(last), row - last);
                    } else {
                        zero::<S>(to, row);
                    }
                    to = to.add(row);
                }
            }
        }
    }
}

/// Copies `count` values, by the vector: the runs are too short for a call.
#[inline(always)]
unsafe fn copy<S: Simd>(from: *const f32, to: *mut f32, count: usize) {
    let mut at = 0;
    // SAFETY: the caller's.
    unsafe {
        while at + S::LANES <= count {
            S::store(to.add(at), S::load(from.add(at)));
            at += S::LANES;
        }
        if at < count {
            S::store_part(to.add(at), count - at, S::load_part(from.add(at), count - at));
        }
    }
}

/// Writes `count` zeros.
#[inline(always)]
unsafe fn zero<S: Simd>(to: *mut f32, count: usize) {
    let mut at = 0;
    while at < count {
        // SAFETY: the caller's.
        unsafe { S::store_some(to.add(at), count - at, S::zero()) };
        at += S::LANES;
    }
}

/// Weights as [`forward`] reads them.
#[derive(Clone, Debug)]
pub enum Weights {
    /// For the product over patches.
    Patches(PackedWeights),
    /// For minimal filtering.
    Winograd(winograd::Weights),
}

impl Weights {
    /// Whether [`pack`] would make weights of this kind for the convolution.
    pub fn suit(&self, d: &StandardConv) -> bool {
        match self {
            Self::Patches(_) => winograd::wins(d).is_none(),
            Self::Winograd(w) => winograd::wins(d) == Some(w.side()),
        }
    }
}

/// Packs weights `[filters, kh, kw, c]` for [`forward`].
pub fn pack(isa: Isa, w: &[f32], d: &StandardConv, scale: Option<&[f32]>) -> Weights {
    match winograd::wins(d) {
        Some(side) => Weights::Winograd(winograd::Weights::new(isa, w, d, side, scale)),
        None => Weights::Patches(patches(isa, w, d, scale)),
    }
}

/// Packs weights for [`over_patches`].
pub fn patches(isa: Isa, w: &[f32], d: &StandardConv, scale: Option<&[f32]>) -> PackedWeights {
    PackedWeights::new(isa, w, [d.patch(), d.filters], [1, d.patch()], scale)
}

/// `[b, h, w, c]` to `[b, h', w', filters]`, finished, by what the weights were packed for. The bits do not depend on the
/// number of threads.
pub fn forward(x: &[f32], w: &Weights, d: &StandardConv, finish: Epilogue<'_>) -> Vec<f32> {
    match w {
        Weights::Patches(w) => over_patches(x, w, d, finish),
        Weights::Winograd(w) => winograd::forward(x, w, d, finish),
    }
}

/// [`forward`] by the definition. Tiles in parallel.
pub fn over_patches(
    x: &[f32],
    w: &PackedWeights,
    d: &StandardConv,
    finish: Epilogue<'_>,
) -> Vec<f32> {
    if direct::knows(d) {
        return direct::forward(x, w, d, finish);
    }
    let (places, image_len, tile) = (d.places(), d.image(), d.tile());
    let row = d.filters;
    // SAFETY: every tile writes all of its places.
    unsafe {
        allocator::written(d.g.batch * places * row, |out| {
            out.par_chunks_mut(places * row).enumerate().for_each(|(image, out)| {
                let x = &x[image * image_len..][..image_len];
                out.par_chunks_mut(tile * row).enumerate().for_each_init(
                    Vec::new,
                    |patches, (i, out)| {
                        let (from, count) = (i * tile, out.len() / row);
                        gather(w.isa(), x, d, from, from + count, patches);
                        let skip = finish
                            .skip
                            .map(|skip| &skip[(image * places + from) * row..][..out.len()]);
                        matmul::tile_product(patches, w, Epilogue { skip, ..finish }, out);
                    },
                );
            });
        })
    }
}

/// The geometry of the convolution whose result is the gradient of the input, at stride 1; `None` at others, and where more
/// zeros lie before the input than a kernel reaches.
fn turned_geometry(d: &StandardConv) -> Option<StandardConv> {
    let g = &d.g;
    let reach = |axis: usize| (g.kernel[axis] - 1) * g.dilation;
    if g.stride > 1 || g.before[0] > reach(0) || g.before[1] > reach(1) {
        return None;
    }
    let before = [reach(0) - g.before[0], reach(1) - g.before[1]];
    let (input, output) = (g.output, g.input);
    let g = Geometry { channels: d.filters, input, output, before, ..*g };
    Some(StandardConv { g, filters: d.g.channels })
}

/// Its weights, `[c, kh, kw, filters]`: the kernels turned round.
fn turned_round(w: &[f32], d: &StandardConv) -> Vec<f32> {
    let (g, taps) = (&d.g, d.g.taps());
    let mut turned = vec![0.0; w.len()];
    for (place, value) in w.iter().enumerate() {
        let (filter, tap, channel) =
            (place / g.channels / taps, place / g.channels % taps, place % g.channels);
        turned[(channel * taps + taps - 1 - tap) * d.filters + filter] = *value;
    }
    turned
}

/// The gradient of the input, `[b, h, w, c]`, from weights `[filters, kh, kw, c]`: at stride 1 a convolution,
/// else the gradients of the patches added up, images in parallel.
pub fn input_gradient(isa: Isa, w: &[f32], dy: &[f32], d: &StandardConv) -> Vec<f32> {
    match turned_geometry(d).and_then(|turned| winograd::wins(&turned)) {
        Some(side) => winograd::input_gradient(isa, w, dy, d, side),
        None => input_gradient_over_patches(isa, w, dy, d),
    }
}

/// [`input_gradient`] by the definition.
pub fn input_gradient_over_patches(isa: Isa, w: &[f32], dy: &[f32], d: &StandardConv) -> Vec<f32> {
    if let Some(turned) = turned_geometry(d) {
        let w = turned_round(w, d);
        return over_patches(dy, &patches(isa, &w, &turned, None), &turned, Epilogue::NONE);
    }
    let packed = PackedWeights::new(isa, w, [d.filters, d.patch()], [d.patch(), 1], None);
    let (places, image_len) = (d.places(), d.image());
    let tile = matmul::tile_rows(d.patch()).min(places);
    let mut dx = vec![0.0; d.g.batch * image_len];
    dx.par_chunks_mut(image_len).enumerate().for_each(|(image, dx)| {
        let dy = &dy[image * places * d.filters..][..places * d.filters];
        for from in (0..places).step_by(tile) {
            let to = (from + tile).min(places);
            let rows = &dy[from * d.filters..to * d.filters];
            // SAFETY: the product writes every value.
            let patches = unsafe {
                allocator::written((to - from) * d.patch(), |out| {
                    matmul::tile_product(rows, &packed, Epilogue::NONE, out);
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

/// The gradient of the weights, `[filters, kh, kw, c]`. Images in as many parts as there are threads, their
/// sums added in order: the bits depend on the number of threads and on nothing else.
pub fn weight_gradient(isa: Isa, x: &[f32], dy: &[f32], d: &StandardConv) -> Vec<f32> {
    if let Some(side) = winograd::wins(d) {
        return winograd::weight_gradient(isa, x, dy, d, side);
    }
    weight_gradient_over_patches(isa, x, dy, d)
}

/// [`weight_gradient`] by the definition.
pub fn weight_gradient_over_patches(isa: Isa, x: &[f32], dy: &[f32], d: &StandardConv) -> Vec<f32> {
    let (places, image_len) = (d.places(), d.image());
    let tile = matmul::tile_rows(d.patch() + d.filters).min(places);
    let tiles = places.div_ceil(tile);
    let all = d.g.batch * tiles;
    let parts = rayon::current_num_threads().min(all).max(1);
    let sums = |part: usize| {
        let mut dw = vec![0.0; d.filters * d.patch()];
        let mut patches = Vec::new();
        for i in all * part / parts..all * (part + 1) / parts {
            let (image, from) = (i / tiles, i % tiles * tile);
            let to = (from + tile).min(places);
            gather(isa, &x[image * image_len..][..image_len], d, from, to, &mut patches);
            let first = (image * places + from) * d.filters;
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
