//! Pixels to the numbers a network reads, exactly as Pillow and torchvision do it.
//!
//! [`Preprocess`] is the whole rule. It is stored with the weights and used by training, evaluation
//! and prediction alike, because another resize alone costs up to two points of accuracy. The
//! resize (`resize`) is Pillow's in every bit; `tests/preprocess.rs` compares. Neighbours: `decode` before, `loader`
//! after.

use std::borrow::Cow;
use std::ops::Range;

use clap::ValueEnum;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::augment::Augment;
use crate::decode::{DecodeError, Decoding, EncodedImage};
use crate::jpeg::{SHRINKS, Space};
use crate::random::Counter;
use crate::resize::{Passes, Patch, Region, resize_window};

/// How an image becomes the input of a network.
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
    /// Whether an image is turned as its EXIF orientation says, when decoded.
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

/// An image may not be resized or cropped to more than this many pixels along an edge.
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

    /// Refuses what would give no image or numbers that are not finite.
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
    /// the offset of the crop is rounded half to even, an image smaller than the crop is padded
    /// with black.
    ///
    /// # Shapes
    /// [height, width, 3] to [3, crop height, crop width], flat.
    ///
    /// # Panics
    /// On an image without pixels ([`crate::decode::decode`] gives none).
    #[must_use]
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let mut values = vec![0.0; self.values()];
        self.apply_into(image, &mut Scratch::default(), &mut values);
        values
    }

    /// [`Preprocess::apply`], into memory that is there: `values` has [`Preprocess::values`] numbers.
    ///
    /// # Panics
    /// On an image without pixels, or another count of numbers.
    pub fn apply_into(&self, image: &RgbImage, space: &mut Scratch, values: &mut [f32]) {
        let whole = Region::whole(image);
        let resized = self.resized(whole.height, whole.width);
        self.centre(image, whole.into(), resized, space, values);
    }

    /// Numbers of a prepared image: 3 x height x width of the crop.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * self.crop[0] * self.crop[1]
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
    /// On an image without pixels.
    #[must_use]
    pub fn apply_train(
        &self,
        augment: &Augment,
        image: &RgbImage,
        random: &mut Counter,
    ) -> Vec<f32> {
        let mut values = vec![0.0; self.values()];
        let space = &mut Scratch::default();
        if augment.no_augmentation {
            self.no_augmentation().apply_into(image, space, &mut values);
            return values;
        }
        let crop = self.draw(augment, image.height(), image.width(), random);
        self.crop_into(augment, (image, crop.region.into()), &crop, random, space, &mut values);
        values
    }

    /// [`Preprocess::apply_train`] of an image of which the crop alone is decoded, and as small as
    /// [`Augment::decode`] allows, into memory that is there.
    ///
    /// # Errors
    /// As [`EncodedImage::region`].
    pub fn apply_train_into(
        &self,
        augment: &Augment,
        image: &EncodedImage,
        random: &mut Counter,
        space: &mut Scratch,
        values: &mut [f32],
    ) -> Result<(), DecodeError> {
        let whole = image.whole();
        if augment.no_augmentation {
            let rule = self.no_augmentation();
            let [height, width] = rule.resized(whole.height, whole.width);
            let shrink = shrink(augment.decode, whole, [height, width], rule.interpolation);
            let (pixels, patch) = space.region(image, whole, shrink)?;
            rule.centre(&pixels, patch, [height, width], space, values);
            space.keep(pixels);
            return Ok(());
        }
        let crop = self.draw(augment, whole.height as u32, whole.width as u32, random);
        let shrink = shrink(augment.decode, crop.region, self.crop, crop.filter);
        let (pixels, patch) = space.region(image, crop.region, shrink)?;
        self.crop_into(augment, (&pixels, patch), &crop, random, space, values);
        space.keep(pixels);
        Ok(())
    }

    /// [`Preprocess::apply`] of an image that is not yet decoded, into memory that is there.
    ///
    /// # Errors
    /// As [`EncodedImage::region`].
    pub fn apply_eval_into(
        &self,
        image: &EncodedImage,
        space: &mut Scratch,
        values: &mut [f32],
    ) -> Result<(), DecodeError> {
        let (pixels, _) = space.region(image, image.whole(), 1)?;
        self.apply_into(&pixels, space, values);
        space.keep(pixels);
        Ok(())
    }

    /// The rule of a training without random crops: the image's short edge is the crop's.
    fn no_augmentation(&self) -> Self {
        Self { resize: self.crop[0].min(self.crop[1]), ..self.clone() }
    }

    /// Draws the crop of an image of this size.
    fn draw(&self, augment: &Augment, height: u32, width: u32, random: &mut Counter) -> Crop {
        let region = random_region(augment, height, width, random);
        let filter = augment.filter(self.interpolation).draw(random);
        Crop { region, filter, mirror: random.unit() < augment.hflip }
    }

    /// The crop of an image resized, changed as `augment` says of bytes, normalised, erased.
    fn crop_into(
        &self,
        augment: &Augment,
        (image, patch): (&RgbImage, Patch),
        crop: &Crop,
        random: &mut Counter,
        space: &mut Scratch,
        values: &mut [f32],
    ) {
        let ([height, width], mut mirror) = (self.crop, crop.mirror);
        let (rows, columns) = (0..height, 0..width);
        let Scratch { crop: pixels, passes, .. } = space;
        let window = [&rows, &columns];
        resize_window(image, patch, self.crop, window, crop.filter, passes, pixels);
        if augment.changes_bytes() {
            if mirror {
                space.crop.chunks_exact_mut(width * 3).for_each(|row| {
                    row.as_chunks_mut::<3>().0.reverse();
                });
                mirror = false;
            }
            let pixels = std::mem::take(&mut space.crop);
            let filter = augment.filter(self.interpolation);
            space.crop = augment.bytes(pixels, self.crop, filter, self.mean, random);
        }
        self.normalise(&space.crop, mirror, values);
        if let Some(erase) = &augment.erase {
            erase.apply(values, self.crop, random);
        }
    }

    /// Height and width of an image resized for the centre crop.
    fn resized(&self, height: usize, width: usize) -> [usize; 2] {
        let (short, long) = (height.min(width), height.max(width));
        let long = self.resize * long / short;
        if width <= height { [long, self.resize] } else { [self.resize, long] }
    }

    /// Resize of a whole image to `resized`, and centre crop, normalised.
    fn centre(
        &self,
        image: &RgbImage,
        patch: Patch,
        resized: [usize; 2],
        space: &mut Scratch,
        values: &mut [f32],
    ) {
        let (rows, top) = centre_window(resized[0], self.crop[0]);
        let (columns, left) = centre_window(resized[1], self.crop[1]);
        // Only the window is computed, never the whole long edge of a very long image.
        let Scratch { crop, passes, .. } = space;
        let window = [&rows, &columns];
        resize_window(image, patch, resized, window, self.interpolation, passes, crop);
        if rows.len() == self.crop[0] && columns.len() == self.crop[1] {
            return self.normalise(&space.crop, false, values);
        }
        let mut padded = vec![0; self.values()];
        for (row, line) in space.crop.chunks_exact(columns.len() * 3).enumerate() {
            let at = ((top + row) * self.crop[1] + left) * 3;
            padded[at..at + line.len()].copy_from_slice(line);
        }
        self.normalise(&padded, false, values);
    }

    /// [height, width, 3] bytes, or their mirror image left to right, to [3, height, width] numbers.
    fn normalise(&self, pixels: &[u8], mirror: bool, values: &mut [f32]) {
        let [height, width] = self.crop;
        assert!(
            values.len() == self.values() && pixels.len() == values.len(),
            "{} numbers for {} samples of {height} x {width} pixels",
            values.len(),
            pixels.len()
        );
        let table = |channel: usize| -> [f32; 256] {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            std::array::from_fn(|byte| (byte as f32 / 255.0 - mean) / std)
        };
        let tables = [table(0), table(1), table(2)];
        let (red, rest) = values.split_at_mut(height * width);
        let (green, blue) = rest.split_at_mut(height * width);
        let planes = red.chunks_exact_mut(width).zip(green.chunks_exact_mut(width));
        let planes = planes.zip(blue.chunks_exact_mut(width));
        for (line, ((red, green), blue)) in pixels.chunks_exact(width * 3).zip(planes) {
            let to = red.iter_mut().zip(green).zip(blue);
            let put = |(&[r, g, b], ((red, green), blue)): (
                &[u8; 3],
                ((&mut f32, &mut f32), &mut f32),
            )| {
                *red = tables[0][usize::from(r)];
                *green = tables[1][usize::from(g)];
                *blue = tables[2][usize::from(b)];
            };
            let (pixels, _) = line.as_chunks::<3>();
            match mirror {
                false => pixels.iter().zip(to).for_each(put),
                true => pixels.iter().rev().zip(to).for_each(put),
            }
        }
    }
}

