//! Pixels to the numbers a network reads, exactly as Pillow and torchvision do it.
//!
//! [`Preprocess`] is the whole rule. It is stored with the weights and used by training, evaluation
//! and prediction alike, because another resize alone costs up to two points of accuracy. The
//! resize is Pillow's own algorithm in 8-bit fixed point (`Resample.c` of Pillow 13), equal to it in every
//! bit;
//! `tests/preprocess.rs` compares. Neighbours: `decode` before, `loader` after.

use std::ops::Range;

use clap::ValueEnum;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::random::Counter;

/// How a picture becomes the input of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Short edge after the resize of the evaluation path, pixels.
    pub resize: usize,
    /// Height and width of the centre crop, pixels: the input of the network.
    pub crop: [usize; 2],
    /// Filter of every resize.
    pub interpolation: Interpolation,
    /// Subtracted from each channel in [0, 1].
    pub mean: [f32; 3],
    /// Each channel is then divided by it.
    pub std: [f32; 3],
    /// Whether a picture is turned as its EXIF orientation says, when decoded.
    pub exif: bool,
}

/// The filter of a resize, with Pillow's meaning: reduction widens the filter (antialias).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel, without antialias.
    Nearest,
    /// Triangle, support 1.
    Bilinear,
    /// Keys' cubic with a = -0.5, support 2.
    Bicubic,
}

/// A picture may not be resized or cropped to more than this many pixels along an edge.
const MAX_EDGE: usize = 1 << 14;

impl Preprocess {
    /// torchvision's rule for ImageNet weights: bilinear, mean .485 .456 .406, std .229 .224 .225.
    #[must_use]
    pub fn imagenet(resize: usize, crop: usize) -> Self {
        Self {
            resize,
            crop: [crop, crop],
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            exif: false,
        }
    }

    /// Refuses what would give no picture or numbers that are not finite.
    ///
    /// # Errors
    /// One sentence that names the field, its value and what is expected.
    pub fn validate(&self) -> Result<(), String> {
        let [height, width] = self.crop;
        for (name, edge) in [("resize", self.resize), ("crop", height), ("crop", width)] {
            if !(1..=MAX_EDGE).contains(&edge) {
                return Err(format!("preprocess.{name}: {edge}: expected 1 to {MAX_EDGE} pixels"));
            }
        }
        if let Some(mean) = self.mean.iter().find(|mean| !mean.is_finite()) {
            return Err(format!("preprocess.mean: {mean}: expected a finite number"));
        }
        if let Some(std) = self.std.iter().find(|std| !(std.is_finite() && **std > 0.0)) {
            return Err(format!("preprocess.std: {std}: expected a finite number above 0"));
        }
        Ok(())
    }

    /// The evaluation path: short edge to `resize`, centre crop, [0, 1], normalised.
    ///
    /// As torchvision's `Resize`, `CenterCrop`, `ToTensor`, `Normalize`: the long edge is truncated,
    /// the offset of the crop is rounded half to even, a picture smaller than the crop is padded
    /// with black.
    ///
    /// # Shapes
    /// [height, width, 3] to [3, crop height, crop width], flat.
    ///
    /// # Panics
    /// On a picture without pixels ([`crate::decode::decode`] gives none).
    #[must_use]
    pub fn apply(&self, picture: &RgbImage) -> Vec<f32> {
        self.normalise(&self.centre(picture))
    }

    /// The training path: random area and aspect ratio resized to the crop, random mirror image, what
    /// [`Augment`] says of bytes, [0, 1], normalised, random erasing.
    ///
    /// As torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`; the same `random` gives the
    /// same result.
    ///
    /// # Shapes
    /// [height, width, 3] to [3, crop height, crop width], flat.
    ///
    /// # Panics
    /// On a picture without pixels.
    #[must_use]
    pub fn apply_train(
        &self,
        augment: &Augment,
        picture: &RgbImage,
        random: &mut Counter,
    ) -> Vec<f32> {
        if augment.still {
            return Self { resize: self.crop[0].min(self.crop[1]), ..self.clone() }.apply(picture);
        }
        let region = random_region(augment, picture.height(), picture.width(), random);
        let filter = augment.filter(self.interpolation);
        let mut crop = resize(picture, region, self.crop, filter.draw(random));
        if random.unit() < augment.hflip {
            mirror(&mut crop, self.crop[1]);
        }
        let crop = augment.bytes(crop, self.crop, filter, self.mean, random);
        let mut values = self.normalise(&crop);
        if let Some(erase) = &augment.erase {
            erase.apply(&mut values, self.crop, random);
        }
        values
    }

