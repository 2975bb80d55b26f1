//! One operation on an image, with a resolved strength.

use crate::augment::affine::{Resample, affine, rotate};
use crate::augment::blur::gaussian_blur;
use crate::augment::canvas::Canvas;
use crate::augment::colour;

/// The operations of policies, with Pillow's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ImageOperation {
    /// Changes nothing.
    Identity,
    /// Shifts the column that is read by this many pixels per row.
    ShearX(f64),
    /// Shifts the row that is read by this many pixels per column.
    ShearY(f64),
    /// Reads the image this many pixels further right.
    TranslateX(f64),
    /// Reads the image this many pixels further down.
    TranslateY(f64),
    /// Rotates by degrees, counter-clockwise.
    Rotate(f64),
    /// Factor of the brightness; 1 changes nothing.
    Brightness(f64),
    /// Factor of the saturation; 1 changes nothing.
    Color(f64),
    /// Factor of the contrast; 1 changes nothing.
    Contrast(f64),
    /// Factor of the sharpness; 1 changes nothing.
    Sharpness(f64),
    /// Keeps this many bits of each channel; 8 changes nothing.
    Posterize(u32),
    /// Inverts bytes that are not below this threshold.
    Solarize(f64),
    /// Adds this to bytes below 128.
    SolarizeAdd(u8),
    /// Stretches every channel to [0, 255].
    AutoContrast,
    /// Equalizes every channel's histogram.
    Equalize,
    /// Gives the negative.
    Invert,
    /// Turns the hue by this share of the circle.
    Hue(f64),
    /// Blurs by a Gaussian of this standard deviation, pixels.
    Blur(f64),
}

impl ImageOperation {
    /// Carries the operation out; `resample` applies to operations that move pixels.
    pub fn apply(self, canvas: &mut Canvas, resample: Resample) {
        match self {
            ImageOperation::Identity => {}
            ImageOperation::ShearX(factor) => {
                affine(canvas, [1.0, factor, 0.0, 0.0, 1.0, 0.0], resample);
            }
            ImageOperation::ShearY(factor) => {
                affine(canvas, [1.0, 0.0, 0.0, factor, 1.0, 0.0], resample);
            }
            ImageOperation::TranslateX(by) => {
                affine(canvas, [1.0, 0.0, by, 0.0, 1.0, 0.0], resample);
            }
            ImageOperation::TranslateY(by) => {
                affine(canvas, [1.0, 0.0, 0.0, 0.0, 1.0, by], resample);
            }
            ImageOperation::Rotate(degrees) => rotate(canvas, degrees, resample),
            // Pillow takes factors as f32.
            ImageOperation::Brightness(factor) => colour::brightness(canvas, factor as f32),
            ImageOperation::Color(factor) => colour::color(canvas, factor as f32),
            ImageOperation::Contrast(factor) => colour::contrast(canvas, factor as f32),
            ImageOperation::Sharpness(factor) => colour::sharpness(canvas, factor as f32),
            ImageOperation::Posterize(bits) => colour::posterize(canvas, bits),
            ImageOperation::Solarize(threshold) => colour::solarize(canvas, threshold),
            ImageOperation::SolarizeAdd(add) => colour::solarize_add(canvas, add),
            ImageOperation::AutoContrast => colour::auto_contrast(canvas),
            ImageOperation::Equalize => colour::equalize(canvas),
            ImageOperation::Invert => colour::invert(canvas),
            ImageOperation::Hue(turn) => colour::hue(canvas, turn),
            ImageOperation::Blur(radius) => gaussian_blur(canvas, radius),
        }
    }
}
