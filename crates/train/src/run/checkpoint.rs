//! One self-describing file: a safetensors container whose metadata holds the [`Manifest`].
//!
//! Weights and running statistics stand under torchvision's names, so any safetensors reader opens
//! them; the optimizer's state stands under `optimizer.*`, averages of the weights under `ema.*` and
//! `swa.*`. safetensors has no checksum: the
//! metadata carries a CRC-32 over the names, shapes and bytes of all tensors and one over the
//! manifest. A file is written beside its place, flushed to disk, and renamed.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use nn::network::NetworkConfig;
use nn::weights::NamedTensor;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::config::plan::Plan;
use crate::error::Error;
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::optimizers::optimizer::SavedBuffer;
use transforms::preprocess::Preprocess;

const MANIFEST: &str = "kindling.manifest";
const MANIFEST_CRC: &str = "kindling.manifest_crc32";
const TENSORS_CRC: &str = "kindling.tensors_crc32";
const FORMAT: u32 = 1;

/// Where a run stands: the next batch to train on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batch in the epoch, from 0.
    pub batch: usize,
    /// Optimizer steps done.
    pub step: u64,
}

/// Sums over the part of the epoch that is done, so that a resumed epoch reports as a whole one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochStats {
    /// Sum of the losses, weighted by images.
    pub loss: f64,
    /// Images seen.
    pub seen: u64,
    /// Images skipped as unreadable.
    pub skipped: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// Of these, seconds spent waiting for data.
    pub waited: f64,
    /// Optimizer steps left out because a loss or gradient was not finite.
    #[serde(default)]
    pub skipped_steps: u64,
}

impl EpochStats {
    /// Mean loss per image.
    pub fn mean_loss(&self) -> f64 {
        self.loss / self.seen.max(1) as f64
    }

    /// Images per second.
    pub fn img_per_s(&self) -> f64 {
        self.seen as f64 / self.seconds.max(1e-9)
    }

    /// Share of the time spent waiting for data, percent.
    pub fn wait_percent(&self) -> f64 {
        100.0 * self.waited / self.seconds.max(1e-9)
    }
}

/// The best evaluation so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Epoch of it, from 0.
    pub epoch: u64,
    /// Top-1 accuracy, 0 to 1.
    pub top1: f64,
    /// The number that the epochs are compared by, larger is better; that of `top1` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Whether it is that of the exponential average.
    #[serde(default)]
    pub ema: bool,
}

impl Best {
    /// The number that the epochs are compared by.
    pub fn score(&self) -> f64 {
        self.score.unwrap_or(self.top1)
    }
}

/// The training set a run was begun on; another one cannot be resumed on bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetFingerprint {
    /// Images.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// CRC-32 over the relative paths and labels in order.
    pub crc32: u32,
}

/// Everything about a checkpoint but the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Version of the program that wrote it.
    pub kindling: String,
    /// Architecture, width, classes, dropout, batch-norm constants.
    pub network: NetworkConfig,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How images become tensors.
    pub preprocess: Preprocess,
    /// The whole resolved configuration of the run.
    pub plan: Plan,
    /// Next batch.
    pub position: Position,
    /// Sums of the running epoch.
    pub tally: EpochStats,
    /// Best evaluation.
    pub best: Option<Best>,
    /// Updates that the optimizer made; the steps of the position where there is none.
    #[serde(default)]
    pub optimizer_steps: Option<u64>,
    /// Updates of the exponential average under `ema.*`.
    #[serde(default)]
    pub ema_updates: Option<u64>,
    /// Epochs in the equal average under `swa.*`.
    #[serde(default)]
    pub swa_epochs: Option<u64>,
    /// Whether the exponential average was the better one at the newest evaluation.
    #[serde(default)]
    pub prefer_ema: bool,
    /// What `--sched plateau` remembers.
    #[serde(default)]
    pub plateau: Plateau,
    /// What the guard against losses that are not finite remembers.
    #[serde(default)]
    pub strain: NanGuard,
    /// Most images of a micro-batch, where the memory was too small for a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch: Option<usize>,
    /// Training set.
    pub data: DatasetFingerprint,
}

/// A checkpoint in memory.
pub struct Checkpoint {
    /// What it is.
    pub manifest: Manifest,
    /// Weights and statistics under torchvision's names.
    pub weights: Vec<NamedTensor>,
    /// State of the optimizer.
    pub optimizer: Vec<SavedBuffer>,
    /// Averages of the weights: the same names after `ema.` and `swa.`.
    pub averages: Vec<NamedTensor>,
}

/// Prefix of the exponential average's tensors.
pub const EMA: &str = "ema.";
/// Prefix of the equal average's tensors.
pub const SWA: &str = "swa.";

/// Which weights of a checkpoint are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsKind {
    /// Those that were better when both were evaluated.
    Best,
    /// The trained ones.
    Raw,
    /// Their exponential average.
    Ema,
}

