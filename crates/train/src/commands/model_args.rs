//! Which network is meant: a model's name, what departs from it on the command line, and what the
//! weights at hand say. Used by every subcommand that builds a network outside a run.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
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
use crate::config::range::number;
use crate::err;
use crate::error::Error;
use crate::run::pretrained::{Weights, fault, follow_naming, read};

/// A network by name, with departures.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model; `kindling models` lists them [default: that of the weights, if they name one]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Width multiplier [default: the variant's] [range: 0.05 to 8]
    #[arg(long, visible_alias = "alpha", value_parser = number(0.05..=8.0))]
    pub width: Option<f64>,
    /// Which of the weights in the file: the trained ones or their average [default: the average
    /// where there is one; of a .ckpt the better ones]
    #[arg(long, value_enum, value_name = "KIND")]
    pub weights_kind: Option<GivenKind>,
    /// Number of classes [default: that of the weights, otherwise 1000] [range: 1 to
    /// 16777216]
    #[arg(long, value_name = "N")]
    pub num_classes: Option<usize>,
    /// Dropout before the classifier, in training [default: the variant's] [range: 0 to 0.999]
    #[arg(long, visible_alias = "drop", value_parser = number(0.0..=0.999))]
    #[arg(hide_short_help = true)]
    pub dropout: Option<f64>,
    /// Epsilon of batch norm [default: that of the weights' source] [range: 1e-12 to 1]
    #[arg(long, value_parser = number(1e-12..=1.0), hide_short_help = true)]
    pub bn_eps: Option<f64>,
    /// Momentum of the batch-norm statistics in PyTorch's convention [default: that of the
    /// weights' source] [range: 0 to 1]
    #[arg(long, value_parser = number(0.0..=1.0), hide_short_help = true)]
    pub bn_momentum: Option<f64>,
    /// Padding of the MobileNets' convolutions: PyTorch's symmetric or TensorFlow's same
    /// [default: the variant's]
    #[arg(long, value_parser = padding(), hide_short_help = true)]
    pub padding: Option<Padding>,
    /// Rule by which --width scales the layers [default: that of the weights' source]
    #[arg(long, value_parser = scaling(), hide_short_help = true)]
    pub scaling: Option<Scaling>,
    /// Replace ReLU6 by ReLU in MobileNetV1 [default: ReLU6]
    #[arg(long, hide_short_help = true)]
    pub relu: bool,
    /// Build the auxiliary classifiers of GoogLeNet and Inception v3 [default: omit them]
    #[arg(long, hide_short_help = true)]
    pub aux: bool,
    /// Map ImageNet-normalised inputs of GoogLeNet and Inception v3 to [-1, 1] first
    /// [default: inputs as they are]
    #[arg(long, hide_short_help = true)]
    pub transform_input: bool,
    /// [`NetworkConfig::half_maps`], where a command has a flag for it.
    #[arg(skip)]
    pub half_maps: bool,
}

/// The parser of `--scaling`, which suggests the nearest name.
fn scaling() -> impl TypedValueParser<Value = Scaling> {
    let paper = PossibleValue::new("paper").alias("timm");
    let names = [PossibleValue::new("torchvision"), paper];
    PossibleValuesParser::new(names).map(|name| match name.as_str() {
        "torchvision" => Scaling::Torchvision,
        _ => Scaling::Paper,
    })
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
        config.half_maps = self.half_maps;
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
