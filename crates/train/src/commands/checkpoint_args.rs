//! Reading a checkpoint for a command: which of its weights, and the network they make.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use deploy::classifier::Classifier;
use deploy::manifest::WeightsKind;
use nn::network::Network;

use crate::config::model::{GivenKind, weights_kind};
use crate::config::output::DEFAULT_OUTPUT;
use crate::device::Backend;
use crate::err;
use crate::error::Error;
use crate::run::checkpoint::{Checkpoint, Manifest, no_average, unreadable};
use crate::run::resume::find;
use crate::run::retention::{BEST, LAST};

/// Which weights of a checkpoint to take; without a flag those with the better accuracy.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct WeightsArgs {
    /// Use the trained weights [default: the weights that were better when both were evaluated]
    #[arg(long, conflicts_with = "use_ema")]
    raw: bool,
    /// Use the exponential moving average (EMA) of the weights [default: as for --raw]
    #[arg(long)]
    use_ema: bool,
    /// Weights to take: `raw` as --raw, `ema` as --use-ema [default: the better ones]
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["raw", "use_ema"])]
    weights_kind: Option<GivenKind>,
}

impl WeightsArgs {
    /// The kind of weights that the flags name.
    pub(super) fn kind(self) -> WeightsKind {
        match (self.raw, self.use_ema) {
            (true, _) => WeightsKind::Raw,
            (_, true) => WeightsKind::Ema,
            _ => weights_kind(self.weights_kind),
        }
    }
}

/// The checkpoint that a path means: the file itself, or the best one in the folder of a run;
/// without a path that of the newest run, which is said.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]: a folder without a checkpoint; no run.
pub(super) fn chosen(given: Option<&Path>) -> Result<PathBuf, Error> {
    let Some(path) = given else {
        let newest = find(Path::new("auto"), Path::new(DEFAULT_OUTPUT)).map_err(|_| {
            Error::checkpoint(format!(
                "{DEFAULT_OUTPUT}: no run in it; give --checkpoint FILE, or the folder of a run"
            ))
        })?;
        let best = best_in(&newest.folder())?;
        err!("note: the newest run: {}", best.display());
        return Ok(best);
    };
    if path.is_dir() { best_in(path) } else { Ok(path.to_path_buf()) }
}

/// Whether a path is a checkpoint, or a folder that holds one.
pub(super) fn is_checkpoint(path: &Path) -> bool {
    path.is_file() || best_in(path).is_ok()
}

fn best_in(folder: &Path) -> Result<PathBuf, Error> {
    let names = [BEST, LAST].map(|name| folder.join(name));
    names.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Error::checkpoint(format!(
            "{}: no checkpoint there; give a .ckpt file or the folder of a run",
            folder.display()
        ))
    })
}

/// Opens the device for a checkpoint that was read from `path`: the network in inference mode, the
/// manifest, the device.
pub(super) fn open(
    mut checkpoint: Checkpoint,
    path: &Path,
    kind: WeightsKind,
    backend: Backend,
) -> Result<(Network, Manifest, Device), Error> {
    let chosen = backend.open()?;
    let network = checkpoint.take_network(kind, path, &chosen.device)?;
    Ok((network, checkpoint.manifest, chosen.device))
}

/// Reads the classifier of a checkpoint onto a device.
pub(super) fn load_classifier(
    path: &Path,
    weights: WeightsArgs,
    device: &Device,
) -> Result<Classifier, Error> {
    Classifier::load_weights(path, weights.kind(), device).map_err(|error| match error {
        deploy::error::Error::NoAverage { .. } => no_average(),
        error => unreadable(path, &error.to_string()),
    })
}
