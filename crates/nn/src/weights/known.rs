//! The tensors of every network that this crate knows, by name and number of values: whose weights
//! a file holds.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::config::NetworkConfig;
use crate::layer_spec::Naming;
use crate::models::variants::{VARIANTS, Variant, WeightSource};

/// Logits of the networks in [`KNOWN`].
const CLASSES: usize = 1000;

/// A variant's tensors under one library's names, without those of its classifier.
pub(crate) struct Known {
    pub variant: &'static Variant,
    /// Names and numbers of values, in parameter order.
    tensors: Vec<(String, usize)>,
    /// Names of the classifier's tensors.
    classifier: Vec<String>,
}

impl Known {
    /// The names of the tensors, without the classifier's.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }
}

/// Every variant under both libraries' names, those of its own source first.
pub(crate) static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let of = |own: bool| {
        VARIANTS.iter().map(move |variant| {
            let naming = match (variant.weight_source == WeightSource::Torchvision, own) {
                (true, true) | (false, false) => Naming::Torchvision,
                _ => Naming::Timm,
            };
            known(variant, naming)
        })
    };
    of(true).chain(of(false)).collect()
});

fn known(variant: &'static Variant, naming: Naming) -> Known {
    let config = variant.config(CLASSES);
    let size = config.architecture.native_size();
    let mut layers = config.layers(size, size, naming);
    let classifier = layers.pop().expect("a network ends with its classifier");
    let classifier = classifier.keys.into_iter().map(|key| key.name).collect();
    let tensors = layers.iter().flat_map(|layer| {
        let names = layer.keys.iter().map(|key| key.name.clone());
        names.zip(layer.values()).collect::<Vec<_>>()
    });
    Known { variant, tensors: tensors.collect(), classifier }
}

/// Whose weights tensors of these names and numbers of values are, in words; none where they are of
/// `config` but for details, or of no network that is known.
pub(crate) fn whose(tensors: &HashMap<String, usize>, config: &NetworkConfig) -> Option<String> {
    let auxiliary = |name: &str| name.starts_with("aux") || name.starts_with("AuxLogits");
    let count = tensors.keys().filter(|name| !auxiliary(name)).count();
    let named = |known: &&Known| {
        let mut all = known.names().chain(known.classifier.iter().map(String::as_str));
        let last = |name: &str| name.replace("fc.", "last_linear.");
        let has = |name: &str| tensors.contains_key(name) || tensors.contains_key(&last(name));
        known.names().count() + known.classifier.len() == count && all.all(has)
    };
    let fits = |known: &&Known| {
        known.tensors.iter().all(|(name, values)| tensors.get(name) == Some(values))
    };
    let alike: Vec<&Known> = KNOWN.iter().filter(named).collect();
    if let Some(known) = alike.iter().copied().find(fits) {
        let own = known.variant.config(config.num_classes);
        let same = own.architecture == config.architecture
            && own.width.to_bits() == config.width.to_bits()
            && own.scaling == config.scaling
            && own.minimal == config.minimal
            && own.reduced_tail == config.reduced_tail
            && own.three_for_five == config.three_for_five;
        let name = known.variant.name;
        return (!same).then(|| format!("these are {name}'s weights: --model {name}"));
    }
    let known = alike.first().filter(|known| known.variant.architecture != config.architecture)?;
    let name = known.variant.architecture.name();
    Some(format!("these are {name}'s weights, with another width: --model {name} --width ..."))
}

/// The variant whose weights these tensors are.
pub fn variant_of(tensors: &[crate::weights::NamedTensor]) -> Option<&'static Variant> {
    let sizes: HashMap<&str, usize> =
        tensors.iter().map(|t| (t.name.as_str(), t.values.len())).collect();
    let fits = |known: &&Known| {
        known.tensors.iter().all(|(name, values)| sizes.get(name.as_str()) == Some(values))
    };
    let most = KNOWN.iter().filter(fits).max_by_key(|known| known.tensors.len())?;
    // Of equal ones the first: the standard variant.
    KNOWN.iter().find(|k| fits(k) && k.tensors.len() == most.tensors.len()).map(|k| k.variant)
}
