//! Pixels to the numbers a network reads in evaluation, exactly as Pillow and torchvision do it.
//!
//! [`Preprocess`] is the whole rule. A checkpoint stores it beside the weights, and training,
//! evaluation and prediction all use it, because another resize alone costs up to two points of
//! accuracy. The resize (`resize`) is Pillow's in every bit; `tests/preprocess.rs` compares.
//! Nothing here is random: the training path stands in `train_transform`.

use std::ops::Range;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::decode::{DecodeError, DecodeScratch, EncodedImage};
use crate::resize::{Interpolation, Patch, ResizeScratch, resize_window};

/// How an image becomes the input of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Short edge after the resize in evaluation, pixels.
    pub resize: usize,
    /// Height and width of the centre crop, pixels: the input of the network.
    pub crop: [usize; 2],
    /// Filter of every resize.
    pub interpolation: Interpolation,
    /// Mean, subtracted from each channel in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation, by which each channel is then divided.
    pub std: [f32; 3],
    /// Whether decoding turns an image as its EXIF orientation says; a rule without the field does
    /// not.
    #[serde(default)]
    pub exif: bool,
}

/// An image may not be resized or cropped to more than this many pixels along an edge.
const MAX_EDGE: usize = 1 << 14;

/// Where a prepared image goes.
pub(crate) enum Output<'a> {
    /// Normalised numbers, `[3, height, width]`.
    Values(&'a mut [f32]),
    /// Bytes, `[height, width, 3]`.
    Bytes(&'a mut [u8]),
}

/// Memory that a transform reuses from image to image.
#[derive(Default)]
pub struct TransformScratch {
    pub(crate) decode: DecodeScratch,
    pub(crate) resize: ResizeScratch,
}

impl Preprocess {
    /// torchvision's rule for ImageNet weights: bilinear, mean .485 .456 .406, std .229 .224 .225,
    /// images as stored. `kindling train` and `convert` turn them by EXIF.
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

    /// Refuses a rule that would give no image, or numbers that are not finite.
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

    /// Numbers of a prepared image: 3 x height x width of the crop.
    #[must_use]
    pub fn values(&self) -> usize {
        3 * self.crop[0] * self.crop[1]
    }

    /// Prepares decoded pixels for evaluation, see [`Preprocess::apply_into`].
    ///
    /// # Shapes
    /// `[height, width, 3]` to `[3, crop height, crop width]`, flat.
    ///
    /// # Panics
    /// On an image without pixels ([`crate::decode::decode`] gives none).
    #[must_use]
    pub fn apply(&self, image: &RgbImage) -> Vec<f32> {
        let mut values = vec![0.0; self.values()];
        let decoded = EncodedImage::of(image);
        self.apply_into(&decoded, &mut TransformScratch::default(), &mut values)
            .expect("decoded pixels need no decoder");
        values
    }

    /// Prepares an image for evaluation: short edge to `resize`, centre crop, [0, 1], normalised.
    ///
    /// The steps are torchvision's `Resize`, `CenterCrop`, `ToTensor` and `Normalize`: the long
    /// edge is truncated, the offset of the crop is rounded half to even, an image smaller than the
    /// crop is padded with black.
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
        scratch: &mut TransformScratch,
        values: &mut [f32],
    ) -> Result<(), DecodeError> {
        self.prepare(image, scratch, Output::Values(values))
    }

    /// [`Preprocess::apply_into`] without the normalisation, which a GPU does faster and reads a
    /// quarter for: [`normalised`](Self::apply_into) is `(byte / 255 - mean) / std`.
    ///
    /// # Shapes
    /// `bytes` has room for `[crop height, crop width, 3]`, flat ([`Preprocess::values`] numbers).
    ///
    /// # Errors
    /// See [`EncodedImage::region`].
    ///
    /// # Panics
    /// On an image without pixels, or another count of bytes.
    pub fn apply_bytes_into(
        &self,
        image: &EncodedImage,
        scratch: &mut TransformScratch,
        bytes: &mut [u8],
    ) -> Result<(), DecodeError> {
        self.prepare(image, scratch, Output::Bytes(bytes))
    }

    fn prepare(
        &self,
        image: &EncodedImage,
        scratch: &mut TransformScratch,
        output: Output<'_>,
    ) -> Result<(), DecodeError> {
        let whole = image.whole();
        let size = self.resized_size(whole.height, whole.width);
        let (pixels, patch) = image.region(whole, 1, &mut scratch.decode)?;
        self.resize_and_crop(pixels, patch, size, &mut scratch.resize, output);
        Ok(())
    }

    /// Prepares the four corners of a resized image and its centre: torchvision's `Resize`,
    /// `FiveCrop`.
    ///
    /// # Shapes
    /// `[5, 3, crop height, crop width]`, flat: top left, top right, bottom left, bottom right,
    /// centre.
    ///
    /// # Errors
    /// See [`EncodedImage::region`].
    ///
    /// # Panics
    /// When the crop is larger than `resize`.
    pub fn five_crops(
        &self,
        image: &EncodedImage,
        scratch: &mut TransformScratch,
    ) -> Result<Vec<f32>, DecodeError> {
        let [height, width] = self.crop;
        let largest = height.max(width);
        assert!(largest <= self.resize, "a crop of {largest} in a short edge of {}", self.resize);
        let whole = image.whole();
        let size = self.resized_size(whole.height, whole.width);
        let (pixels, patch) = image.region(whole, 1, &mut scratch.decode)?;
        let starts = [0, 1].map(|axis| {
            let (centre, _) = centre_window(size[axis], self.crop[axis]);
            [0, size[axis] - self.crop[axis], centre.start]
        });
        let mut values = vec![0.0; 5 * self.values()];
        let corners = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)];
        for ((row, column), values) in corners.into_iter().zip(values.chunks_mut(self.values())) {
            let (top, left) = (starts[0][row], starts[1][column]);
            let window = [&(top..top + height), &(left..left + width)];
            resize_window(pixels, patch, size, window, self.interpolation, &mut scratch.resize);
            self.put(&scratch.resize.pixels, false, Output::Values(values));
        }
        Ok(values)
    }

    /// Height and width to which an image is resized before the centre crop.
    pub(crate) fn resized_size(&self, height: usize, width: usize) -> [usize; 2] {
        let (short, long) = (height.min(width), height.max(width));
        let long = self.resize * long / short;
        if width <= height { [long, self.resize] } else { [self.resize, long] }
    }

    /// Resizes a whole image to `size`, takes the centre crop and puts it out.
    pub(crate) fn resize_and_crop(
        &self,
        image: &RgbImage,
        patch: Patch,
        size: [usize; 2],
        scratch: &mut ResizeScratch,
        output: Output<'_>,
    ) {
        let (rows, top) = centre_window(size[0], self.crop[0]);
        let (columns, left) = centre_window(size[1], self.crop[1]);
        // Only the window is computed, never the whole long edge of a very long image.
        resize_window(image, patch, size, [&rows, &columns], self.interpolation, scratch);
        if rows.len() == self.crop[0] && columns.len() == self.crop[1] {
            return self.put(&scratch.pixels, false, output);
        }
        let mut padded = vec![0; self.values()];
        for (row, line) in scratch.pixels.chunks_exact(columns.len() * 3).enumerate() {
            let from = ((top + row) * self.crop[1] + left) * 3;
            padded[from..from + line.len()].copy_from_slice(line);
        }
        self.put(&padded, false, output);
    }

    /// Puts out `[height, width, 3]` bytes, or their mirror image left to right.
    pub(crate) fn put(&self, pixels: &[u8], mirror: bool, output: Output<'_>) {
        let bytes = match output {
            Output::Values(values) => return self.normalise(pixels, mirror, values),
            Output::Bytes(bytes) => bytes,
        };
        bytes.copy_from_slice(pixels);
        if mirror {
            let rows = bytes.chunks_exact_mut(3 * self.crop[1]);
            rows.for_each(|row| row.as_chunks_mut::<3>().0.reverse());
        }
    }

    /// Normalises `[height, width, 3]` bytes, or their mirror image left to right, to
    /// `[3, height, width]` numbers.
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