/// What is drawn of a crop: where, by which filter, whether turned into its mirror image.
struct Crop {
    region: Region,
    filter: Interpolation,
    mirror: bool,
}

/// Memory that preparing uses again from image to image.
#[derive(Default)]
pub struct Scratch {
    /// The resized pixels.
    crop: Vec<u8>,
    passes: Passes,
    /// Memory of the last decoded pixels.
    pixels: Vec<u8>,
    jpeg: Space,
}

impl Scratch {
    fn region<'a>(
        &mut self,
        image: &'a EncodedImage,
        region: Region,
        shrink: usize,
    ) -> Result<(Cow<'a, RgbImage>, Patch), DecodeError> {
        image.region(region, shrink, &mut self.jpeg, std::mem::take(&mut self.pixels))
    }

    /// Takes the memory back.
    fn keep(&mut self, pixels: Cow<RgbImage>) {
        if let Cow::Owned(pixels) = pixels {
            self.pixels = pixels.into_raw();
        }
    }
}

/// An image is decoded smaller only as long as the resize still shrinks it by this much: the filter has its say,
/// and what the training sees differs by a third of a level on average (Pillow's `reducing_gap=2.0`).
const GAP: usize = 2;

/// Pixels of an edge that may become one when a region is decoded that is then resized to `size`.
fn shrink(
    decoding: Decoding,
    region: Region,
    size: [usize; 2],
    interpolation: Interpolation,
) -> usize {
    // Nearest takes single pixels, no mean.
    if decoding == Decoding::Exact || interpolation == Interpolation::Nearest {
        return 1;
    }
    let enough = |&shrink: &usize| {
        region.height >= GAP * shrink * size[0] && region.width >= GAP * shrink * size[1]
    };
    SHRINKS.into_iter().rev().find(enough).unwrap_or(1)
}

