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

impl ModelManifest {
    /// Reads the model's fields of a manifest and checks them.
    ///
    /// # Errors
    /// The field and its fault.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        manifest.network.validate()?;
        manifest.preprocess.validate()?;
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
