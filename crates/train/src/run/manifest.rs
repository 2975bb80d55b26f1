//! The manifest of a checkpoint: its fields, and the refusal of values that no run can have
//! written.

use deploy::container::FORMAT;
use deploy::manifest::{check_crop, named};
use nn::config::NetworkConfig;
use serde::{Deserialize, Serialize};
use transforms::preprocess::Preprocess;

use crate::config::plan::Plan;
use crate::datasets::image_keys::TrainedImages;
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::run::progress::{Best, EpochStats, Position};

/// Fingerprint of the training set; a run can only be resumed on the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetFingerprint {
    /// Number of images.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// CRC-32 over the relative paths and labels in their order.
    pub crc32: u32,
}

/// Everything in a checkpoint but the tensors. `deploy::manifest` reads the fields of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// Version of the program that wrote it.
    pub kindling: String,
    /// Architecture, width, classes, dropout, constants of batch norm.
    pub network: NetworkConfig,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How images become tensors.
    pub preprocess: Preprocess,
    /// The whole resolved configuration of the run.
    pub plan: Plan,
    /// The next batch.
    pub position: Position,
    /// Sums of the running epoch.
    #[serde(rename = "tally")]
    pub epoch_stats: EpochStats,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Updates that the optimizer made; `position.step` where the field is absent.
    #[serde(default)]
    pub optimizer_steps: Option<u64>,
    /// Updates of the exponential average, whose tensors are `ema.*`.
    #[serde(default)]
    pub ema_updates: Option<u64>,
    /// Epochs in the equal average, whose tensors are `swa.*`.
    #[serde(default)]
    pub swa_epochs: Option<u64>,
    /// Whether the exponential average was better than the trained weights at the last evaluation.
    #[serde(default)]
    pub prefer_ema: bool,
    /// State of `--sched plateau`.
    #[serde(default)]
    pub plateau: Plateau,
    /// State of the guard against non-finite losses.
    #[serde(default, rename = "strain")]
    pub nan_guard: NanGuard,
    /// Largest micro-batch, images, where the memory was too small for a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// The training set.
    pub data: DatasetFingerprint,
    /// A sample of the images that the network was trained on, by their content; older checkpoints
    /// have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trained_images: Option<TrainedImages>,
}

/// The largest count in a manifest. Sums of several counts of this size do not overflow.
const MOST: u64 = 1_000_000_000_000_000;

impl Manifest {
    /// The layout version written by this program.
    pub fn format() -> u32 {
        FORMAT
    }

    /// Reads a manifest. A manifest with a right checksum can still be wrong: it may have been
    /// edited, or come from another program.
    ///
    /// # Errors
    /// The field and its fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| named(text, &error))?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Refuses values that no run can have written.
    fn validate(&self) -> Result<(), String> {
        self.network.validate()?;
        self.preprocess.validate()?;
        check_crop(&self.network, &self.preprocess)?;
        let (names, logits) = (self.classes.len(), self.network.num_classes);
        if names != logits {
            return Err(format!("{names} class names for {logits} logits"));
        }
        let Self { position, epoch_stats: stats, plateau, nan_guard, .. } = self;
        let counts = [
            ("position.epoch", position.epoch),
            ("position.batch", position.batch as u64),
            ("position.step", position.step),
            ("tally.seen", stats.seen),
            ("tally.skipped", stats.skipped),
            ("tally.skipped_steps", stats.skipped_steps),
            ("optimizer_steps", self.optimizer_steps.unwrap_or(0)),
            ("ema_updates", self.ema_updates.unwrap_or(0)),
            ("swa_epochs", self.swa_epochs.unwrap_or(0)),
            ("plateau.waited", plateau.waited),
            ("plateau.cooling", plateau.cooling),
            ("strain.bad", nan_guard.non_finite_steps),
            ("strain.good", nan_guard.finite_steps),
            ("strain.rollbacks", nan_guard.rollbacks),
        ];
        if let Some((name, count)) = counts.iter().find(|(_, count)| *count > MOST) {
            return Err(format!("{name}: {count}: expected at most {MOST}"));
        }
        if self.micro_batch == Some(0) {
            return Err("micro_batch: 0: expected at least 1".to_owned());
        }
        let best_epoch = self.best.map_or(0, |best| best.epoch);
        if best_epoch > position.epoch {
            let epoch = position.epoch;
            return Err(format!("best.epoch: {best_epoch}: the run is only at epoch {epoch}"));
        }
        let shares = [
            ("best.top1", self.best.map(|best| best.top1)),
            ("plateau.factor", Some(plateau.factor)),
            ("strain.factor", Some(nan_guard.factor)),
        ];
        for (name, share) in shares {
            if let Some(share) = share.filter(|share| !(0.0..=1.0).contains(share)) {
                return Err(format!("{name}: {share}: expected 0 to 1"));
            }
        }
        if let Some(own) = nan_guard.loss_scale
            && !(1.0..=16_777_216.0).contains(&own.scale)
        {
            return Err(format!("strain.loss_scale: {}: expected 1 to 2^24", own.scale));
        }
        let times = [("tally.seconds", stats.seconds), ("tally.waited", stats.waited)];
        match times.iter().find(|(_, time)| !(0.0..=MOST as f64).contains(time)) {
            Some((name, time)) => Err(format!("{name}: {time}: expected 0 to {MOST}")),
            None => Ok(()),
        }
    }
}