/// Height and width from which an image may be decoded smaller for training on `crop`.
pub fn shrunk_from(decoding: Decoding, crop: [usize; 2]) -> Option<[usize; 2]> {
    (decoding == Decoding::Scaled).then(|| crop.map(|size| GAP * SHRINKS[1] * size))
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

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::{Interpolation, Preprocess, random_region, shrink};
    use crate::augment::Augment;
    use crate::decode::Decoding;
    use crate::random::Counter;
    use crate::resize::Region;

    /// Caught when planted: one edge alone asked, a gap of 1, nearest scaled.
    #[test]
    fn a_crop_is_decoded_as_small_as_the_gap_allows() {
        let check = |height, width, [edge, expected]: [usize; 2]| {
            let region = Region { top: 3, left: 5, height, width };
            let of = |decoding, filter| shrink(decoding, region, [edge, 2 * edge], filter);
            let scaled = of(Decoding::Scaled, Interpolation::Bilinear);
            assert_eq!(scaled, expected, "{height} x {width} to {edge}");
            assert_eq!(of(Decoding::Scaled, Interpolation::Bicubic), expected);
            assert_eq!(of(Decoding::Scaled, Interpolation::Nearest), 1);
            assert_eq!(of(Decoding::Exact, Interpolation::Bilinear), 1);
        };
        check(399, 5000, [100, 1]);
        check(5000, 799, [100, 1]);
        check(400, 800, [100, 2]);
        check(799, 1600, [100, 2]);
        check(800, 1600, [100, 4]);
        check(1600, 3199, [100, 4]);
        check(1600, 3200, [100, 8]);
        check(90_000, 90_000, [100, 8]);
    }

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

    /// Seen to fail with the pixels in their order.
    #[test]
    fn a_mirror_image_swaps_pixels_and_not_channels() {
        let rule = Preprocess {
            crop: [2, 3],
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::imagenet(3, 3)
        };
        let pixels = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19];
        let mut values = [0.0; 18];
        rule.normalise(&pixels, true, &mut values);
        let bytes = values.map(|value| (value * 255.0).round() as u8);
        assert_eq!(bytes, [7, 4, 1, 17, 14, 11, 8, 5, 2, 18, 15, 12, 9, 6, 3, 19, 16, 13]);
    }

    #[test]
    fn training_without_randomness_is_a_plain_resize() {
        let image = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 9, y as u8 * 7, 5]));
        let rule = Preprocess::imagenet(8, 8);
        let no_augmentation =
            Augment { scale: [1.0, 1.0], ratio: [1.0, 1.0], hflip: 0.0, ..Augment::default() };
        let draw = |augment: &Augment, index| {
            rule.apply_train(augment, &image, &mut Counter::new(3, 1, index, 0))
        };
        assert_eq!(draw(&no_augmentation, 0), rule.apply(&image));
        let flipped = draw(&Augment { hflip: 1.0, ..no_augmentation }, 0);
        assert_ne!(flipped, draw(&no_augmentation, 0));
        assert_eq!(flipped[0], rule.apply(&image)[7]);
        // Without augmentation the short edge is the crop's, whatever evaluation does (timm's --no-aug).
        let none = Augment { no_augmentation: true, ..Augment::default() };
        let larger = Preprocess::imagenet(13, 8);
        let drawn = larger.apply_train(&none, &image, &mut Counter::new(3, 1, 0, 0));
        assert_eq!(drawn, rule.apply(&image));
        assert_ne!(drawn, larger.apply(&image));
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
