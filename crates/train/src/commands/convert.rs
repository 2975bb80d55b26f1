//! `kindling convert`: weights from one file to another: names of torchvision or timm, f32, f16 or
//! bf16, or a Kindling checkpoint that `predict` and `eval` take.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, bf16, f16};
use clap::{Args, ValueEnum};
use nn::config::NetworkConfig;
use nn::layer_spec::Naming;
use nn::weights::NamedTensor;
use nn::weights::load::{HeadPolicy, load_state_dict, recognise};
use nn::weights::state_dict::state_dict_as;
use safetensors::tensor::{Dtype, TensorView};

use crate::commands::constructor::constructor;
use crate::commands::foreign_weights::{RuleArgs, checkpoint, class_names, read};
use crate::commands::model_args::ModelArgs;
use crate::config::model::weights_kind;
use crate::error::Error;
use crate::files::{extension, write_atomically};
use crate::run::pretrained::{self, Weights};

/// The naming scheme to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Names {
    Torchvision,
    Timm,
}

impl From<Names> for Naming {
    fn from(names: Names) -> Self {
        match names {
            Names::Timm => Naming::Timm,
            Names::Torchvision => Naming::Torchvision,
        }
    }
}

/// How the file of these names is loaded in Python, or that its library has no such network.
pub(super) fn loaded_in_python(path: &Path, config: &NetworkConfig, names: Naming) -> String {
    match constructor(config, names) {
        Some(call) => format!(
            "in Python: model = {call}; model.load_state_dict(safetensors.torch.load_file(\"{}\"))",
            path.display()
        ),
        None => format!("{names:?} has no call for this network; its tensors go by their names"),
    }
}

/// The type to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Float {
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
    #[command(flatten)]
    rule: RuleArgs,
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
        let classes = args.classes.as_deref().map(class_names).transpose()?;
        checkpoint(&args.selection, &args.rule, &config, classes, own, weights)?.write(&args.to)?;
    } else {
        let naming = args.names.into();
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
        return Ok(format!("{said}\n{}", loaded_in_python(&args.to, &config, naming)));
    }
    Ok(said)
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

/// Writes a `.safetensors` file.
pub(super) fn write(path: &Path, tensors: &[NamedTensor], float: Float) -> Result<(), Error> {
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
