//! Parameter groups: weights frozen by name, weight decay by kind of parameter, learning rate by
//! depth.

use burn::module::{Flag, Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use nn::config::{Architecture, NetworkConfig};
use nn::layer_spec::{LayerOperation, LayerSpec, Naming};
use nn::network::Network;
use nn::weights::load::classifier_names;

use crate::error::Error;
use crate::suggest::did_you_mean;

/// What an optimizer treats differently from parameter to parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamGroup {
    /// Weight decay.
    pub decay: f64,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Whether the parameter belongs to the classifier.
    pub classifier: bool,
}

/// From what parameter groups are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroupConfig {
    /// Weight decay of weights. Biases have none.
    pub weight_decay: f64,
    /// Weight decay of the scales and shifts of norms.
    pub norm_weight_decay: f64,
    /// Factor of the learning rate from one group of layers to the one before it; none is 1.
    pub layer_decay: Option<f64>,
}

fn layers(config: &NetworkConfig, naming: Naming) -> Vec<LayerSpec> {
    let size = config.architecture.native_size();
    config.layers(size, size, naming)
}

/// Whether `pattern` matches `name`, or a beginning of `name` that ends before a dot. `*` is any
/// text, `?` any one character.
fn matches(pattern: &str, name: &str) -> bool {
    fn glob(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], [] | [b'.', ..]) => true,
            ([b'*', rest @ ..], _) => {
                glob(rest, name) || (!name.is_empty() && glob(pattern, &name[1..]))
            }
            ([b'?', rest @ ..], [_, after @ ..]) => glob(rest, after),
            ([a, rest @ ..], [b, after @ ..]) => a == b && glob(rest, after),
            _ => false,
        }
    }
    glob(pattern.as_bytes(), name.as_bytes())
}

/// The pattern of everything but the classifiers.
pub const TRUNK: &str = "trunk";

/// For every tensor in parameter order, running statistics included, whether a pattern freezes it.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] for a pattern without a match, with the nearest name.
pub fn frozen(config: &NetworkConfig, patterns: &[String]) -> Result<Vec<bool>, Error> {
    let names: Vec<String> =
        config.keys(Naming::Torchvision).into_iter().map(|key| key.name).collect();
    for pattern in patterns {
        if pattern == TRUNK || names.iter().any(|name| matches(pattern, name)) {
            continue;
        }
        // Everything that a pattern can match: whole names and their beginnings up to a dot.
        let prefixes: Vec<String> = names
            .iter()
            .flat_map(|n| n.match_indices('.').map(|(at, _)| n[..at].to_owned()).chain([n.clone()]))
            .collect();
        let near = did_you_mean(pattern, &prefixes);
        return Err(Error::usage(format!(
            "--freeze: `{pattern}`{near} matches no weight of {}; `kindling summary` lists them",
            config.architecture.name()
        )));
    }
    let heads = classifier_names(config, Naming::Torchvision);
    let of_trunk = |name: &String| !heads.contains(name);
    let is_frozen = |name: &String| {
        patterns.iter().any(|pattern| match pattern.as_str() {
            TRUNK => of_trunk(name),
            pattern => matches(pattern, name),
        })
    };
    Ok(names.iter().map(is_frozen).collect())
}

/// When frozen weights are unfrozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfreezing {
    /// The first epoch with weights unfrozen; 0: they are never.
    pub epoch: u64,
    /// Epochs from the last block to the stem; 0 unfreezes all at once.
    pub over: u64,
}

/// The first epoch in which every tensor is trained, in parameter order: 0 where it is not frozen,
/// none where it is to the end. Blocks follow each other from the last one to the stem, as many an
/// epoch as it takes.
pub fn first_epochs(
    config: &NetworkConfig,
    frozen: &[bool],
    unfreezing: Unfreezing,
) -> Vec<Option<u64>> {
    let depths = depths(config);
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let first = |(frozen, depth): (&bool, &usize)| match (*frozen, unfreezing.epoch) {
        (false, _) => Some(0),
        (true, 0) => None,
        (true, epoch) => {
            let (above, groups) = ((deepest - depth) as u64, deepest as u64 + 1);
            Some(epoch.saturating_add(above.saturating_mul(unfreezing.over) / groups))
        }
    };
    frozen.iter().zip(&depths).map(first).collect()
}

/// Number of trained values of a network, and of those that are frozen.
pub fn count_parameters(config: &NetworkConfig, frozen: &[bool]) -> (u64, u64) {
    let mut marks = frozen.iter();
    let (mut all, mut held) = (0, 0);
    for layer in layers(config, Naming::Torchvision) {
        for (key, values) in layer.keys.iter().zip(layer.values()) {
            let is_frozen = *marks.next().expect("an entry for every tensor");
            if key.trained {
                all += values as u64;
                held += if is_frozen { values as u64 } else { 0 };
            }
        }
    }
    (all, held)
}

