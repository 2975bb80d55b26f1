//! torchvision's operations by name and bin, its AutoAugment tables and the spaces of its
//! RandAugment, TrivialAugment and AugMix (`autoaugment.py` of torchvision 0.29.2;
//! arXiv:1805.09501, 1909.13719, 2103.10158, 1912.02781).
//!
//! `tests/augment.rs` compares tables and magnitudes with torchvision's own.

use crate::augment::operation::ImageOperation;

/// torchvision's names of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "the names are torchvision's; what they do stands at `TorchvisionName::at`"
)]
pub enum TorchvisionName {
    Identity,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

/// The magnitudes of a policy: number of bins, and the strongest of each operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugmentationSpace {
    /// Number of magnitudes from the weakest to the strongest.
    pub bins: usize,
    /// Largest shear.
    pub shear: f64,
    /// Largest translation: a share of the image, or pixels.
    pub translate: Translate,
    /// Largest rotation, degrees.
    pub rotate: f64,
    /// Largest distance of brightness, colour, contrast and sharpness from 1.
    pub factor: f64,
    /// Bits of a channel that the strongest posterize removes.
    pub bits: f64,
    /// Bits of a channel that the weakest posterize keeps.
    pub depth: f64,
}

/// The length of a translation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Translate {
    /// Share of the image's height or width.
    Share(f64),
    /// Pixels.
    Pixels(f64),
}

/// Magnitudes of AutoAugment.
pub const AUTO: AugmentationSpace = AugmentationSpace {
    bins: 10,
    shear: 0.3,
    translate: Translate::Share(150.0 / 331.0),
    rotate: 30.0,
    factor: 0.9,
    bits: 4.0,
    depth: 8.0,
};

/// Magnitudes of RandAugment.
pub const RAND: AugmentationSpace = AugmentationSpace { bins: 31, ..AUTO };

/// Magnitudes of TrivialAugmentWide.
pub const WIDE: AugmentationSpace = AugmentationSpace {
    bins: 31,
    shear: 0.99,
    translate: Translate::Pixels(32.0),
    rotate: 135.0,
    factor: 0.99,
    bits: 6.0,
    depth: 8.0,
};

/// Magnitudes of AugMix.
pub const MIX: AugmentationSpace =
    AugmentationSpace { bins: 10, translate: Translate::Share(1.0 / 3.0), depth: 4.0, ..AUTO };

/// The operations of AugMix, with `all_ops`.
pub const MIX_CHOICES: [TorchvisionName; 13] = [
    TorchvisionName::ShearX,
    TorchvisionName::ShearY,
    TorchvisionName::TranslateX,
    TorchvisionName::TranslateY,
    TorchvisionName::Rotate,
    TorchvisionName::Posterize,
    TorchvisionName::Solarize,
    TorchvisionName::AutoContrast,
    TorchvisionName::Equalize,
    TorchvisionName::Brightness,
    TorchvisionName::Color,
    TorchvisionName::Contrast,
    TorchvisionName::Sharpness,
];

/// The operations of RandAugment and TrivialAugment.
pub const CHOICES: [TorchvisionName; 14] = [
    TorchvisionName::Identity,
    TorchvisionName::ShearX,
    TorchvisionName::ShearY,
    TorchvisionName::TranslateX,
    TorchvisionName::TranslateY,
    TorchvisionName::Rotate,
    TorchvisionName::Brightness,
    TorchvisionName::Color,
    TorchvisionName::Contrast,
    TorchvisionName::Sharpness,
    TorchvisionName::Posterize,
    TorchvisionName::Solarize,
    TorchvisionName::AutoContrast,
    TorchvisionName::Equalize,
];

/// Element `bin` of `torch.linspace(first, last, count)`, computed as torch does: in f32, from the
/// nearer end, with one rounding for product and sum.
fn linspace(first: f64, last: f64, count: usize, bin: usize) -> f64 {
    let (first, last) = (first as f32, last as f32);
    let step = (last - first) / (count - 1) as f32;
    let value = match bin < count / 2 {
        true => step.mul_add(bin as f32, first),
        false => (-step).mul_add((count - 1 - bin) as f32, last),
    };
    f64::from(value)
}

impl TorchvisionName {
    /// Whether the operation has a magnitude.
    #[must_use]
    pub fn graded(self) -> bool {
        !matches!(
            self,
            TorchvisionName::Identity
                | TorchvisionName::AutoContrast
                | TorchvisionName::Equalize
                | TorchvisionName::Invert
        )
    }

    /// Whether the magnitude has a sign.
    #[must_use]
    pub fn signed(self) -> bool {
        self.graded() && !matches!(self, TorchvisionName::Posterize | TorchvisionName::Solarize)
    }

