//! A checkpoint of a run: a [`Manifest`] and tensors, in one self-describing file.
//!
//! The file is a `deploy::container`: weights and running statistics stand under torchvision's
//! names, so any safetensors reader opens them; the optimizer's state stands under `optimizer.*`,
//! averages of the weights under `ema.*` and `swa.*`. The manifest holds the model (network,
//! classes, preprocessing), which `deploy` reads too, and the training (plan, position, ..), which
//! only this crate reads.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use deploy::classifier::load_network;
use deploy::container::{Container, FORMAT, OPTIMIZER, TensorRef, container_of};
pub use deploy::container::{EMA, SWA};
pub use deploy::manifest::WeightsKind;
use nn::config::NetworkConfig;
use nn::network::Network;
use nn::weights::NamedTensor;
use serde::{Deserialize, Serialize};

use crate::config::plan::Plan;
use crate::error::Error;
use crate::files::{read, write_atomically};
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::optimizers::optimizer::SavedBuffer;
use crate::run::progress::{Best, EpochStats, Position};
use transforms::preprocess::Preprocess;

/// Fingerprint of the training set; a run can only be resumed on the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetFingerprint {
    /// Number of images.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// CRC-32 over the relative paths and labels in their order.
    pub crc32: u32,
}

/// Everything in a checkpoint but the tensors. `deploy::manifest` reads the fields of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout.
    pub format: u32,
    /// Version of the program that wrote it.
    pub kindling: String,
    /// Architecture, width, classes, dropout, constants of batch norm.
    pub network: NetworkConfig,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How images become tensors.
    pub preprocess: Preprocess,
    /// The whole resolved configuration of the run.
    pub plan: Plan,
    /// The next batch.
    pub position: Position,
    /// Sums of the running epoch.
    #[serde(rename = "tally")]
    pub epoch_stats: EpochStats,
    /// The best evaluation.
    pub best: Option<Best>,
    /// Updates that the optimizer made; `position.step` where the field is absent.
    #[serde(default)]
    pub optimizer_steps: Option<u64>,
    /// Updates of the exponential average, whose tensors are `ema.*`.
    #[serde(default)]
    pub ema_updates: Option<u64>,
    /// Epochs in the equal average, whose tensors are `swa.*`.
    #[serde(default)]
    pub swa_epochs: Option<u64>,
    /// Whether the exponential average was better than the trained weights at the last evaluation.
    #[serde(default)]
    pub prefer_ema: bool,
    /// State of `--sched plateau`.
    #[serde(default)]
    pub plateau: Plateau,
    /// State of the guard against non-finite losses.
    #[serde(default, rename = "strain")]
    pub nan_guard: NanGuard,
    /// Largest micro-batch, images, where the memory was too small for a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// The training set.
    pub data: DatasetFingerprint,
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// Everything but the tensors.
    pub manifest: Manifest,
    /// Weights and running statistics under torchvision's names.
    pub weights: Vec<NamedTensor>,
    /// State of the optimizer.
    pub optimizer: Vec<SavedBuffer>,
    /// Averages of the weights: torchvision's names after `ema.` and `swa.`.
    pub averages: Vec<NamedTensor>,
}

impl Manifest {
    /// The layout version written by this program.
    pub fn format() -> u32 {
        FORMAT
    }
}

impl Checkpoint {
    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`] on any failure; an older file at `path` is untouched then.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let manifest = serde_json::to_string(&self.manifest).expect("the manifest is plain data");
        let weights = self.weights.iter().chain(&self.averages).map(TensorRef::from);
        let states = self.optimizer.iter().map(|state| TensorRef {
            name: &state.name,
            shape: vec![state.values.len()],
            values: &state.values,
        });
        write_atomically(path, &container_of(&manifest, weights.chain(states)))
    }

    /// Takes weights out of the checkpoint.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`] when an average is asked for and there is none.
    pub fn take(&mut self, kind: WeightsKind) -> Result<Vec<NamedTensor>, Error> {
        match kind.is_ema(self.manifest.prefer_ema, self.manifest.ema_updates) {
            Some(true) => Ok(self.take_average(EMA)),
            Some(false) => Ok(std::mem::take(&mut self.weights)),
            None => Err(no_average()),
        }
    }

    /// Takes weights out of the checkpoint and builds its network with them on `device`. `path` is
    /// where the checkpoint was read from, for the message.
    ///
    /// # Errors
    /// See [`Checkpoint::take`]; [`crate::error::ErrorKind::Checkpoint`] when the tensors do not
    /// fit.
    pub fn take_network(
        &mut self,
        kind: WeightsKind,
        path: &Path,
        device: &Device,
    ) -> Result<Network, Error> {
        let weights = self.take(kind)?;
        load_network(&self.manifest.network, weights, device)
            .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))
    }

    /// Takes the tensors of an average out of the checkpoint, without their prefix; an empty list
    /// where there is no average.
    pub fn take_average(&mut self, prefix: &str) -> Vec<NamedTensor> {
        let all = std::mem::take(&mut self.averages);
        let (found, left) = all.into_iter().partition(|t| t.name.starts_with(prefix));
        self.averages = left;
        let bare = |mut tensor: NamedTensor| {
            tensor.name = tensor.name.split_off(prefix.len());
            tensor
        };
        Vec::into_iter(found).map(bare).collect()
    }

    /// Reads and verifies a file.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Checkpoint`]: missing, truncated, foreign, altered, or of a newer
    /// layout, each in a sentence of its own.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fail = |what: String| unreadable(path, &format!("{}: {what}", path.display()));
        let bytes = read(path).map_err(|e| fail(format!("cannot read it: {e}")))?;
        let container = Container::from_bytes(&bytes).map_err(|e| fail(e.to_string()))?;
        let manifest: Manifest = serde_json::from_str(&container.manifest)
            .map_err(|e| fail(format!("manifest: {e}")))?;
        let (mut weights, mut optimizer, mut averages) = (Vec::new(), Vec::new(), Vec::new());
        for tensor in container.tensors {
            if tensor.name.starts_with(OPTIMIZER) {
                optimizer.push(SavedBuffer { name: tensor.name, values: tensor.values });
            } else if tensor.name.starts_with(EMA) || tensor.name.starts_with(SWA) {
                averages.push(tensor);
            } else {
                weights.push(tensor);
            }
        }
        Ok(Self { manifest, weights, optimizer, averages })
    }
}

/// The error for a checkpoint that cannot be used: `sentence`, and another checkpoint of the same
/// run where there is one.
pub fn unreadable(path: &Path, sentence: &str) -> Error {
    let way_out = match siblings_of(path).first() {
        None => String::new(),
        Some(sibling) => format!("; another one of this run: {}", sibling.display()),
    };
    Error::checkpoint(format!("{sentence}{way_out}"))
}

/// The error for an average that was asked for where there is none.
pub fn no_average() -> Error {
    Error::usage("--use-ema: the checkpoint has no average; it is kept with --model-ema")
}

/// Other checkpoints in the same folder, newest first.
fn siblings_of(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().map(std::fs::read_dir);
    let Some(Ok(entries)) = folder else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p != path && p.extension().is_some_and(|x| x == "ckpt"))
        .collect();
    found.sort_by_key(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok());
    found.reverse();
    found
}
