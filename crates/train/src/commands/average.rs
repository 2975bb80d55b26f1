//! `kindling average`: one checkpoint whose weights are the mean of several, as torchvision's weights of MobileNetV3
//! are; and `kindling bn-reestimate`: the statistics of batch norm for weights as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nn::network::Network;
use nn::weights::{HeadPolicy, load_state_dict, state_dict};

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::bn_statistics::reestimated;
use crate::optimizers::weight_average::Average;
use crate::out;
use crate::run::checkpoint::{Checkpoint, WeightsKind};
use crate::run::fit;

/// Where batches for new statistics come from.
#[derive(Args)]
struct Source {
    /// Batches to take
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    batches: u64,
    /// Where the network runs
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
}

/// The words of `kindling average`.
#[derive(Args)]
pub struct Merge {
    /// Checkpoints of one architecture and one list of classes
    #[arg(required = true, value_name = "CKPT")]
    checkpoints: Vec<PathBuf>,
    /// The checkpoint to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Estimate the statistics of batch norm anew on this folder's training images [default: their mean too]
    #[arg(long, alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// The words of `kindling bn-reestimate`.
#[derive(Args)]
pub struct Reestimate {
    /// The checkpoint
    #[arg(value_name = "CKPT")]
    checkpoint: PathBuf,
    /// The checkpoint to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Folder with training images [default: that of the training]
    #[arg(long, alias = "data-dir", value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// Runs `kindling average`.
///
/// # Errors
/// Checkpoints that cannot be read or are not of one kind; data; the file.
pub fn average(args: &Merge) -> Result<(), Error> {
    let autodiff_device = args.source.backend.open()?.device.autodiff();
    let mut first: Option<Checkpoint> = None;
    let mut mean: Option<Average> = None;
    for path in &args.checkpoints {
        let mut checkpoint = Checkpoint::read(path)?;
        let network = load(&mut checkpoint, path, &autodiff_device)?;
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
        let mut average = mean.take().unwrap_or_else(|| Average::of(&network));
        drop(average.add(network));
        mean = Some(average);
        first.get_or_insert(checkpoint);
    }
    let (Some(mut checkpoint), Some(mean)) = (first, mean) else {
        unreachable!("at least one checkpoint is required");
    };
    let mut network = mean.network(&checkpoint.manifest.network, &autodiff_device);
    if args.data.is_some() {
        network =
            renewed(network, &checkpoint, args.data.as_deref(), &args.source, &autodiff_device)?;
    }
    finish(&mut checkpoint, &network, &args.output)?;
    out!("{}: the mean of {} checkpoints", args.output.display(), args.checkpoints.len());
    Ok(())
}

/// Runs `kindling bn-reestimate`.
///
/// # Errors
/// A checkpoint that cannot be read; data; the file.
pub fn reestimate(args: &Reestimate) -> Result<(), Error> {
    let autodiff_device = args.source.backend.open()?.device.autodiff();
    let mut checkpoint = Checkpoint::read(&args.checkpoint)?;
    let network = load(&mut checkpoint, &args.checkpoint, &autodiff_device)?;
    let network =
        renewed(network, &checkpoint, args.data.as_deref(), &args.source, &autodiff_device)?;
    finish(&mut checkpoint, &network, &args.output)?;
    out!("{}: statistics of up to {} batches", args.output.display(), args.source.batches);
    Ok(())
}

fn load(
    checkpoint: &mut Checkpoint,
    path: &Path,
    autodiff_device: &burn::tensor::Device,
) -> Result<Network, Error> {
    let weights = checkpoint.take(WeightsKind::Best)?;
    let blank = checkpoint.manifest.network.init_zero(autodiff_device);
    let (network, _) = load_state_dict(blank, weights, HeadPolicy::Exact)
        .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    Ok(network)
}

fn renewed(
    network: Network,
    checkpoint: &Checkpoint,
    data: Option<&Path>,
    source: &Source,
    autodiff_device: &burn::tensor::Device,
) -> Result<Network, Error> {
    let mut plan = checkpoint.manifest.plan.clone();
    let train = match data {
        Some(folder) => {
            plan.data_dir = folder.to_path_buf();
            ImageFolder::open_train(folder, None)?
        }
        None => fit::open(&plan)?.0,
    };
    let loader = fit::loader(&plan, &Arc::new(train), Mode::Train(plan.augment()), plan.batch_size);
    reestimated(network, loader.epoch(0, 0).take(source.batches as usize), autodiff_device)
}

/// Writes a checkpoint of these weights alone: nothing of an optimizer or an average belongs to them.
fn finish(checkpoint: &mut Checkpoint, network: &Network, path: &Path) -> Result<(), Error> {
    checkpoint.weights = state_dict(network);
    (checkpoint.optimizer, checkpoint.averages) = (Vec::new(), Vec::new());
    let manifest = &mut checkpoint.manifest;
    (manifest.ema_updates, manifest.swa_epochs, manifest.prefer_ema) = (None, None, false);
    (manifest.best, manifest.optimizer_steps) = (None, Some(0));
    checkpoint.write(path)
}
