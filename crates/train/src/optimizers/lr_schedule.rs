//! The learning rate as a pure function of the optimizer step: nothing to save, nothing to resume.
//!
//! [`Plateau`] is the one exception. It depends on evaluations, so its few numbers stand in the
//! checkpoint.

use serde::{Deserialize, Serialize};
use transforms::random::Counter;

/// Stream of the counter-based generator for the noise of an epoch.
const NOISE: u64 = 0x1A;

/// Default first rate of OneCycleLR as a share of the peak (torch's `div_factor`).
pub const ONE_CYCLE_FIRST: f64 = 1.0 / 25.0;
/// Last rate of OneCycleLR as a share of its first one (torch's `final_div_factor`).
pub const ONE_CYCLE_LAST: f64 = 1e-4;
/// Default share of the run during which OneCycleLR's rate rises (torch's `pct_start`).
pub const ONE_CYCLE_RISE: f64 = 0.3;
/// Momentum of OneCycleLR at both ends and at the peak (torch's `max_momentum`, `base_momentum`).
pub const ONE_CYCLE_MOMENTUM: [f64; 2] = [0.95, 0.85];

/// How the learning rate follows the batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrScale {
    /// Twice the batch, twice the rate.
    Linear,
    /// Four times the batch, twice the rate.
    Sqrt,
}

/// The decay after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LrSchedulerKind {
    /// Half a cosine from `lr` to `min_lr` (SGDR, arXiv:1608.03983, without restarts).
    #[value(alias = "cosineannealinglr")]
    Cosine,
    /// `lr * rate^floor(epochs / decay_epochs)`.
    #[value(alias = "steplr")]
    Step,
    /// `lr * rate^n` after n milestones (torch's MultiStepLR).
    Multistep,
    /// `lr * rate^(epochs / decay_epochs)` at every step; as a staircase, the same as `step`.
    #[value(alias = "exponentiallr")]
    Exponential,
    /// `(1 - progress)^power` between `lr` and `min_lr`.
    #[value(alias = "polynomial")]
    Poly,
    /// `lr` times the rate for every plateau of the evaluations (torch's ReduceLROnPlateau).
    Plateau,
    /// One rise and one fall, both half cosines, with a momentum that falls and rises
    /// (arXiv:1708.07120; torch's OneCycleLR).
    #[value(name = "onecycle", alias = "one-cycle")]
    OneCycle,
    /// `lr` at every step.
    Constant,
}

/// A learning-rate schedule in optimizer steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Peak rate, reached at the end of the warm-up.
    pub lr: f64,
    /// Rate of step 0 of a warm-up.
    pub warmup_lr: f64,
    /// Length of the linear warm-up (of the rise of [`LrSchedulerKind::OneCycle`]).
    pub warmup_steps: u64,
    /// Lower bound of the decay.
    pub min_lr: f64,
    /// Shape of the decay.
    pub decay: LrSchedulerKind,
    /// Steps between two drops of [`LrSchedulerKind::Step`] or [`LrSchedulerKind::Exponential`].
    pub decay_steps: f64,
    /// Factor of one drop.
    pub decay_rate: f64,
    /// Steps at which [`LrSchedulerKind::Multistep`] drops, in ascending order.
    pub milestones: Vec<u64>,
    /// Exponent of [`LrSchedulerKind::Poly`].
    pub power: f64,
    /// Whether [`LrSchedulerKind::Exponential`] drops like a staircase.
    pub staircase: bool,
    /// Steps of the run without its cool-down, whose steps have the last rate.
    pub total_steps: u64,
    /// Noise on the rates of a range of epochs.
    pub noise: Option<LrNoise>,
    /// Rate while weights are averaged.
    pub swa: Option<SwaLr>,
    /// Whether the momentum falls and rises against the rate of [`LrSchedulerKind::OneCycle`].
    pub cycle_momentum: bool,
}

/// torch's SWALR: anneals the schedule's rate to the rate of weight averaging, epoch by epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SwaLr {
    /// First step of the first averaged epoch. The annealing begins with its rate.
    pub from: u64,
    /// Rate at the end of the annealing.
    pub lr: f64,
    /// Optimizer steps of an epoch.
    pub epoch_steps: u64,
    /// Epochs of the annealing; 0 switches at once.
    pub epochs: u64,
    /// Curve of the annealing.
    pub anneal: AnnealStrategy,
}

/// The annealing curve between two rates (torch's `anneal_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AnnealStrategy {
    /// Half a cosine.
    #[default]
    Cos,
    /// A straight line.
    Linear,
}

