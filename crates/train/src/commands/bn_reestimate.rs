//! `kindling bn-reestimate`: new batch norm statistics for unchanged weights.

use std::path::PathBuf;

use clap::Args;
use deploy::manifest::WeightsKind;

use crate::commands::checkpoint_args::chosen;
use crate::commands::checkpoint_edit::{BatchSourceArgs, reestimate_bn, write_weights};
use crate::error::Error;
use crate::out;
use crate::run::checkpoint::Checkpoint;

/// Arguments of `kindling bn-reestimate`.
#[derive(Args)]
pub struct BnReestimateArgs {
    /// Checkpoint to read
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// Checkpoint to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Folder with training images [default: the folder of the training]
    #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    source: BatchSourceArgs,
}

/// Runs `kindling bn-reestimate`.
///
/// # Errors
/// A checkpoint that cannot be read, a faulty data set, a file that cannot be written.
pub fn bn_reestimate(args: &BnReestimateArgs) -> Result<(), Error> {
    let autodiff_device = args.source.backend.open()?.device.autodiff();
    let mut checkpoint = Checkpoint::read(&chosen(Some(&args.checkpoint))?)?;
    let network = checkpoint.take_network(WeightsKind::Best, &args.checkpoint, &autodiff_device)?;
    let network =
        reestimate_bn(network, &checkpoint, args.data.as_deref(), &args.source, &autodiff_device)?;
    write_weights(&mut checkpoint, &network, &args.output)?;
    out!("{}: statistics of up to {} batches", args.output.display(), args.source.batches);
    Ok(())
}
