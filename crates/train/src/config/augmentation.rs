//! Options of the random part of the training images: crop, flip, colour, erasing, growing.

use crate::config::theme::{finite, theme};
use crate::error::Error;
use crate::suggest::did_you_mean;
use transforms::augment::TrainFilter;
use transforms::augment::erase::{Erase, EraseFill};
use transforms::augment::grammar::POLICIES;
use transforms::augment::jitter::Jitter;
use transforms::augment::policy::Policy;

theme! {
    /// Augmentation of single images.
    "Augmentation": AugmentationOptions -> AugmentationPlan (given, epochs: u64);

    /// No augmentation: resize the short edge to --img-size and crop the centre
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    no_aug: bool = false;

    /// Area of the random resized crop as shares of the image; `1 1` keeps the whole image
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    scale: Vec<f64> => [f64; 2] = [0.08, 1.0],
        shown "by the data; 0.08 1 with --recipe", in 0.001..=1.0;

    /// Aspect ratio of the random resized crop
    #[arg(long, num_args = 2, value_names = ["MIN", "MAX"])]
    ratio: Vec<f64> => [f64; 2] = [3.0 / 4.0, 4.0 / 3.0], shown "3/4 4/3", in 0.01..=100.0;

    /// Probability of a horizontal flip
    #[arg(long, value_parser = finite)]
    hflip: f64 = 0.5, in 0.0..=1.0;

    /// Probability of a vertical flip
    #[arg(long, value_parser = finite)]
    vflip: f64 = 0.0, in 0.0..=1.0;

    /// Resampling filter of the random crop and of --aa
    #[arg(long, value_enum)]
    train_interpolation: TrainFilter => Option<TrainFilter>, shown "--interpolation";

    /// Automatic augmentation in timm's words (rand-m9-mstd0.5-inc1, original, v0, augmix-m3) or
    /// torchvision's (ra, ta_wide, imagenet, augmix)
    #[arg(long, visible_alias = "auto-augment", value_name = "POLICY", value_parser = policy)]
    aa: Policy => Option<Policy>;

    /// Colour jitter: one strength, or brightness,contrast,saturation, or these and the hue;
    /// disabled by --aa, as in timm
    #[arg(long, value_delimiter = ',', value_parser = finite)]
    color_jitter: Vec<f64> => Option<Vec<f64>>, shown "none";

    /// Colour jitter beside --aa too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    force_color_jitter: bool = false;

    /// Probability of random erasing
    #[arg(long, visible_alias = "random-erase", value_parser = finite)]
    reprob: f64 = 0.0, in 0.0..=1.0;

    /// Fill of erased rectangles
    #[arg(long, value_enum)]
    remode: EraseFill = EraseFill::Pixel;

    /// Largest number of erased rectangles
    #[arg(long)]
    recount: usize = 1, in 1..=64;

    /// Repetitions of an image in a row, each augmented anew; the epoch keeps its length
    #[arg(long)]
    // timm's 0 is once, too.
    aug_repeats: usize = 1, as |repeats: usize| repeats.max(1), in 1..=64;

    /// Image size at the beginning of the training, which grows to --img-size
    #[arg(long)]
    img_size_start: usize => Option<usize>, shown "--img-size throughout";

    /// Epoch from which images have the full size
    #[arg(long)]
    progressive_epochs: u64 => Option<u64> = img_size_start.map(|_| epochs.div_ceil(2)),
        shown "half of --epochs", in 1..=1_000_000_000, older None;
}

/// The parser of `--aa`, which suggests the nearest policy.
fn policy(text: &str) -> Result<Policy, String> {
    text.parse().map_err(|why| {
        let name = text.split('-').next().unwrap_or_default();
        match POLICIES.contains(&name) {
            true => why,
            false => format!("{why}{}", did_you_mean(name, &POLICIES)),
        }
    })
}

impl AugmentationPlan {
    /// Refuses options that exclude each other or have no effect.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        if let Some(ranges) = &self.color_jitter {
            if ![1, 3, 4].contains(&ranges.len()) {
                let count = ranges.len();
                return Err(Error::usage(format!(
                    "--color-jitter: expected 1, 3 or 4 numbers with commas, got {count}"
                )));
            }
            for (index, range) in ranges.iter().enumerate() {
                let limit = if index == 3 { 0.5 } else { 10.0 };
                if !(0.0..=limit).contains(range) {
                    return Err(Error::usage(format!(
                        "--color-jitter: `{range}`: expected 0 to {limit}"
                    )));
                }
            }
        }
        if self.no_aug {
            let given = [
                ("--aa", self.aa.is_some()),
                ("--color-jitter", self.color_jitter.is_some()),
                ("--reprob", self.reprob > 0.0),
                ("--vflip", self.vflip > 0.0),
            ];
            if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
                return Err(Error::usage(format!(
                    "--no-aug: it omits what {flag} asks for; give one of the two"
                )));
            }
        }
        if self.img_size_start.is_none() && self.progressive_epochs.is_some() {
            return Err(Error::usage(
                "--progressive-epochs: there is no size to begin with; give --img-size-start",
            ));
        }
        Ok(())
    }

    /// What a user may not expect, in words.
    pub(in crate::config) fn notes(&self) -> Vec<String> {
        match (&self.aa, &self.color_jitter, self.jitter()) {
            (Some(policy), Some(_), None) => vec![format!(
                "--color-jitter is disabled by --aa {policy}, as in timm; --force-color-jitter \
                 enables both"
            )],
            _ => Vec::new(),
        }
    }

    /// Colour jitter, if it is on.
    pub(in crate::config) fn jitter(&self) -> Option<Jitter> {
        let ranges = self.color_jitter.as_ref()?;
        let alone = self.aa.is_none_or(|policy| policy.keeps_jitter());
        (alone || self.force_color_jitter).then(|| Jitter {
            brightness: ranges[0],
            contrast: ranges[ranges.len().min(2) - 1],
            saturation: ranges[ranges.len().min(3) - 1],
            hue: ranges.get(3).copied().unwrap_or(0.0),
        })
    }

    /// Random erasing, if it is on.
    pub(in crate::config) fn erase(&self) -> Option<Erase> {
        let erase = Erase { probability: self.reprob, fill: self.remode, count: self.recount };
        (self.reprob > 0.0).then_some(erase)
    }
}