impl SwaLr {
    /// The rate of a step of the averaged part, at whose beginning the schedule's rate was
    /// `before`.
    fn at(&self, step: u64, before: f64) -> f64 {
        let epoch = (step - self.from) / self.epoch_steps;
        if epoch >= self.epochs {
            return self.lr;
        }
        let share = epoch as f64 / self.epochs as f64;
        match self.anneal {
            AnnealStrategy::Cos => half_cosine(before, self.lr, share),
            AnnealStrategy::Linear => before + (self.lr - before) * share,
        }
    }
}

/// timm's `--lr-noise`: the rate of an epoch times `1 + n`, n normal and below the limit.
#[derive(Clone, Debug, PartialEq)]
pub struct LrNoise {
    /// First step with noise, and first step after the noise.
    pub steps: (u64, u64),
    /// Optimizer steps of an epoch.
    pub epoch_steps: u64,
    /// Draws whose magnitude reaches this are rejected.
    pub limit: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Seed of the run.
    pub seed: u64,
}

impl LrNoise {
    fn at(&self, step: u64) -> f64 {
        if !(self.steps.0..self.steps.1).contains(&step) {
            return 0.0;
        }
        let mut draw = Counter::new(self.seed, step / self.epoch_steps, 0, NOISE);
        loop {
            // Box-Muller transform; 1 - u is never 0.
            let (u, v) = (1.0 - draw.unit(), draw.unit());
            let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
            if (normal * self.deviation).abs() < self.limit {
                return normal * self.deviation;
            }
        }
    }
}

/// Half a cosine from `from` to `to`, at `share` of the way.
fn half_cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * (0.5 * (1.0 + (std::f64::consts::PI * share).cos()))
}

impl Schedule {
    /// The learning rate of optimizer step `step`, counted from 0. Steps after the end have the
    /// last rate.
    pub fn at(&self, step: u64) -> f64 {
        match (self.swa, &self.noise) {
            (Some(swa), _) if step >= swa.from => swa.at(step, self.without_noise(swa.from)),
            (_, Some(noise)) => self.without_noise(step) * (1.0 + noise.at(step)),
            _ => self.without_noise(step),
        }
    }

    /// The momentum of a step of a schedule that cycles it.
    pub fn momentum(&self, step: u64) -> Option<f64> {
        let [max, min] = ONE_CYCLE_MOMENTUM;
        self.cycle_momentum.then(|| self.one_cycle(step, [max, min, max]))
    }

    /// The value of a step of [`LrSchedulerKind::OneCycle`], given its first, peak and last values.
    fn one_cycle(&self, step: u64, [first, peak, last]: [f64; 3]) -> f64 {
        let (peak_step, end) = (self.warmup_steps.max(2) - 1, self.total_steps.max(2) - 1);
        match step <= peak_step {
            true => half_cosine(first, peak, step as f64 / peak_step as f64),
            false => {
                let share = (step - peak_step) as f64 / end.saturating_sub(peak_step).max(1) as f64;
                half_cosine(peak, last, share.min(1.0))
            }
        }
    }

    fn without_noise(&self, step: u64) -> f64 {
        if self.decay == LrSchedulerKind::OneCycle {
            return self.one_cycle(step, [self.warmup_lr, self.lr, self.min_lr]);
        }
        if step < self.warmup_steps {
            let share = step as f64 / self.warmup_steps as f64;
            return self.warmup_lr + (self.lr - self.warmup_lr) * share;
        }
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let share = ((step - self.warmup_steps) as f64 / length as f64).min(1.0);
        // The cool-down has the rate of the last step before it.
        let step = step.min(self.total_steps);
        let floor = |lr: f64| lr.max(self.min_lr);
        match self.decay {
            LrSchedulerKind::Constant | LrSchedulerKind::Plateau => self.lr,
            LrSchedulerKind::Step => {
                let drops = (step as f64 / self.decay_steps.round().max(1.0)).floor();
                floor(self.lr * self.decay_rate.powi(drops as i32))
            }
            LrSchedulerKind::Multistep => {
                let drops = self.milestones.iter().filter(|at| **at <= step).count();
                floor(self.lr * self.decay_rate.powi(drops as i32))
            }
            LrSchedulerKind::Exponential => {
                let drops = step as f64 / self.decay_steps;
                let drops = if self.staircase { drops.floor() } else { drops };
                floor(self.lr * self.decay_rate.powf(drops))
            }
            LrSchedulerKind::Poly => {
                self.min_lr + (self.lr - self.min_lr) * (1.0 - share).powf(self.power)
            }
            LrSchedulerKind::Cosine => {
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
                self.min_lr + (self.lr - self.min_lr) * wave
            }
            LrSchedulerKind::OneCycle => unreachable!("returned above"),
        }
    }
}

