//! The response to a loss or gradient that is not finite: first the step is skipped, then the rate
//! is lowered, then the run is rolled back to its last checkpoint, and in the end it stops.
//!
//! The response depends on the guard's own few numbers alone. They stand in the checkpoint, so a
//! resumed run behaves as the uninterrupted one.

use serde::{Deserialize, Serialize};

/// The action on a step whose loss or gradient is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NanAction {
    /// Skip the step and go on.
    Skip,
    /// End the run.
    Stop,
}

/// Non-finite steps in a row before the rate is lowered.
const TOLERATED_STEPS: u64 = 3;
/// Finite steps after which the rate is doubled again, until it is the schedule's.
const RECOVERY_STEPS: u64 = 100;
/// Lower bound of the factor that halving leads to.
const MIN_FACTOR: f64 = 1.0 / 1024.0;
/// Rollbacks of a run before it stops.
const MAX_ROLLBACKS: u64 = 3;

/// The loss scale of a new run with 16-bit maps, and how often it may be doubled after finite steps
/// (torch.amp.GradScaler).
const FIRST_SCALE: f64 = 65536.0;
const SCALE_STEPS: u64 = 2000;
/// Bounds of the loss scale. A gradient that is not finite at a scale of 1 is not the scale's fault.
const LEAST_SCALE: f64 = 1.0;
const LARGEST_SCALE: f64 = 16_777_216.0;

/// The factor of the loss with which gradients of 16-bit maps neither vanish nor overflow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// The factor, a power of two.
    pub scale: f64,
    /// Finite steps in a row since it was last changed.
    pub finite_steps: u64,
}

/// The guard's numbers, as a checkpoint holds them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NanGuard {
    /// Non-finite steps in a row.
    #[serde(rename = "bad")]
    pub non_finite_steps: u64,
    /// Finite steps in a row since the rate was last lowered or raised.
    #[serde(rename = "good")]
    pub finite_steps: u64,
    /// Factor of the schedule's rate.
    pub factor: f64,
    /// Rollbacks to a checkpoint so far.
    pub rollbacks: u64,
    /// The loss scale of a run that had 16-bit maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
}

impl Default for NanGuard {
    fn default() -> Self {
        Self { non_finite_steps: 0, finite_steps: 0, factor: 1.0, rollbacks: 0, loss_scale: None }
    }
}

/// The response to one non-finite step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Skip this step.
    Skip,
    /// Roll back to the last checkpoint.
    RollBack,
    /// End the run.
    Stop,
}

impl NanGuard {
    /// The loss scale of the next step; 1 where maps have 32 bits.
    pub fn loss_scale(&mut self, half_maps: bool) -> f64 {
        if !half_maps {
            return 1.0;
        }
        let first = LossScale { scale: FIRST_SCALE, finite_steps: 0 };
        self.loss_scale.get_or_insert(first).scale
    }

    /// Halves the loss scale after a step whose loss was finite and whose gradient was not; the new
    /// scale. None without a scale that could be the reason: the step is then a fault of the run.
    pub fn back_off(&mut self) -> Option<f64> {
        let own = self.loss_scale.as_mut().filter(|own| own.scale > LEAST_SCALE)?;
        *own = LossScale { scale: 0.5 * own.scale, finite_steps: 0 };
        Some(own.scale)
    }

    /// Records a step with a finite loss and gradient.
    pub fn on_finite_step(&mut self) {
        if let Some(own) = &mut self.loss_scale {
            own.finite_steps += 1;
            if own.finite_steps >= SCALE_STEPS {
                *own = LossScale { scale: (2.0 * own.scale).min(LARGEST_SCALE), finite_steps: 0 };
            }
        }
        self.non_finite_steps = 0;
        if self.factor < 1.0 {
            self.finite_steps += 1;
            if self.finite_steps == RECOVERY_STEPS {
                (self.finite_steps, self.factor) = (0, (2.0 * self.factor).min(1.0));
            }
        }
    }

