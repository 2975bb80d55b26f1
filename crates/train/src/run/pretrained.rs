//! Weights from a file as the start of a run: read, loaded, and followed by the options that depend
//! on them.

use std::collections::HashMap;
use std::path::Path;

use nn::config::{NetworkConfig, Scaling};
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::Network;
use nn::weights::NamedTensor;
use nn::weights::load::{HeadPolicy, classifier_names, load_state_dict, recognise};
use nn::weights::read::read_weights;
use transforms::resize::Interpolation;

use crate::config::model::variant;
use crate::config::options::Options;
use crate::datasets::class_order;
use crate::error::Error;
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
    let tensors =
        read_weights(path).map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    Ok((tensors, None))
}

/// Loads the weights of a file into `network`, whose classes are `classes`. A classifier for other
/// classes keeps its initial values; one for the same classes in another order is brought into this
/// one. `observer` gets a note that says which of these happened.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`].
pub(super) fn load(
    network: Network,
    path: &Path,
    classes: &[String],
    observer: &dyn Observer,
) -> Result<Network, Error> {
    let (mut weights, checkpoint) = read(path)?;
    let names = checkpoint.map(|checkpoint| checkpoint.manifest.classes);
    let names = names.filter(|names| !class_order::is_numbering(names) || *names == classes);
    let head = match &names {
        Some(names) => match_classes(network.config(), &mut weights, names, classes),
        None => Head::Unnamed,
    };
    let policy = match head {
        Head::Other => HeadPolicy::Fresh,
        Head::Same | Head::Reordered | Head::Unnamed => HeadPolicy::KeepInitialised,
    };
    let (network, report) = load_state_dict(network, weights, policy)
        .map_err(|e| Error::checkpoint(format!("{}: {e}", path.display())))?;
    observer.note(&format!("{}: {report}", path.display()));
    let kept = report.kept.is_empty();
    let count = classes.len();
    let said = match (head, kept) {
        (Head::Same, _) => "the classifier is kept: it has the same classes".to_owned(),
        (Head::Reordered, _) => {
            "the classifier is kept: it has the same classes in another order, and its logits were \
             reordered by name"
                .to_owned()
        }
        (Head::Unnamed, true) => {
            let order = class_order::unlike_torchvision(classes).map_or_else(String::new, |(here, there)| {
                format!(
                    "; torchvision and timm order these folders as text, with `{there}` where the data has \
                     `{here}`, so that logits of theirs mean other classes"
                )
            });
            format!(
                "the classifier is kept: the file has {count} classes like the data, but no names, so see \
                 that their order is the data's{order}"
            )
        }
        (_, false) if names.as_ref().is_some_and(|names| names.len() == count) => {
            let pairs = names.iter().flatten().zip(classes).find(|(there, here)| there != here);
            let first = pairs.map_or_else(String::new, |(there, here)| {
                format!(", such as `{there}` where the data has `{here}`")
            });
            format!("the classifier starts anew: its {count} classes have other names{first}")
        }
        _ => "the classifier starts anew: the file has another number of classes".to_owned(),
    };
    observer.note(&format!("note: {}: {said}", path.display()));
    Ok(network)
}

/// What the classifier of pretrained weights is to the classes of the data.
#[derive(Clone, Copy)]
enum Head {
    /// The same classes in the same order.
    Same,
    /// The same classes; the rows are in the data's order now.
    Reordered,
    /// Other classes.
    Other,
    /// The file does not name its classes.
    Unnamed,
}

/// Compares the classes `names` of `weights` with those of the data, and brings the rows of the
/// classifiers into the order of the data where only the order differs.
fn match_classes(
    config: &NetworkConfig,
    weights: &mut [NamedTensor],
    names: &[String],
    classes: &[String],
) -> Head {
    if names == classes {
        return Head::Same;
    }
    let places: HashMap<&String, usize> = names.iter().zip(0..).collect();
    let order: Option<Vec<usize>> =
        classes.iter().map(|class| places.get(class).copied()).collect();
    let order = order.filter(|_| places.len() == names.len() && names.len() == classes.len());
    let Some(order) = order else { return Head::Other };
    let heads = classifier_names(config, recognise(config, weights));
    for tensor in weights.iter_mut().filter(|tensor| heads.contains(&tensor.name)) {
        let row = tensor.values.len() / names.len();
        let rows = order.iter().flat_map(|place| &tensor.values[place * row..][..row]);
        tensor.values = rows.copied().collect();
    }
    Head::Reordered
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