/// State of [`LrSchedulerKind::Plateau`]: torch's ReduceLROnPlateau with a relative threshold of
/// 1e-4. Saved in checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plateau {
    /// Best result so far, larger is better; none before the first evaluation.
    pub best: Option<f64>,
    /// Evaluations since the best one.
    pub waited: u64,
    /// Evaluations after a drop that are still ignored.
    pub cooling: u64,
    /// Factor of the schedule's rate.
    pub factor: f64,
}

impl Default for Plateau {
    fn default() -> Self {
        Self { best: None, waited: 0, cooling: 0, factor: 1.0 }
    }
}

impl Plateau {
    /// Records an evaluation's `result` and returns whether the rate dropped.
    ///
    /// After more than `patience` evaluations without improvement the factor is multiplied by
    /// `rate`, with `min_factor` as its lower bound. The next `cooldown` evaluations are then
    /// ignored.
    pub fn record(
        &mut self,
        result: f64,
        patience: u64,
        rate: f64,
        cooldown: u64,
        min_factor: f64,
    ) -> bool {
        // Relative to the magnitude, because a loss is given as its negative.
        match self.best.is_none_or(|best| result > best + 1e-4 * best.abs()) {
            true => (self.best, self.waited) = (Some(result), 0),
            false => self.waited += 1,
        }
        if self.cooling > 0 {
            (self.cooling, self.waited) = (self.cooling - 1, 0);
        }
        if self.waited <= patience {
            return false;
        }
        self.factor = (self.factor * rate).max(min_factor.min(self.factor));
        (self.cooling, self.waited) = (cooldown, 0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: LrSchedulerKind) -> Schedule {
        Schedule {
            lr: 1.0,
            warmup_lr: 0.0,
            warmup_steps: 10,
            min_lr: 0.1,
            decay,
            decay_steps: 20.0,
            decay_rate: 0.5,
            milestones: vec![30, 70],
            power: 0.9,
            staircase: false,
            total_steps: 110,
            noise: None,
            swa: None,
            cycle_momentum: false,
        }
    }

    #[test]
    fn cosine_rises_peaks_and_never_climbs_again() {
        let s = schedule(LrSchedulerKind::Cosine);
        assert_eq!(s.at(0), 0.0);
        assert_eq!(s.at(5), 0.5);
        assert_eq!(s.at(10), 1.0);
        assert!((s.at(60) - 0.55).abs() < 1e-12);
        assert!((s.at(110) - 0.1).abs() < 1e-12);
        assert_eq!(s.at(10_000), s.at(110));
    }

    #[test]
    fn step_drops_on_multiples_and_respects_the_floor() {
        let s = schedule(LrSchedulerKind::Step);
        assert_eq!(s.at(19), 1.0);
        assert_eq!(s.at(20), 0.5);
        assert_eq!(s.at(40), 0.25);
        assert_eq!(s.at(1000), 0.1);
    }

    /// `tests/fixtures/make_schedules.py`; timm's and torch's own schedulers.
    const FIXTURE: &str = include_str!("../../tests/fixtures/schedules.json");

    fn expected(name: &str) -> Vec<f64> {
        let all: serde_json::Value = serde_json::from_str(FIXTURE).unwrap();
        serde_json::from_value(all[name].clone()).unwrap()
    }

    /// Mutations caught: a one-cycle that ends a step late.
    #[test]
    fn every_step_of_every_schedule_is_timms_or_torchs() {
        let bare = |decay| Schedule { min_lr: 0.0, warmup_steps: 0, ..schedule(decay) };
        let one_cycle = Schedule {
            warmup_lr: ONE_CYCLE_FIRST,
            min_lr: ONE_CYCLE_FIRST * ONE_CYCLE_LAST,
            warmup_steps: 33,
            ..schedule(LrSchedulerKind::OneCycle)
        };
        let cases = [
            ("cosine", schedule(LrSchedulerKind::Cosine), 120),
            ("poly", schedule(LrSchedulerKind::Poly), 120),
            ("step", Schedule { min_lr: 0.0, ..schedule(LrSchedulerKind::Step) }, 110),
            ("multistep", bare(LrSchedulerKind::Multistep), 110),
            ("exponential", bare(LrSchedulerKind::Exponential), 110),
            ("onecycle", one_cycle, 110),
        ];
        for (name, schedule, steps) in cases {
            for (step, expected) in expected(name).into_iter().take(steps).enumerate() {
                let got = schedule.at(step as u64);
                assert!((got - expected).abs() < 1e-9, "{name} step {step}: {got} for {expected}");
            }
        }
    }

    /// Mutations caught: the momentum rising along with the rate.
    #[test]
    fn the_momentum_goes_against_the_rate_as_torchs() {
        let bare = Schedule { warmup_steps: 33, ..schedule(LrSchedulerKind::OneCycle) };
        assert_eq!(bare.momentum(0), None);
        let cycling = Schedule { cycle_momentum: true, ..bare };
        for name in ["onecycle_momentum", "onecycle_beta1"] {
            for (step, expected) in expected(name).into_iter().enumerate() {
                let got = cycling.momentum(step as u64).unwrap();
                assert!((got - expected).abs() < 1e-9, "{name} {step}: {got} for {expected}");
            }
        }
        assert_eq!(cycling.momentum(5000), Some(0.95));
    }

    /// Mutations caught: the annealing an epoch ahead; the rate of each step taken for the rate of
    /// the first.
    #[test]
    fn the_rate_of_averaging_is_annealed_as_torchs_swalr() {
        let rates =
            [("swa_cos", AnnealStrategy::Cos, 5), ("swa_linear", AnnealStrategy::Linear, 4)];
        for (name, anneal, epochs) in
            rates.into_iter().chain([("swa_at_once", AnnealStrategy::Cos, 0)])
        {
            let swa = SwaLr { from: 30, lr: 0.05, epoch_steps: 10, epochs, anneal };
            // A schedule that reaches 0.4 at step 30 and falls further.
            let falling = Schedule {
                warmup_steps: 0,
                min_lr: 0.0,
                total_steps: 50,
                power: 1.0,
                swa: Some(swa),
                ..schedule(LrSchedulerKind::Poly)
            };
            assert!((falling.at(29) - 0.42).abs() < 1e-12);
            for (epoch, expected) in expected(name).into_iter().enumerate() {
                for step in [0, 9] {
                    let got = falling.at(30 + 10 * epoch as u64 + step);
                    assert!((got - expected).abs() < 1e-9, "{name} {epoch}: {got} for {expected}");
                }
            }
        }
    }

    /// Mutations caught: a drop at `patience` instead of after it.
    #[test]
    fn plateau_is_torchs() {
        let mut plateau = Plateau::default();
        for (metric, expected) in expected("metrics").into_iter().zip(expected("plateau")) {
            assert_eq!(plateau.factor, expected, "before {metric}");
            plateau.record(metric, 2, 0.5, 1, 0.2);
        }
        assert_eq!(plateau.factor, 0.2);
    }

    #[test]
    fn a_staircase_is_the_step_schedule_and_the_cooldown_stays_put() {
        let stairs = Schedule { staircase: true, ..schedule(LrSchedulerKind::Exponential) };
        for step in 10..110 {
            assert!(
                (stairs.at(step) - schedule(LrSchedulerKind::Step).at(step)).abs() < 1e-12,
                "{step}"
            );
        }
        for decay in [
            LrSchedulerKind::Step,
            LrSchedulerKind::Exponential,
            LrSchedulerKind::Poly,
            LrSchedulerKind::OneCycle,
        ] {
            let s = schedule(decay);
            assert_eq!(s.at(110), s.at(5000), "{decay:?}");
        }
    }

    #[test]
    fn noise_is_one_draw_an_epoch_below_its_limit_and_swa_overrides_all() {
        let noise =
            LrNoise { steps: (20, 60), epoch_steps: 10, limit: 0.67, deviation: 1.0, seed: 42 };
        let noisy = Schedule { noise: Some(noise), ..schedule(LrSchedulerKind::Constant) };
        assert_eq!((noisy.at(19), noisy.at(60)), (1.0, 1.0));
        let rates: Vec<f64> = (20..60).step_by(10).map(|step| noisy.at(step)).collect();
        assert!(rates.iter().all(|r| (r - 1.0).abs() < 0.67 && *r != 1.0), "{rates:?}");
        assert_ne!(rates[0], rates[1]);
        assert_eq!(noisy.at(20), noisy.at(29));
        let swa =
            SwaLr { from: 50, lr: 0.03, epoch_steps: 10, epochs: 0, anneal: AnnealStrategy::Cos };
        let averaged = Schedule { swa: Some(swa), ..noisy };
        assert_eq!(averaged.at(49), averaged.at(40));
        assert_eq!((averaged.at(50), averaged.at(500)), (0.03, 0.03));
    }
}
