//! safetensors files.

use std::borrow::Cow;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors};

use crate::weights::WeightsError;
use crate::weights::stored::{StoredTensor, StoredType};

/// The longest header of the format, bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The tensors in a safetensors file; none when the bytes do not begin like one.
///
/// # Errors
/// [`WeightsError::Truncated`] when the file ends before its tensors do,
/// [`WeightsError::Unreadable`] when the header is damaged.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Vec<StoredTensor<'_>>>, WeightsError> {
    let Some(header) = header_length(bytes) else { return Ok(None) };
    let cut =
        |expected: String| WeightsError::Truncated(format!("{} bytes of {expected}", bytes.len()));
    if (bytes.len() as u64) < 8 + header {
        return Err(cut(format!("a header of {header}")));
    }
    let file = match SafeTensors::deserialize(bytes) {
        Ok(file) => file,
        // The sizes in the header are not those of the file.
        Err(SafeTensorError::MetadataIncompleteBuffer) => {
            let end = last_byte(bytes, header);
            return Err(match (bytes.len() as u64) < end {
                true => cut(end.to_string()),
                false => WeightsError::Unreadable(format!(
                    "{} bytes where the safetensors header speaks of {end}",
                    bytes.len()
                )),
            });
        }
        Err(e) => {
            return Err(WeightsError::Unreadable(format!(
                "the safetensors header is damaged: {e}"
            )));
        }
    };
    let stored = file.tensors().into_iter().map(|(name, view)| {
        let kind = match view.dtype() {
            Dtype::F64 => StoredType::F64,
            Dtype::F32 => StoredType::F32,
            Dtype::F16 => StoredType::F16,
            Dtype::BF16 => StoredType::Bf16,
            other => StoredType::Other(format!("{other:?}")),
        };
        let (shape, data) = (view.shape().to_vec(), view.data());
        StoredTensor { name, shape, kind, read: Box::new(move || Ok(Cow::Borrowed(data))) }
    });
    Ok(Some(stored.collect()))
}

/// The length of the JSON header, where the bytes begin like a safetensors file: a length, then
/// `{`.
fn header_length(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
    (length <= LONGEST_HEADER && bytes.get(8).is_none_or(|byte| *byte == b'{')).then_some(length)
}

/// The length of the file that the header speaks of.
fn last_byte(bytes: &[u8], header: u64) -> u64 {
    let text = &bytes[8..8 + header as usize];
    let tensors: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).unwrap_or_default();
    let ends = tensors.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    ends.max().unwrap_or_default().saturating_add(8 + header)
}
