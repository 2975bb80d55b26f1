//! Pillow's resize of a part of an image, in every bit: 8-bit fixed point (`Resample.c` of Pillow 13).
//!
//! Here are the filters and what is read of the image; the passes are in `kernels::image::resize`.

use std::ops::Range;

use image::RgbImage;
use kernels::image::resize::{Taps, WEIGHT_BITS, horizontal, vertical};
use kernels::isa::Isa;

use crate::preprocess::Interpolation;

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

/// A part of an image whose borders may lie within pixels: what is resized.
///
/// Pixels at the border count as far as the filter reaches them, as with Pillow's `box`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patch {
    /// The pixels that it touches.
    pub region: Region,
    /// Where it begins and ends, in rows of the region.
    pub rows: [f64; 2],
    /// And in columns.
    pub columns: [f64; 2],
}

impl From<Region> for Patch {
    fn from(region: Region) -> Self {
        Self::at(region, 1)
    }
}

impl Patch {
    /// What `region` is in the image at 1/`shrink` of its size.
    #[must_use]
    pub fn at(region: Region, shrink: usize) -> Self {
        let span = |first: usize, count: usize| {
            let (low, high) = (first / shrink, (first + count).div_ceil(shrink));
            let place = |at: usize| at as f64 / shrink as f64 - low as f64;
            (low, high - low, [place(first), place(first + count)])
        };
        let (top, height, rows) = span(region.top, region.height);
        let (left, width, columns) = span(region.left, region.width);
        Self { region: Region { top, left, height, width }, rows, columns }
    }
}

/// Memory that resizing uses again from image to image.
#[derive(Default)]
pub struct Passes {
    /// What the first pass passes on.
    between: Vec<u8>,
    horizontal: Taps,
    vertical: Taps,
    exact: Vec<f64>,
}

/// Resizes a patch, its region cut out first (its neighbours do not shine in), to `size` (height, width) with
/// Pillow's `Image.resize`, bit for bit.
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
    let (mut passes, mut pixels) = (Passes::default(), Vec::new());
    let (rows, columns) = (0..size[0], 0..size[1]);
    resize_window(image, patch, size, [&rows, &columns], interpolation, &mut passes, &mut pixels);
    pixels
}

/// Rows and columns of the resized patch, without computing the others, to `pixels`.
pub(crate) fn resize_window(
    image: &RgbImage,
    patch: Patch,
    size: [usize; 2],
    [rows, columns]: [&Range<usize>; 2],
    interpolation: Interpolation,
    passes: &mut Passes,
    pixels: &mut Vec<u8>,
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
    // From a pixel of the region on.
    let from = |row: usize, column: usize| {
        &image.as_raw()[(region.top + row) * stride + (region.left + column) * 3..]
    };
    let (filter, support): (fn(f64) -> f64, f64) = match interpolation {
        Interpolation::Nearest => {
            return nearest(from, region, size, rows, columns, pixels);
        }
        Interpolation::Bilinear => (triangle, 1.0),
        Interpolation::Bicubic => (cubic, 2.0),
    };
    let Passes { between, horizontal: across, vertical: down, exact } = passes;
    weigh(down, exact, (region.height, patch.rows), size[0], rows, support, filter);
    weigh(across, exact, (region.width, patch.columns), size[1], columns, support, filter);
    let isa = Isa::chosen();
    pixels.resize(rows.len() * columns.len() * 3, 0);

    // Taps of an unchanged length are the identity in fixed point, so Pillow's skipping of such a pass
    // needs no twin here. Each pass computes only what the other one reads.
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

/// `precompute_coeffs` and `normalize_coeffs_8bpc` of `Resample.c`, for a window of the output; what is resized
/// begins and ends at `start` and `end` of `from` samples.
fn weigh(
    taps: &mut Taps,
    exact: &mut Vec<f64>,
    (from, [start, end]): (usize, [f64; 2]),
    to: usize,
    window: &Range<usize>,
    support: f64,
    filter: fn(f64) -> f64,
) {
    let scale = (end - start) / to as f64;
    let filter_scale = scale.max(1.0);
    let support = support * filter_scale;
    let most = support.ceil() as usize * 2 + 1;
    taps.begin(most, from);
    let step = 1.0 / filter_scale;
    for out in window.clone() {
        let centre = start + (out as f64 + 0.5) * scale;
        // C truncates towards 0, then negative numbers become 0: `as` does both.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        exact.clear();
        exact.extend((first..end).map(|x| filter((x as f64 - centre + 0.5) * step)));
        let total: f64 = exact.iter().sum();
        let fixed = exact.iter().map(|&weight| {
            let weight = if total == 0.0 { weight } else { weight / total };
            let scaled = weight * f64::from(1 << WEIGHT_BITS);
            (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
        });
        taps.push(first, fixed);
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

/// Pillow's nearest (`ImagingScaleAffine`): the position is summed up, rounding errors and all. Of whole regions
/// alone: nothing is decoded smaller for it.
fn nearest<'a>(
    from: impl Fn(usize, usize) -> &'a [u8],
    region: Region,
    size: [usize; 2],
    rows: &Range<usize>,
    columns: &Range<usize>,
    pixels: &mut Vec<u8>,
) {
    let places = |from: usize, to: usize, window: &Range<usize>| -> Vec<usize> {
        let scale = from as f64 / to as f64;
        let mut at = scale * 0.5;
        let mut places = Vec::with_capacity(window.len());
        for out in 0..window.end {
            if out >= window.start {
                places.push((at as usize).min(from - 1));
            }
            at += scale;
        }
        places
    };
    let columns = places(region.width, size[1], columns);
    pixels.clear();
    for row in places(region.height, size[0], rows) {
        let line = from(row, 0);
        pixels
            .extend(columns.iter().flat_map(|&x| [line[x * 3], line[x * 3 + 1], line[x * 3 + 2]]));
    }
}
