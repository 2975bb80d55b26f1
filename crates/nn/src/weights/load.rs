//! Named tensors into a network.

use std::collections::{HashMap, HashSet};
use std::fmt;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};

use crate::config::NetworkConfig;
use crate::layer_spec::{Key, LayerOperation, LayerSpec, Naming};
use crate::network::Network;
use crate::weights::known::whose;
use crate::weights::{NamedTensor, WeightsError, transposed};

/// Number of names that an error message lists of each kind.
const LISTED: usize = 3;

/// How a classifier with another class count is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// Every tensor must fit.
    Exact,
    /// For fine-tuning: the classifier keeps its initial weights when its class count differs.
    KeepInitialised,
    /// For fine-tuning on other classes: the classifier keeps its initial weights whatever its
    /// count.
    Fresh,
}

/// The result of loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Number of tensors loaded.
    pub loaded: usize,
    /// Tensors of the head that kept their initial values.
    pub kept: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        match self.kept.is_empty() {
            true => Ok(()),
            false => write!(f, "; {} start anew", self.kept.join(", ")),
        }
    }
}

struct StateDictLoader {
    /// Names of all classifiers' tensors, the auxiliary heads' too.
    classifiers: Vec<String>,
    keys: std::vec::IntoIter<Key>,
    tensors: HashMap<String, NamedTensor>,
    head: HeadPolicy,
    report: LoadReport,
    missing: Vec<String>,
    /// Tensors of another shape, each with both shapes.
    misshapen: Vec<String>,
    /// Tensors with NaN or infinity.
    not_finite: Vec<String>,
    /// Running variances with a negative value.
    negative: Vec<String>,
}

impl StateDictLoader {
    /// Records a tensor whose shape differs from the network's.
    fn misshapen(&mut self, name: String, shape: &[usize], expected: &[usize]) {
        // The class count is the first extent of a classifier's tensors.
        let only_classes = shape.get(1..) == expected.get(1..);
        if self.head != HeadPolicy::Exact && self.classifiers.contains(&name) && only_classes {
            self.report.kept.push(name);
        } else {
            let shapes = format!("{shape:?} where the network has {expected:?}");
            self.misshapen.push(format!("`{name}` is {shapes}"));
        }
    }
}

