//! `kindling average`: one checkpoint whose weights are the mean of several, as torchvision's
//! weights of MobileNetV3 are.

use std::path::PathBuf;

use clap::Args;
use deploy::manifest::WeightsKind;

use crate::commands::checkpoint_args::chosen;
use crate::commands::checkpoint_edit::{BatchSourceArgs, reestimate_bn, write_weights};
use crate::error::Error;
use crate::optimizers::weight_average::Average;
use crate::out;
use crate::run::checkpoint::Checkpoint;

/// Arguments of `kindling average`.
#[derive(Args)]
pub struct AverageArgs {
    /// Checkpoints of one architecture and one list of classes
    #[arg(required = true, value_name = "CKPT")]
    checkpoints: Vec<PathBuf>,
    /// Checkpoint to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Re-estimate the batch-norm statistics on the training images of this folder
    /// [default: average the statistics too]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    source: BatchSourceArgs,
}

/// Runs `kindling average`.
///
/// # Errors
/// Checkpoints that cannot be read or do not fit together, a faulty data set, a file that cannot be
/// written.
pub fn average(args: &AverageArgs) -> Result<(), Error> {
    let autodiff_device = args.source.backend.open()?.device.autodiff();
    let mut first: Option<Checkpoint> = None;
    let mut mean: Option<Average> = None;
    for path in &args.checkpoints {
        let mut checkpoint = Checkpoint::read(&chosen(Some(path))?)?;
        let network = checkpoint.take_network(WeightsKind::Best, path, &autodiff_device)?;
        if let Some(first) = &first {
            let (own, its) = (&checkpoint.manifest, &first.manifest);
            if own.network != its.network || own.classes != its.classes {
                return Err(Error::usage(format!(
                    "{}: another network or other classes than {}; average checkpoints of one kind",
                    path.display(),
                    args.checkpoints[0].display()
                )));
            }
        }
        let mut average = mean.take().unwrap_or_else(|| Average::new(&network));
        drop(average.update_swa(network));
        mean = Some(average);
        first.get_or_insert(checkpoint);
    }
    let (Some(mut checkpoint), Some(mean)) = (first, mean) else {
        unreachable!("at least one checkpoint is required");
    };
    let mut network = mean.network(&checkpoint.manifest.network, &autodiff_device);
    if args.data.is_some() {
        network = reestimate_bn(
            network,
            &checkpoint,
            args.data.as_deref(),
            &args.source,
            &autodiff_device,
        )?;
    }
    write_weights(&mut checkpoint, &network, &args.output)?;
    out!("{}: the mean of {} checkpoints", args.output.display(), args.checkpoints.len());
    Ok(())
}
