//! Which network is meant: a model's name, what departs from it on the command line, and what the
//! weights at hand say. Used by every subcommand that builds a network outside a run.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use nn::activation::Activation;
use nn::block::convolution::Padding;
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::{Architecture, Network, NetworkConfig, Scaling};
use nn::weights::{HeadPolicy, NamedTensor, load_state_dict, read_weights, recognise};

use crate::config::options::{Options, nearest, padding};
use crate::error::Error;
use crate::run::checkpoint::{Checkpoint, Manifest, WeightsKind};
use transforms::preprocess::Interpolation;

/// A network by name, with departures.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Architecture or variant; `kindling models` lists them
    #[arg(long)]
    pub model: Option<String>,
    /// Width multiplier [default: the variant's]
    #[arg(long, alias = "alpha")]
    pub width: Option<f64>,
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

/// A variant by name, or the sentence that says which are known.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`] with the nearest name.
pub fn variant(name: &str) -> Result<&'static Variant, Error> {
    Variant::parse(name).ok_or_else(|| {
        let known: Vec<String> = Variant::names().map(str::to_owned).collect();
        let near =
            nearest(name, &known).map_or_else(String::new, |n| format!("did you mean `{n}`? "));
        Error::usage(format!(
            "--model: unknown architecture `{name}`; {near}`kindling models` lists them"
        ))
    })
}

/// Weights from a file: a Kindling checkpoint (with its network), .safetensors or .pth.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`].
pub fn read(path: &Path) -> Result<(Vec<NamedTensor>, Option<Checkpoint>), Error> {
    if path.extension().is_some_and(|x| x == "ckpt") {
        let mut checkpoint = Checkpoint::read(path)?;
        return Ok((checkpoint.take(WeightsKind::Best)?, Some(checkpoint)));
    }
    let tensors =
        read_weights(path).map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    Ok((tensors, None))
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
                    follow(&mut config, variant, weights);
                }
                config
            }
            (None, Some(own)) => own.clone(),
            (None, None) => {
                let way = "expected a name; `kindling models` lists them";
                return Err(Error::usage(format!("--model: {way}")));
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

/// Constants follow the source of the weights where it is another than the model's name says.
fn follow(config: &mut NetworkConfig, variant: &Variant, weights: &[NamedTensor]) {
    let naming = recognise(config, weights);
    let expected = match variant.lineage {
        WeightSource::Torchvision => Naming::Torchvision,
        WeightSource::Timm | WeightSource::Tensorflow => Naming::Timm,
    };
    let one_naming = config.keys(Naming::Torchvision) == config.keys(Naming::Timm);
    if naming == expected || one_naming {
        return;
    }
    let norm = config.architecture.norm(naming);
    (config.bn_eps, config.bn_momentum) = (norm.epsilon, norm.momentum);
    config.scaling = match naming {
        Naming::Torchvision => Scaling::Torchvision,
        Naming::Timm => Scaling::Paper,
    };
}

/// What a run takes over from the weights it starts from, where the user says nothing else: constants of
/// batch norm, and how images are prepared.
///
/// # Errors
/// An unknown model, unreadable weights.
pub fn follow_weights(mut options: Options) -> Result<Options, Error> {
    let Some(path) = &options.pretrained_path else { return Ok(options) };
    let (weights, checkpoint) = read(path)?;
    let floats = |values: [f32; 3]| Some(values.to_vec());
    if let Some(checkpoint) = checkpoint {
        let Manifest { network, preprocess, plan, .. } = checkpoint.manifest;
        options.model = options.model.or(Some(plan.model));
        options.width = options.width.or(Some(network.width));
        options.bn_eps = options.bn_eps.or(Some(network.bn_eps));
        options.padding = options.padding.or(Some(network.padding));
        options.interpolation = options.interpolation.or(Some(preprocess.interpolation));
        options.mean = options.mean.or(floats(preprocess.mean));
        options.std = options.std.or(floats(preprocess.std));
        return Ok(options);
    }
    let variant = variant(options.model.as_deref().unwrap_or("mobilenet_v3_large"))?;
    let mut config = variant.config(1000);
    config.width = options.width.unwrap_or(config.width);
    follow(&mut config, variant, &weights);
    let input = variant.input();
    let filter = if input.bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
    options.bn_eps = options.bn_eps.or(Some(config.bn_eps));
    options.interpolation = options.interpolation.or(Some(filter));
    options.mean = options.mean.or(floats(input.mean));
    options.std = options.std.or(floats(input.std));
    options.crop_pct = options.crop_pct.or(Some(input.crop_pct));
    Ok(options)
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
        let naming = match timm.map(|v| v.lineage) {
            Some(WeightSource::Timm | WeightSource::Tensorflow) => Naming::Timm,
            _ => Naming::Torchvision,
        };
        return Ok((config.init_seeded(device, seed), naming));
    };
    let (weights, checkpoint) = read(path)?;
    let config = selection.config(&weights, checkpoint.as_ref().map(|c| &c.manifest.network))?;
    let naming = recognise(&config, &weights);
    let fail = |e: nn::weights::WeightsError| Error::checkpoint(format!("{}: {e}", path.display()));
    let (network, _) =
        load_state_dict(config.init_zero(device), weights, HeadPolicy::Exact).map_err(fail)?;
    Ok((network, naming))
}

/// Where a size is missing: the architecture's native one.
pub fn size_or_native(size: Option<usize>, architecture: Architecture) -> Result<usize, Error> {
    let size = size.unwrap_or(architecture.native_size());
    let least = match architecture {
        Architecture::InceptionV3 | Architecture::Xception => architecture.least_size(),
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
