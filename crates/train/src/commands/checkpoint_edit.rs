//! Reading a checkpoint's network, changing it, and writing it back without optimizer state.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use clap::Args;
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::state_dict::state_dict;

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::bn_statistics;
use crate::run::checkpoint::Checkpoint;
use crate::run::open_data;

/// How many batches new statistics are estimated on, and where.
#[derive(Args)]
pub(super) struct BatchSourceArgs {
    /// Batches to estimate the statistics on [range: at least 1]
    #[arg(long, default_value_t = 100, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) batches: u64,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    pub(super) backend: Backend,
}

/// The network with batch norm statistics of `data`, or of the training set of the checkpoint.
pub(super) fn reestimate_bn(
    network: Network,
    checkpoint: &Checkpoint,
    data: Option<&Path>,
    source: &BatchSourceArgs,
    autodiff_device: &Device,
) -> Result<Network, Error> {
    let mut plan = checkpoint.manifest.plan.clone();
    let train = match data {
        Some(folder) => {
            plan.data.data_dir = folder.to_path_buf();
            ImageFolder::open_train(folder, None)?
        }
        None => open_data::open(&plan)?.0,
    };
    let loader = open_data::loader(
        &plan,
        &Arc::new(train),
        Mode::Train(plan.augment()),
        plan.training.batch_size,
    );
    bn_statistics::reestimate(
        network,
        loader.epoch(0, 0).take(source.batches as usize),
        autodiff_device,
    )
}

/// Writes a checkpoint of these weights alone. Optimizer state and averages belong to other weights
/// and are dropped.
pub(super) fn write_weights(
    checkpoint: &mut Checkpoint,
    network: &Network,
    path: &Path,
) -> Result<(), Error> {
    checkpoint.weights = state_dict(network);
    let odd = |tensor: &&NamedTensor| !tensor.values.iter().all(|value| value.is_finite());
    if let Some(tensor) = checkpoint.weights.iter().find(odd) {
        return Err(Error::diverged(format!(
            "{}: not written: `{}` would hold numbers that are not finite; the weights are too large",
            path.display(),
            tensor.name
        )));
    }
    (checkpoint.optimizer, checkpoint.averages) = (Vec::new(), Vec::new());
    let manifest = &mut checkpoint.manifest;
    (manifest.ema_updates, manifest.swa_epochs, manifest.prefer_ema) = (None, None, false);
    (manifest.best, manifest.optimizer_steps) = (None, Some(0));
    checkpoint.write(path)
}
