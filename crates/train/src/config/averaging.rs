//! Options of averages of the weights: exponential (EMA) and of equal parts (SWA).

use crate::config::theme::{finite, theme};
use crate::config::training::without;
use crate::error::Error;
use crate::optimizers::lr_schedule::{AnnealStrategy, SwaLr};
use crate::optimizers::weight_average::EmaWarmup;

theme! {
    /// Averages of the weights, and batch-norm statistics estimated anew.
    "Averaging": AveragingOptions -> AveragingPlan (given, last_epoch: u64);

    /// Keep an exponential moving average (EMA) of the weights, and evaluate it too
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    model_ema: bool = false;

    /// Decay of the EMA
    #[arg(long, value_parser = finite)]
    model_ema_decay: f64 = 0.9998, in 0.0..=0.999_999_9;

    /// Warm-up of the decay of the EMA; without a value timm's
    #[arg(long, num_args = 0..=1, default_missing_value = "timm", value_enum)]
    model_ema_warmup: EmaWarmup = EmaWarmup::Tensorflow;

    /// First epoch, from 0, of stochastic weight averaging (SWA, arXiv:1803.05407)
    #[arg(long)]
    swa_start: u64 => Option<u64>, in 0..=last_epoch;

    /// Learning rate of SWA
    #[arg(long, value_parser = finite)]
    swa_lr: f64 => Option<f64>, shown "--sched's", in 0.0..=100.0;

    /// Epochs to anneal from the current rate to --swa-lr; torch's SWALR has 10
    #[arg(long)]
    swa_anneal_epochs: u64 = 0, in 0..=1_000_000;

    /// Annealing curve to --swa-lr
    #[arg(long, value_enum)]
    swa_anneal_strategy: AnnealStrategy = AnnealStrategy::Cos;

    /// Batches to estimate batch-norm statistics on, for SWA and at the end of the run
    #[arg(long)]
    bn_reestimate: usize = 0, shown "0: an epoch for SWA, none at the end of the run";
}

impl AveragingPlan {
    /// Refuses options that have no effect.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        if self.swa_anneal_epochs > 0 && self.swa_lr.is_none() {
            return Err(without("--swa-anneal-epochs", "--swa-lr"));
        }
        if self.swa_lr.is_some() && self.swa_start.is_none() {
            return Err(without("--swa-lr", "--swa-start"));
        }
        Ok(())
    }

    /// The part of the schedule with a rate of its own.
    pub(in crate::config) fn swa(&self, steps_per_epoch: u64) -> Option<SwaLr> {
        self.swa_start.zip(self.swa_lr).map(|(start, lr)| SwaLr {
            from: start * steps_per_epoch,
            lr,
            epoch_steps: steps_per_epoch,
            epochs: self.swa_anneal_epochs,
            anneal: self.swa_anneal_strategy,
        })
    }
}
