//! Weights under torchvision's key names: out of a network, into one, from and to files.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::{ModuleStore, PytorchStore};
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::network::Network;

/// A tensor as torch would hold it: linear weights `[out, in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// torchvision's key.
    pub name: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Vec<f32>,
}

/// What may happen to a classifier of another class count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// Every tensor must fit.
    Exact,
    /// The classifier keeps its initial weights when its class count differs: fine-tuning.
    KeepInitialised,
}

/// What loading did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Tensors taken.
    pub loaded: usize,
    /// Tensors of the head left as initialised.
    pub kept: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        match self.kept.is_empty() {
            true => Ok(()),
            false => write!(f, "; another class count: {} start anew", self.kept.join(", ")),
        }
    }
}

/// Why weights do not fit or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Names of what is missing, unused or misshapen.
    #[error("the weights do not fit this network: {0}")]
    Mismatch(String),
    /// The file is not one of the known kinds, or broken.
    #[error("not readable as safetensors or .pth weights: {0}")]
    Unreadable(String),
    /// The file system said no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Linear weights are the only two-dimensional ones; Burn holds them `[in, out]`, torch `[out, in]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "{} values for {rows}x{columns}", values.len());
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

fn named<const D: usize>(name: &str, tensor: Tensor<D>) -> NamedTensor {
    let mut shape = tensor.dims().to_vec();
    let mut values =
        tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("a float tensor");
    if D == 2 {
        values = transposed(&values, shape[0], shape[1]);
        shape.reverse();
    }
    NamedTensor { name: name.to_owned(), shape, values }
}

struct Collect<'a> {
    names: std::vec::IntoIter<String>,
    gradients: Option<&'a GradientsParams>,
    found: Vec<NamedTensor>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.names.next().expect("a name for every tensor");
        match self.gradients {
            None => self.found.push(named(&name, param.val().without_autodiff())),
            Some(gradients) => {
                if let Some(gradient) = gradients.get::<D>(param.id) {
                    self.found.push(named(&name, gradient));
                }
            }
        }
    }
}

/// Every parameter and running statistic, in forward order.
pub fn state_dict(network: &Network) -> Vec<NamedTensor> {
    // Burn applies an update of running statistics one step late; `valid` brings them up to date, in
    // `network` too, which shares them.
    if network.devices().iter().any(burn::tensor::Device::is_autodiff) {
        let _ = network.valid();
    }
    let names = network.names().into_iter();
    let mut collect = Collect { names, gradients: None, found: Vec::new() };
    network.visit(&mut collect);
    assert_eq!(collect.names.len(), 0, "more names than tensors");
    collect.found
}

/// Every gradient under its parameter's name.
pub fn gradients(network: &Network, gradients: &GradientsParams) -> Vec<NamedTensor> {
    let names = network.names().into_iter();
    let mut collect = Collect { names, gradients: Some(gradients), found: Vec::new() };
    network.visit(&mut collect);
    collect.found
}

struct Load {
    names: std::vec::IntoIter<String>,
    tensors: HashMap<String, NamedTensor>,
    head: HeadPolicy,
    report: LoadReport,
    faults: Vec<String>,
}

impl ModuleMapper for Load {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.next().expect("a name for every tensor");
        let Some(found) = self.tensors.remove(&name) else {
            self.faults.push(format!("`{name}` is missing"));
            return param;
        };
        let own = param.lazy_shape();
        let mut expected = own.to_vec();
        if D == 2 {
            expected.reverse();
        }
        if found.shape != expected {
            // Only a difference of the class count, the first extent of the last layer, is a head's.
            let last = self.names.len() < 2;
            if self.head == HeadPolicy::KeepInitialised
                && last
                && found.shape.get(1..) == expected.get(1..)
            {
                self.report.kept.push(name);
            } else {
                let shapes = format!("{:?} where the network has {expected:?}", found.shape);
                self.faults.push(format!("`{name}` is {shapes}"));
            }
            return param;
        }
        let values = match D {
            2 => transposed(&found.values, expected[0], expected[1]),
            _ => found.values,
        };
        self.report.loaded += 1;
        let require = param.is_require_grad();
        let (id, old, mapper) = param.consume();
        let tensor = Tensor::from_data(TensorData::new(values, own), &old.device());
        Param::from_mapped_value(id, tensor.set_require_grad(require), mapper)
    }
}

/// Puts `tensors` into `network`, which must be freshly built.
///
/// # Errors
/// [`WeightsError::Mismatch`] with the name of every missing, unused and misshapen tensor.
pub fn load_state_dict(
    network: Network,
    tensors: Vec<NamedTensor>,
    head: HeadPolicy,
) -> Result<(Network, LoadReport), WeightsError> {
    let names = network.names().into_iter();
    let tensors = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
    let (report, faults) = (LoadReport::default(), Vec::new());
    let mut load = Load { names, tensors, head, report, faults };
    let network = network.map(&mut load);
    let mut unused: Vec<&String> =
        load.tensors.keys().filter(|name| !name.ends_with("num_batches_tracked")).collect();
    unused.sort();
    load.faults.extend(unused.iter().map(|name| format!("`{name}` is not of this network")));
    match load.faults.len() {
        0 => Ok((network, load.report)),
        count => {
            load.faults.truncate(8);
            let more = if count > 8 { format!(", and {} more", count - 8) } else { String::new() };
            Err(WeightsError::Mismatch(load.faults.join(", ") + &more))
        }
    }
}

/// Reads .safetensors or .pth (zip and legacy), f32, f16 or bf16, chosen by looking at the file.
///
/// # Errors
/// [`WeightsError::Unreadable`] for anything else, [`WeightsError::Io`].
pub fn read_weights(path: &Path) -> Result<Vec<NamedTensor>, WeightsError> {
    let bytes = std::fs::read(path)?;
    if let Ok(file) = SafeTensors::deserialize(&bytes) {
        let mut tensors = Vec::new();
        for (name, view) in file.tensors() {
            if name.ends_with("num_batches_tracked") || name.starts_with("optimizer.") {
                continue;
            }
            let data = view.data();
            let values: Vec<f32> = match view.dtype() {
                Dtype::F32 => data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
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
        return Ok(tensors);
    }
    let unreadable = |e: &dyn fmt::Display| WeightsError::Unreadable(e.to_string());
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
    Ok(tensors)
}

/// Writes a safetensors file that torch loads with `strict=True`.
///
/// # Errors
/// [`WeightsError::Io`].
pub fn write_safetensors(path: &Path, tensors: &[NamedTensor]) -> Result<(), WeightsError> {
    let raw: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&raw).map(|(t, bytes)| {
        let view = TensorView::new(Dtype::F32, t.shape.clone(), bytes);
        (t.name.as_str(), view.expect("four bytes for every element"))
    });
    let file = safetensors::serialize(views, None).expect("consistent views");
    Ok(std::fs::write(path, file)?)
}