impl Manifest {
    /// The layout version written by this program.
    pub fn format() -> u32 {
        FORMAT
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn crc_of<'a>(tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> u32 {
    let mut all: Vec<_> = tensors.collect();
    all.sort_by_key(|(name, ..)| *name);
    let mut crc = crc32fast::Hasher::new();
    for (name, shape, bytes) in all {
        crc.update(format!("{name}:{shape:?}:").as_bytes());
        crc.update(bytes);
    }
    crc.finalize()
}

impl Checkpoint {
    /// Writes the file: beside it first, flushed, then renamed over `path`.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`] on any failure; an older file at `path` is untouched then.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let manifest = serde_json::to_string(&self.manifest).expect("the manifest is plain data");
        let weights = self.weights.iter().chain(&self.averages);
        let weights = weights.map(|t| (t.name.as_str(), t.shape.clone(), &t.values));
        let states =
            self.optimizer.iter().map(|s| (s.name.as_str(), vec![s.values.len()], &s.values));
        let raw: Vec<(&str, Vec<usize>, Vec<u8>)> =
            weights.chain(states).map(|(n, s, v)| (n, s, bytes_of(v))).collect();
        let crc = crc_of(raw.iter().map(|(n, s, b)| (*n, s.as_slice(), b.as_slice())));
        let metadata = HashMap::from([
            (MANIFEST_CRC.to_owned(), crc32fast::hash(manifest.as_bytes()).to_string()),
            (MANIFEST.to_owned(), manifest),
            (TENSORS_CRC.to_owned(), crc.to_string()),
        ]);
        let views = raw.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            (*name, view.expect("four bytes for every element"))
        });
        let file = safetensors::serialize(views, Some(metadata)).expect("views are consistent");
        write_atomically(path, &file)
    }

    /// Takes weights out of it.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`] when an average is asked for and there is none.
    pub fn take(&mut self, which: WeightsKind) -> Result<Vec<NamedTensor>, Error> {
        let ema = match which {
            WeightsKind::Raw => false,
            WeightsKind::Best => self.manifest.prefer_ema && self.manifest.ema_updates.is_some(),
            WeightsKind::Ema if self.manifest.ema_updates.is_none() => {
                return Err(Error::usage(
                    "--use-ema: the checkpoint has no average; it is kept with --model-ema",
                ));
            }
            WeightsKind::Ema => true,
        };
        match ema {
            true => Ok(self.take_average(EMA)),
            false => Ok(std::mem::take(&mut self.weights)),
        }
    }

    /// Takes the tensors of an average out, their prefix removed; none where there is none.
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
        let place = path.display();
        let fail = |what: String| {
            let siblings = siblings_of(path);
            let way_out = match siblings.is_empty() {
                true => String::new(),
                false => format!("; another one of this run: {}", siblings[0].display()),
            };
            Error::checkpoint(format!("{place}: {what}{way_out}"))
        };
        let bytes = std::fs::read(path).map_err(|e| fail(format!("cannot read it: {e}")))?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| {
            fail("not a Kindling checkpoint, or a truncated one; copy it again".into())
        })?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let manifest = metadata.get(MANIFEST).ok_or_else(|| {
            fail(
                "a safetensors file without Kindling's manifest; \
                  use it with --pretrained-path"
                    .into(),
            )
        })?;
        let recorded = |key: &str| metadata.get(key).and_then(|v| v.parse::<u32>().ok());
        if recorded(MANIFEST_CRC) != Some(crc32fast::hash(manifest.as_bytes())) {
            return Err(fail("the manifest was altered (checksum); copy it again".into()));
        }
        let version: serde_json::Value =
            serde_json::from_str(manifest).map_err(|e| fail(format!("manifest: {e}")))?;
        let format = version.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(fail(format!(
                "layout version {} where this program reads {FORMAT}; use the program that wrote it",
                format.map_or_else(|| "?".to_owned(), |f| f.to_string())
            )));
        }
        let manifest: Manifest =
            serde_json::from_str(manifest).map_err(|e| fail(format!("manifest: {e}")))?;
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| fail(format!("truncated: {e}")))?;
        let mut all = tensors.tensors();
        let crc = crc_of(all.iter().map(|(n, v)| (n.as_str(), v.shape(), v.data())));
        if recorded(TENSORS_CRC) != Some(crc) {
            return Err(fail("the tensors were altered (checksum); copy it again".into()));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut weights, mut optimizer, mut averages) = (Vec::new(), Vec::new(), Vec::new());
        for (name, view) in all {
            let values = floats_of(view.data());
            if name.starts_with("optimizer.") {
                optimizer.push(SavedBuffer { name, values });
                continue;
            }
            let averaged = name.starts_with(EMA) || name.starts_with(SWA);
            let tensor = NamedTensor { name, shape: view.shape().to_vec(), values };
            if averaged { averages.push(tensor) } else { weights.push(tensor) }
        }
        Ok(Self { manifest, weights, optimizer, averages })
    }
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

/// Writes `bytes` to `path` so that either the old or the new content is there, whatever happens.
///
/// # Errors
/// [`crate::error::ErrorKind::File`], the scratch file removed.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let scratch = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&scratch)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&scratch, path)?;
        match path.parent() {
            // The rename itself is durable once the folder is.
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error: std::io::Error| {
        let _ = std::fs::remove_file(&scratch);
        Error::file(format!(
            "{}: cannot write: {error}; what was there before is untouched, make room or choose \
             another --output",
            path.display()
        ))
    })
}
