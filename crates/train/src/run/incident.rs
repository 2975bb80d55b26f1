//! Steps whose loss or gradient is not finite: their record below `nan/` of the run folder, and the
//! response of the run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::nan_guard::{NanGuard, Response};
use crate::run::checkpoint::Checkpoint;
use crate::run::progress::Position;
use crate::run::retention::LAST;
use crate::run::run_folder;
use crate::run::state::TrainState;
use crate::run::trainer::Trainer;

/// Non-finite steps of a run that are recorded with their weights. Further ones are only counted.
const MAX_RECORDS: usize = 3;

/// A step whose loss or gradient is not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonFiniteStep {
    /// The batch, counted from 1, and the steps done before it.
    pub position: Position,
    /// Learning rate of the step.
    pub lr: f64,
    /// Loss of the batch, if it was finite.
    pub loss: Option<f64>,
    /// Norm of all gradients, if it was finite.
    pub grad_norm: Option<f64>,
    /// Indices of the batch's images in the training set.
    pub indices: Vec<usize>,
    /// Files of the batch's images; bytes that are not UTF-8 became the replacement character.
    pub files: Vec<String>,
}

impl NonFiniteStep {
    /// The record of a step on the images `indices` of `train`.
    pub(super) fn new(
        position: Position,
        lr: f64,
        loss: f64,
        grad_norm: f64,
        train: &ImageFolder,
        indices: &[usize],
    ) -> Self {
        Self {
            position,
            lr,
            loss: loss.is_finite().then_some(loss),
            grad_norm: grad_norm.is_finite().then_some(grad_norm),
            indices: indices.to_vec(),
            files: indices
                .iter()
                .map(|index| train.items[*index].0.to_string_lossy().into_owned())
                .collect(),
        }
    }

    /// What is not finite, and where.
    pub fn description(&self) -> String {
        let what = if self.loss.is_none() { "loss" } else { "gradient" };
        let Position { epoch, batch, step } = self.position;
        format!(
            "the {what} is not finite at epoch {epoch}, batch {batch}, step {step}, learning rate \
             {:.3e}",
            self.lr
        )
    }

    /// The sentence for the log.
    fn note(&self, response: Response, guard: &NanGuard, file: Option<&Path>) -> String {
        let done = match response {
            Response::RollBack => "back to the last checkpoint".to_owned(),
            _ => "step skipped".to_owned(),
        };
        let slower = match guard.factor < 1.0 {
            true => format!(", rate times {:.3e} from here on", guard.factor),
            false => String::new(),
        };
        let file = file.map_or_else(String::new, |f| format!("; kindling replay {}", f.display()));
        format!("{}: {done}{slower}{file}", self.description())
    }
}

/// Records a non-finite step, and responds as the guard says: skips the step, or rolls the run back
/// to its last checkpoint with a lower rate. `state` has the weights and running statistics from
/// before the step.
///
/// # Errors
/// [`crate::error::ErrorKind::Diverged`]: the guard gives up, or there is no checkpoint to roll
/// back to. A checkpoint or file that cannot be read or written.
pub(super) fn respond(
    trainer: &Trainer,
    mut state: TrainState,
    step: &NonFiniteStep,
) -> Result<(TrainState, Response), Error> {
    let plan = &trainer.context.plan;
    let file = record(trainer, &state, step)?;
    let response =
        state.nan_guard.on_non_finite_step(plan.training.nan_action, plan.training.nan_patience);
    let last = trainer.folder.join(LAST);
    if response == Response::Stop || !last.exists() && response != Response::Skip {
        return Err(diverged(&last, step, state.nan_guard.rollbacks));
    }
    trainer.observer.note(&step.note(response, &state.nan_guard, file.as_deref()));
    if response == Response::RollBack {
        let (nan_guard, micro_batch) = (state.nan_guard, state.micro_batch);
        state = trainer.context.resume(Checkpoint::read(&last)?, false)?;
        (state.nan_guard, state.micro_batch) = (nan_guard, micro_batch);
        run_folder::rewind_steps(&trainer.folder, state.position)?;
    } else {
        state.epoch_stats.skipped_steps += 1;
    }
    Ok((state, response))
}

/// Writes the step and the weights before it below `nan/`. Returns the file, or nothing once there
/// are enough records.
fn record(
    trainer: &Trainer,
    state: &TrainState,
    step: &NonFiniteStep,
) -> Result<Option<PathBuf>, Error> {
    let folder = trainer.folder.join("nan");
    let json = |path: &Path| path.extension().is_some_and(|x| x == "json");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    if entries.filter(|entry| json(&entry.path())).count() >= MAX_RECORDS {
        return Ok(None);
    }
    std::fs::create_dir_all(&folder)
        .map_err(|e| Error::file(format!("{}: cannot make the folder: {e}", folder.display())))?;
    let path = folder.join(format!("step-{}.json", step.position.step));
    trainer.context.save(state, &path.with_extension("ckpt"))?;
    let text = serde_json::to_string_pretty(step).expect("plain data");
    write_atomically(&path, (text + "\n").as_bytes())?;
    Ok(Some(path))
}

fn diverged(last: &Path, step: &NonFiniteStep, rollbacks: u64) -> Error {
    let intact = match last.exists() {
        true => format!("; {} is intact", last.display()),
        false => String::new(),
    };
    let rolled_back = match rollbacks {
        0 => String::new(),
        count => format!(" and {count} times at a lower rate from the last checkpoint"),
    };
    Error::diverged(format!(
        "{}{rolled_back}{intact}; lower --lr or lengthen --warmup-epochs",
        step.description()
    ))
}
