//! `kindling preprocess`: the tensor that the network receives, written as safetensors.

use std::path::PathBuf;

use clap::Args;
use deploy::container::{TensorRef, safetensors_of};
use transforms::decode::decode;
use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

use crate::commands::checkpoint_args::chosen;
use crate::commands::exif_args::ExifArgs;
use crate::config::datasets::per_channel;
use crate::error::Error;
use crate::files::{read, write_atomically};
use crate::run::checkpoint::Checkpoint;

/// Arguments of `preprocess`.
#[derive(Args)]
pub struct PreprocessArgs {
    /// Images to prepare
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// .safetensors file to write: `input` [n, 3, h, w], with the file names in its metadata
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Checkpoint with the rule [default: the options below]
    #[arg(long, value_name = "CKPT",
          conflicts_with_all = ["resize", "crop", "interpolation", "mean", "std"])]
    checkpoint: Option<PathBuf>,
    /// Short edge after the resize [range: 1 to 16384]
    #[arg(long, default_value_t = 256, value_name = "PIXELS")]
    resize: usize,
    /// Height and width of the centre crop [range: 1 to 16384]
    #[arg(long, default_value_t = 224, value_name = "PIXELS")]
    crop: usize,
    /// Resampling filter
    #[arg(long, value_enum, default_value = "bilinear", value_name = "FILTER")]
    interpolation: Interpolation,
    /// Mean of each channel after division by 255 [default: 0.485 0.456 0.406]
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel after division by 255 [default: 0.229 0.224 0.225]
    /// [range: above 0]
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    std: Option<Vec<f32>>,
    #[command(flatten)]
    exif: ExifArgs,
}

/// Writes the input tensor of every image.
pub fn preprocess(args: &PreprocessArgs) -> Result<(), Error> {
    let mut rule = match &args.checkpoint {
        Some(path) => Checkpoint::read(&chosen(Some(path))?)?.manifest.preprocess,
        None => {
            let imagenet = Preprocess::imagenet(args.resize, args.crop);
            Preprocess {
                interpolation: args.interpolation,
                mean: per_channel("--mean", args.mean.as_ref(), imagenet.mean)?,
                std: per_channel("--std", args.std.as_ref(), imagenet.std)?,
                exif: true,
                ..imagenet
            }
        }
    };
    rule.exif = args.exif.or(rule.exif);
    rule.validate().map_err(Error::usage)?;
    let mut values = Vec::new();
    for path in &args.images {
        let fail = |e: &dyn std::fmt::Display| Error::data(format!("{}: {e}", path.display()));
        let pixels = read(path).map_err(|e| fail(&e))?;
        let pixels = decode(&pixels, rule.exif).map_err(|e| fail(&e))?;
        values.extend(rule.apply(&pixels));
    }
    let shape = vec![args.images.len(), 3, rule.crop[0], rule.crop[1]];
    let names: Vec<String> = args.images.iter().map(|p| p.display().to_string()).collect();
    let names = serde_json::to_string(&names).expect("strings");
    let rule = serde_json::to_string(&rule).expect("plain data");
    let input = TensorRef { name: "input", shape, values: &values };
    let file = safetensors_of([input], &[("files", &names), ("preprocess", &rule)]);
    write_atomically(&args.output, &file)
}
