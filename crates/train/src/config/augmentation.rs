//! What a run's plan says of augmentation: whether it can be, and the [`Augment`] it comes to.

use crate::config::plan::Plan;
use crate::error::Error;
use transforms::augment::erase::Erase;
use transforms::augment::jitter::Jitter;
use transforms::augment::{Augment, ProgressiveResize};
use transforms::mixup::Mix;

impl Plan {
    /// Refuses what augmentation cannot do.
    ///
    /// # Errors
    /// The first value out of its range, by flag name, with the range.
    pub(crate) fn check_augmentation(&self) -> Result<(), Error> {
        let between = |flag: &str, value: f64, low: f64, high: f64| {
            if value.is_finite() && (low..=high).contains(&value) {
                return Ok(());
            }
            Err(Error::usage(format!("{flag}: `{value}`: expected {low} to {high}")))
        };
        for (flag, share) in [
            ("--vflip", self.vflip),
            ("--reprob", self.reprob),
            ("--mixup-prob", self.mixup_prob),
            ("--mixup-switch-prob", self.mixup_switch_prob),
        ] {
            between(flag, share, 0.0, 1.0)?;
        }
        between("--recount", self.recount as f64, 1.0, 64.0)?;
        between("--aug-repeats", self.aug_repeats as f64, 1.0, 64.0)?;
        for (flag, alpha) in [("--mixup", self.mixup), ("--cutmix", self.cutmix)] {
            if alpha != 0.0 {
                // Below it every lambda is 0 or 1.
                between(flag, alpha, 0.01, 100.0)?;
            }
        }
        if let Some([least, most]) = self.cutmix_minmax {
            between("--cutmix-minmax MAX", most, 0.0, 1.0)?;
            between("--cutmix-minmax MIN", least, 0.0, most)?;
        }
        if let Some(ranges) = &self.color_jitter {
            if ![1, 3, 4].contains(&ranges.len()) {
                let count = ranges.len();
                return Err(Error::usage(format!(
                    "--color-jitter: expected 1, 3 or 4 numbers with commas, got {count}"
                )));
            }
            for (place, range) in ranges.iter().enumerate() {
                between("--color-jitter", *range, 0.0, if place == 3 { 0.5 } else { 10.0 })?;
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
                    "--no-aug: it leaves out what {flag} asks for; give one of the two"
                )));
            }
        }
        if self.img_size_start.is_none() && self.progressive_epochs.is_some() {
            return Err(Error::usage(
                "--progressive-epochs: there is no size to begin with; give --img-size-start",
            ));
        }
        if let Some(epochs) = self.progressive_epochs {
            between("--progressive-epochs", epochs as f64, 1.0, 1e9)?;
        }
        Ok(())
    }

    /// What a user may not expect, in words.
    pub fn notes(&self) -> Vec<String> {
        match (&self.aa, &self.color_jitter, self.jitter()) {
            (Some(policy), Some(_), None) => vec![format!(
                "--color-jitter is left out beside --aa {policy}, as in timm; --force-color-jitter \
                 does both"
            )],
            _ => Vec::new(),
        }
    }

    fn jitter(&self) -> Option<Jitter> {
        let ranges = self.color_jitter.as_ref()?;
        let alone = self.aa.is_none_or(|policy| policy.keeps_jitter());
        (alone || self.force_color_jitter).then(|| Jitter {
            brightness: ranges[0],
            contrast: ranges[ranges.len().min(2) - 1],
            saturation: ranges[ranges.len().min(3) - 1],
            hue: ranges.get(3).copied().unwrap_or(0.0),
        })
    }

    /// The random part of training.
    pub fn augment(&self) -> Augment {
        let erase = Erase { probability: self.reprob, fill: self.remode, count: self.recount };
        let mix = Mix {
            mixup: self.mixup,
            cutmix: self.cutmix,
            minmax: self.cutmix_minmax,
            probability: self.mixup_prob,
            switch: self.mixup_switch_prob,
            off_epoch: self.mixup_off_epoch,
        };
        let mixes = mix.mixup > 0.0 || mix.cutmix > 0.0 || mix.minmax.is_some();
        Augment {
            scale: self.scale,
            ratio: self.ratio,
            hflip: self.hflip,
            vflip: self.vflip,
            filter: self.train_interpolation,
            policy: self.aa,
            jitter: self.jitter(),
            erase: (self.reprob > 0.0).then_some(erase),
            mix: mixes.then_some(mix),
            repeats: self.aug_repeats,
            growth: self
                .img_size_start
                .zip(self.progressive_epochs)
                .map(|(start, epochs)| ProgressiveResize { start, epochs }),
            no_augmentation: self.no_aug,
            decode: self.decode,
        }
    }
}