    /// The magnitude of a bin, for an image of `size` (height, width).
    #[must_use]
    pub fn magnitude(self, space: &AugmentationSpace, bin: usize, size: [usize; 2]) -> f64 {
        let up_to = |last: f64| linspace(0.0, last, space.bins, bin);
        let length = |edge: usize| match space.translate {
            Translate::Share(share) => share * edge as f64,
            Translate::Pixels(pixels) => pixels,
        };
        match self {
            TorchvisionName::ShearX | TorchvisionName::ShearY => up_to(space.shear),
            TorchvisionName::TranslateX => up_to(length(size[1])),
            TorchvisionName::TranslateY => up_to(length(size[0])),
            TorchvisionName::Rotate => up_to(space.rotate),
            TorchvisionName::Brightness
            | TorchvisionName::Color
            | TorchvisionName::Contrast
            | TorchvisionName::Sharpness => up_to(space.factor),
            TorchvisionName::Posterize => {
                let one = ((space.bins - 1) as f64 / space.bits) as f32;
                space.depth - f64::from((bin as f32 / one).round_ties_even())
            }
            TorchvisionName::Solarize => linspace(255.0, 0.0, space.bins, bin),
            TorchvisionName::Identity
            | TorchvisionName::AutoContrast
            | TorchvisionName::Equalize
            | TorchvisionName::Invert => 0.0,
        }
    }

    /// The operation of `_apply_op` at a magnitude with its sign.
    #[must_use]
    pub fn at(self, magnitude: f64) -> ImageOperation {
        // torchvision goes by an angle in degrees, rounding errors included.
        let angle = magnitude.atan().to_degrees().to_radians();
        match self {
            TorchvisionName::Identity => ImageOperation::Identity,
            TorchvisionName::ShearX => ImageOperation::ShearX(angle.tan()),
            TorchvisionName::ShearY => ImageOperation::ShearY(angle.sin() / angle.cos()),
            TorchvisionName::TranslateX => ImageOperation::TranslateX(-magnitude.trunc()),
            TorchvisionName::TranslateY => ImageOperation::TranslateY(-magnitude.trunc()),
            TorchvisionName::Rotate => ImageOperation::Rotate(magnitude),
            TorchvisionName::Brightness => ImageOperation::Brightness(1.0 + magnitude),
            TorchvisionName::Color => ImageOperation::Color(1.0 + magnitude),
            TorchvisionName::Contrast => ImageOperation::Contrast(1.0 + magnitude),
            TorchvisionName::Sharpness => ImageOperation::Sharpness(1.0 + magnitude),
            TorchvisionName::Posterize => ImageOperation::Posterize(magnitude as u32),
            TorchvisionName::Solarize => ImageOperation::Solarize(magnitude),
            TorchvisionName::AutoContrast => ImageOperation::AutoContrast,
            TorchvisionName::Equalize => ImageOperation::Equalize,
            TorchvisionName::Invert => ImageOperation::Invert,
        }
    }
}

/// An operation of a policy: name, probability, bin of ten.
pub type TorchvisionStep = (TorchvisionName, f64, usize);

use TorchvisionName::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness,
    ShearX, ShearY, Solarize, TranslateX, TranslateY,
};

/// The bin of operations without a magnitude.
const NO: usize = 0;

/// The policy found on ImageNet (arXiv:1805.09501).
#[rustfmt::skip]
pub const IMAGENET: [[TorchvisionStep; 2]; 25] = [
    [(Posterize, 0.4,  8), (Rotate,       0.6,  9)],
    [(Solarize,  0.6,  5), (AutoContrast, 0.6, NO)],
    [(Equalize,  0.8, NO), (Equalize,     0.6, NO)],
    [(Posterize, 0.6,  7), (Posterize,    0.6,  6)],
    [(Equalize,  0.4, NO), (Solarize,     0.2,  4)],
    [(Equalize,  0.4, NO), (Rotate,       0.8,  8)],
    [(Solarize,  0.6,  3), (Equalize,     0.6, NO)],
    [(Posterize, 0.8,  5), (Equalize,     1.0, NO)],
    [(Rotate,    0.2,  3), (Solarize,     0.6,  8)],
    [(Equalize,  0.6, NO), (Posterize,    0.4,  6)],
    [(Rotate,    0.8,  8), (Color,        0.4,  0)],
    [(Rotate,    0.4,  9), (Equalize,     0.6, NO)],
    [(Equalize,  0.0, NO), (Equalize,     0.8, NO)],
    [(Invert,    0.6, NO), (Equalize,     1.0, NO)],
    [(Color,     0.6,  4), (Contrast,     1.0,  8)],
    [(Rotate,    0.8,  8), (Color,        1.0,  2)],
    [(Color,     0.8,  8), (Solarize,     0.8,  7)],
    [(Sharpness, 0.4,  7), (Invert,       0.6, NO)],
    [(ShearX,    0.6,  5), (Equalize,     1.0, NO)],
    [(Color,     0.4,  0), (Equalize,     0.6, NO)],
    [(Equalize,  0.4, NO), (Solarize,     0.2,  4)],
    [(Solarize,  0.6,  5), (AutoContrast, 0.6, NO)],
    [(Invert,    0.6, NO), (Equalize,     1.0, NO)],
    [(Color,     0.6,  4), (Contrast,     1.0,  8)],
    [(Equalize,  0.8, NO), (Equalize,     0.6, NO)],
];