/// The network with the marked tensors frozen: they have no gradient. A norm with a frozen scale or
/// shift keeps its running statistics and uses them in training.
pub fn freeze(network: Network, frozen: &[bool]) -> Network {
    if !frozen.contains(&true) {
        return network;
    }
    let mut freeze = Freeze { frozen: frozen.iter(), last: false };
    network.map(&mut freeze)
}

struct Freeze<'a> {
    frozen: std::slice::Iter<'a, bool>,
    /// Whether the previous trained tensor is frozen. A norm's flag comes after its scale and
    /// shift.
    last: bool,
}

impl ModuleMapper for Freeze<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let frozen = *self.frozen.next().expect("an entry for every tensor");
        if !param.is_require_grad() {
            return param; // a running statistic
        }
        self.last = frozen;
        if frozen { param.set_require_grad(false) } else { param }
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        if self.last { flag.with_value(false) } else { flag }
    }
}

/// The group of every trained tensor that is not frozen, in parameter order.
pub fn param_groups(
    network: &NetworkConfig,
    frozen: &[bool],
    config: ParamGroupConfig,
) -> Vec<ParamGroup> {
    let depths = depths(network);
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let classifier = network.keys(Naming::Torchvision).len().saturating_sub(2);
    let mut found = Vec::new();
    let mut number = 0;
    for layer in layers(network, Naming::Torchvision) {
        // Keys of the layer proper: weight, then bias. The keys after them belong to its norm.
        let own = match layer.operation {
            LayerOperation::Convolution { bias, .. } => 1 + usize::from(bias),
            _ => 2,
        };
        for (index, key) in layer.keys.iter().enumerate() {
            let decay = match index {
                0 => config.weight_decay,
                index if index >= own => config.norm_weight_decay,
                _ => 0.0,
            };
            if key.trained && !frozen[number] {
                let above = (deepest - depths[number]) as i32;
                let lr_scale = config.layer_decay.map_or(1.0, |rate| rate.powi(above));
                found.push(ParamGroup { decay, lr_scale, classifier: number >= classifier });
            }
            number += 1;
        }
    }
    found
}

/// The depth of every tensor in parameter order, from 0, by timm's groups for layer-wise decay: the
/// stem, every block, and all tensors after the blocks as the last group.
fn depths(config: &NetworkConfig) -> Vec<usize> {
    let mut groups: Vec<String> = Vec::new();
    let names: Vec<String> = config.keys(Naming::Timm).into_iter().map(|key| key.name).collect();
    let found: Vec<Option<usize>> = names
        .iter()
        .map(|name| {
            let group = group(config.architecture, name)?;
            Some(groups.iter().position(|g| *g == group).unwrap_or_else(|| {
                groups.push(group);
                groups.len() - 1
            }))
        })
        .collect();
    found.into_iter().map(|depth| depth.unwrap_or(groups.len())).collect()
}

