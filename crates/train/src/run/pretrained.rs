//! Weights from a file as the start of a run: read, loaded, and followed by the options that depend
//! on them.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::Path;

use burn::tensor::Device;
use deploy::container::is_container;
use nn::config::{NetworkConfig, Scaling};
use nn::layer_spec::Naming;
use nn::models::variants::{Variant, WeightSource};
use nn::network::Network;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, classifier_names, load_state_dict, recognise};
use nn::weights::read::{FileWeights, read_weights};
use nn::weights::state_dict::state_dict;
use nn::weights::{NamedTensor, WeightsError};
use transforms::resize::Interpolation;

use crate::config::model::{DEFAULT_MODEL, variant, weights_kind};
use crate::config::options::Options;
use crate::datasets::class_order;
use crate::error::Error;
use crate::files::refuse_device;
use crate::published_weights::PublishedWeights;
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
/// [`crate::error::ErrorKind::Checkpoint`]; [`crate::error::ErrorKind::Usage`] when the file does
/// not hold weights of this kind.
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
    refuse_device(path).map_err(|e| fault(path, &WeightsError::Io(e)))?;
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

/// Loads the weights of a file into `network`, whose classes are `classes`. A classifier for other
/// classes keeps its initial values; one for the same classes in another order is brought into this
/// one. `observer` gets a note that says which of these happened.
///
/// # Errors
/// Those of [`read`]; [`crate::error::ErrorKind::Checkpoint`] when the weights do not fit.
pub(super) fn load(
    network: Network,
    path: &Path,
    kind: WeightsKind,
    classes: &[String],
    observer: &dyn Observer,
) -> Result<Network, Error> {
    let Weights { mut tensors, checkpoint, taken } = read(path, kind)?;
    let names = checkpoint.map(|checkpoint| checkpoint.manifest.classes);
    let names = names.filter(|names| !class_order::is_numbering(names) || *names == classes);
    let head = match &names {
        Some(names) => match_classes(network.config(), &mut tensors, names, classes),
        None => Head::Unnamed,
    };
    let policy = match head {
        Head::Other => HeadPolicy::Fresh,
        Head::Same | Head::Reordered | Head::Unnamed => HeadPolicy::KeepInitialised,
    };
    let (network, report) =
        load_state_dict(network, tensors, policy).map_err(|e| fault(path, &e))?;
    let network = match report.kept.is_empty() {
        true => network,
        false => zero_classifier(network),
    };
    let taken = taken.map(|taken| format!("; {taken}")).unwrap_or_default();
    observer.note(&format!("{}: {report}{taken}", path.display()));
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

/// The network with classifiers of zeros. The features of trained weights are large, and a random
/// classifier on them begins with a loss far above ln(classes), whose gradient destroys what was
/// learned; one of zeros begins at ln(classes).
fn zero_classifier(network: Network) -> Network {
    let heads = classifier_names(network.config(), Naming::Torchvision);
    let mut tensors = state_dict(&network);
    tensors
        .iter_mut()
        .filter(|tensor| heads.contains(&tensor.name))
        .for_each(|tensor| tensor.values.fill(0.0));
    let loaded = load_state_dict(network, tensors, HeadPolicy::KeepInitialised);
    loaded.expect("a network takes its own tensors").0
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
    let indices: HashMap<&String, usize> = names.iter().zip(0..).collect();
    let order: Option<Vec<usize>> =
        classes.iter().map(|class| indices.get(class).copied()).collect();
    let order = order.filter(|_| indices.len() == names.len() && names.len() == classes.len());
    let Some(order) = order else { return Head::Other };
    let heads = classifier_names(config, recognise(config, weights));
    for tensor in weights.iter_mut().filter(|tensor| heads.contains(&tensor.name)) {
        let row = tensor.values.len() / names.len();
        let rows = order.iter().flat_map(|index| &tensor.values[index * row..][..row]);
        tensor.values = rows.copied().collect();
    }
    Head::Reordered
}

/// The classes that the classifier of weights is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightClasses {
    /// By name, in the order of the logits.
    Named(Vec<String>),
    /// So many; the file does not name them.
    Counted(usize),
}

impl WeightClasses {
    /// Whether the classifier starts anew on these classes, as [`load`] decides it.
    pub(super) fn start_anew(&self, classes: &[String]) -> bool {
        match self {
            Self::Named(names) if class_order::is_numbering(names) => names.len() != classes.len(),
            Self::Named(names) => {
                let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<String>>();
                names.len() != classes.len() || set(names) != set(classes)
            }
            Self::Counted(count) => *count != classes.len(),
        }
    }
}

