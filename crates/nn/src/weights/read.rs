//! A weight file of a known format, recognised by its content, and the weights in it that are
//! meant.

use std::path::Path;

use crate::weights::choose::{Choice, choose, without_wrappers};
use crate::weights::kind::WeightsKind;
use crate::weights::stored::StoredTensor;
use crate::weights::{NamedTensor, WeightsError, safetensors, torch};

/// First bytes of files that are taken for weights by mistake, and what they are.
const OTHERS: [(&[u8], &str); 8] = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    ),
    (b"<", "a web page; download the file itself"),
    (b"\x89HDF", "an HDF5 file of Keras; convert it to .safetensors in Python"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"GGUF", "a GGUF file, which holds language models"),
    (
        b"\x08",
        "an ONNX graph or another protobuf; only frozen graphs (.pb) of MobileNetV1 are read",
    ),
    (
        b"\x0a",
        "a TensorFlow graph or another protobuf; `kindling convert` reads a frozen graph (.pb)",
    ),
    (b"{", "a JSON file"),
];

/// Entries of a training program's file that hold tensors and no weights.
const NO_WEIGHTS: [&str; 9] = [
    "optimizer",
    "optimizers",
    "optimizer_states",
    "optimizer_state_dict",
    "optim",
    "lr_scheduler",
    "scheduler",
    "scaler",
    "amp_scaler",
];

/// The weights of a file, and which of several they are.
#[derive(Clone, Debug, PartialEq)]
pub struct FileWeights {
    /// The tensors, under the names of the network.
    pub tensors: Vec<NamedTensor>,
    /// Which weights were taken, in words; none where the file holds one network's tensors alone.
    pub taken: Option<String>,
}

/// Reads a .safetensors or .pth file (zip, legacy and tar) with f64, f32, f16 or bf16 values: the
/// weights that `kind` means, without the names of what they lie in (`state_dict`, `model_ema`, ..)
/// and the prefixes of wrappers (`module.`, `_orig_mod.`, ..).
///
/// # Errors
/// [`WeightsError::Io`] when the file cannot be read, [`WeightsError::Truncated`] when it ends
/// early, [`WeightsError::Unreadable`] when it has another format or another type of values,
/// [`WeightsError::Kind`] when it does not hold the weights that `kind` means.
pub fn read_weights(path: &Path, kind: WeightsKind) -> Result<FileWeights, WeightsError> {
    let bytes = std::fs::read(path)?;
    if bytes.is_empty() {
        return Err(WeightsError::Truncated("the file is empty".into()));
    }
    let stored = match safetensors::read(&bytes)? {
        Some(stored) => stored,
        None => torch::read(path, &bytes).map_err(|e| named(&bytes, e))?,
    };
    taken(stored, kind)
}

/// The error for a file that is no .pth: what it is, where that is known.
fn named(bytes: &[u8], error: WeightsError) -> WeightsError {
    match (OTHERS.iter().find(|(first, _)| bytes.starts_with(first)), &error) {
        (Some((_, what)), WeightsError::Unreadable(_)) => {
            WeightsError::Unreadable((*what).to_owned())
        }
        _ => error,
    }
}

/// The tensors that are meant, loaded.
fn taken(
    mut stored: Vec<StoredTensor<'_>>,
    kind: WeightsKind,
) -> Result<FileWeights, WeightsError> {
    // Counts of batches and of averaged models stand beside weights in every container.
    stored.retain(|t| {
        let last = t.name.rsplit('.').next().unwrap_or_default();
        let first = t.name.split_once('.').map_or("", |(first, _)| first);
        last != "num_batches_tracked" && last != "n_averaged" && !NO_WEIGHTS.contains(&first)
    });
    let bare = without_wrappers(stored.iter().map(|t| t.name.as_str()));
    stored.iter_mut().zip(bare).for_each(|(tensor, name)| tensor.name = name);
    let names: Vec<&str> = stored.iter().map(|t| t.name.as_str()).collect();
    let Choice { prefix, others, taken } = choose(&names, kind)?;
    let mut tensors = Vec::new();
    for mut tensor in stored {
        let of_another = others.iter().any(|other| tensor.name.starts_with(other.as_str()));
        if tensor.name.starts_with(&prefix) && !of_another {
            tensor.name = tensor.name.split_off(prefix.len());
            tensors.push(tensor.load()?);
        }
    }
    Ok(FileWeights { tensors, taken })
}
