//! A weight file of a known format, recognised by its content.

use std::path::Path;

use crate::weights::{NamedTensor, WeightsError, safetensors, torch};

/// Reads a .safetensors or .pth file (zip and legacy) with f32, f16 or bf16 values.
///
/// # Errors
/// [`WeightsError::Io`] when the file cannot be read, [`WeightsError::Unreadable`] when it has
/// another format or another type of values.
pub fn read_weights(path: &Path) -> Result<Vec<NamedTensor>, WeightsError> {
    let bytes = std::fs::read(path)?;
    match safetensors::read(&bytes)? {
        Some(tensors) => Ok(tensors),
        None => torch::read(path),
    }
}
