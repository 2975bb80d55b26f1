//! Weights from a file as the start of a run: read, loaded, and followed by the options that depend
//! on them.

use std::fmt::Display;
use std::path::Path;

use nn::config::{NetworkConfig, Scaling};
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::load::{HeadPolicy, load_state_dict, recognise};
use nn::weights::read::read_weights;
use transforms::resize::Interpolation;

use crate::config::model::variant;
use crate::config::options::Options;
use crate::error::Error;
use crate::files::refuse_device;
use crate::run::checkpoint::{Checkpoint, Manifest};
use crate::run::observer::Observer;
use deploy::manifest::WeightsKind;

/// Reads weights from a file: a Kindling checkpoint (given back too), .safetensors or .pth.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`].
pub fn read(path: &Path) -> Result<(Vec<NamedTensor>, Option<Checkpoint>), Error> {
    if path.extension().is_some_and(|x| x == "ckpt") {
        let mut checkpoint = Checkpoint::read(path)?;
        return Ok((checkpoint.take(WeightsKind::Best)?, Some(checkpoint)));
    }
    let fail = |e: &dyn Display| Error::checkpoint(format!("{}: {e}", path.display()));
    refuse_device(path).map_err(|e| fail(&e))?;
    let tensors = read_weights(path).map_err(|e| fail(&e))?;
    Ok((tensors, None))
}

/// Loads the weights of a file into `network`. A classifier for other classes keeps its initial
/// values.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`].
pub(super) fn load(
    network: Network,
    path: &Path,
    observer: &dyn Observer,
) -> Result<Network, Error> {
    let (weights, _) = read(path)?;
    let (network, report) = load_state_dict(network, weights, HeadPolicy::KeepInitialised)
        .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    observer.note(&format!("{}: {report}", path.display()));
    Ok(network)
}

/// Fills the options that the user did not give from the pretrained weights of a run: constants of
/// batch norm, and the preprocessing of images.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: an unknown model.
/// [`crate::error::ErrorKind::Checkpoint`]: weights that cannot be read.
pub fn follow_weights(mut options: Options) -> Result<Options, Error> {
    let Some(path) = &options.network.pretrained_path else { return Ok(options) };
    let (weights, checkpoint) = read(path)?;
    let floats = |values: [f32; 3]| Some(values.to_vec());
    if let Some(checkpoint) = checkpoint {
        let Manifest { network, preprocess, plan, .. } = checkpoint.manifest;
        options.network.model = options.network.model.or(Some(plan.network.model));
        options.network.width = options.network.width.or(Some(network.width));
        options.network.bn_eps = options.network.bn_eps.or(Some(network.bn_eps));
        options.network.padding = options.network.padding.or(Some(network.padding));
        options.data.interpolation = options.data.interpolation.or(Some(preprocess.interpolation));
        options.data.mean = options.data.mean.or(floats(preprocess.mean));
        options.data.std = options.data.std.or(floats(preprocess.std));
        return Ok(options);
    }
    let variant = variant(options.network.model.as_deref().unwrap_or("mobilenet_v3_large"))?;
    let mut config = variant.config(1000);
    config.width = options.network.width.unwrap_or(config.width);
    follow_naming(&mut config, variant, &weights);
    let input = variant.input();
    let filter = if input.bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
    options.network.bn_eps = options.network.bn_eps.or(Some(config.bn_eps));
    options.data.interpolation = options.data.interpolation.or(Some(filter));
    options.data.mean = options.data.mean.or(floats(input.mean));
    options.data.std = options.data.std.or(floats(input.std));
    options.data.crop_pct = options.data.crop_pct.or(Some(input.crop_pct));
    Ok(options)
}

/// Sets the constants of `config` that depend on the source of the weights, if their names show
/// another source than the one of `variant`.
pub fn follow_naming(config: &mut NetworkConfig, variant: &Variant, weights: &[NamedTensor]) {
    let naming = recognise(config, weights);
    let expected = match variant.weight_source {
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