impl ModuleMapper for StateDictLoader {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.keys.next().expect("a key for every tensor").name;
        let Some(mut found) = self.tensors.remove(&name) else {
            self.missing.push(format!("`{name}`"));
            return param;
        };
        // Of a classifier that is not loaded too: the run may have its class count after all.
        if !found.values.iter().all(|value| value.is_finite()) {
            self.not_finite.push(format!("`{name}`"));
        } else if name.ends_with("running_var") && found.values.iter().any(|value| *value < 0.0) {
            self.negative.push(format!("`{name}`"));
        }
        if self.head == HeadPolicy::Fresh && self.classifiers.contains(&name) {
            self.report.kept.push(name);
            return param;
        }
        let own = param.lazy_shape();
        let mut expected = own.to_vec();
        if D == 2 {
            expected.reverse();
            // timm's conv_head is a linear layer held as a 1x1 convolution.
            if found.shape.len() == 4 && found.shape[2..] == [1, 1] {
                found.shape.truncate(2);
            }
        } else if D == 4 && found.shape.len() == 2 && expected[2..] == [1, 1] {
            found.shape.extend([1, 1]); // pointwise weights of older ports are two-dimensional
        }
        if found.shape != expected {
            self.misshapen(name, &found.shape, &expected);
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

/// The naming of `tensors`: the one under which more of the configuration's keys are among them.
pub fn recognise(config: &NetworkConfig, tensors: &[NamedTensor]) -> Naming {
    let known: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    let fitting =
        |naming| config.keys(naming).iter().filter(|key| known.contains(key.name.as_str())).count();
    match fitting(Naming::Timm) > fitting(Naming::Torchvision) {
        true => Naming::Timm,
        false => Naming::Torchvision,
    }
}

/// Renames the classifier of older ports of Xception, `last_linear`, to the name in `keys`.
fn rename_last_linear(tensors: &mut [NamedTensor], keys: &[Key]) {
    if let [.., weight, _] = keys
        && let Some(layer) = weight.name.strip_suffix(".weight")
        && !tensors.iter().any(|t| t.name == weight.name)
    {
        for tensor in tensors {
            if let Some(part) = tensor.name.strip_prefix("last_linear.") {
                tensor.name = format!("{layer}.{part}");
            }
        }
    }
}

/// Names of the tensors of every classifier, the auxiliary heads' too: their first extent counts
/// the classes.
pub fn classifier_names(config: &NetworkConfig, naming: Naming) -> Vec<String> {
    let size = config.architecture.native_size();
    let layers = config.layers(size, size, naming);
    let is_linear = |layer: &LayerSpec| matches!(layer.operation, LayerOperation::Linear);
    let classifiers = layers.iter().enumerate().filter(|(index, layer)| {
        // A hidden layer may have as many outputs as there are classes: another one follows it.
        let hidden = layers.get(index + 1).is_some_and(is_linear);
        is_linear(layer) && layer.output[0] == config.num_classes && !hidden
    });
    classifiers.flat_map(|(_, layer)| &layer.keys).map(|key| key.name.clone()).collect()
}

/// Loads `tensors`, under either naming, into `network`. Auxiliary heads in `tensors` are ignored
/// when the network was built without them.
///
/// # Errors
/// [`WeightsError::Mismatch`] with the network whose weights these are, or else the first names of
/// missing, unused and misshapen tensors; [`WeightsError::NotFinite`] with the names of those that
/// hold NaN or infinity; [`WeightsError::NegativeVariance`].
pub fn load_state_dict(
    network: Network,
    mut tensors: Vec<NamedTensor>,
    head: HeadPolicy,
) -> Result<(Network, LoadReport), WeightsError> {
    let config = network.config().clone();
    let naming = recognise(&config, &tensors);
    let keys = config.keys(naming);
    rename_last_linear(&mut tensors, &keys);
    let ignored = |name: &str| {
        name.ends_with("num_batches_tracked")
            || (!config.auxiliary && (name.starts_with("aux") || name.starts_with("AuxLogits")))
    };
    let sizes = tensors.iter().map(|t| (t.name.clone(), t.values.len())).collect();
    let mut loader = StateDictLoader {
        classifiers: classifier_names(&config, naming),
        keys: keys.into_iter(),
        tensors: tensors.into_iter().map(|t| (t.name.clone(), t)).collect(),
        head,
        report: LoadReport::default(),
        missing: Vec::new(),
        misshapen: Vec::new(),
        not_finite: Vec::new(),
        negative: Vec::new(),
    };
    let network = network.map(&mut loader);
    let mut unused: Vec<String> =
        loader.tensors.into_keys().filter(|name| !ignored(name)).collect();
    unused.sort();
    let unused: Vec<String> = unused.iter().map(|name| format!("`{name}`")).collect();
    let mut faults = Vec::new();
    for (names, fault) in [(&loader.missing, "missing"), (&unused, "not of this network")] {
        if let Some(first) = listed(names) {
            faults.push(format!("{first} {} {fault}", if names.len() == 1 { "is" } else { "are" }));
        }
    }
    faults.extend(listed(&loader.misshapen));
    if !faults.is_empty() {
        let known = whose(&sizes, &config);
        return Err(WeightsError::Mismatch(known.unwrap_or_else(|| faults.join("; "))));
    }
    if let Some(names) = listed(&loader.not_finite) {
        return Err(WeightsError::NotFinite(names));
    }
    match listed(&loader.negative) {
        Some(names) => Err(WeightsError::NegativeVariance(names)),
        None => Ok((network, loader.report)),
    }
}

/// The first names and how many more there are; none where there is none.
fn listed(names: &[String]) -> Option<String> {
    let first = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => (!names.is_empty()).then_some(first),
        more => Some(format!("{first} and {more} more")),
    }
}
