//! What a plan says of learning: whether losses, optimizer, schedule and averages can be, and what they come to.

use crate::config::options::Options;
use crate::config::plan::Plan;
use crate::error::Error;
use crate::optimizers::lr_schedule::{LrSchedulerKind, Noise, Schedule, Swa};
use crate::optimizers::optimizer::{LrScale, OptimizerConfig, OptimizerKind};

impl Options {
    /// The peak learning rate: `--lr`, or timm's rule for a base rate and the batch.
    pub(super) fn peak(&self, opt: OptimizerKind) -> f64 {
        let Some(base) = self.lr_base else { return self.lr.unwrap_or(opt.lr()) };
        let batch = self.batch_size.unwrap_or(32) * self.grad_accum_steps.unwrap_or(1);
        let ratio = batch as f64 / self.lr_base_size.unwrap_or(256).max(1) as f64;
        let scale = self.lr_base_scale.unwrap_or(match opt {
            OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Lamb => LrScale::Sqrt,
            _ => LrScale::Linear,
        });
        self.lr.unwrap_or(match scale {
            LrScale::Linear => base * ratio,
            LrScale::Sqrt => base * ratio.sqrt(),
        })
    }
}

/// Refuses a flag's value outside of a range.
type Between = dyn Fn(&str, f64, f64, f64) -> Result<(), Error>;

impl Plan {
    /// What belongs to losses, optimizers, schedules and averages.
    pub(super) fn check_training(&self, between: &Between) -> Result<(), Error> {
        let without = |flag: &str, other: &str| {
            Err(Error::usage(format!("{flag}: has no effect without {other}; add it")))
        };
        between("--model-ema-decay", self.model_ema_decay, 0.0, 0.999_999_9)?;
        between("--clip-grad", self.clip_grad, 0.0, 1e9)?;
        between("--layer-decay", self.layer_decay.unwrap_or(1.0), 0.01, 1.0)?;
        between("--opt-betas BETA1", self.opt_betas[0], 0.0, 0.999_999)?;
        between("--opt-betas BETA2", self.opt_betas[1], 0.0, 0.999_999)?;
        between("--alpha-smoothing", self.alpha_smoothing, 0.0, 0.999_999)?;
        between("--norm-weight-decay", self.norm_weight_decay, 0.0, 10.0)?;
        between("--poly-power", self.poly_power, 0.01, 100.0)?;
        between("--lr-noise-pct", self.lr_noise_pct, 1e-3, 1.0)?;
        between("--lr-noise-std", self.lr_noise_std, 0.0, 10.0)?;
        if let Some([from, to]) = self.lr_noise {
            between("--lr-noise FROM", from, 0.0, to)?;
            between("--lr-noise TO", to, from, 1.0)?;
        }
        if self.sched == LrSchedulerKind::Multistep && self.decay_milestones.is_empty() {
            return without("--sched multistep", "--decay-milestones");
        }
        for at in &self.decay_milestones {
            between("--decay-milestones", *at, 0.0, 1e6)?;
        }
        between("--focal-gamma", self.focal_gamma, 0.0, 10.0)?;
        between("--bce-target-thresh", self.bce_target_thresh.unwrap_or(0.5), 0.0, 1.0)?;
        if !self.bce_loss && (self.bce_sum || self.bce_target_thresh.is_some()) {
            return without("--bce-sum and --bce-target-thresh", "--bce-loss");
        }
        between("--distill-alpha", self.distill_alpha, 0.0, 1.0)?;
        between("--distill-temperature", self.distill_temperature, 0.1, 100.0)?;
        if let Some(lr) = self.swa_lr {
            between("--swa-lr", lr, 0.0, 100.0)?;
        }
        between("--swa-anneal-epochs", self.swa_anneal_epochs as f64, 0.0, 1e6)?;
        if self.swa_anneal_epochs > 0 && self.swa_lr.is_none() {
            return without("--swa-anneal-epochs", "--swa-lr");
        }
        if self.cycle_momentum && self.sched != LrSchedulerKind::OneCycle {
            return without("--cycle-momentum", "--sched onecycle");
        }
        match self.swa_start {
            Some(start) => between("--swa-start", start as f64, 0.0, self.last_epoch() as f64)?,
            None if self.swa_lr.is_some() => return without("--swa-lr", "--swa-start"),
            None => {}
        }
        match self.nan_patience {
            0 => Err(Error::usage("--nan-patience: `0`: expected at least 1")),
            _ => Ok(()),
        }
    }

    /// Epochs of the run, its cool-down included (which plateau counts for itself).
    pub fn total_epochs(&self) -> u64 {
        match self.sched {
            LrSchedulerKind::Plateau => self.epochs,
            _ => self.epochs + self.cooldown_epochs,
        }
    }

    fn last_epoch(&self) -> u64 {
        self.total_epochs().saturating_sub(1)
    }

    /// Rule and constants of the optimizer.
    pub fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            rule: self.opt,
            momentum: self.momentum,
            alpha: self.alpha_smoothing,
            betas: self.opt_betas,
            epsilon: self.opt_eps,
            weight_decay: self.weight_decay,
        }
    }

    /// The learning rate for epochs of so many optimizer steps.
    pub fn schedule(&self, steps_per_epoch: u64) -> Schedule {
        let steps = |epochs: f64| (epochs * steps_per_epoch as f64).round() as u64;
        let total_steps = self.epochs * steps_per_epoch;
        let noise = self.lr_noise.map(|[from, to]| {
            let at = |share: f64| steps((share * self.epochs as f64).round());
            Noise {
                steps: (at(from), at(to)),
                epoch_steps: steps_per_epoch,
                limit: self.lr_noise_pct,
                deviation: self.lr_noise_std,
                seed: self.seed,
            }
        });
        Schedule {
            lr: self.lr,
            warmup_lr: self.warmup_lr.min(self.lr),
            warmup_steps: steps(self.warmup_epochs),
            min_lr: self.min_lr,
            decay: self.sched,
            decay_steps: (self.decay_epochs * steps_per_epoch as f64).max(1.0),
            decay_rate: self.decay_rate,
            milestones: self.decay_milestones.iter().map(|at| steps(*at)).collect(),
            power: self.poly_power,
            staircase: self.decay_staircase,
            total_steps,
            noise,
            swa: self.swa_start.zip(self.swa_lr).map(|(at, lr)| Swa {
                from: at * steps_per_epoch,
                lr,
                epoch_steps: steps_per_epoch,
                epochs: self.swa_anneal_epochs,
                anneal: self.swa_anneal_strategy,
            }),
            cycle_momentum: self.cycle_momentum,
        }
    }
}
