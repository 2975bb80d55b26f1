//! Steps whose loss or gradient was not finite: what is written down about them, and `kindling replay`, which runs
//! such a batch again and says what each layer's gradient is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nn::layer_spec::Naming;
use nn::weights::gradients;
use serde::{Deserialize, Serialize};

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::forward_backward::{dropout_seed, forward};
use crate::learner::nan_guard::{NanGuard, Response};
use crate::learner::objective::Objective;
use crate::optimizers::buffer::squares;
use crate::out;
use crate::run::checkpoint::{Checkpoint, Position, write_atomically};
use crate::run::fit;
use crate::run::state::{Setup, State};

/// Incidents of a run that are written down with their weights; the rest are only counted.
const KEPT: usize = 3;

/// A step that was not finite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonFiniteStep {
    /// The batch, counted from 1, and the steps done before it.
    pub position: Position,
    /// Learning rate of the step.
    pub lr: f64,
    /// Loss of the batch, when it was finite.
    pub loss: Option<f64>,
    /// Norm of all gradients, when it was finite.
    pub grad_norm: Option<f64>,
    /// Places of the batch's images in the training set.
    pub indices: Vec<usize>,
    /// Their files.
    pub files: Vec<PathBuf>,
}

impl NonFiniteStep {
    /// What is known of it.
    pub fn new(
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
            files: indices.iter().map(|index| train.items[*index].0.clone()).collect(),
        }
    }

    /// What happened and where.
    pub fn what(&self) -> String {
        let what = if self.loss.is_none() { "loss" } else { "gradient" };
        let Position { epoch, batch, step } = self.position;
        format!(
            "the {what} is not finite at epoch {epoch}, batch {batch}, step {step}, learning rate \
             {:.3e}",
            self.lr
        )
    }

    /// For the journal.
    pub fn sentence(&self, response: Response, strain: &NanGuard, file: Option<&Path>) -> String {
        let done = match response {
            Response::RollBack => "back to the last checkpoint".to_owned(),
            _ => "step skipped".to_owned(),
        };
        let slower = match strain.factor < 1.0 {
            true => format!(", rate times {:.3e} from here on", strain.factor),
            false => String::new(),
        };
        let file = file.map_or_else(String::new, |f| format!("; kindling replay {}", f.display()));
        format!("{}: {done}{slower}{file}", self.what())
    }
}

/// Writes an incident down with the weights it happened to, below `folder/nan`; the file's path, or nothing
/// when there are enough of them.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub fn record(
    folder: &Path,
    setup: &Setup,
    state: &State,
    incident: &NonFiniteStep,
) -> Result<Option<PathBuf>, Error> {
    let place = folder.join("nan");
    let json = |path: &Path| path.extension().is_some_and(|x| x == "json");
    let there = std::fs::read_dir(&place).into_iter().flatten().flatten();
    if there.filter(|entry| json(&entry.path())).count() >= KEPT {
        return Ok(None);
    }
    std::fs::create_dir_all(&place)
        .map_err(|e| Error::file(format!("{}: cannot make the folder: {e}", place.display())))?;
    let path = place.join(format!("step-{}.json", incident.position.step));
    setup.save(state, &path.with_extension("ckpt"))?;
    let text = serde_json::to_string_pretty(incident).expect("plain data");
    write_atomically(&path, (text + "\n").as_bytes())?;
    Ok(Some(path))
}

/// The words of `kindling replay`.
#[derive(Args)]
pub struct Replay {
    /// `nan/step-N.json` of a run; `step-N.ckpt` lies beside it
    #[arg(value_name = "FILE")]
    incident: PathBuf,
    /// Where the network runs [default: as the run]
    #[arg(long, value_enum)]
    backend: Option<Backend>,
}

/// Runs the subcommand.
///
/// # Errors
/// Files that are not there or do not belong together, data that changed.
pub fn replay(args: &Replay) -> Result<(), Error> {
    let place = args.incident.display();
    let text = std::fs::read_to_string(&args.incident)
        .map_err(|e| Error::file(format!("{place}: cannot read it: {e}")))?;
    let incident: NonFiniteStep = serde_json::from_str(&text)
        .map_err(|e| Error::file(format!("{place}: no record of a step: {e}")))?;
    let checkpoint = Checkpoint::read(&args.incident.with_extension("ckpt"))?;
    let plan = checkpoint.manifest.plan.clone();
    let chosen = args.backend.unwrap_or(plan.backend).open()?;
    let autodiff_device = chosen.device.clone().autodiff();
    let train = Arc::new(fit::open(&plan)?.0);
    let setup = Setup::new(&plan, &train, &autodiff_device)?;
    let state = setup.resume(checkpoint, true)?;
    let objective = Objective::new(&plan, &train, &chosen.device)?;
    let loader = fit::loader(&plan, &train, Mode::Train(plan.augment()), plan.batch_size);
    let Position { epoch, batch: number, .. } = incident.position;
    let found = loader.epoch(epoch, number.saturating_sub(1)).next();
    let mut batch = found.ok_or_else(|| {
        Error::data(format!("{place}: the epoch has no batch {number}; was the data changed?"))
    })??;
    if batch.indices != incident.indices {
        let why = "the batch has other images now; the data or the program changed";
        return Err(Error::data(format!("{place}: {why}")));
    }
    let odd = batch.images.iter().filter(|v| !v.is_finite()).count();
    let largest = batch.images.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    out!("{}", incident.what());
    out!("input       {} values, {odd} not finite, largest {largest:.4e}", batch.images.len());
    let dropout = dropout_seed(plan.seed, epoch, number);
    let forward = forward(&state.network, &objective, &mut batch, 1.0, dropout, &autodiff_device)?;
    out!("loss        {}", forward.loss);
    let taken = forward.gradients(&state.network)?;
    let all = gradients(&state.network, &taken, Naming::Torchvision);
    let norms: Vec<f64> = all.iter().map(|t| squares(&t.values).sqrt()).collect();
    out!("gradient    {}", norms.iter().map(|n| n * n).sum::<f64>().sqrt());
    out!("{:<48} {:>12}", "layer", "gradient");
    for (tensor, norm) in all.iter().zip(&norms) {
        out!("{:<48} {norm:>12.4e}", tensor.name);
    }
    Ok(())
}
