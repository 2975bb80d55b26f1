//! Pillow's resize of a part of an image, in every bit: 8-bit fixed point (`Resample.c` of Pillow
//! 13).
//!
//! This file chooses the filter, its weights and the pixels that are read; the two passes over them
//! stand in `kernels::image::resize`.

use std::ops::Range;

use image::RgbImage;
use kernels::image::resize::{FilterTaps, WEIGHT_BITS, horizontal, vertical};
use kernels::isa::Isa;
use serde::{Deserialize, Serialize};

/// The filter of a resize, with Pillow's meaning: reduction widens the filter (antialias).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel, without antialias.
    Nearest,
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
}

/// A rectangle of an image, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Region {
    /// All of an image.
    #[must_use]
    pub fn whole(image: &RgbImage) -> Self {
        let (height, width) = (image.height() as usize, image.width() as usize);
        Self { top: 0, left: 0, height, width }
    }
}

/// The part of an image that is resized; its borders may lie within pixels.
///
/// Pixels at the border count as far as the filter reaches them, as in Pillow's `box`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patch {
    /// The pixels that the patch touches.
    pub region: Region,
    /// First and last border, in rows of the region.
    pub rows: [f64; 2],
    /// First and last border, in columns of the region.
    pub columns: [f64; 2],
}

impl From<Region> for Patch {
    fn from(region: Region) -> Self {
        Self::at(region, 1)
    }
}

impl Patch {
    /// The patch that covers `region` in the image at 1/`shrink` of its size.
    #[must_use]
    pub fn at(region: Region, shrink: usize) -> Self {
        let span = |first: usize, count: usize| {
            let (low, high) = (first / shrink, (first + count).div_ceil(shrink));
            let border = |pixel: usize| pixel as f64 / shrink as f64 - low as f64;
            (low, high - low, [border(first), border(first + count)])
        };
        let (top, height, rows) = span(region.top, region.height);
        let (left, width, columns) = span(region.left, region.width);
        Self { region: Region { top, left, height, width }, rows, columns }
    }
}

/// Memory that resizing reuses from image to image, and the result of the last resize.
#[derive(Default)]
pub struct ResizeScratch {
    /// The resized pixels, `[rows, columns, 3]`, flat.
    pub(crate) pixels: Vec<u8>,
    /// The image between the two passes.
    between: Vec<u8>,
    horizontal: FilterTaps,
    vertical: FilterTaps,
    exact: Vec<f64>,
}

/// Resizes a patch to `size` (height, width) as Pillow's `Image.resize`, bit for bit. The region is
/// cut out first: pixels beside it have no influence.
///
/// # Shapes
/// Returns `[size[0], size[1], 3]`, flat.
///
/// # Panics
/// When the region is empty or not inside the image, or `size` has a 0.
#[must_use]
pub fn resize(
    image: &RgbImage,
    patch: Patch,
    size: [usize; 2],
    interpolation: Interpolation,
) -> Vec<u8> {
    let mut scratch = ResizeScratch::default();
    let window = [&(0..size[0]), &(0..size[1])];
    resize_window(image, patch, size, window, interpolation, &mut scratch);
    scratch.pixels
}

