//! torch's .pth files, zip and legacy, read by Burn's store.

use std::fmt;
use std::path::Path;

use burn::store::{ModuleStore, PytorchStore};
use burn::tensor::TensorData;

use crate::weights::{NamedTensor, WeightsError};

/// Prefixes that training programs and data-parallel wrappers put before the names of weights, the
/// outermost first.
const WRAPPERS: [&str; 4] = ["model.", "state_dict.", "net.", "module."];

/// The weights in a .pth file.
///
/// # Errors
/// [`WeightsError::Unreadable`] when Burn's store cannot read the file or a tensor in it.
pub(crate) fn read(path: &Path) -> Result<Vec<NamedTensor>, WeightsError> {
    let unreadable = |e: &dyn fmt::Display| {
        let text = e.to_string();
        WeightsError::Unreadable(text.lines().next().unwrap_or_default().to_owned())
    };
    let mut store = PytorchStore::from_file(path).map_indices_contiguous(false);
    let all = store.get_all_tensors().map_err(|e| unreadable(&e))?;
    let mut tensors = Vec::new();
    for (name, tensor) in all {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let (_, dtype, shape, _, bytes) =
            tensor.clone().into_parts().map_err(|e| unreadable(&format!("{e:?}")))?;
        let data = TensorData::from_bytes(bytes, shape.clone(), dtype);
        let shape = shape.to_vec();
        let values = data.convert::<f32>().try_into_vec::<f32>();
        let values = values.map_err(|e| unreadable(&format!("`{name}`: {e:?}")))?;
        tensors.push(NamedTensor { name: name.clone(), shape, values });
    }
    Ok(unwrapped(tensors))
}

/// The tensors below the prefixes of [`WRAPPERS`], without these prefixes. A checkpoint of a
/// training program holds other tensors beside them.
fn unwrapped(mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    for wrapper in WRAPPERS {
        if tensors.iter().any(|t| t.name.starts_with(wrapper)) {
            tensors.retain(|t| t.name.starts_with(wrapper));
            tensors.iter_mut().for_each(|t| t.name = t.name.split_off(wrapper.len()));
        }
    }
    tensors
}
