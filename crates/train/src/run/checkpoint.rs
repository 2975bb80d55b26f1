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
use deploy::container::{Container, OPTIMIZER, TensorRef, container_of};
pub use deploy::container::{EMA, SWA};
use deploy::files::StagedFile;
pub use deploy::manifest::WeightsKind;
use nn::network::Network;
use nn::weights::NamedTensor;

use crate::error::Error;
use crate::files::{failed, read, stage};
use crate::optimizers::optimizer::SavedBuffer;
pub use crate::run::manifest::{DatasetFingerprint, Manifest};
use crate::run::retention::is_of_a_run;

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

impl Checkpoint {
    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`] on any failure; an older file at `path` is untouched then.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        self.stage(path)?.publish().map_err(failed)
    }

    /// Writes the file beside `path`, without its name yet.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`].
    pub(super) fn stage(&self, path: &Path) -> Result<StagedFile, Error> {
        stage(path, &self.to_bytes())
    }

    /// The bytes of the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let manifest = serde_json::to_string(&self.manifest).expect("the manifest is plain data");
        let weights = self.weights.iter().chain(&self.averages).map(TensorRef::from);
        let states = self.optimizer.iter().map(|state| TensorRef {
            name: &state.name,
            shape: vec![state.values.len()],
            values: &state.values,
        });
        container_of(&manifest, weights.chain(states))
    }

    /// The first tensor with a value that is not finite.
    pub(super) fn not_finite(&self) -> Option<&str> {
        let weights = self.weights.iter().chain(&self.averages).map(|t| (&t.name, &t.values));
        let mut all =
            weights.chain(self.optimizer.iter().map(|state| (&state.name, &state.values)));
        all.find(|(_, values)| !all_finite(values)).map(|(name, _)| &**name)
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
        Self::from_bytes(&bytes).map_err(fail)
    }

    /// The checkpoint in the bytes of a file.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let container = Container::from_bytes(bytes).map_err(|e| e.to_string())?;
        let manifest =
            Manifest::parse(&container.manifest).map_err(|why| format!("manifest: {why}"))?;
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

/// Other checkpoints of the same run, newest first: those under the names that a run gives, in the
/// folder of a run.
fn siblings_of(path: &Path) -> Vec<PathBuf> {
    let Some(folder) = path.parent() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    if !folder.join("args.toml").is_file() {
        return Vec::new();
    }
    let mut found: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| {
            p != path && p.file_name().and_then(|name| name.to_str()).is_some_and(is_of_a_run)
        })
        .collect();
    found.sort_by_key(|p| std::fs::metadata(p).and_then(|m| m.modified()).ok());
    found.reverse();
    found
}

/// Whether every value is finite. A block is judged as a whole, without a branch for each value, so
/// that the compiler takes many at once: a checkpoint has millions.
fn all_finite(values: &[f32]) -> bool {
    values.chunks(1024).all(|block| block.iter().fold(true, |all, value| all & value.is_finite()))
}
