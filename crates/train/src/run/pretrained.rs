//! Weights from a file as the start of a run: read, loaded, and followed by the options that depend
//! on them.

use std::io::Read as _;
use std::path::Path;

use burn::tensor::Device;
use deploy::container::is_container;
use nn::config::{NetworkConfig, Scaling};
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::Network;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, load_state_dict, recognise};
use nn::weights::read::{FileWeights, read_weights};
use nn::weights::{NamedTensor, WeightsError};
use transforms::resize::Interpolation;

use crate::config::model::{variant, weights_kind};
use crate::config::options::Options;
use crate::error::Error;
use crate::run::checkpoint::{Checkpoint, Manifest};
use crate::run::observer::Observer;

/// First bytes of a file that are looked at for the manifest of a checkpoint: its metadata stand
/// before its tensors.
const HEAD: u64 = 1 << 20;

/// A number of classes for a network whose classifier may keep its initial weights.
const ANY_CLASSES: usize = 2;

/// The weights of a file.
pub struct Weights {
    /// Under torchvision's or timm's names.
    pub tensors: Vec<NamedTensor>,
    /// The checkpoint that they were taken out of; none where the file is of another format.
    pub checkpoint: Option<Checkpoint>,
    /// Which of several weights in the file they are, in words.
    pub taken: Option<String>,
}

/// Reads weights from a file: a Kindling checkpoint, .safetensors or .pth.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]; [`crate::error::ErrorKind::Usage`] when the file does not
/// hold weights of this kind.
pub fn read(path: &Path, kind: WeightsKind) -> Result<Weights, Error> {
    if path.extension().is_some_and(|x| x == "ckpt") || has_manifest(path) {
        let mut checkpoint = Checkpoint::read(path)?;
        let Manifest { prefer_ema, ema_updates, .. } = checkpoint.manifest;
        let taken = ema_updates.map(|_| match kind.is_ema(prefer_ema, ema_updates) {
            Some(true) => "the exponential average of the weights; --weights-kind raw takes the \
                           trained ones"
                .to_owned(),
            _ => "the trained weights and not their average".to_owned(),
        });
        let tensors = checkpoint.take(kind)?;
        return Ok(Weights { tensors, checkpoint: Some(checkpoint), taken });
    }
    let FileWeights { tensors, taken } = read_weights(path, kind).map_err(|e| fault(path, &e))?;
    Ok(Weights { tensors, checkpoint: None, taken })
}

/// Whether a file is a checkpoint of Kindling under another name.
fn has_manifest(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.is_ok() && is_container(&head)
}

/// The error for weights that cannot be read or do not fit.
pub fn fault(path: &Path, error: &WeightsError) -> Error {
    let text = format!("{}: {error}", path.display());
    match error {
        WeightsError::Kind(_) => Error::usage(text),
        _ => Error::checkpoint(text),
    }
}

/// Loads the weights of a file into `network`. A classifier for other classes keeps its initial
/// values.
///
/// # Errors
/// Those of [`read`]; [`crate::error::ErrorKind::Checkpoint`] when the weights do not fit.
pub(super) fn load(
    network: Network,
    path: &Path,
    kind: WeightsKind,
    observer: &dyn Observer,
) -> Result<Network, Error> {
    let weights = read(path, kind)?;
    let (network, report) = load_state_dict(network, weights.tensors, HeadPolicy::KeepInitialised)
        .map_err(|e| fault(path, &e))?;
    let taken = weights.taken.map(|taken| format!("; {taken}")).unwrap_or_default();
    observer.note(&format!("{}: {report}{taken}", path.display()));
    Ok(network)
}

/// Fills the options that the user did not give from the pretrained weights of a run: constants of
/// batch norm, and the preprocessing of images.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: an unknown model.
/// [`crate::error::ErrorKind::Checkpoint`]: weights that cannot be read or do not fit.
pub fn follow_weights(mut options: Options) -> Result<Options, Error> {
    let Some(path) = options.network.pretrained_path.clone() else { return Ok(options) };
    let Weights { tensors, checkpoint, .. } =
        read(&path, weights_kind(options.network.weights_kind))?;
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
        fits(&options, &path, tensors)?;
        return Ok(options);
    }
    let variant = variant(options.network.model.as_deref().unwrap_or("mobilenet_v3_large"))?;
    let mut config = variant.config(1000);
    config.width = options.network.width.unwrap_or(config.width);
    follow_naming(&mut config, variant, &tensors);
    let input = variant.input();
    let filter = if input.bicubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
    options.network.bn_eps = options.network.bn_eps.or(Some(config.bn_eps));
    options.data.interpolation = options.data.interpolation.or(Some(filter));
    options.data.mean = options.data.mean.or(floats(input.mean));
    options.data.std = options.data.std.or(floats(input.std));
    options.data.crop_pct = options.data.crop_pct.or(Some(input.crop_pct));
    fits(&options, &path, tensors)?;
    Ok(options)
}

/// Checks that weights fit the network of these options, before anything is made. The classifier may
/// have other classes.
fn fits(options: &Options, path: &Path, weights: Vec<NamedTensor>) -> Result<(), Error> {
    let network = options.clone().plan()?.network(ANY_CLASSES).init_zero(&Device::flex());
    load_state_dict(network, weights, HeadPolicy::KeepInitialised)
        .map(|_| ())
        .map_err(|e| fault(path, &e))
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