/// Rows (or columns) that a centre crop of `crop` keeps of `size` pixels, and where they begin in
/// the crop: padding where the crop is larger (the odd pixel after), else 0. The offset in the
/// image is Python's `round(.. / 2)`.
fn centre_window(size: usize, crop: usize) -> (Range<usize>, usize) {
    if crop > size {
        return (0..size, (crop - size) / 2);
    }
    // Python's `round`.
    let first = ((size - crop) as f64 / 2.0).round_ties_even() as usize;
    (first..first + crop, 0)
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::{EncodedImage, Interpolation, Preprocess, TransformScratch};

    /// Mutations caught: the pixels in their order.
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

    /// Mutations caught, each alone: corners in another order; a corner that is a pixel off.
    #[test]
    fn five_crops_are_the_corners_and_the_centre() {
        let rule = Preprocess {
            crop: [2, 3],
            mean: [0.0; 3],
            std: [1.0; 3],
            ..Preprocess::imagenet(5, 3)
        };
        // Not resized: every pixel says where it is.
        let image = RgbImage::from_fn(8, 5, |x, y| image::Rgb([x as u8, y as u8, 7]));
        let mut scratch = TransformScratch::default();
        let crops = rule.five_crops(&EncodedImage::of(&image), &mut scratch).unwrap();
        let first = |crop: usize| [0, 6].map(|at| (crops[crop * 18 + at] * 255.0).round() as usize);
        let corners: Vec<[usize; 2]> = (0..5).map(first).collect();
        assert_eq!(corners, [[0, 0], [5, 0], [0, 3], [5, 3], [2, 2]]);
        assert_eq!(crops[4 * 18..], rule.apply(&image));
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
