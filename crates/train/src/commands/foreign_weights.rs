//! A checkpoint of weights that Kindling did not train: their network, their class names, and the
//! rule by which their images are prepared.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::Device;
use clap::Args;
use nn::config::NetworkConfig;
use nn::layer_spec::Naming;
use nn::weights::NamedTensor;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::state_dict::state_dict_as;

use crate::commands::exif_args::ExifArgs;
use crate::commands::model_args::ModelArgs;
use crate::config::datasets::per_channel;
use crate::config::model::variant;
use crate::config::options::Options;
use crate::datasets::class_order;
use crate::err;
use crate::error::Error;
use crate::files;
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::run::checkpoint::{Checkpoint, DatasetFingerprint, Manifest};
use crate::run::pretrained::{self, Weights};
use crate::run::progress::{EpochStats, Position};
use crate::text_list::{lines, read_text};
use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

/// What departs from the rule of the weights, by which images are prepared.
#[derive(Args, Default)]
pub(super) struct RuleArgs {
    /// Short edge of the image after the resize, for .ckpt [default: that of the weights] [range:
    /// 1 to 16384]
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    resize: Option<usize>,
    /// Height and width of the centre crop, for .ckpt [default: that of the weights] [range: 1 to
    /// 16384]
    #[arg(long, value_name = "PIXELS", hide_short_help = true)]
    crop: Option<usize>,
    /// Resampling filter, for .ckpt [default: that of the weights]
    #[arg(long, value_enum, value_name = "FILTER", hide_short_help = true)]
    interpolation: Option<Interpolation>,
    /// Mean of each channel after division by 255, for .ckpt [default: that of the weights]
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"], hide_short_help = true)]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel after division by 255, for .ckpt [default: that of the
    /// weights] [range: above 0]
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"], hide_short_help = true)]
    std: Option<Vec<f32>>,
    #[command(flatten)]
    exif: ExifArgs,
}

/// Reads weights of any format; a TensorFlow frozen graph too.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]: a damaged file, tensors of no network.
pub(super) fn read(path: &Path, kind: WeightsKind) -> Result<Weights, Error> {
    if path.extension().is_none_or(|x| x != "pb") {
        return pretrained::read(path, kind);
    }
    let fail = |e: &dyn std::fmt::Display| Error::checkpoint(format!("{}: {e}", path.display()));
    let bytes = files::read(path).map_err(|e| fail(&e))?;
    let tensors = nn::weights::frozen_graph::mobilenet_v1(&bytes).map_err(|e| fail(&e))?;
    Ok(Weights { tensors, checkpoint: None, taken: None })
}

/// Reads class names, one a line; empty lines at the end are none.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: an unreadable file, an empty line.
pub(super) fn class_names(path: &Path) -> Result<Vec<String>, Error> {
    let fault = |why: String| Error::data(format!("{}: {why}", path.display()));
    let text = read_text(path).map_err(fault)?;
    // Every line is a logit, so that an empty one between others shifts the rest.
    let names: Vec<String> = text.trim_end().lines().map(|line| line.trim().to_owned()).collect();
    if let Some(index) = names.iter().position(String::is_empty) {
        return Err(fault(format!("line {}: empty, expected a class name", index + 1)));
    }
    // Lists of ImageNet's classes have two cranes and two maillots.
    let mut seen = HashMap::new();
    let again = lines(&text).find_map(|line| {
        let first = seen.insert(line.text, line.number)?;
        Some(format!(
            "{}: line {}: `{}` stands in line {first} already; `eval` cannot tell the two apart",
            path.display(),
            line.number,
            line.text
        ))
    });
    again.iter().for_each(|note| err!("note: {note}"));
    Ok(names)
}

