//! Options of the training itself: how long, on which batches, with which loss, and when it ends.

use std::path::PathBuf;

use crate::config::theme::{finite, theme};
use crate::error::Error;
use crate::learner::evaluate::EvalMetric;
use crate::learner::nan_guard::NanAction;

theme! {
    /// Length, batches, loss and evaluation of the training.
    "Training": TrainingOptions -> TrainingPlan (given);

    /// Training recipe; `kindling recipes` lists them
    #[arg(long, value_name = "NAME")]
    #[brief]
    recipe: String => Option<String>;

    /// Passes over the training images
    #[arg(long, value_name = "N")]
    #[brief]
    #[resumable]
    epochs: u64 = 100, shown "by the data; 100 with --recipe", in 1..=1_000_000_000;

    /// Images per batch
    #[arg(short, long, value_name = "N")]
    #[brief]
    batch_size: usize = 32, shown "by the data; 32 with --recipe", in 1..=1_048_576;

    /// Images per batch of the evaluation
    #[arg(long, visible_alias = "validation-batch-size")]
    #[resumable]
    val_batch_size: usize = given.batch_size.unwrap_or(64),
        shown "--batch-size, otherwise 64", in 1..=1_048_576;

    /// Batches whose gradients are averaged into one optimizer step
    #[arg(long)]
    grad_accum_steps: usize = 1, in 1..=1_048_576;

    /// Batch norm over the images of all ranks; by default each rank has the statistics of its own
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    sync_bn: bool = false;

    /// Seed of initial weights, order, augmentation and dropout
    #[arg(long, value_name = "N")]
    seed: u64 = 42;

    /// Binary cross-entropy on each class instead of softmax cross-entropy
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    bce_loss: bool = false;

    /// With --bce-loss: targets above this value become 1, others 0
    #[arg(long, value_parser = finite)]
    bce_target_thresh: f64 => Option<f64>, shown "none, targets stay as they are", in 0.0..=1.0;

    /// With --bce-loss: sum over the classes instead of the mean
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    bce_sum: bool = false;

    /// Gamma of the focal loss; 0 disables it
    #[arg(long, value_parser = finite)]
    focal_gamma: f64 = 0.0, in 0.0..=10.0;

    /// Class weights of the loss: `balanced`, `none`, or a file of `class,weight` lines
    #[arg(long, value_name = "balanced|none|FILE")]
    class_weights: String => Option<String>,
        as |given: Option<String>| given.filter(|word| word != "none");

    /// Teacher checkpoint for knowledge distillation
    #[arg(long, value_name = "CKPT")]
    teacher: PathBuf => Option<PathBuf>;

    /// Weight of the distillation loss; the loss on the labels has the rest
    #[arg(long, value_parser = finite)]
    distill_alpha: f64 = 0.5, in 0.0..=1.0;

    /// Temperature of both softmaxes of the distillation loss
    #[arg(long, value_parser = finite)]
    distill_temperature: f64 = 4.0, in 0.1..=100.0;

    /// Epochs between two evaluations; the last epoch is always evaluated
    #[arg(long)]
    #[resumable]
    val_interval: u64 = 1, in 1..;

    /// Metric that decides which epoch is best
    #[arg(long, value_enum)]
    eval_metric: EvalMetric = EvalMetric::Top1;

    /// End after this many epochs without improvement; 0 disables it
    #[arg(long)]
    #[resumable]
    patience: u64 = 0;

    /// Save and end with exit code 4 after this many hours; 0 disables it
    #[arg(long, visible_alias = "time", value_parser = finite)]
    #[resumable]
    max_hours: f64 = 0.0, in 0.0..=1e5;

    /// Response to a step whose loss or gradient is not finite
    #[arg(long, value_enum)]
    nan_action: NanAction = NanAction::Skip;

    /// Non-finite steps in a row before the run is rolled back to its last checkpoint
    #[arg(long)]
    nan_patience: u64 = 10, in 1..;
}

impl TrainingPlan {
    /// Refuses options that have no effect.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        if !self.bce_loss && (self.bce_sum || self.bce_target_thresh.is_some()) {
            return Err(without("--bce-sum and --bce-target-thresh", "--bce-loss"));
        }
        Ok(())
    }
}

/// An option that needs another one.
pub(in crate::config) fn without(flag: &str, other: &str) -> Error {
    Error::usage(format!("{flag}: has no effect without {other}; add it"))
}
