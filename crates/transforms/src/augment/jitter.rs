//! torchvision's `ColorJitter`: brightness, contrast, saturation and hue in a random order.

use serde::{Deserialize, Serialize};

use crate::augment::affine::Resample;
use crate::augment::canvas::Canvas;
use crate::augment::operation::ImageOperation;
use crate::random::Counter;
use crate::resize::Interpolation;

/// Ranges of colour jitter: factors are drawn from `max(0, 1 - x)` to `1 + x`, the hue from `-x` to
/// `x` of the circle; 0 switches an operation off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// Range of the brightness.
    pub brightness: f64,
    /// Range of the contrast.
    pub contrast: f64,
    /// Range of the saturation.
    pub saturation: f64,
    /// Range of the hue, at most 0.5.
    pub hue: f64,
}

impl Jitter {
    /// Jitters an image.
    pub fn apply(&self, canvas: &mut Canvas, random: &mut Counter) {
        // No operation of the jitter moves pixels.
        let resample = Resample { filter: Interpolation::Nearest, fill: [0; 3] };
        for operation in self.draw(random) {
            operation.apply(canvas, resample);
        }
    }

    /// Draws the operations for one image, in their order.
    pub fn draw(&self, random: &mut Counter) -> Vec<ImageOperation> {
        // torch draws the numbers in f32.
        let uniform =
            |random: &mut Counter, low: f64, high: f64| f64::from(random.uniform(low, high) as f32);
        let mut factor = |range: f64, operation: fn(f64) -> ImageOperation| {
            (range > 0.0).then(|| operation(uniform(random, (1.0 - range).max(0.0), 1.0 + range)))
        };
        let mut drawn = [
            factor(self.brightness, ImageOperation::Brightness),
            factor(self.contrast, ImageOperation::Contrast),
            factor(self.saturation, ImageOperation::Color),
            (self.hue > 0.0).then(|| ImageOperation::Hue(uniform(random, -self.hue, self.hue))),
        ];
        random.shuffle(&mut drawn);
        drawn.into_iter().flatten().collect()
    }
}
