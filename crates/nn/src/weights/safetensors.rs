//! safetensors files.

use safetensors::tensor::{Dtype, SafeTensors};

use crate::weights::{NamedTensor, WeightsError};

/// Beside its weights a checkpoint of Kindling holds the optimizer's state and averages below these
/// prefixes.
const NOT_WEIGHTS: [&str; 3] = ["optimizer.", "ema.", "swa."];

/// The weights in a safetensors file; none when the bytes are not one.
///
/// # Errors
/// [`WeightsError::Unreadable`] when values are not f32, f16 or bf16.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Vec<NamedTensor>>, WeightsError> {
    let Ok(file) = SafeTensors::deserialize(bytes) else { return Ok(None) };
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let other = NOT_WEIGHTS.iter().any(|prefix| name.starts_with(prefix));
        if name.ends_with("num_batches_tracked") || other {
            continue;
        }
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => {
                data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => data
                .chunks_exact(2)
                .map(|b| burn::tensor::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Dtype::BF16 => data
                .chunks_exact(2)
                .map(|b| burn::tensor::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            other => {
                return Err(WeightsError::Unreadable(format!("`{name}` is of type {other:?}")));
            }
        };
        tensors.push(NamedTensor { name, shape: view.shape().to_vec(), values });
    }
    Ok(Some(tensors))
}
