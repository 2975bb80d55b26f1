//! A tensor as a file holds it: its values are read, and converted to f32, only when it is wanted.

use std::borrow::Cow;

use burn::tensor::{bf16, f16};

use crate::weights::{NamedTensor, WeightsError};

/// The type of stored values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredType {
    F64,
    F32,
    F16,
    Bf16,
    /// One that holds no weights, by its name.
    Other(String),
}

/// A tensor whose values have not been read yet.
pub(crate) struct StoredTensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: StoredType,
    /// Reads the little-endian bytes, in row-major order.
    pub read: Box<dyn Fn() -> Result<Cow<'a, [u8]>, WeightsError> + 'a>,
}

impl StoredTensor<'_> {
    /// The tensor with its values as f32.
    ///
    /// # Errors
    /// [`WeightsError::Unreadable`]: a type that holds no weights, more or fewer bytes than the
    /// shape says; whatever reading gives.
    pub(crate) fn load(self) -> Result<NamedTensor, WeightsError> {
        let Self { name, shape, kind, read } = self;
        if let StoredType::Other(kind) = &kind {
            return Err(WeightsError::Unreadable(format!(
                "`{name}` is of type {kind}; expected f64, f32, f16 or bf16"
            )));
        }
        let values = floats(&kind, &read()?);
        let count = shape.iter().try_fold(1_usize, |count, side| count.checked_mul(*side));
        match count == Some(values.len()) {
            true => Ok(NamedTensor { name, shape, values }),
            false => Err(WeightsError::Unreadable(format!(
                "`{name}` has {} values for the shape {shape:?}",
                values.len()
            ))),
        }
    }
}

/// Little-endian bytes as f32. A value of f64 beyond the range of f32 becomes infinite.
pub(crate) fn floats(kind: &StoredType, bytes: &[u8]) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|bytes| convert(*bytes)).collect()
    }
    match kind {
        StoredType::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        StoredType::F32 => each(bytes, f32::from_le_bytes),
        StoredType::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        StoredType::Bf16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        StoredType::Other(_) => Vec::new(),
    }
}
