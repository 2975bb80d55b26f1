//! Weights under torchvision's or timm's key names: out of a network, into one, from and to files.

pub mod frozen_graph;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::store::{ModuleStore, PytorchStore};
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::layer_spec::{Key, Naming, Operation};
use crate::network::{Network, NetworkConfig};

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
    names: std::vec::IntoIter<Key>,
    gradients: Option<&'a GradientsParams>,
    found: Vec<NamedTensor>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.names.next().expect("a name for every tensor");
        let tensor = match self.gradients {
            None => Some(param.val().without_autodiff()),
            Some(gradients) => gradients.get::<D>(param.id),
        };
        if let Some(tensor) = tensor {
            let mut found = named(&key.name, tensor);
            if key.pointwise {
                found.shape.extend([1, 1]);
            }
            self.found.push(found);
        }
    }
}

/// Every parameter and running statistic under torchvision's names, in the order of the module walk.
pub fn state_dict(network: &Network) -> Vec<NamedTensor> {
    state_dict_as(network, Naming::Torchvision)
}

/// Every parameter and running statistic under the names of `naming`.
pub fn state_dict_as(network: &Network, naming: Naming) -> Vec<NamedTensor> {
    // Burn applies an update of running statistics one step late; `valid` brings them up to date, in
    // `network` too, which shares them.
    if network.devices().iter().any(burn::tensor::Device::is_autodiff) {
        let _ = network.valid();
    }
    let names = network.config().keys(naming).into_iter();
    let mut collect = Collect { names, gradients: None, found: Vec::new() };
    network.visit(&mut collect);
    assert_eq!(collect.names.len(), 0, "more names than tensors");
    collect.found
}

/// Every gradient under its parameter's name.
pub fn gradients(
    network: &Network,
    gradients: &GradientsParams,
    naming: Naming,
) -> Vec<NamedTensor> {
    let names = network.config().keys(naming).into_iter();
    let mut collect = Collect { names, gradients: Some(gradients), found: Vec::new() };
    network.visit(&mut collect);
    collect.found
}

struct Load {
    /// Names of all classifiers, the auxiliary heads' too.
    heads: Vec<String>,
    names: std::vec::IntoIter<Key>,
    tensors: HashMap<String, NamedTensor>,
    head: HeadPolicy,
    report: LoadReport,
    faults: Vec<String>,
}

impl ModuleMapper for Load {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.names.next().expect("a name for every tensor").name;
        let Some(mut found) = self.tensors.remove(&name) else {
            self.faults.push(format!("`{name}` is missing"));
            return param;
        };
        let own = param.lazy_shape();
        let mut expected = own.to_vec();
        if D == 2 {
            expected.reverse();
            // A linear layer held as a 1x1 convolution (timm's conv_head).
            if found.shape.len() == 4 && found.shape[2..] == [1, 1] {
                found.shape.truncate(2);
            }
        } else if D == 4 && found.shape.len() == 2 && expected[2..] == [1, 1] {
            found.shape.extend([1, 1]); // pointwise weights of older ports are two-dimensional
        }
        if found.shape != expected {
            // Only a difference of the class count, the first extent of a classifier, is a head's.
            if self.head == HeadPolicy::KeepInitialised
                && self.heads.contains(&name)
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

/// Whose names these are, for a network of this configuration: those that fit more of its tensors.
pub fn recognise(config: &NetworkConfig, tensors: &[NamedTensor]) -> Naming {
    let known: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    let fitting =
        |naming| config.keys(naming).iter().filter(|key| known.contains(key.name.as_str())).count();
    match fitting(Naming::Timm) > fitting(Naming::Torchvision) {
        true => Naming::Timm,
        false => Naming::Torchvision,
    }
}

/// Puts `tensors`, under either naming, into `network`, which must be freshly built. Auxiliary heads that
/// the network was built without are passed over.
///
/// # Errors
/// [`WeightsError::Mismatch`] with the name of every missing, unused and misshapen tensor.
pub fn load_state_dict(
    network: Network,
    mut tensors: Vec<NamedTensor>,
    head: HeadPolicy,
) -> Result<(Network, LoadReport), WeightsError> {
    let config = network.config().clone();
    let naming = recognise(&config, &tensors);
    let keys = config.keys(naming);
    // Older ports of Xception call the classifier `last_linear`.
    if let [.., weight, _] = &keys[..]
        && let Some(place) = weight.name.strip_suffix(".weight")
        && !tensors.iter().any(|t| t.name == weight.name)
    {
        for tensor in &mut tensors {
            if let Some(part) = tensor.name.strip_prefix("last_linear.") {
                tensor.name = format!("{place}.{part}");
            }
        }
    }
    let heads = config
        .layers(config.architecture.native_size(), config.architecture.native_size(), naming)
        .into_iter()
        .filter(|l| matches!(l.operation, Operation::Linear) && l.output[0] == config.num_classes)
        .flat_map(|layer| layer.keys)
        .map(|key| key.name)
        .collect();
    let skipped = |name: &str| {
        name.ends_with("num_batches_tracked")
            || (!config.auxiliary && (name.starts_with("aux") || name.starts_with("AuxLogits")))
    };
    let tensors = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
    let (report, faults) = (LoadReport::default(), Vec::new());
    let mut load = Load { heads, names: keys.into_iter(), tensors, head, report, faults };
    let network = network.map(&mut load);
    let mut unused: Vec<&String> = load.tensors.keys().filter(|name| !skipped(name)).collect();
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
            // Beside its weights a checkpoint of Kindling holds the optimizer's state and averages.
            let beside = ["optimizer.", "ema.", "swa."];
            if name.ends_with("num_batches_tracked") || beside.iter().any(|b| name.starts_with(b)) {
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

/// The weights out of a training program's checkpoint: those below `model`, `state_dict` or the like,
/// without what data-parallel wrappers put before their names.
fn unwrapped(mut tensors: Vec<NamedTensor>) -> Vec<NamedTensor> {
    for wrapper in ["model.", "state_dict.", "net.", "module."] {
        if tensors.iter().any(|t| t.name.starts_with(wrapper)) {
            tensors.retain(|t| t.name.starts_with(wrapper));
            tensors.iter_mut().for_each(|t| t.name = t.name.split_off(wrapper.len()));
        }
    }
    tensors
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
