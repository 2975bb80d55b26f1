//! Reading a checkpoint for a command: which of its weights, and the network they make.

use std::path::Path;

use burn::tensor::Device;
use clap::Args;
use deploy::manifest::WeightsKind;
use nn::network::Network;

use crate::config::model::{GivenKind, weights_kind};
use crate::device::Backend;
use crate::error::Error;
use crate::run::checkpoint::{Checkpoint, Manifest};

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

/// Reads a checkpoint and opens the device: the network in inference mode, the manifest, the
/// device.
pub(super) fn load(
    path: &Path,
    kind: WeightsKind,
    backend: Backend,
) -> Result<(Network, Manifest, Device), Error> {
    let mut checkpoint = Checkpoint::read(path)?;
    let chosen = backend.open()?;
    let network = checkpoint.take_network(kind, path, &chosen.device)?;
    Ok((network, checkpoint.manifest, chosen.device))
}