/// Resizes a patch and computes only these rows and columns of the result, into `scratch.pixels`.
pub(crate) fn resize_window(
    image: &RgbImage,
    patch: Patch,
    size: [usize; 2],
    [rows, columns]: [&Range<usize>; 2],
    interpolation: Interpolation,
    scratch: &mut ResizeScratch,
) {
    let region = patch.region;
    let whole = Region::whole(image);
    assert!(
        region.height > 0
            && region.width > 0
            && region.top + region.height <= whole.height
            && region.left + region.width <= whole.width,
        "{region:?} is empty or not inside {} x {} pixels",
        whole.height,
        whole.width
    );
    assert!(size[0] > 0 && size[1] > 0, "resize to {size:?}: expected at least 1 x 1");
    let stride = whole.width * 3;
    // The bytes from this pixel of the region on.
    let from = |row: usize, column: usize| {
        &image.as_raw()[(region.top + row) * stride + (region.left + column) * 3..]
    };
    let ResizeScratch { pixels, between, horizontal: across, vertical: down, exact } = scratch;
    let kernel = match interpolation {
        Interpolation::Nearest => {
            return nearest(from, region, size, rows, columns, pixels);
        }
        Interpolation::Bilinear => FilterKernel { weight: triangle, support: 1.0 },
        Interpolation::Bicubic => FilterKernel { weight: cubic, support: 2.0 },
    };
    kernel.weigh(down, exact, (region.height, patch.rows), size[0], rows);
    kernel.weigh(across, exact, (region.width, patch.columns), size[1], columns);
    let isa = Isa::chosen();
    pixels.resize(rows.len() * columns.len() * 3, 0);

    // Taps of an unchanged length are the identity in fixed point, so Pillow's skipping of such a
    // pass need not be repeated here. Each pass computes only the pixels that the other one reads.
    let (tall, wide) = (region.height, region.width);
    let shrinks = tall as i64 - size[0] as i64;
    if shrinks > 0 && shrinks > 2 * (wide as i64 - size[1] as i64) {
        // Since Pillow 13 the height goes first where it shrinks much more than the width.
        let (first, last) = across.reach();
        let width = (last - first) * 3;
        between.resize(rows.len() * width, 0);
        let top = down.reach().0;
        vertical(isa, from(top, first), stride, top, down, width, between);
        horizontal(isa, between, width, first, across, pixels);
        return;
    }
    let (first, last) = down.reach();
    let (left, _) = across.reach();
    let width = columns.len() * 3;
    if tall == size[0] && patch.rows == [0.0, tall as f64] {
        horizontal(isa, from(first, left), stride, left, across, pixels);
    } else if wide == size[1] && patch.columns == [0.0, wide as f64] {
        vertical(isa, from(first, columns.start), stride, first, down, width, pixels);
    } else {
        between.resize((last - first) * width, 0);
        horizontal(isa, from(first, left), stride, left, across, between);
        vertical(isa, between, width, first, down, width, pixels);
    }
}

/// A resampling filter: its weight at a distance, and the distance from which it is 0.
struct FilterKernel {
    weight: fn(f64) -> f64,
    support: f64,
}

impl FilterKernel {
    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of `Resample.c`, for a window of the output;
    /// the patch begins and ends at `start` and `end` of `from` samples.
    fn weigh(
        &self,
        taps: &mut FilterTaps,
        exact: &mut Vec<f64>,
        (from, [start, end]): (usize, [f64; 2]),
        to: usize,
        window: &Range<usize>,
    ) {
        let scale = (end - start) / to as f64;
        let filter_scale = scale.max(1.0);
        let support = self.support * filter_scale;
        let max_taps = support.ceil() as usize * 2 + 1;
        taps.begin(max_taps, from);
        let step = 1.0 / filter_scale;
        for out in window.clone() {
            let centre = start + (out as f64 + 0.5) * scale;
            // C truncates towards 0, then negative numbers become 0: `as` does both.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|x| (self.weight)((x as f64 - centre + 0.5) * step)));
            let total: f64 = exact.iter().sum();
            let fixed = exact.iter().map(|&weight| {
                let weight = if total == 0.0 { weight } else { weight / total };
                let scaled = weight * f64::from(1 << WEIGHT_BITS);
                (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
            });
            taps.push(first, fixed);
        }
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic convolution, in the order of operations of `Resample.c`.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Pillow's nearest (`ImagingScaleAffine`): the position is summed up, rounding errors and all.
/// Borders within pixels do not occur, because no image is decoded smaller for this filter.
fn nearest<'a>(
    from: impl Fn(usize, usize) -> &'a [u8],
    region: Region,
    size: [usize; 2],
    rows: &Range<usize>,
    columns: &Range<usize>,
    pixels: &mut Vec<u8>,
) {
    let indices = |from: usize, to: usize, window: &Range<usize>| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        let mut position = scale * 0.5;
        let mut indices = Vec::with_capacity(window.len());
        for out in 0..window.end {
            if out >= window.start {
                indices.push((position as usize).min(from - 1));
            }
            position += scale;
        }
        indices
    };
    let columns = indices(region.width, size[1], columns);
    pixels.clear();
    for row in indices(region.height, size[0], rows) {
        let line = from(row, 0);
        pixels
            .extend(columns.iter().flat_map(|&x| [line[x * 3], line[x * 3 + 1], line[x * 3 + 2]]));
    }
}
