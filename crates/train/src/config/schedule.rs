//! Options of the learning-rate schedule.

use crate::config::range::each;
use crate::config::theme::{finite, theme};
use crate::config::training::without;
use crate::error::Error;
use crate::optimizers::lr_schedule::{
    LrNoise, LrSchedulerKind, ONE_CYCLE_FIRST, ONE_CYCLE_LAST, ONE_CYCLE_RISE, Schedule,
};

theme! {
    /// The course of the learning rate.
    "Schedule": ScheduleOptions -> SchedulePlan (given, epochs: u64, lr: f64);

    /// Shape of the decay after the warm-up
    #[arg(long, value_enum, visible_alias = "lr-scheduler")]
    sched: LrSchedulerKind = LrSchedulerKind::Cosine;

    /// Epochs of linear warm-up
    #[arg(long, visible_alias = "lr-warmup-epochs", value_parser = finite)]
    warmup_epochs: f64 = match sched {
        LrSchedulerKind::OneCycle => ONE_CYCLE_RISE * epochs as f64,
        // A warm-up that is the whole of a short run would leave nothing to learn with.
        _ => (0.2 * epochs as f64).min(1.0),
    }, shown "1, at most 0.2 of --epochs; onecycle 0.3 of it", in 0.0..=1e6;

    /// Learning rate of the first step
    #[arg(long, value_parser = finite)]
    warmup_lr: f64 = match sched {
        LrSchedulerKind::OneCycle => lr * ONE_CYCLE_FIRST,
        _ => 1e-5,
    }, shown "1e-5, onecycle --lr / 25", in 0.0..=100.0;

    /// Lowest learning rate
    #[arg(long, value_parser = finite)]
    min_lr: f64 = match sched {
        LrSchedulerKind::OneCycle => lr * ONE_CYCLE_FIRST * ONE_CYCLE_LAST,
        _ => 0.0,
    }, shown "0, onecycle --lr / 250000", in 0.0..=lr;

    /// Epochs between two drops of --sched step or exponential
    #[arg(long, visible_alias = "lr-step-size", value_parser = finite)]
    decay_epochs: f64 = match sched {
        LrSchedulerKind::Exponential => 2.5,
        _ => 2.0,
    }, shown "2, exponential 2.5", in 1e-3..=1e6;

    /// Factor of one drop of --sched step, multistep, exponential or plateau
    #[arg(long, visible_alias = "lr-gamma", value_parser = finite)]
    decay_rate: f64 = match sched {
        LrSchedulerKind::Exponential => 0.98,
        LrSchedulerKind::Multistep | LrSchedulerKind::Plateau => 0.1,
        _ => 0.973,
    }, shown "0.973, exponential 0.98, multistep and plateau 0.1", in 0.0..=1.0;

    /// Epochs at which --sched multistep drops
    #[arg(long, num_args = 1.., value_name = "EPOCH", value_delimiter = ',')]
    decay_milestones: Vec<f64> = Vec::new(), shown "none", in each(0.0..=1e6);

    /// Drop --sched exponential once per --decay-epochs instead of smoothly
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    decay_staircase: bool = false;

    /// Exponent of --sched poly
    #[arg(long, value_parser = finite)]
    poly_power: f64 = 1.0, in 0.01..=100.0;

    /// Cycle momentum or Adam's beta1 from 0.95 to 0.85 and back against the rate of onecycle
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    cycle_momentum: bool = sched == LrSchedulerKind::OneCycle,
        shown "true with --sched onecycle, as in torch", older false;

    /// Epochs at the final rate after --epochs; for plateau, evaluations ignored after a drop
    #[arg(long)]
    cooldown_epochs: u64 = 0, in 0..=1_000_000_000;

    /// Evaluations without improvement before --sched plateau lowers the rate
    #[arg(long)]
    patience_epochs: u64 = 10, in 0..=1_000_000_000;

    /// Part of the run with a noisy rate, as two shares of the epochs
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    lr_noise: Vec<f64> => Option<[f64; 2]>, in 0.0..=1.0;

    /// Largest noise as a share of the rate
    #[arg(long, value_parser = finite)]
    lr_noise_pct: f64 = 0.67, in 1e-3..=1.0;

    /// Standard deviation of the noise
    #[arg(long, value_parser = finite)]
    lr_noise_std: f64 = 1.0, in 0.0..=10.0;
}

impl SchedulePlan {
    /// Refuses options that have no effect, and a schedule that lacks one.
    pub(in crate::config) fn check(&self) -> Result<(), Error> {
        if self.sched == LrSchedulerKind::Multistep && self.decay_milestones.is_empty() {
            return Err(without("--sched multistep", "--decay-milestones"));
        }
        if self.cycle_momentum && self.sched != LrSchedulerKind::OneCycle {
            return Err(without("--cycle-momentum", "--sched onecycle"));
        }
        Ok(())
    }

    /// Epochs of a run of so many epochs and its cool-down, which plateau counts for itself.
    pub fn total_epochs(&self, epochs: u64) -> u64 {
        match self.sched {
            LrSchedulerKind::Plateau => epochs,
            _ => epochs + self.cooldown_epochs,
        }
    }

    /// The learning rate up to `lr` over `epochs` of so many optimizer steps, without SWA.
    pub(in crate::config) fn in_steps(
        &self,
        lr: f64,
        epochs: u64,
        steps_per_epoch: u64,
        seed: u64,
    ) -> Schedule {
        let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        let noise = self.lr_noise.map(|[from, to]| {
            let step = |share: f64| steps((share * epochs as f64).round());
            LrNoise {
                steps: (step(from), step(to)),
                epoch_steps: steps_per_epoch,
                limit: self.lr_noise_pct,
                deviation: self.lr_noise_std,
                seed,
            }
        });
        Schedule {
            lr,
            warmup_lr: self.warmup_lr.min(lr),
            warmup_steps: steps(self.warmup_epochs),
            min_lr: self.min_lr,
            decay: self.sched,
            decay_steps: (self.decay_epochs * steps_per_epoch as f64).max(1.0),
            decay_rate: self.decay_rate,
            milestones: self.decay_milestones.iter().map(|epoch| steps(*epoch)).collect(),
            power: self.poly_power,
            staircase: self.decay_staircase,
            total_steps: epochs * steps_per_epoch,
            noise,
            swa: None,
            cycle_momentum: self.cycle_momentum,
        }
    }
}
