//! The strength of a policy's operation: timm's noise on a magnitude, torchvision's bin and sign,
//! and the filter that an operation is carried out with.

use crate::augment::affine::Resample;
use crate::augment::canvas::Canvas;
use crate::augment::timm::TimmName;
use crate::augment::torchvision::{AugmentationSpace, TorchvisionName};
use crate::random::Counter;
use crate::resize::Interpolation;

/// The filter of affine operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Always this filter.
    Fixed(Interpolation),
    /// Bilinear or bicubic, by chance.
    Random,
}

impl Filter {
    /// The filter to use; a random one is drawn.
    pub fn draw(self, random: &mut Counter) -> Interpolation {
        match self {
            Filter::Fixed(filter) => filter,
            Filter::Random => [Interpolation::Bilinear, Interpolation::Bicubic][random.range(2)],
        }
    }
}

/// The parameters that all operations of a policy of timm share.
pub(crate) struct TimmParams {
    /// Standard deviation of the magnitude.
    pub(crate) deviation: f64,
    /// Largest magnitude after the draw.
    pub(crate) max: f64,
    /// Share of the image that a translation of magnitude 10 moves by.
    pub(crate) translate: f64,
    /// Height and width of the image.
    pub(crate) size: [usize; 2],
    pub(crate) filter: Filter,
    /// Colour outside of the image.
    pub(crate) fill: [u8; 3],
}

impl TimmParams {
    /// Applies an operation with its probability, at a magnitude with noise.
    pub(crate) fn apply(
        &self,
        canvas: &mut Canvas,
        name: TimmName,
        probability: f64,
        magnitude: f64,
        random: &mut Counter,
    ) {
        if probability < 1.0 && random.unit() >= probability {
            return;
        }
        let magnitude = drawn_magnitude(magnitude, self.deviation, self.max, random);
        let operation = name.at(magnitude, self.size, self.translate, random);
        operation.apply(canvas, Resample { filter: self.filter.draw(random), fill: self.fill });
    }
}

/// timm's noise on a magnitude: normal, or uniform below the magnitude where the deviation is
/// infinite; the result is clamped to [0, max].
pub fn drawn_magnitude(magnitude: f64, deviation: f64, max: f64, random: &mut Counter) -> f64 {
    let drawn = if deviation == f64::INFINITY {
        random.uniform(0.0, magnitude)
    } else if deviation > 0.0 {
        magnitude + deviation * random.normal()
    } else {
        magnitude
    };
    drawn.clamp(0.0, max)
}

/// The parameters that all operations of a policy of torchvision share.
pub(crate) struct TorchvisionParams {
    pub(crate) space: AugmentationSpace,
    /// Height and width of the image.
    pub(crate) size: [usize; 2],
    pub(crate) filter: Filter,
}

impl TorchvisionParams {
    /// Applies an operation at the magnitude of a bin, with a random sign where it has one.
    pub(crate) fn apply(
        &self,
        canvas: &mut Canvas,
        name: TorchvisionName,
        bin: usize,
        random: &mut Counter,
    ) {
        let magnitude = name.magnitude(&self.space, bin, self.size);
        let negative = name.signed() && random.range(2) == 1;
        let operation = name.at(if negative { -magnitude } else { magnitude });
        operation.apply(canvas, Resample { filter: self.filter.draw(random), fill: [0; 3] });
    }

    /// [`TorchvisionParams::apply`] at a random bin below `bins`, where the operation has a
    /// magnitude.
    pub(crate) fn apply_any_bin(
        &self,
        canvas: &mut Canvas,
        name: TorchvisionName,
        bins: usize,
        random: &mut Counter,
    ) {
        let bin = if name.graded() { random.range(bins) } else { 0 };
        self.apply(canvas, name, bin, random);
    }
}