/// The policy found on CIFAR-10.
#[rustfmt::skip]
pub const CIFAR10: [[TorchvisionStep; 2]; 25] = [
    [(Invert,       0.1, NO), (Contrast,     0.2,  6)],
    [(Rotate,       0.7,  2), (TranslateX,   0.3,  9)],
    [(Sharpness,    0.8,  1), (Sharpness,    0.9,  3)],
    [(ShearY,       0.5,  8), (TranslateY,   0.7,  9)],
    [(AutoContrast, 0.5, NO), (Equalize,     0.9, NO)],
    [(ShearY,       0.2,  7), (Posterize,    0.3,  7)],
    [(Color,        0.4,  3), (Brightness,   0.6,  7)],
    [(Sharpness,    0.3,  9), (Brightness,   0.7,  9)],
    [(Equalize,     0.6, NO), (Equalize,     0.5, NO)],
    [(Contrast,     0.6,  7), (Sharpness,    0.6,  5)],
    [(Color,        0.7,  7), (TranslateX,   0.5,  8)],
    [(Equalize,     0.3, NO), (AutoContrast, 0.4, NO)],
    [(TranslateY,   0.4,  3), (Sharpness,    0.2,  6)],
    [(Brightness,   0.9,  6), (Color,        0.2,  8)],
    [(Solarize,     0.5,  2), (Invert,       0.0, NO)],
    [(Equalize,     0.2, NO), (AutoContrast, 0.6, NO)],
    [(Equalize,     0.2, NO), (Equalize,     0.6, NO)],
    [(Color,        0.9,  9), (Equalize,     0.6, NO)],
    [(AutoContrast, 0.8, NO), (Solarize,     0.2,  8)],
    [(Brightness,   0.1,  3), (Color,        0.7,  0)],
    [(Solarize,     0.4,  5), (AutoContrast, 0.9, NO)],
    [(TranslateY,   0.9,  9), (TranslateY,   0.7,  9)],
    [(AutoContrast, 0.9, NO), (Solarize,     0.8,  3)],
    [(Equalize,     0.8, NO), (Invert,       0.1, NO)],
    [(TranslateY,   0.7,  9), (AutoContrast, 0.9, NO)],
];

/// The policy found on SVHN.
#[rustfmt::skip]
pub const SVHN: [[TorchvisionStep; 2]; 25] = [
    [(ShearX,   0.9,  4), (Invert,       0.2, NO)],
    [(ShearY,   0.9,  8), (Invert,       0.7, NO)],
    [(Equalize, 0.6, NO), (Solarize,     0.6,  6)],
    [(Invert,   0.9, NO), (Equalize,     0.6, NO)],
    [(Equalize, 0.6, NO), (Rotate,       0.9,  3)],
    [(ShearX,   0.9,  4), (AutoContrast, 0.8, NO)],
    [(ShearY,   0.9,  8), (Invert,       0.4, NO)],
    [(ShearY,   0.9,  5), (Solarize,     0.2,  6)],
    [(Invert,   0.9, NO), (AutoContrast, 0.8, NO)],
    [(Equalize, 0.6, NO), (Rotate,       0.9,  3)],
    [(ShearX,   0.9,  4), (Solarize,     0.3,  3)],
    [(ShearY,   0.8,  8), (Invert,       0.7, NO)],
    [(Equalize, 0.9, NO), (TranslateY,   0.6,  6)],
    [(Invert,   0.9, NO), (Equalize,     0.6, NO)],
    [(Contrast, 0.3,  3), (Rotate,       0.8,  4)],
    [(Invert,   0.8, NO), (TranslateY,   0.0,  2)],
    [(ShearY,   0.7,  6), (Solarize,     0.4,  8)],
    [(Invert,   0.6, NO), (Rotate,       0.8,  4)],
    [(ShearY,   0.3,  7), (TranslateX,   0.9,  3)],
    [(ShearX,   0.1,  6), (Invert,       0.6, NO)],
    [(Solarize, 0.7,  2), (TranslateY,   0.6,  7)],
    [(ShearY,   0.8,  4), (Invert,       0.8, NO)],
    [(ShearX,   0.7,  9), (TranslateY,   0.8,  3)],
    [(ShearY,   0.8,  5), (AutoContrast, 0.7, NO)],
    [(ShearX,   0.7,  2), (Invert,       0.1, NO)],
];