    /// Resize and centre crop, [crop height, crop width, 3].
    fn centre(&self, picture: &RgbImage) -> Vec<u8> {
        let (height, width) = (picture.height() as usize, picture.width() as usize);
        let (short, long) = (height.min(width), height.max(width));
        let long = self.resize * long / short;
        let resized = if width <= height { [long, self.resize] } else { [self.resize, long] };
        let (rows, top) = centre_window(resized[0], self.crop[0]);
        let (columns, left) = centre_window(resized[1], self.crop[1]);
        // Only the window is computed, never the whole long edge of a very long picture.
        let pixels = resize_window(
            picture,
            Region::whole(picture),
            resized,
            &rows,
            &columns,
            self.interpolation,
        );
        if rows.len() == self.crop[0] && columns.len() == self.crop[1] {
            return pixels;
        }
        let mut padded = vec![0; self.crop[0] * self.crop[1] * 3];
        for (row, line) in pixels.chunks_exact(columns.len() * 3).enumerate() {
            let at = ((top + row) * self.crop[1] + left) * 3;
            padded[at..at + line.len()].copy_from_slice(line);
        }
        padded
    }

    /// [height, width, 3] bytes to [3, height, width] numbers.
    fn normalise(&self, pixels: &[u8]) -> Vec<f32> {
        let area = pixels.len() / 3;
        let mut values = vec![0.0; pixels.len()];
        for (channel, plane) in values.chunks_exact_mut(area).enumerate() {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let table: [f32; 256] = std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std);
            for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(3)) {
                *value = table[usize::from(pixel[channel])];
            }
        }
        values
    }
}

/// What a centre crop of `crop` keeps of `size` pixels, and where it lies in the crop: padding when
/// the crop is larger (the odd pixel after), else an offset of Python's `round(.. / 2)`.
fn centre_window(size: usize, crop: usize) -> (Range<usize>, usize) {
    if crop > size {
        return (0..size, (crop - size) / 2);
    }
    let first = round_half_even((size - crop) as f64 / 2.0) as usize;
    (first..first + crop, 0)
}

/// Python's `round`.
fn round_half_even(value: f64) -> f64 {
    value.round_ties_even()
}

/// A rectangle of a picture, pixels.
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
    /// All of a picture.
    #[must_use]
    pub fn whole(picture: &RgbImage) -> Self {
        let (height, width) = (picture.height() as usize, picture.width() as usize);
        Self { top: 0, left: 0, height, width }
    }
}