    /// Records a step without a finite loss and gradient, and returns the response. `patience` is
    /// the number of such steps in a row that leads to a rollback.
    pub fn on_non_finite_step(&mut self, action: NanAction, patience: u64) -> Response {
        if action == NanAction::Stop {
            return Response::Stop;
        }
        (self.non_finite_steps, self.finite_steps) = (self.non_finite_steps + 1, 0);
        if self.non_finite_steps > TOLERATED_STEPS {
            self.factor = (0.5 * self.factor).max(MIN_FACTOR);
        }
        match self.non_finite_steps >= patience {
            false => Response::Skip,
            true => self.roll_back(),
        }
    }

    /// Records an evaluation whose loss is not finite, and returns the response, which is never to
    /// skip it.
    pub fn on_non_finite_evaluation(&mut self, action: NanAction) -> Response {
        match action {
            NanAction::Stop => Response::Stop,
            NanAction::Skip => self.roll_back(),
        }
    }

    fn roll_back(&mut self) -> Response {
        if self.rollbacks >= MAX_ROLLBACKS {
            return Response::Stop;
        }
        (self.non_finite_steps, self.finite_steps) = (0, 0);
        self.rollbacks += 1;
        // Each rollback lowers the rate further than the one before.
        self.factor = self.factor.min(0.1_f64.powi(self.rollbacks as i32));
        Response::RollBack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: no doubling; doubling without an upper bound; a scale below 1; a scale for
    /// maps of 32 bits.
    #[test]
    fn the_loss_scale_is_halved_on_overflow_and_doubled_after_a_while() {
        let mut guard = NanGuard::default();
        assert_eq!(guard.loss_scale(false), 1.0);
        assert_eq!(guard.back_off(), None);
        assert_eq!(guard.loss_scale(true), 65536.0);
        assert_eq!(guard.back_off(), Some(32768.0));
        (0..1999).for_each(|_| guard.on_finite_step());
        assert_eq!(guard.loss_scale(true), 32768.0);
        guard.on_finite_step();
        assert_eq!(guard.loss_scale(true), 65536.0);
        (0..100_000).for_each(|_| guard.on_finite_step());
        assert_eq!(guard.loss_scale(true), 16_777_216.0);
        while guard.back_off().is_some() {}
        assert_eq!(guard.loss_scale(true), 1.0);
        assert_eq!(guard.non_finite_steps, 0);
    }

    /// Mutations caught: the count of non-finite steps not reset by a finite one.
    #[test]
    fn it_skips_then_slows_then_rolls_back_then_stops_and_recovers() {
        let mut guard = NanGuard::default();
        let mut step = || guard.on_non_finite_step(NanAction::Skip, 5);
        assert_eq!([step(), step(), step()], [Response::Skip; 3]);
        assert_eq!(guard.factor, 1.0);
        assert_eq!(guard.on_non_finite_step(NanAction::Skip, 5), Response::Skip);
        assert_eq!(guard.factor, 0.5);
        guard.on_finite_step();
        assert_eq!((guard.non_finite_steps, guard.factor), (0, 0.5));
        (0..200).for_each(|_| guard.on_finite_step());
        assert_eq!(guard.factor, 1.0);
        for round in 1..=3 {
            let responses: Vec<Response> =
                (0..5).map(|_| guard.on_non_finite_step(NanAction::Skip, 5)).collect();
            assert_eq!(responses[..4], [Response::Skip; 4]);
            assert_eq!(responses[4], Response::RollBack);
            assert!(guard.factor <= 0.1_f64.powi(round), "{round}: {}", guard.factor);
        }
        for _ in 0..4 {
            assert_eq!(guard.on_non_finite_step(NanAction::Skip, 5), Response::Skip);
        }
        assert_eq!(guard.on_non_finite_step(NanAction::Skip, 5), Response::Stop);
        assert_eq!(NanGuard::default().on_non_finite_step(NanAction::Stop, 5), Response::Stop);
        // Rollbacks of evaluations and steps count together.
        assert_eq!(guard.on_non_finite_evaluation(NanAction::Skip), Response::Stop);
        let mut guard = NanGuard::default();
        assert_eq!(guard.on_non_finite_evaluation(NanAction::Skip), Response::RollBack);
        assert_eq!((guard.rollbacks, guard.factor), (1, 0.1));
        assert_eq!(guard.on_non_finite_evaluation(NanAction::Stop), Response::Stop);
    }
}
