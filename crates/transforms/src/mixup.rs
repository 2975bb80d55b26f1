//! Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899) in timm's batch
//! mode: one lambda for a batch; image i is mixed with image n - 1 - i.
//!
//! The draw is a function of (seed, epoch, batch number). The loss mixes the labels accordingly.

use serde::{Deserialize, Serialize};

use crate::random::Counter;

/// The parameters of mixup and CutMix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Alpha of mixup, whose lambda is Beta(alpha, alpha); 0 switches mixup off.
    pub mixup: f64,
    /// Alpha of CutMix, whose lambda is Beta(alpha, alpha); 0 switches CutMix off.
    pub cutmix: f64,
    /// Smallest and largest edge of the box as shares of the image's, instead of CutMix's lambda.
    pub minmax: Option<[f64; 2]>,
    /// Probability that a batch is mixed.
    pub probability: f64,
    /// Probability of CutMix where both are on.
    pub switch: f64,
    /// The first epoch without mixing; 0 means that mixing never ends.
    pub off_epoch: u64,
}

impl Default for Mix {
    /// No mixing; timm's probabilities.
    fn default() -> Self {
        Self { mixup: 0.0, cutmix: 0.0, minmax: None, probability: 1.0, switch: 0.5, off_epoch: 0 }
    }
}

/// The draw for a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum DrawnMix {
    /// Each image becomes `lambda` of itself plus the rest of its partner.
    Mixup(f64),
    /// Each image gets a box of its partner: top, bottom, left, right; bottom and right are
    /// exclusive.
    CutMix([usize; 4]),
}

impl Mix {
    /// Draws how to mix a batch of images of `size` (height, width) in an epoch; none means not at
    /// all.
    #[must_use]
    pub fn draw(&self, epoch: u64, size: [usize; 2], random: &mut Counter) -> Option<DrawnMix> {
        let over = self.off_epoch > 0 && epoch >= self.off_epoch;
        if over || random.unit() >= self.probability {
            return None;
        }
        let cutmix = self.cutmix > 0.0 || self.minmax.is_some();
        let by_box = match (self.mixup > 0.0, cutmix) {
            (true, true) => random.unit() < self.switch,
            (false, true) => true,
            (true, false) => false,
            (false, false) => return None,
        };
        if !by_box {
            return Some(DrawnMix::Mixup(random.beta(self.mixup, self.mixup)));
        }
        Some(DrawnMix::CutMix(match self.minmax {
            Some(range) => box_between(range, size, random),
            None => {
                let lambda = random.beta(self.cutmix, self.cutmix);
                box_about(lambda, size.map(|edge| random.range(edge)), size)
            }
        }))
    }
}

/// A box of `1 - lambda` of the area about a centre (row, column), clipped at the border: top,
/// bottom, left, right.
#[must_use]
pub fn box_about(lambda: f64, centre: [usize; 2], size: [usize; 2]) -> [usize; 4] {
    let edge = (1.0 - lambda).sqrt();
    let span = |size: usize, centre: usize| {
        let cut = (size as f64 * edge) as usize;
        [centre.saturating_sub(cut / 2), (centre + cut.div_ceil(2)).min(size)]
    };
    let [[top, bottom], [left, right]] = [span(size[0], centre[0]), span(size[1], centre[1])];
    [top, bottom, left, right]
}

/// Draws a box whose edges are uniform between two shares of the image's, the largest excluded.
fn box_between(
    [min, max]: [f64; 2],
    [height, width]: [usize; 2],
    random: &mut Counter,
) -> [usize; 4] {
    let mut span = |size: usize| {
        let low = (size as f64 * min) as usize;
        let high = (size as f64 * max) as usize;
        let cut = low + random.range(high.saturating_sub(low).max(1));
        let first = random.range(size - cut + 1);
        [first, first + cut]
    };
    let [[top, bottom], [left, right]] = [span(height), span(width)];
    [top, bottom, left, right]
}

impl DrawnMix {
    /// Mixes `[n, channels, height, width]` numbers with the images in reverse order, and returns
    /// lambda: the share of each image that remains its own.
    ///
    /// # Panics
    /// When `images` is not of this shape, or the box is not inside.
    pub fn apply(self, images: &mut [f32], shape: [usize; 4]) -> f32 {
        let [n, channels, height, width] = shape;
        let size = channels * height * width;
        assert_eq!(images.len(), n * size, "numbers of {shape:?}");
        let (first, rest) = images.split_at_mut(n / 2 * size);
        // The image in the middle of an odd batch is its own partner.
        let second = &mut rest[n % 2 * size..];
        let pairs = first.chunks_exact_mut(size).zip(second.chunks_exact_mut(size).rev());
        match self {
            DrawnMix::Mixup(lambda) => {
                let (own, other) = (lambda as f32, (1.0 - lambda) as f32);
                for (a, b) in pairs.flat_map(|(a, b)| a.iter_mut().zip(b)) {
                    (*a, *b) = (*a * own + *b * other, *b * own + *a * other);
                }
                own
            }
            DrawnMix::CutMix([top, bottom, left, right]) => {
                for (a, b) in pairs {
                    let planes = a.chunks_exact_mut(height * width);
                    for (a, b) in planes.zip(b.chunks_exact_mut(height * width)) {
                        let rows = a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width));
                        for (a, b) in rows.skip(top).take(bottom - top) {
                            a[left..right].swap_with_slice(&mut b[left..right]);
                        }
                    }
                }
                let area = (bottom - top) * (right - left);
                (1.0 - area as f64 / (height * width) as f64) as f32
            }
        }
    }
}