fn group(architecture: Architecture, name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let first = parts[0];
    let stem = || Some("stem".to_owned());
    match architecture {
        Architecture::Googlenet => match first {
            "fc" | "aux1" | "aux2" => None,
            _ => Some(first.to_owned()),
        },
        Architecture::InceptionV3 => match first {
            "fc" | "AuxLogits" => None,
            _ if first.starts_with("Conv2d_1") || first.starts_with("Conv2d_2") => stem(),
            _ if first.starts_with("Conv2d_") => Some("Conv2d_3".to_owned()),
            _ => Some(first.to_owned()),
        },
        Architecture::Xception41 | Architecture::Xception65 | Architecture::Xception71 => {
            match first {
                "stem" => stem(),
                "blocks" => Some(parts[..2].join(".")),
                _ => None,
            }
        }
        Architecture::Xception => match first {
            "conv1" | "conv2" | "bn1" | "bn2" => stem(),
            "conv3" | "conv4" | "bn3" | "bn4" => Some("exit".to_owned()),
            "fc" => None,
            _ => Some(first.to_owned()),
        },
        _ => match first {
            "conv_stem" | "bn1" => stem(),
            "blocks" => Some(parts[..3].join(".")),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ParamGroupConfig =
        ParamGroupConfig { weight_decay: 0.01, norm_weight_decay: 0.0, layer_decay: None };

    fn network() -> NetworkConfig {
        NetworkConfig::new(Architecture::MobilenetV3Large, 10)
    }

    /// Mutations caught: a pattern that ends anywhere.
    #[test]
    fn patterns_end_at_a_dot_and_know_stars() {
        for (pattern, name, expected) in [
            ("features.1", "features.1.block.0.0.weight", true),
            ("features.1", "features.10.block.0.0.weight", false),
            ("features.*.weight", "features.3.block.0.0.weight", true),
            ("features.?", "features.3.block.0.0.weight", true),
            ("features.?", "features.13.block.0.0.weight", false),
            ("*", "classifier.3.bias", true),
            ("classifier.3.bias", "classifier.3.bias", true),
            ("classifier.3.bias.more", "classifier.3.bias", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    /// Mutations caught: a pattern that ends anywhere, which `feature` then was.
    #[test]
    fn a_pattern_without_a_match_names_a_near_one() {
        let config = network();
        let error = frozen(&config, &["feature".to_owned()]).unwrap_err();
        assert!(error.message.contains("`features`"), "{error}");
        let marks = frozen(&config, &["features".to_owned()]).unwrap();
        assert_eq!(marks.iter().filter(|m| !**m).count(), 4, "two linear layers stay");
    }

    /// Mutations caught: the classifier in place of the trunk.
    #[test]
    fn the_trunk_is_all_but_the_last_layer() {
        for architecture in
            [Architecture::MobilenetV1, Architecture::MobilenetV3Large, Architecture::Googlenet]
        {
            let config = NetworkConfig::new(architecture, 7);
            let marks = frozen(&config, &[TRUNK.to_owned()]).unwrap();
            assert_eq!(
                marks.iter().filter(|m| !**m).count(),
                2,
                "weight and bias of the classifier"
            );
        }
    }

    /// The classifier is trained from the beginning, then the blocks, the stem last.
    ///
    /// Mutations caught: the stem first.
    #[test]
    fn blocks_are_unfrozen_from_the_last_to_the_stem() {
        let config = network();
        let marks = frozen(&config, &[TRUNK.to_owned()]).unwrap();
        let names: Vec<String> =
            config.keys(Naming::Torchvision).into_iter().map(|key| key.name).collect();
        let first = |epoch, over, name: &str| {
            let at = names.iter().position(|n| n == name).unwrap();
            first_epochs(&config, &marks, Unfreezing { epoch, over })[at]
        };
        let [stem, last] = ["features.0.0.weight", "features.16.0.weight"];
        assert_eq!((first(0, 0, stem), first(0, 0, "classifier.3.bias")), (None, Some(0)));
        assert_eq!((first(2, 0, stem), first(2, 0, last)), (Some(2), Some(2)));
        // 18 groups over six epochs: three an epoch.
        assert_eq!((first(2, 6, last), first(2, 6, stem)), (Some(2), Some(7)));
        assert_eq!(first(2, 6, "features.8.block.0.0.weight"), Some(5));
        assert_eq!(first(2, 6, "classifier.3.weight"), Some(0));
        // More epochs than groups: some epochs unfreeze none.
        assert_eq!((first(1, 36, last), first(1, 36, stem)), (Some(3), Some(35)));
    }

    /// Mutations caught: running statistics counted.
    #[test]
    fn frozen_parameters_are_counted() {
        let config = network();
        let count = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
            count_parameters(&config, &frozen(&config, &patterns).unwrap())
        };
        let all = nn::cost::cost(&config, 224, 224).parameters;
        assert_eq!(count(&[]), (all, 0));
        assert_eq!(count(&[TRUNK]), (all, all - 10 * (1280 + 1)));
    }

    /// Mutations caught: biases decayed.
    #[test]
    fn decay_is_for_weights_and_norms_have_their_own() {
        let config = network();
        let free = vec![false; config.keys(Naming::Torchvision).len()];
        let groups =
            param_groups(&config, &free, ParamGroupConfig { norm_weight_decay: 0.5, ..PLAIN });
        let names: Vec<String> = config
            .keys(Naming::Torchvision)
            .into_iter()
            .filter(|k| k.trained)
            .map(|k| k.name)
            .collect();
        assert_eq!(groups.len(), names.len());
        let of = |name: &str| &groups[names.iter().position(|n| n == name).unwrap()];
        assert_eq!(of("features.0.0.weight").decay, 0.01);
        assert_eq!(of("features.0.1.weight").decay, 0.5);
        assert_eq!(of("features.0.1.bias").decay, 0.5);
        assert_eq!(of("classifier.3.weight").decay, 0.01);
        assert_eq!(of("classifier.3.bias").decay, 0.0);
        let heads: Vec<&String> =
            names.iter().zip(&groups).filter(|(_, g)| g.classifier).map(|(n, _)| n).collect();
        assert_eq!(heads, ["classifier.3.weight", "classifier.3.bias"]);
    }

    /// timm.optim.param_groups_layer_decay(create_model("mobilenetv3_large_100"), layer_decay=.75):
    /// 18 groups.
    #[test]
    fn layers_decay_as_in_timm() {
        let config = network();
        let depths = depths(&config);
        assert_eq!(depths.iter().max(), Some(&17));
        let free = vec![false; depths.len()];
        let groups =
            param_groups(&config, &free, ParamGroupConfig { layer_decay: Some(0.75), ..PLAIN });
        assert_eq!(groups[0].lr_scale, 0.75_f64.powi(17));
        assert_eq!(groups.last().unwrap().lr_scale, 1.0);
    }
}
