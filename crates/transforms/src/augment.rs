//! The random part of the training path: its parameters ([`Augment`]), and the operations on bytes
//! and numbers in the files below. No file here decodes or resizes.
//!
//! `train_transform` carries the steps out in timm's and torchvision's order: random resized crop,
//! mirror image, an automatic policy or colour jitter (or both) on bytes, normalisation, random
//! erasing on numbers. Whole batches are mixed afterwards (`mixup`). Every draw is a function of
//! (seed, epoch, index, repeat), see `random`.

pub mod affine;
pub mod augmix;
pub mod blur;
pub mod canvas;
pub mod colour;
pub mod erase;
pub mod grammar;
pub mod jitter;
pub mod magnitude;
pub mod operation;
pub mod policy;
pub mod timm;
pub mod torchvision;

use serde::{Deserialize, Serialize};

use crate::augment::canvas::Canvas;
use crate::augment::erase::Erase;
use crate::augment::jitter::Jitter;
use crate::augment::magnitude::Filter;
use crate::augment::policy::Policy;
use crate::decode::Decoding;
use crate::mixup::Mix;
use crate::random::Counter;
use crate::resize::Interpolation;

/// The parameters of the random part of training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Smallest and largest area of the crop, as a share of the image's.
    pub scale: [f64; 2],
    /// Smallest and largest width divided by height of the crop.
    pub ratio: [f64; 2],
    /// Probability of mirroring left to right.
    pub hflip: f64,
    /// Probability of mirroring top to bottom.
    #[serde(default)]
    pub vflip: f64,
    /// Filter of the crop and of the policy's affine operations; none means the filter of
    /// evaluation.
    #[serde(default)]
    pub filter: Option<TrainFilter>,
    /// Automatic augmentation.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Colour jitter.
    #[serde(default)]
    pub jitter: Option<Jitter>,
    /// Random erasing.
    #[serde(default)]
    pub erase: Option<Erase>,
    /// Mixup and CutMix.
    #[serde(default)]
    pub mix: Option<Mix>,
    /// How often an image is repeated in a row, each time with other draws.
    #[serde(default = "once")]
    pub repeats: usize,
    /// Smaller images in the first epochs.
    #[serde(default)]
    pub growth: Option<ProgressiveResize>,
    /// Replaces all of it by a resize of the short edge to the size of the crop, and a centre crop.
    #[serde(default)]
    pub no_augmentation: bool,
    /// Whether large JPEGs may be decoded smaller; exact in older files, which lack the field.
    #[serde(default)]
    pub decode: Decoding,
}

fn once() -> usize {
    1
}

impl Default for Augment {
    /// The usual values of ImageNet training (GoogLeNet, section 6).
    fn default() -> Self {
        Self {
            scale: [0.08, 1.0],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            hflip: 0.5,
            vflip: 0.0,
            filter: None,
            policy: None,
            jitter: None,
            erase: None,
            mix: None,
            repeats: once(),
            growth: None,
            no_augmentation: false,
            decode: Decoding::Exact,
        }
    }
}

/// The filter of the training path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum TrainFilter {
    /// Bilinear or bicubic, drawn for every crop and every affine operation.
    Random,
    /// Triangle.
    Bilinear,
    /// Cubic.
    Bicubic,
}

impl Augment {
    /// The filter of the training path, given the filter of evaluation.
    #[must_use]
    pub fn filter(&self, evaluation: Interpolation) -> Filter {
        match self.filter {
            None => Filter::Fixed(evaluation),
            Some(TrainFilter::Random) => Filter::Random,
            Some(TrainFilter::Bilinear) => Filter::Fixed(Interpolation::Bilinear),
            Some(TrainFilter::Bicubic) => Filter::Fixed(Interpolation::Bicubic),
        }
    }

    /// Whether [`Augment::bytes`] may change anything.
    #[must_use]
    pub fn changes_bytes(&self) -> bool {
        self.vflip > 0.0 || self.policy.is_some() || self.jitter.is_some()
    }

    /// Augments the bytes of a crop, `[height, width, 3]`, which was mirrored left to right before.
    ///
    /// `mean` is the mean colour: timm's policies fill the area that an image was moved away from
    /// with it.
    #[must_use]
    pub fn bytes(
        &self,
        pixels: Vec<u8>,
        [height, width]: [usize; 2],
        filter: Filter,
        mean: [f32; 3],
        random: &mut Counter,
    ) -> Vec<u8> {
        if !self.changes_bytes() {
            return pixels;
        }
        let mut canvas = Canvas::new(pixels, height, width);
        if self.vflip > 0.0 && random.unit() < self.vflip {
            canvas.flip_vertically();
        }
        if let Some(policy) = &self.policy {
            // timm rounds with Python's `round`.
            let mean = mean.map(|mean| (255.0 * f64::from(mean)).round_ties_even() as u8);
            policy.apply(&mut canvas, filter, mean, random);
        }
        if let Some(jitter) = &self.jitter {
            jitter.apply(&mut canvas, random);
        }
        canvas.into_pixels()
    }
}

/// Progressive resizing (Tan and Le, arXiv:2104.00298, section 4): smaller crops in the first
/// epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgressiveResize {
    /// Edge of the crop in epoch 0, pixels.
    pub start: usize,
    /// The first epoch of the full size.
    pub epochs: u64,
}

impl ProgressiveResize {
    /// Edge of the crop in an epoch: linear from `start` to `full`, rounded down to whole steps of
    /// 32 pixels (8 where the full size is below 128).
    #[must_use]
    pub fn size(&self, epoch: u64, full: usize) -> usize {
        if epoch >= self.epochs || self.start >= full {
            return full;
        }
        let step = if full < 128 { 8 } else { 32 };
        let range = (full - self.start) as u128;
        let grown = (range * u128::from(epoch) / u128::from(self.epochs)) as usize;
        self.start + grown / step * step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: steps not rounded down, the last epoch of growth at full size, growth
    /// beyond the end.
    #[test]
    fn the_size_grows_in_steps_and_is_full_in_time() {
        let sizes = |start, epochs, full| -> Vec<usize> {
            (0..8).map(|epoch| ProgressiveResize { start, epochs }.size(epoch, full)).collect()
        };
        assert_eq!(sizes(128, 6, 224), [128, 128, 160, 160, 192, 192, 224, 224]);
        assert_eq!(sizes(32, 4, 48), [32, 32, 40, 40, 48, 48, 48, 48]);
        assert_eq!(sizes(100, 3, 224), [100, 132, 164, 224, 224, 224, 224, 224]);
        assert_eq!(sizes(224, 5, 224), [224; 8]);
        assert_eq!(
            ProgressiveResize { start: 64, epochs: u64::MAX }.size(u64::MAX - 1, 4096),
            4064
        );
    }

    #[test]
    fn an_older_file_is_read_and_a_wrong_key_is_refused() {
        let old = r#"{"scale":[0.3,1.0],"ratio":[0.75,1.25],"hflip":0.5}"#;
        let read: Augment = serde_json::from_str(old).unwrap();
        assert_eq!(read, Augment { scale: [0.3, 1.0], ratio: [0.75, 1.25], ..Augment::default() });
        assert!(serde_json::from_str::<Augment>(&old.replace("hflip", "hflipp")).is_err());
        let text = serde_json::to_string(&Augment {
            policy: Some("rand-m9-mstd0.5-inc1".parse().unwrap()),
            ..Augment::default()
        });
        assert!(text.unwrap().contains(r#""policy":"rand-m9-n2-p0.5-mstd0.5-inc1""#));
    }
}
