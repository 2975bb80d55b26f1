//! How far a run is: its position, the sums of its epoch, its best evaluation. Plain data that
//! checkpoints hold and observers see.

use serde::{Deserialize, Serialize};

/// The position of a run: the next batch to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch in the epoch, from 0.
    pub batch: usize,
    /// Optimizer steps done.
    pub step: u64,
}

/// Sums over the finished part of an epoch. Checkpoints hold them, so that a resumed epoch reports
/// as a whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStats {
    /// Sum of the losses, weighted by images.
    pub loss: f64,
    /// Images seen.
    pub seen: u64,
    /// Images skipped as unreadable.
    pub skipped: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Seconds of these spent waiting for data.
    pub waited: f64,
    /// Optimizer steps skipped because a loss or gradient was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
}

impl EpochStats {
    /// Mean loss per image; none where no step has been made.
    pub fn mean_loss(&self) -> Option<f64> {
        (self.seen > 0).then(|| self.loss / self.seen as f64)
    }

    /// Images per second.
    pub fn img_per_s(&self) -> f64 {
        self.seen as f64 / self.seconds.max(1e-9)
    }

    /// Share of the time spent waiting for data, percent.
    pub fn wait_percent(&self) -> f64 {
        100.0 * self.waited / self.seconds.max(1e-9)
    }
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its epoch, from 0.
    pub epoch: u64,
    /// Its top-1 accuracy, 0 to 1.
    pub top1: f64,
    /// The score that epochs are compared by, larger is better. Older checkpoints have none; their
    /// score is `top1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its loss, which decides between equal scores. Older checkpoints have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Whether the exponential average of the weights was evaluated.
    #[serde(default)]
    pub ema: bool,
    /// Whether the equal average of the weights was evaluated, at the end of a run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swa: bool,
}

impl Best {
    /// The score that epochs are compared by, larger is better.
    pub fn score(&self) -> f64 {
        self.score.unwrap_or(self.top1)
    }
}
