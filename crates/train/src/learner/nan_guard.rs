//! What happens when a loss or a gradient is not finite: the step is skipped, then the rate is lowered, then the run
//! goes back to its last checkpoint, and in the end it gives up. A function of its own few numbers, which stand
//! in the checkpoint, so that a resumed run behaves as the uninterrupted one.

use serde::{Deserialize, Serialize};

/// The answer to a step without a finite loss and gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NanAction {
    /// Leave the step out and go on.
    Skip,
    /// End the run.
    Stop,
}

/// Bad steps in a row that the rate is not lowered for.
const PATIENT: u64 = 3;
/// Good steps after which the rate is doubled again, until it is what the schedule says.
const RECOVERY: u64 = 100;
/// The rate is lowered to no less than this part by halving.
const LEAST: f64 = 1.0 / 1024.0;
/// Times that a run goes back to a checkpoint before it gives up.
const ROLLBACKS: u64 = 3;

/// The numbers of a guard that a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NanGuard {
    /// Bad steps in a row.
    pub bad: u64,
    /// Good steps in a row since the rate was lowered or raised.
    pub good: u64,
    /// What the schedule's rate is multiplied by.
    pub factor: f64,
    /// Times gone back to a checkpoint.
    pub rollbacks: u64,
}

impl Default for NanGuard {
    fn default() -> Self {
        Self { bad: 0, good: 0, factor: 1.0, rollbacks: 0 }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Leave this step out.
    Skip,
    /// Go back to the last checkpoint.
    RollBack,
    /// Give up.
    Stop,
}

impl NanGuard {
    /// After a step with a finite loss and gradient.
    pub fn good(&mut self) {
        self.bad = 0;
        if self.factor < 1.0 {
            self.good += 1;
            if self.good == RECOVERY {
                (self.good, self.factor) = (0, (2.0 * self.factor).min(1.0));
            }
        }
    }

    /// After a step without.
    pub fn bad(&mut self, action: NanAction, patience: u64) -> Response {
        if action == NanAction::Stop {
            return Response::Stop;
        }
        (self.bad, self.good) = (self.bad + 1, 0);
        if self.bad > PATIENT {
            self.factor = (0.5 * self.factor).max(LEAST);
        }
        match (self.bad >= patience, self.rollbacks < ROLLBACKS) {
            (false, _) => Response::Skip,
            (true, false) => Response::Stop,
            (true, true) => {
                (self.bad, self.rollbacks) = (0, self.rollbacks + 1);
                // Each time lower than the time before.
                self.factor = self.factor.min(0.1_f64.powi(self.rollbacks as i32));
                Response::RollBack
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seen to fail with the count of bad steps not reset by a good one.
    #[test]
    fn it_skips_then_slows_then_goes_back_then_gives_up_and_recovers() {
        let mut strain = NanGuard::default();
        let mut bad = || strain.bad(NanAction::Skip, 5);
        assert_eq!([bad(), bad(), bad()], [Response::Skip; 3]);
        assert_eq!(strain.factor, 1.0);
        assert_eq!(strain.bad(NanAction::Skip, 5), Response::Skip);
        assert_eq!(strain.factor, 0.5);
        strain.good();
        assert_eq!((strain.bad, strain.factor), (0, 0.5));
        (0..200).for_each(|_| strain.good());
        assert_eq!(strain.factor, 1.0);
        for round in 1..=3 {
            let verdicts: Vec<Response> = (0..5).map(|_| strain.bad(NanAction::Skip, 5)).collect();
            assert_eq!(verdicts[..4], [Response::Skip; 4]);
            assert_eq!(verdicts[4], Response::RollBack);
            assert!(strain.factor <= 0.1_f64.powi(round), "{round}: {}", strain.factor);
        }
        (0..4).for_each(|_| assert_eq!(strain.bad(NanAction::Skip, 5), Response::Skip));
        assert_eq!(strain.bad(NanAction::Skip, 5), Response::Stop);
        assert_eq!(NanGuard::default().bad(NanAction::Stop, 5), Response::Stop);
    }
}
