//! `kindling replay`: runs the batch of a step whose loss or gradient was not finite again, and
//! prints the gradient of each layer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nn::layer_spec::Naming;
use nn::weights::state_dict::gradients;

use crate::datasets::loader::Mode;
use crate::device::Backend;
use crate::error::Error;
use crate::files::read_text;
use crate::learner::forward_backward::{dropout_seed, forward};
use crate::optimizers::buffer::squares;
use crate::out;
use crate::run::build_objective::build_objective;
use crate::run::checkpoint::Checkpoint;
use crate::run::incident::NonFiniteStep;
use crate::run::open_data;
use crate::run::open_data::RunImages;
use crate::run::progress::Position;
use crate::run::state::RunContext;

/// The arguments of `kindling replay`.
#[derive(Args)]
pub struct ReplayArgs {
    /// File `nan/step-N.json` of a run, with `step-N.ckpt` beside it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Backend; `list` prints those of this machine [default: that of the run]
    #[arg(long, value_enum, value_name = "NAME")]
    backend: Option<Backend>,
}

/// Runs the subcommand.
///
/// # Errors
/// Files that are not there or do not belong together, data that changed.
pub fn replay(args: &ReplayArgs) -> Result<(), Error> {
    let file = args.file.display();
    let text =
        read_text(&args.file).map_err(|e| Error::file(format!("{file}: cannot read it: {e}")))?;
    let step: NonFiniteStep = serde_json::from_str(&text)
        .map_err(|e| Error::file(format!("{file}: no record of a step: {e}")))?;
    let checkpoint = Checkpoint::read(&args.file.with_extension("ckpt"))?;
    let plan = checkpoint.manifest.plan.clone();
    let chosen = args.backend.unwrap_or(plan.machine.backend).open_for(plan.machine.amp)?;
    let autodiff_device = chosen.device.clone().autodiff();
    let run_folder = args.file.parent().and_then(Path::parent).unwrap_or(Path::new("."));
    let RunImages { train, mut left_out, .. } =
        open_data::open_for_run(&plan, Some(checkpoint.manifest.data), run_folder)?;
    // The batch as it was, whatever came on the quarantine list since.
    step.indices.iter().for_each(|index| _ = left_out.remove(index));
    let train = Arc::new(train);
    let context = RunContext::new(&plan, &train, &autodiff_device)?;
    let state = context.resume(checkpoint, true)?;
    let (objective, _) = build_objective(&plan, &train, &chosen.device)?;
    let loader =
        open_data::loader(&plan, &train, Mode::Train(plan.augment()), plan.training.batch_size)
            .leaving_out(left_out);
    let Position { epoch, batch: number, .. } = step.position;
    let found = loader.epoch(epoch, number.saturating_sub(1)).next();
    let mut batch = found.ok_or_else(|| {
        Error::data(format!("{file}: the epoch has no batch {number}; was the data changed?"))
    })??;
    if batch.indices != step.indices {
        let why = "the batch has other images now; the data or the program changed";
        return Err(Error::data(format!("{file}: {why}")));
    }
    let odd = batch.images.iter().filter(|v| !v.is_finite()).count();
    let largest = batch.images.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    out!("{}", step.description());
    out!("input       {} values, {odd} not finite, largest {largest:.4e}", batch.images.len());
    let dropout = dropout_seed(plan.training.seed, epoch, number);
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