/// Fills the options that the user did not give from the pretrained weights of a run: constants of
/// batch norm, and the preprocessing of images. Returns the classes of the weights too.
///
/// # Errors
/// [`crate::error::ErrorKind::Usage`]: an unknown model.
/// [`crate::error::ErrorKind::Checkpoint`]: weights that cannot be read or do not fit.
pub fn follow_weights(mut options: Options) -> Result<(Options, Option<WeightClasses>), Error> {
    fetch_published(&mut options)?;
    let Some(path) = options.network.pretrained_path.clone() else { return Ok((options, None)) };
    let Weights { tensors, checkpoint, .. } =
        read(&path, weights_kind(options.network.weights_kind))?;
    let floats = |values: [f32; 3]| Some(values.to_vec());
    if let Some(checkpoint) = checkpoint {
        let Manifest { network, preprocess, plan, classes, .. } = checkpoint.manifest;
        options.network.model = options.network.model.or(Some(plan.network.model));
        options.network.width = options.network.width.or(Some(network.width));
        options.network.bn_eps = options.network.bn_eps.or(Some(network.bn_eps));
        options.network.padding = options.network.padding.or(Some(network.padding));
        options.data.interpolation = options.data.interpolation.or(Some(preprocess.interpolation));
        options.data.mean = options.data.mean.or(floats(preprocess.mean));
        options.data.std = options.data.std.or(floats(preprocess.std));
        fits(&options, &path, tensors)?;
        return Ok((options, Some(WeightClasses::Named(classes))));
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
    let heads = classifier_names(&config, recognise(&config, &tensors));
    let bias = tensors.iter().find(|tensor| heads.last() == Some(&tensor.name));
    let classes = bias.map(|bias| WeightClasses::Counted(bias.values.len()));
    fits(&options, &path, tensors)?;
    Ok((options, classes))
}

/// Where `--pretrained` is given: the model that the weights are of, their file, and the crop that
/// they were evaluated with.
fn fetch_published(options: &mut Options) -> Result<(), Error> {
    let Some(name) = options.network.pretrained.clone() else { return Ok(()) };
    // args.toml of a run has both: the file is there, or is fetched again.
    let there = options.network.pretrained_path.as_ref().is_some_and(|path| path.exists());
    let name = (name != BEST_PUBLISHED).then_some(name);
    let model = match &options.network.model {
        Some(model) => variant(model)?.name,
        None => DEFAULT_MODEL,
    };
    let published = PublishedWeights::find(name.as_deref(), model)?;
    if options.network.model.is_none() {
        options.network.model = Some(published.model.to_owned());
    }
    match &options.network.pretrained_path {
        Some(path) if *path != published.path() => {
            return Err(Error::usage(format!(
                "--pretrained-path {}: given beside --pretrained, which is {}; omit one",
                path.display(),
                published.name
            )));
        }
        _ => {}
    }
    if !there {
        options.network.pretrained_path = Some(published.fetch()?);
    }
    options.network.pretrained = Some(published.name.to_owned());
    options.data.crop_pct = options.data.crop_pct.or(Some(published.crop_pct));
    Ok(())
}

/// The value of `--pretrained` without a name.
const BEST_PUBLISHED: &str = "best";

/// Checks that weights fit the network of these options, before anything is made. The classifier
/// may have other classes.
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

#[cfg(test)]
mod tests {
    use super::WeightClasses;

    /// Mutations caught: the same classes in another order taken for others.
    #[test]
    fn the_classifier_starts_anew_on_other_classes() {
        let list =
            |names: &[&str]| -> Vec<String> { names.iter().map(ToString::to_string).collect() };
        let data = list(&["bag", "hat"]);
        for (names, anew) in [
            (&["bag", "hat"][..], false),
            (&["hat", "bag"], false),
            (&["bag", "cap"], true),
            (&["bag", "cap", "hat"], true),
            // Numbers say nothing.
            (&["0", "1"], false),
            (&["0", "1", "2"], true),
        ] {
            assert_eq!(WeightClasses::Named(list(names)).start_anew(&data), anew, "{names:?}");
        }
        assert!(WeightClasses::Counted(1000).start_anew(&data));
        assert!(!WeightClasses::Counted(2).start_anew(&data));
    }
}
