//! torch's .pth files, zip, legacy and tar, read by Burn's reader. Of `torch.save(model)` that
//! reader takes what `model.state_dict()` holds.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use burn::store::pytorch_reader::{DType, PickleError, PytorchError, PytorchReader};

use crate::weights::WeightsError;
use crate::weights::stored::{StoredTensor, StoredType};

/// Times the size of the file that its tensors may take together: a view can repeat one value.
const MOST_TIMES: usize = 16;
/// Bytes of the record that ends a zip archive, without its comment.
const RECORD: usize = 22;
/// Bytes that the tensors of any file may take together.
const ALWAYS: usize = 1 << 20;

/// The tensors in a .pth file, `bytes` its content.
///
/// # Errors
/// [`WeightsError::Truncated`], [`WeightsError::Unreadable`] when Burn's reader cannot read it.
pub(crate) fn read<'a>(
    path: &Path,
    bytes: &'a [u8],
) -> Result<Vec<StoredTensor<'a>>, WeightsError> {
    if bytes.starts_with(b"PK\x03\x04") && !has_directory(bytes) {
        return Err(WeightsError::Truncated("a zip archive without its directory".into()));
    }
    let reader = PytorchReader::new(path).map_err(|e| fault(&e))?;
    let all: Vec<_> = reader.into_tensors().into_values().collect();
    let sizes = all.iter().map(burn::store::pytorch_reader::Tensor::byte_len);
    let whole = sizes.fold(0_usize, usize::saturating_add);
    if whole > bytes.len().saturating_mul(MOST_TIMES).saturating_add(ALWAYS) {
        return Err(WeightsError::Unreadable(format!(
            "its tensors would take {whole} bytes, the file has {}",
            bytes.len()
        )));
    }
    let stored = all.into_iter().map(|tensor| StoredTensor {
        name: tensor.name.clone(),
        shape: tensor.shape().to_vec(),
        kind: match tensor.dtype() {
            DType::F64 => StoredType::F64,
            DType::F32 => StoredType::F32,
            DType::F16 => StoredType::F16,
            DType::BF16 => StoredType::Bf16,
            other => StoredType::Other(format!("{other:?}")),
        },
        read: Box::new(move || match tensor.read() {
            Ok(bytes) => Ok(Cow::Owned(bytes)),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Err(WeightsError::Truncated(e.to_string()))
            }
            Err(e) => Err(WeightsError::Unreadable(e.to_string())),
        }),
    });
    let mut stored: Vec<StoredTensor> = stored.collect();
    stored.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(stored)
}

/// Whether a zip archive has its end: the record of its directory, and at most a comment.
fn has_directory(bytes: &[u8]) -> bool {
    let end = &bytes[bytes.len().saturating_sub(RECORD + 0xFFFF)..];
    end.windows(RECORD).any(|window| window.starts_with(b"PK\x05\x06"))
}

/// What is wrong with a file that Burn's reader refuses.
fn fault(error: &PytorchError) -> WeightsError {
    let objects = |name: &str| {
        WeightsError::Unreadable(format!(
            "it holds Python objects (`{name}`) and not the tensors of a state_dict alone; in Python, \
             torch.save(model.state_dict(), ...) writes what can be read"
        ))
    };
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    match error {
        PytorchError::Pickle(PickleError::UnsupportedType(name)) => objects(name),
        PytorchError::InvalidFormat(why) if why.contains("dictionary at the root") => {
            objects(why.rsplit(' ').next().unwrap_or(why))
        }
        PytorchError::Pickle(PickleError::Io(e)) | PytorchError::Io(e)
            if e.kind() == ErrorKind::UnexpectedEof =>
        {
            WeightsError::Truncated(first.to_owned())
        }
        // A storage that the file ends in; a header that it ends in.
        PytorchError::InvalidFormat(why)
            if ["beyond the end", "failed to fill", "end of file"]
                .iter()
                .any(|w| why.contains(w)) =>
        {
            WeightsError::Truncated(first.to_owned())
        }
        _ => WeightsError::Unreadable(first.to_owned()),
    }
}
