//! timm's operations by name and magnitude, its AutoAugment tables and its RandAugment sets
//! (`auto_augment.py` of timm 1.0.31; tables from Cubuk et al., arXiv:1805.09501 and
//! arXiv:1909.13719).
//!
//! `tests/augment.rs` compares the tables and the arguments with timm's own.

use crate::augment::operation::ImageOperation;
use crate::random::Counter;

/// timm's names of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are timm's; what they do stands at `TimmName::at`")]
pub enum TimmName {
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    PosterizeIncreasing,
    PosterizeOriginal,
    Solarize,
    SolarizeIncreasing,
    SolarizeAdd,
    Color,
    ColorIncreasing,
    Contrast,
    ContrastIncreasing,
    Brightness,
    BrightnessIncreasing,
    Sharpness,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
    Desaturate,
    GaussianBlur,
    GaussianBlurRand,
}

/// The magnitude of level 1.
pub const FULL: f64 = 10.0;

/// The value at a level of a range; level 1 is `high`.
fn within(level: f64, low: f64, high: f64) -> f64 {
    (low + (high - low) * level).max(low).min(high)
}

/// Negates the value in half of the cases.
fn signed(value: f64, random: &mut Counter) -> f64 {
    if random.unit() > 0.5 { -value } else { value }
}

impl TimmName {
    /// The operation at a magnitude (0 to 10, above with `mmax`).
    ///
    /// `size` is the image's height and width, `translate` the share of it that a translation of
    /// magnitude 10 moves by.
    pub fn at(
        self,
        magnitude: f64,
        size: [usize; 2],
        translate: f64,
        random: &mut Counter,
    ) -> ImageOperation {
        let level = magnitude / FULL;
        // The distance from the neutral factor 1 grows with the level.
        let mut increasing = || (1.0 + signed(level * 0.9, random)).max(0.1);
        let factor = level * 1.8 + 0.1;
        let bits = (level * 4.0) as i32;
        let keep = |bits: i32| ImageOperation::Posterize(bits.clamp(0, 8) as u32);
        let threshold = ((level * 256.0) as i32).min(256);
        match self {
            TimmName::AutoContrast => ImageOperation::AutoContrast,
            TimmName::Equalize => ImageOperation::Equalize,
            TimmName::Invert => ImageOperation::Invert,
            TimmName::Rotate => ImageOperation::Rotate(signed(level * 30.0, random)),
            TimmName::Posterize => keep(bits),
            TimmName::PosterizeIncreasing => keep(4 - bits),
            TimmName::PosterizeOriginal => keep(bits + 4),
            TimmName::Solarize => ImageOperation::Solarize(f64::from(threshold)),
            TimmName::SolarizeIncreasing => ImageOperation::Solarize(f64::from(256 - threshold)),
            TimmName::SolarizeAdd => {
                ImageOperation::SolarizeAdd(((level * 110.0) as i32).min(128) as u8)
            }
            TimmName::Color => ImageOperation::Color(factor),
            TimmName::Contrast => ImageOperation::Contrast(factor),
            TimmName::Brightness => ImageOperation::Brightness(factor),
            TimmName::Sharpness => ImageOperation::Sharpness(factor),
            TimmName::ColorIncreasing => ImageOperation::Color(increasing()),
            TimmName::ContrastIncreasing => ImageOperation::Contrast(increasing()),
            TimmName::BrightnessIncreasing => ImageOperation::Brightness(increasing()),
            TimmName::SharpnessIncreasing => ImageOperation::Sharpness(increasing()),
            TimmName::ShearX => ImageOperation::ShearX(signed(level * 0.3, random)),
            TimmName::ShearY => ImageOperation::ShearY(signed(level * 0.3, random)),
            TimmName::TranslateXRel => {
                ImageOperation::TranslateX(signed(level * translate, random) * size[1] as f64)
            }
            TimmName::TranslateYRel => {
                ImageOperation::TranslateY(signed(level * translate, random) * size[0] as f64)
            }
            TimmName::Desaturate => {
                ImageOperation::Color((1.0 - within(level, 0.5, 1.0)).clamp(0.0, 1.0))
            }
            TimmName::GaussianBlur => ImageOperation::Blur(within(level, 0.1, 2.0)),
            TimmName::GaussianBlurRand => {
                ImageOperation::Blur(random.uniform(0.1, 2.0 * within(level, 0.0, 1.0)))
            }
        }
    }
}

