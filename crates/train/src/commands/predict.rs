//! `kindling predict`: files and folders in, the first k classes of each image out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use deploy::classifier::Classifier;
use deploy::predict::Guess;
use serde::Serialize;

use crate::commands::checkpoint_args::WeightsArgs;
use crate::datasets::listing::is_image;
use crate::datasets::passed_over::{foreign_name, is_litter, take_notes};
use crate::device::Backend;
use crate::error::{Error, ErrorKind};
use crate::run::checkpoint::{no_average, unreadable};
use crate::run::run_folder::quoted;
use crate::{err, out};

/// Arguments of `kindling predict`.
#[derive(Args)]
pub struct PredictArgs {
    /// Checkpoint of the classifier
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Images, and folders of images
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Classes per image, the most probable first [range: at least 1]
    #[arg(long, default_value_t = 5, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    topk: u32,
    /// Format of the output
    #[arg(long, value_enum, default_value = "text")]
    format: OutputFormat,
    /// Images per batch [range: at least 1]
    #[arg(short, long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutputFormat {
    Text,
    Csv,
    Json,
}

/// The guesses for one image, best first, or the reason why there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PredictedFile {
    /// The path; bytes that are not UTF-8 became the replacement character.
    file: String,
    guesses: Vec<Guess>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether the reason is that the logits are not finite.
    #[serde(skip)]
    not_finite: bool,
}

/// Runs `kindling predict` and returns its exit code: 3 where an image could not be read, 5 where the
/// logits of one are not finite.
///
/// # Errors
/// A source that does not exist or has no image; a checkpoint that cannot be used; the backend.
pub fn predict(args: &PredictArgs) -> Result<u8, Error> {
    let files = gather(&args.sources)?;
    let classifier = load(args)?;
    let mut predicted = Vec::with_capacity(files.len());
    for chunk in files.chunks(args.batch_size as usize) {
        for (file, result) in chunk.iter().zip(classifier.classify_batch(chunk)) {
            let not_finite = matches!(result, Err(deploy::error::Error::NotFinite { .. }));
            let (guesses, error) = match result {
                Ok(prediction) => (prediction.top(args.topk as usize), None),
                Err(error) => (Vec::new(), Some(reason(&error))),
            };
            predicted.push(PredictedFile {
                file: file.to_string_lossy().into_owned(),
                guesses,
                error,
                not_finite,
            });
        }
    }
    print(&predicted, args.format);
    let mut unreadable = 0;
    for p in &predicted {
        if let Some(error) = &p.error {
            err!("error: {}: {error}", p.file);
            unreadable += 1;
        }
    }
    Ok(match predicted.iter().any(|p| p.not_finite) {
        true => ErrorKind::Diverged.exit_code(),
        false if unreadable > 0 => ErrorKind::Data.exit_code(),
        false => 0,
    })
}

fn load(args: &PredictArgs) -> Result<Classifier, Error> {
    let device = args.backend.open()?.device;
    Classifier::load_weights(&args.checkpoint, args.weights.kind(), &device).map_err(|error| {
        match error {
            deploy::error::Error::NoAverage { .. } => no_average(),
            error => unreadable(&args.checkpoint, &error.to_string()),
        }
    })
}

/// The reason without the path, which stands beside it in the output.
fn reason(error: &deploy::error::Error) -> String {
    match error {
        deploy::error::Error::Read { source, .. } => source.to_string(),
        deploy::error::Error::Image { source, .. } => source.to_string(),
        deploy::error::Error::NotFinite { image } => {
            let text = error.to_string();
            text.strip_prefix(&format!("{image}: ")).unwrap_or(&text).to_owned()
        }
        error => error.to_string(),
    }
}

fn print(predicted: &[PredictedFile], format: OutputFormat) {
    match format {
        OutputFormat::Json => {
            out!("{}", serde_json::to_string_pretty(&predicted).expect("plain data"));
        }
        OutputFormat::Csv => {
            out!("file,rank,class,probability");
            for p in predicted {
                for (rank, g) in p.guesses.iter().enumerate() {
                    let file = quoted(&p.file);
                    out!("{file},{},{},{:.6}", rank + 1, quoted(&g.class), g.probability);
                }
            }
        }
        OutputFormat::Text => {
            for p in predicted.iter().filter(|p| p.error.is_none()) {
                let words: Vec<String> =
                    p.guesses.iter().map(|g| format!("{} {:.3}", g.class, g.probability)).collect();
                out!("{}: {}", p.file, words.join(", "));
            }
        }
    }
}

/// Lists the images of `sources`: files as given, folders recursively in the order of their names.
/// Notes what was left out on the way.
///
/// # Errors
/// A source that does not exist, or no image at all.
fn gather(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let (mut found, mut visited, mut left_out) = (Vec::new(), HashSet::new(), Vec::new());
    for source in sources {
        match source.is_dir() {
            true => walk(source, &mut found, &mut visited, &mut left_out)?,
            false if source.exists() => found.push(source.clone()),
            false => {
                return Err(Error::data(format!(
                    "{}: no such file or folder; check the path",
                    source.display()
                )));
            }
        }
    }
    take_notes(&mut left_out).iter().for_each(|note| err!("note: {note}"));
    if found.is_empty() {
        let names: Vec<String> = sources.iter().map(|s| s.display().to_string()).collect();
        return Err(Error::data(format!(
            "{}: no image (jpg, jpeg, jfif, png, webp, bmp, gif, tif, tiff) below it",
            names.join(", ")
        )));
    }
    Ok(found)
}

/// Adds the images below `folder`, each once: a folder that a link leads back to is in `visited`.
/// Litter and images of other formats go to `left_out`. A pipe, a socket or a device is no image, and opening one could wait for ever.
fn walk(
    folder: &Path,
    found: &mut Vec<PathBuf>,
    visited: &mut HashSet<PathBuf>,
    left_out: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let read = |e: std::io::Error| Error::data(format!("{}: {e}", folder.display()));
    if !visited.insert(folder.canonicalize().map_err(read)?) {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(read)?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default();
        if is_litter(name) {
            left_out.push(path);
        } else if name.as_encoded_bytes().starts_with(b".") {
            // Hidden.
        } else if path.is_dir() {
            walk(&path, found, visited, left_out)?;
        } else if is_image(&path) {
            found.push(path);
        } else if foreign_name(&path).is_some() {
            left_out.push(path);
        }
    }
    Ok(())
}