/// `RandomResizedCrop.get_params` of torchvision: ten tries, then the largest centred region whose
/// ratio is allowed.
fn random_region(augment: &Augment, height: u32, width: u32, random: &mut Counter) -> Region {
    let (height, width) = (height as usize, width as usize);
    let area = (height * width) as f64;
    let [low, high] = augment.ratio;
    for _ in 0..10 {
        let target = area * random.uniform(augment.scale[0], augment.scale[1]);
        let ratio = random.uniform(low.ln(), high.ln()).exp();
        let w = round_half_even((target * ratio).sqrt()) as usize;
        let h = round_half_even((target / ratio).sqrt()) as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = random.range(height - h + 1);
            let left = random.range(width - w + 1);
            return Region { top, left, height: h, width: w };
        }
    }
    let ratio = width as f64 / height as f64;
    let (h, w) = if ratio < low {
        (round_half_even(width as f64 / low) as usize, width)
    } else if ratio > high {
        (height, round_half_even(height as f64 * high) as usize)
    } else {
        (height, width)
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    Region { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

/// Mirrors rows of `width` RGB pixels, left to right.
fn mirror(pixels: &mut [u8], width: usize) {
    for row in pixels.chunks_exact_mut(width * 3) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

/// Resizes a region, cut out first (its neighbours do not shine in), to `size` (height, width) with
/// Pillow's `Image.resize`, bit for bit.
///
/// # Shapes
/// Returns `[size[0], size[1], 3]`, flat.
///
/// # Panics
/// When the region is empty or not inside the picture, or `size` has a 0.
#[must_use]
pub fn resize(
    picture: &RgbImage,
    region: Region,
    size: [usize; 2],
    interpolation: Interpolation,
) -> Vec<u8> {
    resize_window(picture, region, size, &(0..size[0]), &(0..size[1]), interpolation)
}

/// Rows and columns of the resized region, without computing the others.
fn resize_window(
    picture: &RgbImage,
    region: Region,
    size: [usize; 2],
    rows: &Range<usize>,
    columns: &Range<usize>,
    interpolation: Interpolation,
) -> Vec<u8> {
    let whole = Region::whole(picture);
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
    let line = |row: usize| {
        let at = ((region.top + row) * whole.width + region.left) * 3;
        &picture.as_raw()[at..at + region.width * 3]
    };
    let filter: fn(f64) -> f64 = match interpolation {
        Interpolation::Nearest => {
            return nearest(line, region, size, rows, columns);
        }
        Interpolation::Bilinear => triangle,
        Interpolation::Bicubic => cubic,
    };
    let support = if interpolation == Interpolation::Bilinear { 1.0 } else { 2.0 };
    let vertical = Taps::new(region.height, size[0], rows, support, filter);
    let horizontal = Taps::new(region.width, size[1], columns, support, filter);

    // Taps of an unchanged length are the identity in fixed point, so Pillow's skipping of such a pass
    // needs no twin here. Each pass computes only what the other one reads.
    let (tall, wide) = (region.height, region.width);
    let shrinks = tall as i64 - size[0] as i64;
    if shrinks > 0 && shrinks > 2 * (wide as i64 - size[1] as i64) {
        // Since Pillow 13 the height goes first where it shrinks much more than the width.
        let (first, last) = horizontal.reach();
        let pixels = vertical_pass(rows.len(), (last - first) * 3, &vertical, 0, &|row| {
            &line(row)[first * 3..last * 3]
        });
        let mut out = vec![0_u8; rows.len() * columns.len() * 3];
        let stride = (last - first) * 3;
        for (row, out) in pixels.chunks_exact(stride).zip(out.chunks_exact_mut(columns.len() * 3)) {
            horizontal_pass(row, &horizontal, first, out);
        }
        return out;
    }
    let (first, last) = vertical.reach();
    let stride = columns.len() * 3;
    let mut narrow = vec![0_u8; (last - first) * stride];
    for (row, out) in (first..last).zip(narrow.chunks_exact_mut(stride)) {
        if region.width == size[1] {
            out.copy_from_slice(&line(row)[columns.start * 3..columns.end * 3]);
        } else {
            horizontal_pass(line(row), &horizontal, 0, out);
        }
    }
    if region.height == size[0] {
        return narrow;
    }
    vertical_pass(rows.len(), stride, &vertical, first, &|row| {
        let at = (row - first) * stride;
        &narrow[at..at + stride]
    })
}

/// `count` rows of `stride` samples, each the weighted sum of the rows that `line` gives, from `first` on.
fn vertical_pass<'a>(
    count: usize,
    stride: usize,
    taps: &Taps,
    first: usize,
    line: &dyn Fn(usize) -> &'a [u8],
) -> Vec<u8> {
    let mut pixels = vec![0_u8; count * stride];
    let mut sums = vec![0_i32; stride];
    for (index, out) in pixels.chunks_exact_mut(stride).enumerate() {
        let (start, weights) = taps.of(index);
        debug_assert!(start >= first, "row {start} of rows from {first}");
        sums.fill(HALF);
        for (row, &weight) in weights.iter().enumerate() {
            for (sum, &byte) in sums.iter_mut().zip(line(start + row)) {
                *sum += i32::from(byte) * weight;
            }
        }
        for (byte, &sum) in out.iter_mut().zip(&sums) {
            *byte = clip(sum);
        }
    }
    pixels
}

/// Bits after the point of a weight: 32 less 8 for the sample less 2 for overshoot (`Resample.c`).
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// A half, to round.
const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// `line` begins at sample `first` of the row.
fn horizontal_pass(line: &[u8], taps: &Taps, first: usize, out: &mut [u8]) {
    for (index, pixel) in out.chunks_exact_mut(3).enumerate() {
        let (start, weights) = taps.of(index);
        let mut sums = [HALF; 3];
        let start = start - first;
        let (pixels, _) = line[start * 3..(start + weights.len()) * 3].as_chunks::<3>();
        for (&[r, g, b], &weight) in pixels.iter().zip(weights) {
            sums[0] += i32::from(r) * weight;
            sums[1] += i32::from(g) * weight;
            sums[2] += i32::from(b) * weight;
        }
        pixel.copy_from_slice(&sums.map(clip));
    }
}

/// For each output sample the input samples it reads and their weights in fixed point.
struct Taps {
    /// First input sample and how many.
    spans: Vec<(usize, usize)>,
    /// `most` weights for each output sample, the unused ones 0.
    weights: Vec<i32>,
    most: usize,
}

impl Taps {
    /// The input samples that are read at all: from, to.
    fn reach(&self) -> (usize, usize) {
        let first = self.spans.first().map_or(0, |span| span.0);
        (first, self.spans.last().map_or(0, |span| span.0 + span.1))
    }

    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of `Resample.c`, for a window of the output.
    fn new(
        from: usize,
        to: usize,
        window: &Range<usize>,
        support: f64,
        filter: fn(f64) -> f64,
    ) -> Self {
        let scale = from as f64 / to as f64;
        let filter_scale = scale.max(1.0);
        let support = support * filter_scale;
        let most = support.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(window.len());
        let mut weights = vec![0; window.len() * most];
        let mut exact = Vec::with_capacity(most);
        let step = 1.0 / filter_scale;
        for (out, fixed) in window.clone().zip(weights.chunks_exact_mut(most)) {
            let centre = (out as f64 + 0.5) * scale;
            // C truncates towards 0, then negative numbers become 0: `as` does both.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            exact.clear();
            exact.extend((first..end).map(|x| filter((x as f64 - centre + 0.5) * step)));
            let total: f64 = exact.iter().sum();
            for (weight, fixed) in exact.iter().zip(fixed) {
                let weight = if total == 0.0 { *weight } else { weight / total };
                let scaled = weight * f64::from(1 << PRECISION_BITS);
                *fixed = (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32;
            }
            spans.push((first, end - first));
        }
        Self { spans, weights, most }
    }

    fn of(&self, index: usize) -> (usize, &[i32]) {
        let (start, count) = self.spans[index];
        (start, &self.weights[index * self.most..index * self.most + count])
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
fn nearest<'a>(
    line: impl Fn(usize) -> &'a [u8],
    region: Region,
    size: [usize; 2],
    rows: &Range<usize>,
    columns: &Range<usize>,
) -> Vec<u8> {
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
    let mut pixels = Vec::with_capacity(rows.len() * columns.len() * 3);
    for row in places(region.height, size[0], rows) {
        let line = line(row);
        pixels
            .extend(columns.iter().flat_map(|&x| [line[x * 3], line[x * 3 + 1], line[x * 3 + 2]]));
    }
    pixels
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::{Interpolation, Preprocess, Region, mirror, random_region};
    use crate::augment::Augment;
    use crate::random::Counter;

    #[test]
    fn crops_have_the_area_and_ratio_asked_for() {
        let augment = Augment::default();
        let (mut areas, mut tops) = (0.0, 0);
        for index in 0..2000 {
            let mut random = Counter::new(1, 0, index, 0);
            let Region { top, left, height, width } =
                random_region(&augment, 375, 500, &mut random);
            assert!(top + height <= 375 && left + width <= 500);
            let (area, ratio) = (height * width, width as f64 / height as f64);
            // Rounding to whole pixels moves both by some percent at the smallest crop.
            assert!((0.079..=1.0).contains(&(area as f64 / (375.0 * 500.0))), "{area}");
            assert!((0.74..1.35).contains(&ratio), "{ratio}");
            areas += area as f64 / (375.0 * 500.0) / 2000.0;
            tops += usize::from(top > 0);
        }
        // torchvision 0.29.2, 40,000 draws: mean area .4342, deviation .217; top > 0 in 96.7 %. Three
        // deviations of a mean of 2000.
        assert!((100.0 * areas - 43.42).abs() < 1.46, "{areas}");
        assert!(tops.abs_diff(1934) < 24, "{tops}");
    }

    /// Expected: `RandomResizedCrop.get_params` of torchvision 0.29.2 with scale (4, 4).
    #[test]
    fn the_fallback_is_torchvisions() {
        let augment = Augment { scale: [4.0, 4.0], ..Augment::default() };
        let check = |width, height, [top, left, h, w]: [usize; 4]| {
            let region = random_region(&augment, height, width, &mut Counter::new(0, 0, 0, 0));
            assert_eq!(region, Region { top, left, height: h, width: w });
        };
        check(400, 10, [0, 193, 10, 13]);
        check(10, 400, [193, 0, 13, 10]);
        check(20, 20, [0, 0, 20, 20]);
        check(9, 100, [44, 0, 12, 9]);
    }

    #[test]
    fn a_mirror_image_swaps_pixels_and_not_channels() {
        let mut pixels = vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19];
        mirror(&mut pixels, 3);
        assert_eq!(pixels, [7, 8, 9, 4, 5, 6, 1, 2, 3, 17, 18, 19, 14, 15, 16, 11, 12, 13]);
    }

    #[test]
    fn training_without_randomness_is_a_plain_resize() {
        let picture = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 9, y as u8 * 7, 5]));
        let rule = Preprocess::imagenet(8, 8);
        let still =
            Augment { scale: [1.0, 1.0], ratio: [1.0, 1.0], hflip: 0.0, ..Augment::default() };
        let draw = |augment: &Augment, index| {
            rule.apply_train(augment, &picture, &mut Counter::new(3, 1, index, 0))
        };
        assert_eq!(draw(&still, 0), rule.apply(&picture));
        let flipped = draw(&Augment { hflip: 1.0, ..still }, 0);
        assert_ne!(flipped, draw(&still, 0));
        assert_eq!(flipped[0], rule.apply(&picture)[7]);
        let usual = Augment::default();
        assert_eq!(draw(&usual, 4), draw(&usual, 4));
        assert_ne!(draw(&usual, 4), draw(&usual, 5));
    }

    #[test]
    fn impossible_rules_are_named() {
        let check = |rule: Preprocess, expected: &str| {
            let text = rule.validate().unwrap_err();
            assert!(text.contains(expected), "{text}");
        };
        let good = Preprocess::imagenet(256, 224);
        assert_eq!(good.validate(), Ok(()));
        check(Preprocess { resize: 0, ..good.clone() }, "preprocess.resize: 0: expected 1 to");
        check(Preprocess { crop: [224, 1 << 20], ..good.clone() }, "preprocess.crop: 1048576");
        check(Preprocess { std: [0.2, 0.0, 0.2], ..good.clone() }, "preprocess.std: 0: expected");
        check(Preprocess { mean: [f32::NAN; 3], ..good.clone() }, "preprocess.mean: NaN");
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Preprocess>(&text).unwrap(), good);
        assert!(text.contains("\"bilinear\""));
        let typo = text.replace("resize", "resise");
        assert!(serde_json::from_str::<Preprocess>(&typo).is_err());
        assert_eq!(good.interpolation, Interpolation::Bilinear);
    }
}
