//! `kindling preprocess`: the tensor that the network receives, written as safetensors.

use std::path::PathBuf;

use clap::Args;
use safetensors::tensor::{Dtype, TensorView};
use transforms::decode::decode;
use transforms::preprocess::Preprocess;
use transforms::resize::Interpolation;

use crate::commands::exif_args::ExifArgs;
use crate::error::Error;
use crate::files::write_atomically;
use crate::run::checkpoint::Checkpoint;

/// Arguments of `preprocess`.
#[derive(Args)]
pub struct PreprocessArgs {
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// safetensors file with `input` [n,3,h,w]; file names in the metadata
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Take the rule from a checkpoint
    #[arg(long, value_name = "CKPT",
          conflicts_with_all = ["resize", "crop", "interpolation", "mean", "std"])]
    checkpoint: Option<PathBuf>,
    /// Short edge after resizing
    #[arg(long, default_value_t = 256)]
    resize: usize,
    /// Height and width of the centre crop
    #[arg(long, default_value_t = 224)]
    crop: usize,
    /// Resampling filter
    #[arg(long, value_enum, default_value = "bilinear")]
    interpolation: Interpolation,
    /// Mean of each channel
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    mean: Option<Vec<f32>>,
    /// Standard deviation of each channel
    #[arg(long, num_args = 3, value_names = ["R", "G", "B"])]
    std: Option<Vec<f32>>,
    #[command(flatten)]
    exif: ExifArgs,
}

/// Writes the input tensor of every image.
pub fn preprocess(args: &PreprocessArgs) -> Result<(), Error> {
    let three = |flag: &str, given: &Option<Vec<f32>>, default: [f32; 3]| match given {
        None => Ok(default),
        Some(v) => <[f32; 3]>::try_from(v.as_slice())
            .map_err(|_| Error::usage(format!("{flag}: expected 3 numbers, got {}", v.len()))),
    };
    let mut rule = match &args.checkpoint {
        Some(path) => Checkpoint::read(path)?.manifest.preprocess,
        None => {
            let imagenet = Preprocess::imagenet(args.resize, args.crop);
            Preprocess {
                interpolation: args.interpolation,
                mean: three("--mean", &args.mean, imagenet.mean)?,
                std: three("--std", &args.std, imagenet.std)?,
                exif: true,
                ..imagenet
            }
        }
    };
    rule.exif = args.exif.or(rule.exif);
    rule.validate().map_err(Error::usage)?;
    let mut bytes = Vec::new();
    for path in &args.images {
        let fail = |e: &dyn std::fmt::Display| Error::data(format!("{}: {e}", path.display()));
        let pixels = std::fs::read(path).map_err(|e| fail(&e))?;
        let pixels = decode(&pixels, rule.exif).map_err(|e| fail(&e))?;
        bytes.extend(rule.apply(&pixels).iter().flat_map(|v| v.to_le_bytes()));
    }
    let shape = vec![args.images.len(), 3, rule.crop[0], rule.crop[1]];
    let view = TensorView::new(Dtype::F32, shape, &bytes).expect("four bytes for every element");
    let names: Vec<String> = args.images.iter().map(|p| p.display().to_string()).collect();
    let metadata = std::collections::HashMap::from([
        ("files".to_owned(), serde_json::to_string(&names).expect("strings")),
        ("preprocess".to_owned(), serde_json::to_string(&rule).expect("plain data")),
    ]);
    let file = safetensors::serialize([("input", view)], Some(metadata)).expect("one tensor");
    write_atomically(&args.output, &file)?;
    Ok(())
}
