//! The part of a checkpoint's manifest that a classifier needs, and the choice among its weights.

use nn::config::NetworkConfig;
use nn::weights::NamedTensor;
pub use nn::weights::kind::WeightsKind;
use serde::Deserialize;
use transforms::preprocess::Preprocess;

use crate::container::{EMA, OPTIMIZER, SWA};

/// The fields of a manifest that describe the model; the fields of the training are ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ModelManifest {
    /// Architecture, width, classes, batch-norm constants.
    pub network: NetworkConfig,
    /// Class names in the order of the logits.
    pub classes: Vec<String>,
    /// How images become the input of the network.
    pub preprocess: Preprocess,
    /// Updates of the exponential average; none where the checkpoint has no average.
    #[serde(default)]
    pub ema_updates: Option<u64>,
    /// Whether the exponential average was better than the weights at the newest evaluation.
    #[serde(default)]
    pub prefer_ema: bool,
}

/// Refuses a crop that is too small for the network.
///
/// # Errors
/// The field, its value and what is expected.
pub fn check_crop(network: &NetworkConfig, preprocess: &Preprocess) -> Result<(), String> {
    let least = network.architecture.min_size();
    match preprocess.crop.iter().find(|edge| **edge < least) {
        Some(edge) => Err(format!(
            "preprocess.crop: {edge}: {} needs at least {least} pixels",
            network.architecture.name()
        )),
        None => Ok(()),
    }
}

impl ModelManifest {
    /// Reads the model's fields of a manifest and checks them.
    ///
    /// # Errors
    /// The field and its fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| named(text, &error))?;
        manifest.network.validate()?;
        manifest.preprocess.validate()?;
        check_crop(&manifest.network, &manifest.preprocess)?;
        let (names, logits) = (manifest.classes.len(), manifest.network.num_classes);
        match names == logits {
            true => Ok(manifest),
            false => Err(format!("{names} class names for {logits} logits")),
        }
    }

    /// The tensors of the weights meant, under the names of the network; none where an average is
    /// asked for and there is none.
    pub fn select(
        &self,
        tensors: Vec<NamedTensor>,
        weights: WeightsKind,
    ) -> Option<Vec<NamedTensor>> {
        let others = |name: &str| [OPTIMIZER, EMA, SWA].iter().any(|p| name.starts_with(p));
        let ema = weights.is_ema(self.prefer_ema, self.ema_updates)?;
        let selected = tensors.into_iter().filter_map(|tensor| {
            if ema {
                let name = tensor.name.strip_prefix(EMA)?.to_owned();
                return Some(NamedTensor { name, ..tensor });
            }
            (!others(&tensor.name)).then_some(tensor)
        });
        Some(selected.collect())
    }
}

/// The error of a value in JSON text, with the key of the value in front.
pub fn named(text: &str, error: &serde_json::Error) -> String {
    let message = error.to_string();
    let of_a_value = ["invalid type", "invalid value", "invalid length", "number out of range"];
    let of_a_value = of_a_value.iter().any(|kind| message.starts_with(kind));
    match key_before(text, error.line(), error.column()) {
        Some(key) if of_a_value => format!("{key}: {message}"),
        _ => message,
    }
}

/// The key of the value at a line and column of JSON text, both from 1.
fn key_before(text: &str, line: usize, column: usize) -> Option<&str> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let before = line.get(..column.min(line.len()))?;
    let (before, _) = before.rsplit_once("\":")?;
    before.rsplit_once('"').map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::key_before;

    /// Mutations caught: the first key of the line.
    #[test]
    fn the_key_of_a_wrong_value_is_found() {
        let text = r#"{"format":1,"plan":{"epochs":3,"cooldown_epochs":-1,"lr":0.1}}"#;
        assert_eq!(key_before(text, 1, text.find("-1").unwrap() + 2), Some("cooldown_epochs"));
        assert_eq!(key_before(text, 1, 1), None);
        assert_eq!(key_before(text, 9, 1), None);
    }
}
