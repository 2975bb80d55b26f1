//! A weight file of a known format, recognised by its content.

use std::path::Path;

use crate::weights::{NamedTensor, WeightsError, safetensors, torch};

/// Prefixes that wrappers put before the name of every tensor: `torch.compile`, `DataParallel`,
/// Lightning's usual attribute.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model."];

/// Reads a .safetensors or .pth file (zip and legacy) with f32, f16 or bf16 values. Prefixes that a
/// wrapper put before every name are removed.
///
/// # Errors
/// [`WeightsError::Io`] when the file cannot be read, [`WeightsError::Unreadable`] when it has
/// another format or another type of values.
pub fn read_weights(path: &Path) -> Result<Vec<NamedTensor>, WeightsError> {
    let bytes = std::fs::read(path)?;
    let mut tensors = match safetensors::read(&bytes)? {
        Some(tensors) => tensors,
        None => torch::read(path)?,
    };
    remove_wrappers(&mut tensors);
    Ok(tensors)
}

/// Removes every prefix of [`WRAPPERS`] that all names share, however they are nested. No network
/// of this crate has a layer of such a name.
fn remove_wrappers(tensors: &mut [NamedTensor]) {
    let shared = |tensors: &[NamedTensor]| {
        let all = |prefix: &str| tensors.iter().all(|tensor| tensor.name.starts_with(prefix));
        WRAPPERS.into_iter().find(|prefix| !tensors.is_empty() && all(prefix))
    };
    while let Some(prefix) = shared(tensors) {
        tensors.iter_mut().for_each(|tensor| drop(tensor.name.drain(..prefix.len())));
    }
}
