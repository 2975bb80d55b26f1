//! The learning rate as a pure function of the optimizer step: nothing to save, nothing to resume.

use serde::{Deserialize, Serialize};

/// The decay after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Half a cosine from `lr` to `min_lr` (SGDR, arXiv:1608.03983, without restarts).
    Cosine,
    /// `lr * rate^floor(epochs / decay_epochs)`.
    Step,
    /// `lr` throughout.
    Constant,
}

/// A schedule in optimizer steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// The peak, reached at the end of the warm-up.
    pub lr: f64,
    /// The rate of step 0 when there is a warm-up.
    pub warmup_lr: f64,
    /// Length of the linear warm-up.
    pub warmup_steps: u64,
    /// Floor of the decay.
    pub min_lr: f64,
    /// Shape of the decay.
    pub decay: Decay,
    /// Steps between two drops of [`Decay::Step`].
    pub decay_steps: u64,
    /// Factor of one drop.
    pub decay_rate: f64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The learning rate of optimizer step `step`, counted from 0. Past the end it stays put.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let share = step as f64 / self.warmup_steps as f64;
            return self.warmup_lr + (self.lr - self.warmup_lr) * share;
        }
        match self.decay {
            Decay::Constant => self.lr,
            Decay::Step => {
                let drops = step / self.decay_steps.max(1);
                (self.lr * self.decay_rate.powi(drops as i32)).max(self.min_lr)
            }
            Decay::Cosine => {
                let length = self.total_steps.saturating_sub(self.warmup_steps).max(1);
                let share = ((step - self.warmup_steps) as f64 / length as f64).min(1.0);
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
                self.min_lr + (self.lr - self.min_lr) * wave
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> Schedule {
        Schedule {
            lr: 1.0,
            warmup_lr: 0.0,
            warmup_steps: 10,
            min_lr: 0.1,
            decay,
            decay_steps: 20,
            decay_rate: 0.5,
            total_steps: 110,
        }
    }

    #[test]
    fn cosine_rises_peaks_and_never_climbs_again() {
        let s = schedule(Decay::Cosine);
        assert_eq!(s.at(0), 0.0);
        assert_eq!(s.at(5), 0.5);
        assert_eq!(s.at(10), 1.0);
        assert!((s.at(60) - 0.55).abs() < 1e-12);
        assert!((s.at(110) - 0.1).abs() < 1e-12);
        assert_eq!(s.at(10_000), s.at(110));
    }

    #[test]
    fn step_drops_on_multiples_and_respects_the_floor() {
        let s = schedule(Decay::Step);
        assert_eq!(s.at(19), 1.0);
        assert_eq!(s.at(20), 0.5);
        assert_eq!(s.at(40), 0.25);
        assert_eq!(s.at(1000), 0.1);
    }
}
