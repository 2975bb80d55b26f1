//! The standard convolution on channels-last maps, as a matrix product over patches or by
//! Winograd's algorithm. A tile of patches at a time is gathered in the cache. Weights are
//! `[filters, kh, kw, c]`.

mod direct;
pub mod winograd;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::geometry::StandardConv;
use crate::cpu::matmul::weight_gradient::f32_matmul_dw_tile;
use crate::cpu::matmul::{Epilogue, PackedWeights, f32_matmul_tile, shared_rows, tile_rows};
use crate::cpu::partial_sums::add_in_order;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};
use winograd::WinogradWeights;
use winograd::tiles::fastest_tile;
use winograd::{f32_winograd_3x3_nhwc, f32_winograd_3x3_nhwc_dw, f32_winograd_3x3_nhwc_dx};

/// Output pixels of a tile of [`f32_conv_patches_nhwc`].
fn tile_pixels(conv: &StandardConv) -> usize {
    let work = conv.g.batch * conv.pixels() * conv.patch() * conv.filters;
    shared_rows(conv.g.batch * conv.pixels(), conv.patch(), work).min(conv.pixels())
}

/// Calls `each(patch, input, count)` for every run of values that lies on the image, for the output
/// pixels `from..to` of an image: the offsets of the run in the patches and in the image, and its
/// length.
fn runs(conv: &StandardConv, from: usize, to: usize, mut each: impl FnMut(usize, usize, usize)) {
    let (g, c) = (&conv.g, conv.g.channels);
    for (i, pixel) in (from..to).enumerate() {
        let (oy, ox) = (pixel / g.output[1], pixel % g.output[1]);
        for ky in 0..g.kernel[0] {
            let y = (oy * g.stride + ky * g.dilation).wrapping_sub(g.before[0]);
            if y >= g.input[0] {
                continue;
            }
            let at = i * conv.patch() + ky * g.kernel[1] * c;
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

/// Gathers the patches of the output pixels `from..to` of an image.
fn gather_patches(
    isa: Isa,
    x: &[f32],
    conv: &StandardConv,
    from: usize,
    to: usize,
    patches: &mut Vec<f32>,
) {
    let count = (to - from) * conv.patch();
    if conv.g.dilation == 1 {
        patches.resize(count, 0.0); // every value is written below
        assert_eq!(x.len(), conv.image_len(), "values of an image");
        isa.run(GatherPatches { x, conv, from, to, patches: patches.as_mut_ptr() });
        return;
    }
    patches.clear();
    patches.resize(count, 0.0);
    runs(conv, from, to, |patch, input, count| {
        patches[patch..patch + count].copy_from_slice(&x[input..input + count]);
    });
}

/// [`gather_patches`] at dilation 1: the taps of a row of the kernel that lie on the image are one
/// run; the rest of the row on either side is zero.
struct GatherPatches<'a> {
    x: &'a [f32],
    conv: &'a StandardConv,
    from: usize,
    to: usize,
    patches: *mut f32,
}

impl Kernel for GatherPatches<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (g, c) = (&self.conv.g, self.conv.g.channels);
        let row = g.kernel[1] * c;
        let mut to = self.patches;
        for pixel in self.from..self.to {
            let (oy, ox) = (pixel / g.output[1], pixel % g.output[1]);
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

/// Copies `count` values vector by vector: the runs are too short for a call of `memcpy`.
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

/// Weights as [`f32_conv_nhwc`] reads them.
#[derive(Clone, Debug)]
pub enum PackedStandardConv {
    /// For the product over patches.
    Patches(PackedWeights),
    /// For Winograd's algorithm.
    Winograd(WinogradWeights),
}

impl PackedStandardConv {
    /// Whether [`f32_conv_pack`] would pack weights for the same algorithm for this convolution.
    pub fn fits(&self, conv: &StandardConv) -> bool {
        match self {
            Self::Patches(_) => fastest_tile(conv).is_none(),
            Self::Winograd(w) => fastest_tile(conv) == Some(w.tile()),
        }
    }
}

/// Packs weights `[filters, kh, kw, c]` for [`f32_conv_nhwc`], each filter times its `scale`.
pub fn f32_conv_pack(
    isa: Isa,
    w: &[f32],
    conv: &StandardConv,
    scale: Option<&[f32]>,
) -> PackedStandardConv {
    match fastest_tile(conv) {
        Some(tile) => PackedStandardConv::Winograd(WinogradWeights::new(isa, w, conv, tile, scale)),
        None => PackedStandardConv::Patches(f32_conv_patches_pack(isa, w, conv, scale)),
    }
}

/// Packs weights for [`f32_conv_patches_nhwc`], each filter times its `scale`.
pub fn f32_conv_patches_pack(
    isa: Isa,
    w: &[f32],
    conv: &StandardConv,
    scale: Option<&[f32]>,
) -> PackedWeights {
    PackedWeights::new(isa, w, [conv.patch(), conv.filters], [1, conv.patch()], scale)
}

/// `[b, h, w, c]` to `[b, h', w', filters]`, with the epilogue applied, by the algorithm that the
/// weights were packed for. The bits do not depend on the number of threads.
pub fn f32_conv_nhwc(
    x: &[f32],
    w: &PackedStandardConv,
    conv: &StandardConv,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    match w {
        PackedStandardConv::Patches(w) => f32_conv_patches_nhwc(x, w, conv, epilogue),
        PackedStandardConv::Winograd(w) => f32_winograd_3x3_nhwc(x, w, conv, epilogue),
    }
}

/// [`f32_conv_nhwc`] by the product over patches. Tiles in parallel.
pub fn f32_conv_patches_nhwc(
    x: &[f32],
    w: &PackedWeights,
    conv: &StandardConv,
    epilogue: Epilogue<'_>,
) -> Vec<f32> {
    if direct::supports(conv) {
        return direct::f32_conv_direct_nhwc(x, w, conv, epilogue);
    }
    let (pixels, image_len, tile) = (conv.pixels(), conv.image_len(), tile_pixels(conv));
    let row = conv.filters;
    // SAFETY: every tile writes all of its pixels.
    unsafe {
        allocator::written(conv.g.batch * pixels * row, |out| {
            out.par_chunks_mut(pixels * row).enumerate().for_each(|(image, out)| {
                let x = &x[image * image_len..][..image_len];
                out.par_chunks_mut(tile * row).enumerate().for_each_init(
                    Vec::new,
                    |patches, (i, out)| {
                        let (from, count) = (i * tile, out.len() / row);
                        gather_patches(w.isa(), x, conv, from, from + count, patches);
                        let skip = epilogue
                            .skip
                            .map(|skip| &skip[(image * pixels + from) * row..][..out.len()]);
                        f32_matmul_tile(patches, w, Epilogue { skip, ..epilogue }, out);
                    },
                );
            });
        })
    }
}

/// Rotates kernels `[filters, kh, kw, c]` by 180 degrees, `[c, kh, kw, filters]`: the weights of
/// [`StandardConv::input_gradient`].
fn rotate_kernels(w: &[f32], conv: &StandardConv) -> Vec<f32> {
    let (g, taps) = (&conv.g, conv.g.taps());
    let mut rotated = vec![0.0; w.len()];
    for (i, value) in w.iter().enumerate() {
        let (filter, tap, channel) = (i / g.channels / taps, i / g.channels % taps, i % g.channels);
        rotated[(channel * taps + taps - 1 - tap) * conv.filters + filter] = *value;
    }
    rotated
}

/// The gradient of the input, `[b, h, w, c]`, from weights `[filters, kh, kw, c]`: a convolution at
/// stride 1, otherwise the sum of the gradients of the patches, images in parallel.
pub fn f32_conv_nhwc_dx(isa: Isa, w: &[f32], dy: &[f32], conv: &StandardConv) -> Vec<f32> {
    match conv.input_gradient().and_then(|rotated| fastest_tile(&rotated)) {
        Some(tile) => f32_winograd_3x3_nhwc_dx(isa, w, dy, conv, tile),
        None => f32_conv_patches_nhwc_dx(isa, w, dy, conv),
    }
}

/// [`f32_conv_nhwc_dx`] by the product over patches.
pub fn f32_conv_patches_nhwc_dx(isa: Isa, w: &[f32], dy: &[f32], conv: &StandardConv) -> Vec<f32> {
    if let Some(rotated) = conv.input_gradient() {
        let w = f32_conv_patches_pack(isa, &rotate_kernels(w, conv), &rotated, None);
        return f32_conv_patches_nhwc(dy, &w, &rotated, Epilogue::NONE);
    }
    let packed = PackedWeights::new(isa, w, [conv.filters, conv.patch()], [conv.patch(), 1], None);
    let (pixels, image_len) = (conv.pixels(), conv.image_len());
    let tile = tile_rows(conv.patch()).min(pixels);
    let mut dx = vec![0.0; conv.g.batch * image_len];
    dx.par_chunks_mut(image_len).enumerate().for_each(|(image, dx)| {
        let dy = &dy[image * pixels * conv.filters..][..pixels * conv.filters];
        for from in (0..pixels).step_by(tile) {
            let to = (from + tile).min(pixels);
            let rows = &dy[from * conv.filters..to * conv.filters];
            // SAFETY: the product writes every value.
            let patches = unsafe {
                allocator::written((to - from) * conv.patch(), |out| {
                    f32_matmul_tile(rows, &packed, Epilogue::NONE, out);
                })
            };
            runs(conv, from, to, |patch, input, count| {
                let sums = dx[input..input + count].iter_mut();
                sums.zip(&patches[patch..patch + count]).for_each(|(sum, value)| *sum += value);
            });
        }
    });
    dx
}

/// The gradient of the weights, `[filters, kh, kw, c]`. Images in as many parts as there are
/// threads, their sums added in order: the bits depend on the number of threads and on nothing
/// else.
pub fn f32_conv_nhwc_dw(isa: Isa, x: &[f32], dy: &[f32], conv: &StandardConv) -> Vec<f32> {
    if let Some(tile) = fastest_tile(conv) {
        return f32_winograd_3x3_nhwc_dw(isa, x, dy, conv, tile);
    }
    f32_conv_patches_nhwc_dw(isa, x, dy, conv)
}

/// [`f32_conv_nhwc_dw`] by the product over patches.
pub fn f32_conv_patches_nhwc_dw(isa: Isa, x: &[f32], dy: &[f32], conv: &StandardConv) -> Vec<f32> {
    let (pixels, image_len) = (conv.pixels(), conv.image_len());
    let tile = tile_rows(conv.patch() + conv.filters).min(pixels);
    let tiles = pixels.div_ceil(tile);
    let all = conv.g.batch * tiles;
    let parts = rayon::current_num_threads().min(all).max(1);
    let sums = |part: usize| {
        let mut dw = vec![0.0; conv.filters * conv.patch()];
        let mut patches = Vec::new();
        for i in all * part / parts..all * (part + 1) / parts {
            let (image, from) = (i / tiles, i % tiles * tile);
            let to = (from + tile).min(pixels);
            gather_patches(isa, &x[image * image_len..][..image_len], conv, from, to, &mut patches);
            let first = (image * pixels + from) * conv.filters;
            let rows = &dy[first..first + (to - from) * conv.filters];
            f32_matmul_dw_tile(isa, rows, &patches, conv.filters, conv.patch(), &mut dw);
        }
        dw
    };
    let parts: Vec<Vec<f32>> = (0..parts).into_par_iter().with_max_len(1).map(sums).collect();
    let mut parts = parts.into_iter();
    let total = parts.next().unwrap_or_default();
    add_in_order(total, parts)
}