/// An operation of a policy: name, probability, magnitude.
pub type TimmStep = (TimmName, f64, f64);

use TimmName::{
    AutoContrast, Brightness, BrightnessIncreasing, Color, ColorIncreasing, Contrast,
    ContrastIncreasing, Desaturate, Equalize, GaussianBlur, GaussianBlurRand, Invert, Posterize,
    PosterizeIncreasing, PosterizeOriginal, Rotate, Sharpness, SharpnessIncreasing, ShearX, ShearY,
    Solarize, SolarizeAdd, SolarizeIncreasing, TranslateXRel, TranslateYRel,
};

/// `original`: the ImageNet policy of arXiv:1805.09501, table 9 (appendix).
#[rustfmt::skip]
pub const ORIGINAL: [[TimmStep; 2]; 25] = [
    [(PosterizeOriginal, 0.4, 8.0), (Rotate,            0.6, 9.0)],
    [(Solarize,          0.6, 5.0), (AutoContrast,      0.6, 5.0)],
    [(Equalize,          0.8, 8.0), (Equalize,          0.6, 3.0)],
    [(PosterizeOriginal, 0.6, 7.0), (PosterizeOriginal, 0.6, 6.0)],
    [(Equalize,          0.4, 7.0), (Solarize,          0.2, 4.0)],
    [(Equalize,          0.4, 4.0), (Rotate,            0.8, 8.0)],
    [(Solarize,          0.6, 3.0), (Equalize,          0.6, 7.0)],
    [(PosterizeOriginal, 0.8, 5.0), (Equalize,          1.0, 2.0)],
    [(Rotate,            0.2, 3.0), (Solarize,          0.6, 8.0)],
    [(Equalize,          0.6, 8.0), (PosterizeOriginal, 0.4, 6.0)],
    [(Rotate,            0.8, 8.0), (Color,             0.4, 0.0)],
    [(Rotate,            0.4, 9.0), (Equalize,          0.6, 2.0)],
    [(Equalize,          0.0, 7.0), (Equalize,          0.8, 8.0)],
    [(Invert,            0.6, 4.0), (Equalize,          1.0, 8.0)],
    [(Color,             0.6, 4.0), (Contrast,          1.0, 8.0)],
    [(Rotate,            0.8, 8.0), (Color,             1.0, 2.0)],
    [(Color,             0.8, 8.0), (Solarize,          0.8, 7.0)],
    [(Sharpness,         0.4, 7.0), (Invert,            0.6, 8.0)],
    [(ShearX,            0.6, 5.0), (Equalize,          1.0, 9.0)],
    [(Color,             0.4, 0.0), (Equalize,          0.6, 3.0)],
    [(Equalize,          0.4, 7.0), (Solarize,          0.2, 4.0)],
    [(Solarize,          0.6, 5.0), (AutoContrast,      0.6, 5.0)],
    [(Invert,            0.6, 4.0), (Equalize,          1.0, 8.0)],
    [(Color,             0.6, 4.0), (Contrast,          1.0, 8.0)],
    [(Equalize,          0.8, 8.0), (Equalize,          0.6, 3.0)],
];

