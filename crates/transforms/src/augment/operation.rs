//! One operation on an image, its strength resolved.

use crate::augment::affine::{Resample, affine, rotate};
use crate::augment::blur::gaussian_blur;
use crate::augment::canvas::Canvas;
use crate::augment::colour;

/// What policies consist of, with Pillow's parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Nothing.
    Identity,
    /// Column of the source moves by so many pixels a row.
    ShearX(f64),
    /// Row of the source moves by so many pixels a column.
    ShearY(f64),
    /// The source is read so many pixels further right.
    TranslateX(f64),
    /// The source is read so many pixels further down.
    TranslateY(f64),
    /// Degrees, counter-clockwise.
    Rotate(f64),
    /// Factor; 1 changes nothing.
    Brightness(f64),
    /// Factor of the saturation; 1 changes nothing.
    Color(f64),
    /// Factor; 1 changes nothing.
    Contrast(f64),
    /// Factor; 1 changes nothing.
    Sharpness(f64),
    /// Bits that are kept of each channel; from 8 on nothing changes.
    Posterize(u32),
    /// What is not below it is inverted.
    Solarize(f64),
    /// Added to what is below 128.
    SolarizeAdd(u8),
    /// Every channel stretched to [0, 255].
    AutoContrast,
    /// Every channel's histogram made even.
    Equalize,
    /// The negative.
    Invert,
    /// Share of the colour circle.
    Hue(f64),
    /// Standard deviation of a Gaussian, pixels.
    Blur(f64),
}

impl Operation {
    /// Does it; `look` is for what moves pixels.
    pub fn apply(self, canvas: &mut Canvas, look: Resample) {
        match self {
            Operation::Identity => {}
            Operation::ShearX(factor) => affine(canvas, [1.0, factor, 0.0, 0.0, 1.0, 0.0], look),
            Operation::ShearY(factor) => affine(canvas, [1.0, 0.0, 0.0, factor, 1.0, 0.0], look),
            Operation::TranslateX(by) => affine(canvas, [1.0, 0.0, by, 0.0, 1.0, 0.0], look),
            Operation::TranslateY(by) => affine(canvas, [1.0, 0.0, 0.0, 0.0, 1.0, by], look),
            Operation::Rotate(degrees) => rotate(canvas, degrees, look),
            // Pillow takes factors as f32.
            Operation::Brightness(factor) => colour::brightness(canvas, factor as f32),
            Operation::Color(factor) => colour::color(canvas, factor as f32),
            Operation::Contrast(factor) => colour::contrast(canvas, factor as f32),
            Operation::Sharpness(factor) => colour::sharpness(canvas, factor as f32),
            Operation::Posterize(bits) => colour::posterize(canvas, bits),
            Operation::Solarize(threshold) => colour::solarize(canvas, threshold),
            Operation::SolarizeAdd(add) => colour::solarize_add(canvas, add),
            Operation::AutoContrast => colour::auto_contrast(canvas),
            Operation::Equalize => colour::equalize(canvas),
            Operation::Invert => colour::invert(canvas),
            Operation::Hue(turn) => colour::hue(canvas, turn),
            Operation::Blur(radius) => gaussian_blur(canvas, radius),
        }
    }
}
