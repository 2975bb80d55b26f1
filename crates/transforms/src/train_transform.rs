//! The training path: a random crop resized to the network's input, mirror images, augmentation of
//! the bytes, normalisation, random erasing of the numbers.
//!
//! [`TrainTransform`] puts a [`Preprocess`] and an [`Augment`] together. The crop is drawn before
//! anything is decoded, so that of a JPEG only the crop is decoded, at a smaller size where
//! [`Augment::decode`] allows it.

use image::RgbImage;

use crate::augment::Augment;
use crate::decode::{DecodeError, Decoding, EncodedImage};
use crate::jpeg::SHRINKS;
use crate::preprocess::{Output, Preprocess, TransformScratch};
use crate::random::Counter;
use crate::resize::{Interpolation, Patch, Region, ResizeScratch, resize_window};

/// How an image becomes an input of training.
#[derive(Clone, Copy, Debug)]
pub struct TrainTransform<'a> {
    /// Size of the crop, filter, mean and standard deviation.
    pub preprocess: &'a Preprocess,
    /// The random part.
    pub augment: &'a Augment,
}

/// The draws that decide a crop: region, filter, and whether it is mirrored left to right.
struct CropDraw {
    region: Region,
    filter: Interpolation,
    mirror: bool,
}

impl TrainTransform<'_> {
    /// Prepares an image for training: a region of random area and aspect ratio resized to the
    /// crop, mirrored by chance, its bytes augmented, [0, 1], normalised, erased by chance.
    ///
    /// The first two steps are torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`; an
    /// equal `random` gives an equal result. With [`Augment::no_augmentation`] the short edge is
    /// resized to the crop's, and the centre is taken.
    ///
    /// # Shapes
    /// `values` has room for `[3, crop height, crop width]`, flat ([`Preprocess::values`] numbers).
    ///
    /// # Errors
    /// See [`EncodedImage::region`].
    ///
    /// # Panics
    /// On an image without pixels, or another count of numbers.
    pub fn apply_into(
        &self,
        image: &EncodedImage,
        random: &mut Counter,
        scratch: &mut TransformScratch,
        values: &mut [f32],
    ) -> Result<(), DecodeError> {
        self.prepare(image, random, scratch, Output::Values(values))
    }

    /// [`TrainTransform::apply_into`] without the normalisation, see
    /// [`Preprocess::apply_bytes_into`].
    ///
    /// # Shapes
    /// `bytes` has room for `[crop height, crop width, 3]`, flat.
    ///
    /// # Errors
    /// See [`EncodedImage::region`].
    ///
    /// # Panics
    /// Where [`Augment::erase`] would erase normalised numbers; as [`TrainTransform::apply_into`].
    pub fn apply_bytes_into(
        &self,
        image: &EncodedImage,
        random: &mut Counter,
        scratch: &mut TransformScratch,
        bytes: &mut [u8],
    ) -> Result<(), DecodeError> {
        assert!(self.augment.erase.is_none(), "random erasing works on normalised numbers");
        self.prepare(image, random, scratch, Output::Bytes(bytes))
    }

    fn prepare(
        &self,
        image: &EncodedImage,
        random: &mut Counter,
        scratch: &mut TransformScratch,
        output: Output<'_>,
    ) -> Result<(), DecodeError> {
        let TransformScratch { decode, resize } = scratch;
        let (whole, decoding) = (image.whole(), self.augment.decode);
        if self.augment.no_augmentation {
            let rule = no_augmentation(self.preprocess);
            let size = rule.resized_size(whole.height, whole.width);
            let shrink = shrink_factor(decoding, whole, size, rule.interpolation);
            let (pixels, patch) = image.region(whole, shrink, decode)?;
            rule.resize_and_crop(pixels, patch, size, resize, output);
            return Ok(());
        }
        let crop = self.draw(whole, random);
        let shrink = shrink_factor(decoding, crop.region, self.preprocess.crop, crop.filter);
        let (pixels, patch) = image.region(crop.region, shrink, decode)?;
        self.crop_into(pixels, patch, &crop, random, resize, output);
        Ok(())
    }

    /// Draws the crop of an image of this size.
    fn draw(&self, whole: Region, random: &mut Counter) -> CropDraw {
        let region = random_region(self.augment, whole.height, whole.width, random);
        let filter = self.augment.filter(self.preprocess.interpolation).draw(random);
        CropDraw { region, filter, mirror: random.unit() < self.augment.hflip }
    }

    /// Resizes the crop, augments its bytes and puts it out; numbers are erased by chance.
    fn crop_into(
        &self,
        image: &RgbImage,
        patch: Patch,
        crop: &CropDraw,
        random: &mut Counter,
        scratch: &mut ResizeScratch,
        output: Output<'_>,
    ) {
        let Self { preprocess, augment } = self;
        let ([height, width], mut mirror) = (preprocess.crop, crop.mirror);
        let window = [&(0..height), &(0..width)];
        resize_window(image, patch, preprocess.crop, window, crop.filter, scratch);
        if augment.changes_bytes() {
            if mirror {
                scratch.pixels.chunks_exact_mut(width * 3).for_each(|row| {
                    row.as_chunks_mut::<3>().0.reverse();
                });
                mirror = false;
            }
            // The canvas owns its bytes; they come back with it.
            let pixels = std::mem::take(&mut scratch.pixels);
            let filter = augment.filter(preprocess.interpolation);
            scratch.pixels =
                augment.bytes(pixels, preprocess.crop, filter, preprocess.mean, random);
        }
        match output {
            Output::Values(values) => {
                preprocess.put(&scratch.pixels, mirror, Output::Values(values));
                if let Some(erase) = &augment.erase {
                    erase.apply(values, preprocess.crop, random);
                }
            }
            bytes @ Output::Bytes(_) => preprocess.put(&scratch.pixels, mirror, bytes),
        }
    }
}