/// `v0`: the ImageNet policy of the TPU EfficientNet code.
#[rustfmt::skip]
pub const V0: [[TimmStep; 2]; 25] = [
    [(Equalize,  0.8, 1.0), (ShearY,        0.8,  4.0)],
    [(Color,     0.4, 9.0), (Equalize,      0.6,  3.0)],
    [(Color,     0.4, 1.0), (Rotate,        0.6,  8.0)],
    [(Solarize,  0.8, 3.0), (Equalize,      0.4,  7.0)],
    [(Solarize,  0.4, 2.0), (Solarize,      0.6,  2.0)],
    [(Color,     0.2, 0.0), (Equalize,      0.8,  8.0)],
    [(Equalize,  0.4, 8.0), (SolarizeAdd,   0.8,  3.0)],
    [(ShearX,    0.2, 9.0), (Rotate,        0.6,  8.0)],
    [(Color,     0.6, 1.0), (Equalize,      1.0,  2.0)],
    [(Invert,    0.4, 9.0), (Rotate,        0.6,  0.0)],
    [(Equalize,  1.0, 9.0), (ShearY,        0.6,  3.0)],
    [(Color,     0.4, 7.0), (Equalize,      0.6,  0.0)],
    [(Posterize, 0.4, 6.0), (AutoContrast,  0.4,  7.0)],
    [(Solarize,  0.6, 8.0), (Color,         0.6,  9.0)],
    [(Solarize,  0.2, 4.0), (Rotate,        0.8,  9.0)],
    [(Rotate,    1.0, 7.0), (TranslateYRel, 0.8,  9.0)],
    [(ShearX,    0.0, 0.0), (Solarize,      0.8,  4.0)],
    [(ShearY,    0.8, 0.0), (Color,         0.6,  4.0)],
    [(Color,     1.0, 0.0), (Rotate,        0.6,  2.0)],
    [(Equalize,  0.8, 4.0), (Equalize,      0.0,  8.0)],
    [(Equalize,  1.0, 4.0), (AutoContrast,  0.6,  2.0)],
    [(ShearY,    0.4, 7.0), (SolarizeAdd,   0.6,  7.0)],
    [(Posterize, 0.8, 2.0), (Solarize,      0.6, 10.0)],
    [(Solarize,  0.6, 8.0), (Equalize,      0.6,  1.0)],
    [(Color,     0.8, 6.0), (Rotate,        0.4,  5.0)],
];

/// `3a`: the three operations of DeiT III (arXiv:2204.07118).
pub const THREE: [[TimmStep; 1]; 3] =
    [[(Solarize, 1.0, 5.0)], [(Desaturate, 1.0, 10.0)], [(GaussianBlurRand, 1.0, 10.0)]];

/// The operations of RandAugment.
pub const RAND: [TimmName; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// The operations of RandAugment with `inc1`, which all grow stronger with the magnitude.
pub const RAND_INCREASING: [TimmName; 15] = [
    AutoContrast,
    Equalize,
    Invert,
    Rotate,
    PosterizeIncreasing,
    SolarizeIncreasing,
    SolarizeAdd,
    ColorIncreasing,
    ContrastIncreasing,
    BrightnessIncreasing,
    SharpnessIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];

/// The operations of RandAugment with `t3a`.
pub const RAND_THREE: [TimmName; 3] = [SolarizeIncreasing, Desaturate, GaussianBlur];

/// The operations of RandAugment with `t3aw`, and their weights, which need not sum to 1.
pub const RAND_THREE_WEIGHTED: [(TimmName, f64); 14] = [
    (SolarizeIncreasing, 6.0),
    (Desaturate, 6.0),
    (GaussianBlur, 6.0),
    (Rotate, 3.0),
    (ShearX, 2.0),
    (ShearY, 2.0),
    (PosterizeIncreasing, 1.0),
    (AutoContrast, 1.0),
    (ColorIncreasing, 1.0),
    (SharpnessIncreasing, 1.0),
    (ContrastIncreasing, 1.0),
    (BrightnessIncreasing, 1.0),
    (Equalize, 1.0),
    (Invert, 1.0),
];

/// The operations of RandAugment with `tweights`, and their weights.
pub const RAND_WEIGHTED: [(TimmName, f64); 15] = [
    (Rotate, 3.0),
    (ShearX, 2.0),
    (ShearY, 2.0),
    (TranslateXRel, 1.0),
    (TranslateYRel, 1.0),
    (ColorIncreasing, 0.25),
    (SharpnessIncreasing, 0.25),
    (AutoContrast, 0.25),
    (SolarizeIncreasing, 0.05),
    (SolarizeAdd, 0.05),
    (ContrastIncreasing, 0.05),
    (BrightnessIncreasing, 0.05),
    (Equalize, 0.05),
    (PosterizeIncreasing, 0.05),
    (Invert, 0.05),
];

/// The operations of AugMix.
pub const AUGMIX: [TimmName; 13] = [
    AutoContrast,
    ColorIncreasing,
    ContrastIncreasing,
    BrightnessIncreasing,
    SharpnessIncreasing,
    Equalize,
    Rotate,
    PosterizeIncreasing,
    SolarizeIncreasing,
    ShearX,
    ShearY,
    TranslateXRel,
    TranslateYRel,
];
