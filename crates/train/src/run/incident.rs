//! Steps whose loss or gradient is not finite: their record below `nan/` of the run folder, and the
//! response of the run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::files::{create_folders, write_atomically};
use crate::learner::nan_guard::{NanGuard, Response};
use crate::run::progress::Position;
use crate::run::retention;
use crate::run::retention::LAST;
use crate::run::run_folder;
use crate::run::state::TrainState;
use crate::run::synchronise;
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
            "the {what} is not finite at epoch {}, batch {batch}, step {step}, learning rate \
             {:.3e}",
            epoch + 1,
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
    let saved = trainer.communicator().value_of_root(last.exists())?;
    if response == Response::Stop || !saved && response != Response::Skip {
        let last = Some(&*last).filter(|last| last.exists());
        return Err(diverged(last, &step.description(), state.nan_guard.rollbacks));
    }
    trainer.observer.note(&step.note(response, &state.nan_guard, file.as_deref()));
    if response == Response::RollBack {
        let (nan_guard, micro_batch) = (state.nan_guard, state.micro_batch);
        state = synchronise::restore(&trainer.context, trainer.communicator(), &last)?;
        (state.nan_guard, state.micro_batch) = (nan_guard, micro_batch);
        rewind_steps(trainer, &state)?;
    } else {
        state.epoch_stats.skipped_steps += 1;
    }
    Ok((state, response))
}

/// Halves the loss scale after step `step`, whose gradients are not finite, if its loss is and the
/// scale may be the reason; whether it was.
pub(super) fn back_off(trainer: &Trainer, state: &mut TrainState, step: u64, loss: f64) -> bool {
    let Some(scale) = loss.is_finite().then(|| state.nan_guard.back_off()).flatten() else {
        return false;
    };
    trainer.observer.note(&format!(
        "note: step {step}: gradients of 16-bit maps overflow; step skipped, loss scale {scale} \
         from here on"
    ));
    state.epoch_stats.skipped_steps += 1;
    true
}

/// Responds to the evaluation of an epoch with a `loss` that is not finite: rolls the run back to
/// the newest checkpoint of an epoch before, whose evaluation was finite, with a lower rate. The
/// last checkpoint is that one from then on, because the one before it evaluates to no number.
///
/// # Errors
/// [`crate::error::ErrorKind::Diverged`]: the guard gives up, or there is no such checkpoint. A
/// checkpoint or file that cannot be read or written.
pub(super) fn respond_to_evaluation(
    trainer: &Trainer,
    mut state: TrainState,
    loss: f64,
) -> Result<TrainState, Error> {
    let (epoch, rollbacks) = (state.position.epoch, state.nan_guard.rollbacks);
    let response =
        state.nan_guard.on_non_finite_evaluation(trainer.context.plan.training.nan_action);
    let before = retention::epochs(&trainer.folder).into_iter().find(|own| *own < epoch);
    let before = before.map(|own| trainer.folder.join(retention::epoch_file(own)));
    let best = Some(trainer.folder.join(retention::BEST)).filter(|best| best.exists());
    let what = format!("the loss of the evaluation of epoch {} is not finite ({loss})", epoch + 1);
    let target = trainer.communicator().value_of_root(before.or(best))?;
    let (Response::RollBack, Some(target)) = (response, &target) else {
        return Err(diverged(target.as_deref(), &what, rollbacks));
    };
    let (nan_guard, micro_batch) = (state.nan_guard, state.micro_batch);
    trainer.observer.note(&format!(
        "{what}: back to {}, rate times {:.3e} from here on",
        target.display(),
        nan_guard.factor
    ));
    state = synchronise::restore(&trainer.context, trainer.communicator(), target)?;
    (state.nan_guard, state.micro_batch) = (nan_guard, micro_batch);
    rewind_steps(trainer, &state)?;
    trainer.save(&state, LAST)?;
    Ok(state)
}

/// Removes the lines of `steps.jsonl` after the position of the state.
fn rewind_steps(trainer: &Trainer, state: &TrainState) -> Result<(), Error> {
    match trainer.is_root() {
        true => run_folder::rewind_steps(&trainer.folder, state.position),
        false => Ok(()),
    }
}

/// Writes the step and the weights before it below `nan/`. Returns the file, or nothing once there
/// are enough records.
fn record(
    trainer: &Trainer,
    state: &TrainState,
    step: &NonFiniteStep,
) -> Result<Option<PathBuf>, Error> {
    if !trainer.is_root() {
        return Ok(None);
    }
    let folder = trainer.folder.join("nan");
    let json = |path: &Path| path.extension().is_some_and(|x| x == "json");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    if entries.filter(|entry| json(&entry.path())).count() >= MAX_RECORDS {
        return Ok(None);
    }
    create_folders(&folder)?;
    let path = folder.join(format!("step-{}.json", step.position.step));
    trainer.context.save(state, &path.with_extension("ckpt"))?;
    let text = serde_json::to_string_pretty(step).expect("plain data");
    write_atomically(&path, (text + "\n").as_bytes())?;
    Ok(Some(path))
}

/// The error of a run that gives up because of `what`; `intact` is the checkpoint to go on from.
fn diverged(intact: Option<&Path>, what: &str, rollbacks: u64) -> Error {
    let intact = match intact {
        Some(checkpoint) => format!("; {} is intact", checkpoint.display()),
        None => String::new(),
    };
    let rolled_back = match rollbacks {
        0 => String::new(),
        count => format!(" and {count} times at a lower rate from the last checkpoint"),
    };
    Error::diverged(format!("{what}{rolled_back}{intact}; lower --lr or lengthen --warmup-epochs"))
}