/// The rule of a training without random crops: the short edge of the image becomes the crop's.
fn no_augmentation(rule: &Preprocess) -> Preprocess {
    Preprocess { resize: rule.crop[0].min(rule.crop[1]), ..rule.clone() }
}

/// An image is decoded smaller only as long as the resize still shrinks it by this factor: the
/// filter keeps its effect, and the training input differs by a third of a level on average
/// (Pillow's `reducing_gap=2.0`).
const GAP: usize = 2;

/// Pixels of an edge that may become one where a region is decoded that is then resized to `size`.
fn shrink_factor(
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

/// Draws a region as `RandomResizedCrop.get_params` of torchvision does: ten tries, then the
/// largest centred region whose ratio is allowed. Rounding is Python's, half to even.
fn random_region(augment: &Augment, height: usize, width: usize, random: &mut Counter) -> Region {
    let area = (height * width) as f64;
    let [low, high] = augment.ratio;
    for _ in 0..10 {
        let target = area * random.uniform(augment.scale[0], augment.scale[1]);
        let ratio = random.uniform(low.ln(), high.ln()).exp();
        let w = (target * ratio).sqrt().round_ties_even() as usize;
        let h = (target / ratio).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            let top = random.range(height - h + 1);
            let left = random.range(width - w + 1);
            return Region { top, left, height: h, width: w };
        }
    }
    let ratio = width as f64 / height as f64;
    let (h, w) = if ratio < low {
        ((width as f64 / low).round_ties_even() as usize, width)
    } else if ratio > high {
        (height, (height as f64 * high).round_ties_even() as usize)
    } else {
        (height, width)
    };
    let (h, w) = (h.clamp(1, height), w.clamp(1, width));
    Region { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::{TrainTransform, random_region, shrink_factor};
    use crate::augment::Augment;
    use crate::decode::{Decoding, EncodedImage};
    use crate::preprocess::{Preprocess, TransformScratch};
    use crate::random::Counter;
    use crate::resize::{Interpolation, Region};

    fn trained(
        preprocess: &Preprocess,
        augment: &Augment,
        image: &RgbImage,
        mut random: Counter,
    ) -> Vec<f32> {
        let mut values = vec![0.0; preprocess.values()];
        TrainTransform { preprocess, augment }
            .apply_into(
                &EncodedImage::of(image),
                &mut random,
                &mut TransformScratch::default(),
                &mut values,
            )
            .unwrap();
        values
    }

    /// Mutations caught: one edge alone compared, a gap of 1, nearest scaled.
    #[test]
    fn a_crop_is_decoded_as_small_as_the_gap_allows() {
        let check = |height, width, [edge, expected]: [usize; 2]| {
            let region = Region { top: 3, left: 5, height, width };
            let of = |decoding, filter| shrink_factor(decoding, region, [edge, 2 * edge], filter);
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
        // torchvision 0.29.2, 40,000 draws: mean area .4342, deviation .217; top > 0 in 96.7 %.
        // Three deviations of a mean of 2000.
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
    fn training_without_randomness_is_a_plain_resize() {
        let image = RgbImage::from_fn(8, 8, |x, y| Rgb([x as u8 * 9, y as u8 * 7, 5]));
        let rule = Preprocess::imagenet(8, 8);
        let no_augmentation =
            Augment { scale: [1.0, 1.0], ratio: [1.0, 1.0], hflip: 0.0, ..Augment::default() };
        let draw = |augment: &Augment, index| {
            trained(&rule, augment, &image, Counter::new(3, 1, index, 0))
        };
        assert_eq!(draw(&no_augmentation, 0), rule.apply(&image));
        let flipped = draw(&Augment { hflip: 1.0, ..no_augmentation }, 0);
        assert_ne!(flipped, draw(&no_augmentation, 0));
        assert_eq!(flipped[0], rule.apply(&image)[7]);
        // Without augmentation the short edge is the crop's, whatever evaluation does (timm's
        // --no-aug).
        let none = Augment { no_augmentation: true, ..Augment::default() };
        let larger = Preprocess::imagenet(13, 8);
        let drawn = trained(&larger, &none, &image, Counter::new(3, 1, 0, 0));
        assert_eq!(drawn, rule.apply(&image));
        assert_ne!(drawn, larger.apply(&image));
        let usual = Augment::default();
        assert_eq!(draw(&usual, 4), draw(&usual, 4));
        assert_ne!(draw(&usual, 4), draw(&usual, 5));
    }
}
