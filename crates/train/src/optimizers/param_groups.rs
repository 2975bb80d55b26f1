//! What is trained, and how: weights frozen by name, decay by kind, rate by depth.

use burn::module::{Flag, Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use nn::layer_spec::{LayerSpec, Naming, Operation};
use nn::network::{Architecture, Network, NetworkConfig};

use crate::config::options::nearest;
use crate::config::plan::Plan;
use crate::error::Error;
use crate::optimizers::optimizer::ParamGroup;

fn layers(config: &NetworkConfig, naming: Naming) -> Vec<LayerSpec> {
    let size = config.architecture.native_size();
    config.layers(size, size, naming)
}

/// Whether `pattern` is `name` or the parts of it up to some dot; `*` is any text, `?` any one character.
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

/// For every tensor in walk order whether a pattern freezes it.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] for a pattern without a match, with a near name.
pub fn frozen(config: &NetworkConfig, patterns: &[String]) -> Result<Vec<bool>, Error> {
    let names: Vec<String> =
        config.keys(Naming::Torchvision).into_iter().map(|key| key.name).collect();
    for pattern in patterns {
        if names.iter().any(|name| matches(pattern, name)) {
            continue;
        }
        // Every place that a pattern could have named: whole names and their beginnings up to a dot.
        let places: Vec<String> = names
            .iter()
            .flat_map(|n| n.match_indices('.').map(|(at, _)| n[..at].to_owned()).chain([n.clone()]))
            .collect();
        let near = nearest(pattern, &places).map_or_else(String::new, |n| format!("; near: `{n}`"));
        return Err(Error::usage(format!(
            "--freeze: `{pattern}` matches no weight of {}{near}; `kindling summary` lists them",
            config.architecture.name()
        )));
    }
    Ok(names.iter().map(|name| patterns.iter().any(|p| matches(p, name))).collect())
}

/// The network with the marked tensors frozen: no gradient; norms with a frozen scale or shift keep their
/// running statistics and use them.
pub fn freeze(network: Network, frozen: &[bool]) -> Network {
    if !frozen.contains(&true) {
        return network;
    }
    let mut freeze = Freeze { frozen: frozen.iter(), last: false };
    network.map(&mut freeze)
}

struct Freeze<'a> {
    frozen: std::slice::Iter<'a, bool>,
    /// Whether the newest trained tensor was frozen: a norm's flag comes after its scale and shift.
    last: bool,
}

impl ModuleMapper for Freeze<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let frozen = *self.frozen.next().expect("a mark for every tensor");
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

/// A setting for every tensor that is trained, in walk order.
pub fn settings(plan: &Plan, config: &NetworkConfig, frozen: &[bool]) -> Vec<ParamGroup> {
    let depths = depths(config);
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let classifier = config.keys(Naming::Torchvision).len().saturating_sub(2);
    let mut found = Vec::new();
    let mut number = 0;
    for layer in layers(config, Naming::Torchvision) {
        // Weight, bias; what follows belongs to the norm.
        let own = match layer.operation {
            Operation::Convolution { bias, .. } => 1 + usize::from(bias),
            _ => 2,
        };
        for (place, key) in layer.keys.iter().enumerate() {
            let decay = match place {
                0 => plan.weight_decay,
                place if place >= own => plan.norm_weight_decay,
                _ => 0.0,
            };
            if key.trained && !frozen[number] {
                let above = (deepest - depths[number]) as i32;
                let lr_scale = plan.layer_decay.map_or(1.0, |rate| rate.powi(above));
                found.push(ParamGroup { decay, lr_scale, classifier: number >= classifier });
            }
            number += 1;
        }
    }
    found
}

/// The depth of every tensor in walk order, from 0, by timm's groups for layer-wise decay: the stem, every
/// block, and all that follows as the last.
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
    use crate::config::options::Options;

    fn plan(more: Options) -> Plan {
        Options { model: Some("mobilenet_v3_large".into()), ..more }.plan().unwrap()
    }

    /// Seen to fail with a pattern that ends anywhere.
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

    /// Seen to fail with a pattern that ends anywhere: `feature` was one then.
    #[test]
    fn a_pattern_without_a_match_names_a_near_one() {
        let config = plan(Options::default()).network(10);
        let error = frozen(&config, &["feature".to_owned()]).unwrap_err();
        assert!(error.message.contains("`features`"), "{error}");
        let marks = frozen(&config, &["features".to_owned()]).unwrap();
        assert_eq!(marks.iter().filter(|m| !**m).count(), 4, "two linear layers stay");
    }

    /// Seen to fail with biases decayed.
    #[test]
    fn decay_is_for_weights_and_norms_have_their_own() {
        let plan = plan(Options { norm_weight_decay: Some(0.5), ..Options::default() });
        let config = plan.network(10);
        let free = vec![false; config.keys(Naming::Torchvision).len()];
        let settings = settings(&plan, &config, &free);
        let names: Vec<String> = config
            .keys(Naming::Torchvision)
            .into_iter()
            .filter(|k| k.trained)
            .map(|k| k.name)
            .collect();
        assert_eq!(settings.len(), names.len());
        let of = |name: &str| &settings[names.iter().position(|n| n == name).unwrap()];
        assert_eq!(of("features.0.0.weight").decay, 0.01);
        assert_eq!(of("features.0.1.weight").decay, 0.5);
        assert_eq!(of("features.0.1.bias").decay, 0.5);
        assert_eq!(of("classifier.3.weight").decay, 0.01);
        assert_eq!(of("classifier.3.bias").decay, 0.0);
        let heads: Vec<&String> =
            names.iter().zip(&settings).filter(|(_, s)| s.classifier).map(|(n, _)| n).collect();
        assert_eq!(heads, ["classifier.3.weight", "classifier.3.bias"]);
    }

    /// timm.optim.param_groups_layer_decay(create_model("mobilenetv3_large_100"), layer_decay=.75): 18 groups.
    #[test]
    fn layers_decay_as_in_timm() {
        let plan = plan(Options { layer_decay: Some(0.75), ..Options::default() });
        let config = plan.network(10);
        let depths = depths(&config);
        assert_eq!(depths.iter().max(), Some(&17));
        let free = vec![false; depths.len()];
        let settings = settings(&plan, &config, &free);
        assert_eq!(settings[0].lr_scale, 0.75_f64.powi(17));
        assert_eq!(settings.last().unwrap().lr_scale, 1.0);
    }
}