/// The checkpoint of a network's weights. `own` is the checkpoint that they come from, if they come
/// from one. `classes` are names in the order of the logits.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: another number of classes;
/// [`crate::error::ErrorKind::Usage`]: a number beyond its range.
pub(super) fn checkpoint(
    selection: &ModelArgs,
    rule: &RuleArgs,
    config: &NetworkConfig,
    classes: Option<Vec<String>>,
    own: Option<Checkpoint>,
    weights: Vec<NamedTensor>,
) -> Result<Checkpoint, Error> {
    let classes = match classes {
        Some(mut names) => {
            // TensorFlow's ImageNet networks have a class for the background before the others.
            if names.len() + 1 == config.num_classes && names.len() == 1000 {
                names.insert(0, "background".into());
            }
            names
        }
        None => match &own {
            Some(own) => own.manifest.classes.clone(),
            None => (0..config.num_classes).map(|k| k.to_string()).collect::<Vec<_>>(),
        },
    };
    if classes.len() != config.num_classes {
        return Err(Error::data(format!(
            "{} class names for {} logits; give one name a line with --classes",
            classes.len(),
            config.num_classes
        )));
    }
    let size = config.architecture.native_size();
    let standard = match &own {
        Some(own) => own.manifest.preprocess.clone(),
        None => {
            let name = selection.model.as_deref().unwrap_or_default();
            let input = variant(name)?.input();
            Preprocess {
                interpolation: match input.bicubic {
                    true => Interpolation::Bicubic,
                    false => Interpolation::Bilinear,
                },
                mean: input.mean,
                std: input.std,
                // Their authors' loaders do not turn; the photos that come now are those of phones.
                exif: true,
                ..Preprocess::imagenet((size as f64 / input.crop_pct).floor() as usize, size)
            }
        }
    };
    if own.is_none() {
        class_order::notes(&classes).iter().for_each(|note| err!("note: {note}"));
    }
    let preprocess = Preprocess {
        resize: rule.resize.unwrap_or(standard.resize),
        crop: rule.crop.map_or(standard.crop, |side| [side, side]),
        interpolation: rule.interpolation.unwrap_or(standard.interpolation),
        mean: per_channel("--mean", rule.mean.as_ref(), standard.mean)?,
        std: per_channel("--std", rule.std.as_ref(), standard.std)?,
        exif: rule.exif.or(standard.exif),
    };
    preprocess.validate().map_err(Error::usage)?;
    let model = selection.model.clone();
    let trained_images = own.as_ref().and_then(|own| own.manifest.trained_images.clone());
    let plan = match own {
        Some(own) => own.manifest.plan,
        None => {
            let mut options = Options::default();
            options.network.model = model;
            options.data.exif = Some(preprocess.exif);
            options.plan()?
        }
    };
    let manifest = Manifest {
        format: Manifest::format(),
        kindling: env!("CARGO_PKG_VERSION").to_owned(),
        network: config.clone(),
        classes,
        preprocess,
        plan,
        position: Position::default(),
        epoch_stats: EpochStats::default(),
        best: None,
        optimizer_steps: None,
        ema_updates: None,
        swa_epochs: None,
        prefer_ema: false,
        plateau: Plateau::default(),
        nan_guard: NanGuard::default(),
        micro_batch: None,
        data: DatasetFingerprint { images: 0, crc32: 0 },
        trained_images,
    };
    Ok(Checkpoint { manifest, weights, optimizer: Vec::new(), averages: Vec::new() })
}

/// The checkpoint of a weight file, under the name of its model. Without `classes` they are those
/// of the checkpoint where the weights come from one, or the logits' numbers.
///
/// # Errors
/// [`crate::error::ErrorKind::Checkpoint`]: a damaged file, another network's weights;
/// [`crate::error::ErrorKind::Usage`]: no or an unknown model.
pub(super) fn as_checkpoint(
    path: &Path,
    kind: WeightsKind,
    selection: &ModelArgs,
    rule: &RuleArgs,
    classes: Option<Vec<String>>,
) -> Result<Checkpoint, Error> {
    let Weights { tensors, checkpoint: own, taken } = read(path, kind)?;
    taken.iter().for_each(|taken| err!("note: {}: {taken}", path.display()));
    let own_config = own.as_ref().map(|c| c.manifest.network.clone());
    let config = selection.config(&tensors, own_config.as_ref())?;
    let (network, _) =
        load_state_dict(config.init_zero(&Device::flex()), tensors, HeadPolicy::Exact)
            .map_err(|e| pretrained::fault(path, &e))?;
    let weights = state_dict_as(&network, Naming::Torchvision);
    checkpoint(selection, rule, &config, classes, own, weights)
}
