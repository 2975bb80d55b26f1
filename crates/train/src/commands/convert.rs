//! `kindling convert`: weights from one file to another: names of torchvision or timm, f32, f16 or
//! bf16, or a Kindling checkpoint that `predict` and `eval` take.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, bf16, f16};
use clap::{Args, ValueEnum};
use nn::config::NetworkConfig;
use nn::layer_spec::Naming;
use nn::weights::NamedTensor;
use nn::weights::kind::WeightsKind;
use nn::weights::load::{HeadPolicy, load_state_dict, recognise};
use nn::weights::state_dict::state_dict_as;
use safetensors::tensor::{Dtype, TensorView};

use crate::commands::exif_args::ExifArgs;
use crate::commands::model_args::ModelArgs;
use crate::config::datasets::per_channel;
use crate::config::model::{variant, weights_kind};
use crate::config::options::Options;
use crate::datasets::class_order;
use crate::err;
use crate::error::Error;
use crate::files::{self, extension, write_atomically};
use crate::learner::nan_guard::NanGuard;
use crate::optimizers::lr_schedule::Plateau;
use crate::run::checkpoint::{Checkpoint, DatasetFingerprint, Manifest};
use crate::run::pretrained::{self, Weights};
use crate::run::progress::{EpochStats, Position};
use crate::text_list::{lines, read_text};
use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

/// The naming scheme to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Names {
    Torchvision,
    Timm,
}

/// The type to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Float {
    F32,
    F16,
    Bf16,
}

/// Arguments of `kindling convert`.
#[derive(Args)]
pub struct ConvertArgs {
    /// Weights: .pth, .safetensors, a TensorFlow frozen graph (.pb) or a checkpoint (.ckpt)
    #[arg(value_name = "IN")]
    from: PathBuf,
    /// File to write: .safetensors, or .ckpt for `predict` and `eval`
    #[arg(value_name = "OUT")]
    to: PathBuf,
    #[command(flatten)]
    selection: ModelArgs,
    /// Naming scheme of a .safetensors file
    #[arg(long, value_enum, default_value = "torchvision", value_name = "SCHEME")]
    names: Names,
    /// Type of the values of a .safetensors file
    #[arg(long, value_enum, default_value = "f32", value_name = "TYPE")]
    dtype: Float,
    /// File of class names for .ckpt, one a line in the order of the logits [default: the names
    /// of IN, otherwise 0, 1, 2 ...]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
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

/// Converts and says what was done, in one line.
///
/// # Errors
/// Faults of flags, of the input file, of writing.
pub fn convert(args: &ConvertArgs) -> Result<String, Error> {
    let kind = extension(&args.to, &["safetensors", "ckpt"])?;
    let Weights { tensors: weights, checkpoint: own, taken } =
        read(&args.from, weights_kind(args.selection.weights_kind))?;
    let own_config = own.as_ref().map(|c| c.manifest.network.clone());
    let config = args.selection.config(&weights, own_config.as_ref())?;
    let naming = recognise(&config, &weights);
    let device = Device::flex();
    let (network, report) = load_state_dict(config.init_zero(&device), weights, HeadPolicy::Exact)
        .map_err(|e| pretrained::fault(&args.from, &e))?;
    let said = format!(
        "{} ({naming:?} names, {} tensors{}) -> {}",
        args.from.display(),
        report.loaded,
        taken.map(|taken| format!("; {taken}")).unwrap_or_default(),
        args.to.display()
    );
    if kind == "ckpt" {
        let weights = state_dict_as(&network, Naming::Torchvision);
        checkpoint(args, &config, own, weights)?.write(&args.to)?;
    } else {
        let naming = match args.names {
            Names::Timm => Naming::Timm,
            Names::Torchvision => Naming::Torchvision,
        };
        let tensors = state_dict_as(&network, naming);
        let float = args.dtype;
        if let Some((name, value)) = too_large(&tensors, float) {
            return Err(Error::diverged(format!(
                "{}: `{name}` has the value {value}, which would be infinite in {float:?}; take --dtype \
                 f32",
                args.from.display()
            )));
        }
        write(&args.to, &tensors, float)?;
    }
    Ok(said)
}

fn read(path: &Path, kind: WeightsKind) -> Result<Weights, Error> {
    if path.extension().is_none_or(|x| x != "pb") {
        return pretrained::read(path, kind);
    }
    let fail = |e: &dyn std::fmt::Display| Error::checkpoint(format!("{}: {e}", path.display()));
    let bytes = files::read(path).map_err(|e| fail(&e))?;
    let tensors = nn::weights::frozen_graph::mobilenet_v1(&bytes).map_err(|e| fail(&e))?;
    Ok(Weights { tensors, checkpoint: None, taken: None })
}

/// The first tensor with a value that a type cannot hold: f16 ends at 65504.
fn too_large(tensors: &[NamedTensor], float: Float) -> Option<(&str, f32)> {
    let fits = |value: f32| match float {
        Float::F32 => true,
        Float::F16 => f16::from_f32(value).is_finite(),
        Float::Bf16 => bf16::from_f32(value).is_finite(),
    };
    tensors.iter().find_map(|tensor| {
        let value = tensor.values.iter().find(|value| !fits(**value))?;
        Some((tensor.name.as_str(), *value))
    })
}

fn write(path: &Path, tensors: &[NamedTensor], float: Float) -> Result<(), Error> {
    let bytes = |v: f32| match float {
        Float::F32 => v.to_le_bytes().to_vec(),
        Float::F16 => f16::from_f32(v).to_le_bytes().to_vec(),
        Float::Bf16 => bf16::from_f32(v).to_le_bytes().to_vec(),
    };
    let dtype = match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::Bf16 => Dtype::BF16,
    };
    let raw: Vec<Vec<u8>> =
        tensors.iter().map(|t| t.values.iter().flat_map(|v| bytes(*v)).collect()).collect();
    let views = tensors.iter().zip(&raw).map(|(t, bytes)| {
        let view = TensorView::new(dtype, t.shape.clone(), bytes);
        (t.name.as_str(), view.expect("as many bytes as the type has for every element"))
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_atomically(path, &safetensors::serialize(views, Some(format)).expect("consistent"))
}

/// Reads class names, one a line, and notes for the user; empty lines at the end are none.
fn class_names(path: &Path) -> Result<(Vec<String>, Option<String>), Error> {
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
    Ok((names, again))
}

fn checkpoint(
    args: &ConvertArgs,
    config: &NetworkConfig,
    own: Option<Checkpoint>,
    weights: Vec<NamedTensor>,
) -> Result<Checkpoint, Error> {
    let classes = match &args.classes {
        Some(path) => {
            let (mut names, again) = class_names(path)?;
            again.iter().for_each(|note| err!("note: {note}"));
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
            let name = args.selection.model.as_deref().unwrap_or_default();
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
        resize: args.resize.unwrap_or(standard.resize),
        crop: args.crop.map_or(standard.crop, |side| [side, side]),
        interpolation: args.interpolation.unwrap_or(standard.interpolation),
        mean: per_channel("--mean", args.mean.as_ref(), standard.mean)?,
        std: per_channel("--std", args.std.as_ref(), standard.std)?,
        exif: args.exif.or(standard.exif),
    };
    preprocess.validate().map_err(Error::usage)?;
    let model = args.selection.model.clone();
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
