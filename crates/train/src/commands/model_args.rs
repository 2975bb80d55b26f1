//! Which network is meant: a model's name, what departs from it on the command line, and what the
//! weights at hand say. Used by every subcommand that builds a network outside a run.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use nn::activation::Activation;
use nn::config::{Architecture, NetworkConfig, Scaling};
use nn::geometry::Padding;
use nn::layer_spec::Naming;
use nn::models::variants::WeightSource;
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::known::variant_of;
use nn::weights::load::{HeadPolicy, load_state_dict, recognise};

use crate::config::model::{GivenKind, padding, variant, weights_kind};
use crate::err;
use crate::error::Error;
use crate::run::pretrained::{Weights, fault, follow_naming, read};

/// A network by name, with departures.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Architecture or variant; `kindling models` lists them
    #[arg(long)]
    pub model: Option<String>,
    /// Width multiplier [default: the variant's]
    #[arg(long, alias = "alpha")]
    pub width: Option<f64>,
    /// Which of the weights in the file: the trained ones or their average [default: the average
    /// where there is one; of a .ckpt the better ones]
    #[arg(long, value_enum)]
    pub weights_kind: Option<GivenKind>,
    /// Logits [default: as the weights have, otherwise 1000]
    #[arg(long)]
    pub num_classes: Option<usize>,
    /// Dropout before the classifier, in training
    #[arg(long, alias = "drop")]
    pub dropout: Option<f64>,
    /// Epsilon of batch norm [default: as the source of the weights]
    #[arg(long)]
    pub bn_eps: Option<f64>,
    /// Momentum of batch norm in torch's convention
    #[arg(long)]
    pub bn_momentum: Option<f64>,
    /// Border of the MobileNets' convolutions: symmetric or same
    #[arg(long, value_parser = padding)]
    pub padding: Option<Padding>,
    /// Rule of the width multiplier: torchvision or paper
    #[arg(long, value_parser = scaling)]
    pub scaling: Option<Scaling>,
    /// ReLU instead of ReLU6 in MobileNetV1
    #[arg(long)]
    pub relu: bool,
    /// With the auxiliary heads of GoogLeNet and Inception v3
    #[arg(long)]
    pub aux: bool,
    /// GoogLeNet and Inception v3: bring ImageNet-normalised inputs to [-1, 1] first
    #[arg(long)]
    pub transform_input: bool,
}

fn scaling(text: &str) -> Result<Scaling, String> {
    match text {
        "torchvision" => Ok(Scaling::Torchvision),
        "paper" | "timm" => Ok(Scaling::Paper),
        _ => Err("expected torchvision or paper".into()),
    }
}

impl ModelArgs {
    /// The network that is meant, given the weights it will hold.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Usage`]: no or an unknown model, an impossible departure.
    pub fn config(
        &self,
        weights: &[NamedTensor],
        own: Option<&NetworkConfig>,
    ) -> Result<NetworkConfig, Error> {
        let mut config = match (&self.model, own) {
            (Some(name), _) => {
                let variant = variant(name)?;
                let mut config = variant.config(1000);
                config.width = self.width.unwrap_or(config.width);
                if !weights.is_empty() {
                    follow_naming(&mut config, variant, weights);
                }
                config
            }
            (None, Some(own)) => own.clone(),
            (None, None) => {
                let way = match variant_of(weights) {
                    Some(known) => {
                        let name = known.name;
                        format!("these are {name}'s weights: --model {name}")
                    }
                    None => "`kindling models` lists them".to_owned(),
                };
                return Err(Error::usage(format!("--model: expected a name; {way}")));
            }
        };
        config.width = self.width.unwrap_or(config.width);
        config.padding = self.padding.unwrap_or(config.padding);
        config.scaling = self.scaling.unwrap_or(config.scaling);
        config.dropout = self.dropout.unwrap_or(config.dropout);
        config.bn_eps = self.bn_eps.unwrap_or(config.bn_eps);
        config.bn_momentum = self.bn_momentum.unwrap_or(config.bn_momentum);
        config.auxiliary |= self.aux;
        config.transform_input |= self.transform_input;
        if self.relu {
            config.activation = Some(Activation::Relu);
        }
        let found = classes_of(&config, weights);
        config.num_classes = self.num_classes.or(found).unwrap_or(config.num_classes);
        config.validate().map_err(|why| Error::usage(format!("--model: {why}")))?;
        Ok(config)
    }
}

/// The class count that a file's classifier has.
fn classes_of(config: &NetworkConfig, weights: &[NamedTensor]) -> Option<usize> {
    let keys = config.keys(recognise(config, weights));
    let bias = &keys.last()?.name;
    let older = bias.replace("fc.", "last_linear.");
    weights.iter().find(|t| t.name == *bias || t.name == older).map(|t| t.values.len())
}

/// A network with the weights of `path`, or initial ones from `seed`.
///
/// # Errors
/// What reading, choosing and loading can refuse.
pub fn build(
    selection: &ModelArgs,
    path: Option<&PathBuf>,
    seed: u64,
    device: &Device,
) -> Result<(Network, Naming), Error> {
    let Some(path) = path else {
        let config = selection.config(&[], None)?;
        let timm = selection.model.as_deref().map(variant).transpose()?;
        let naming = match timm.map(|v| v.weight_source) {
            Some(WeightSource::Timm | WeightSource::Tensorflow) => Naming::Timm,
            _ => Naming::Torchvision,
        };
        return Ok((config.init_seeded(device, seed), naming));
    };
    let Weights { tensors, checkpoint, taken } = read(path, weights_kind(selection.weights_kind))?;
    let config = selection.config(&tensors, checkpoint.as_ref().map(|c| &c.manifest.network))?;
    let naming = recognise(&config, &tensors);
    let (network, _) = load_state_dict(config.init_zero(device), tensors, HeadPolicy::Exact)
        .map_err(|e| fault(path, &e))?;
    if let Some(taken) = taken {
        err!("note: {}: {taken}", path.display());
    }
    Ok((network, naming))
}

/// Where a size is missing: the architecture's native one.
pub fn size_or_native(size: Option<usize>, architecture: Architecture) -> Result<usize, Error> {
    let size = size.unwrap_or(architecture.native_size());
    let least = match architecture {
        Architecture::InceptionV3 | Architecture::Xception => architecture.min_size(),
        _ => 1,
    };
    match (least..=16_384).contains(&size) {
        true => Ok(size),
        false => Err(Error::usage(format!(
            "--img-size: `{size}`: {} takes {least} to 16384 pixels",
            architecture.name()
        ))),
    }
}
