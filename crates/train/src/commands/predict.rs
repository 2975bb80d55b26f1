//! `kindling predict`: files and folders in, the first k classes of each image out.

use std::collections::{BTreeMap, HashSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use deploy::classifier::Classifier;
use deploy::predict::Guess;
use serde::Serialize;

use crate::commands::checkpoint_args::{WeightsArgs, chosen, load_classifier};
use crate::datasets::listing::is_image;
use crate::datasets::passed_over::{foreign_name, is_litter, take_notes};
use crate::device::Backend;
use crate::error::{Error, ErrorKind};
use crate::files::{create_folders, write_atomically};
use crate::run::run_folder::quoted;
use crate::{err, out};

/// Arguments of `kindling predict`.
#[derive(Args)]
pub struct PredictArgs {
    /// Checkpoint of the classifier, or the folder of a run [default: the newest run in
    /// checkpoints]
    #[arg(long, value_name = "CKPT")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Images, folders of images, patterns with `*`; `-` reads a list of paths from standard input
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<PathBuf>,
    /// Classes per image, the most probable first [range: at least 1]
    #[arg(short = 'k', long, default_value_t = 5, value_name = "K")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    topk: u32,
    /// Format of the output
    #[arg(long, value_enum, default_value = "text")]
    format: OutputFormat,
    /// File for the result, .csv or .json [default: standard output in --format]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Probability below which an image is of class `unknown` [default: 0] [range: 0 to 1]
    #[arg(long, value_name = "P", value_parser = probability)]
    threshold: Option<f32>,
    /// Folder to copy each image into, below a folder of its class; no file is written over
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    copy_to: Option<PathBuf>,
    /// Folder for a PNG of every image beside its Grad-CAM heat map [default: none]
    #[arg(long, value_name = "DIR")]
    cam: Option<PathBuf>,
    /// Images per batch [range: at least 1]
    #[arg(short, long, default_value_t = 32, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

fn probability(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected 0 to 1".into()),
    }
}

/// The class of an image whose best guess is below `--threshold`.
const UNKNOWN: &str = "unknown";

/// Images from which a summary by class follows.
const MANY: usize = 20;

#[derive(Clone, Copy, PartialEq, ValueEnum)]
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
    /// The best guess, or `unknown` below `--threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Whether the reason is that the logits are not finite.
    #[serde(skip)]
    not_finite: bool,
}

/// Runs `kindling predict` and returns its exit code: 3 where an image could not be read, 5 where
/// the logits of one are not finite.
///
/// # Errors
/// A source that does not exist or has no image; a checkpoint that cannot be used; the backend.
pub fn predict(args: &PredictArgs) -> Result<u8, Error> {
    let format = match &args.output {
        None => args.format,
        Some(path) => match path.extension().and_then(|own| own.to_str()) {
            Some("csv") => OutputFormat::Csv,
            Some("json") => OutputFormat::Json,
            _ => {
                return Err(Error::usage(format!(
                    "--output: {}: expected a name ending in .csv or .json",
                    path.display()
                )));
            }
        },
    };
    let files = gather(&listed(&args.sources)?)?;
    let checkpoint = chosen(args.checkpoint.as_deref())?;
    let classifier = load_classifier(&checkpoint, args.weights, &args.backend.open()?.device)?;
    let mut predicted = Vec::with_capacity(files.len());
    for chunk in files.chunks(args.batch_size as usize) {
        for (file, result) in chunk.iter().zip(classifier.classify_batch(chunk)) {
            let not_finite = matches!(result, Err(deploy::error::Error::NotFinite { .. }));
            let (guesses, error) = match result {
                Ok(prediction) => (prediction.top(args.topk as usize), None),
                Err(error) => (Vec::new(), Some(reason(&error))),
            };
            let sure = |best: &Guess| best.probability >= args.threshold.unwrap_or(0.0);
            if let (Some(folder), Some(best)) = (&args.cam, guesses.first()) {
                class_map(&classifier, file, folder, best)?;
            }
            let prediction = guesses.first().map(|best| match sure(best) {
                true => best.class.clone(),
                false => UNKNOWN.to_owned(),
            });
            if let (Some(folder), Some(class)) = (&args.copy_to, &prediction) {
                copy(file, folder, class)?;
            }
            predicted.push(PredictedFile {
                file: file.to_string_lossy().into_owned(),
                guesses,
                prediction,
                error,
                not_finite,
            });
        }
    }
    let text = formatted(&predicted, format, args.threshold.is_some());
    match &args.output {
        Some(path) => write_atomically(path, text.as_bytes())?,
        // Of images that could not be read there is nothing to say here.
        None if text.is_empty() => {}
        None => out!("{}", text.trim_end_matches('\n')),
    }
    if predicted.len() > MANY && (args.output.is_some() || format == OutputFormat::Text) {
        summary(&predicted).iter().for_each(|line| err!("{line}"));
    }
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

fn formatted(predicted: &[PredictedFile], format: OutputFormat, decided: bool) -> String {
    match format {
        OutputFormat::Json => serde_json::to_string_pretty(&predicted).expect("plain data") + "\n",
        OutputFormat::Csv => {
            let column = if decided { ",prediction" } else { "" };
            let mut text = format!("file,rank,class,probability{column}\n");
            for p in predicted {
                let own = p.prediction.as_deref().filter(|_| decided);
                let own = own.map(|class| format!(",{}", quoted(class))).unwrap_or_default();
                for (rank, g) in p.guesses.iter().enumerate() {
                    let file = quoted(&p.file);
                    let (rank, class) = (rank + 1, quoted(&g.class));
                    text += &format!("{file},{rank},{class},{:.6}{own}\n", g.probability);
                }
            }
            text
        }
        OutputFormat::Text => {
            let line = |p: &PredictedFile| {
                let words: Vec<String> =
                    p.guesses.iter().map(|g| format!("{} {:.3}", g.class, g.probability)).collect();
                let unknown = p.prediction.as_deref() == Some(UNKNOWN) && decided;
                let unknown = if unknown { "unknown; " } else { "" };
                format!("{}: {unknown}{}\n", p.file, words.join(", "))
            };
            predicted.iter().filter(|p| p.error.is_none()).map(line).collect()
        }
    }
}

/// How many images are of each class, the most frequent first.
fn summary(predicted: &[PredictedFile]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    predicted.iter().filter_map(|p| p.prediction.as_deref()).for_each(|class| {
        *counts.entry(class).or_default() += 1;
    });
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let all = predicted.len();
    let line = |(class, images): (&str, usize)| {
        format!("{images:>7}  {:>5.1} %  {class}", 100.0 * images as f64 / all as f64)
    };
    std::iter::once(format!("{all} images")).chain(counts.into_iter().map(line)).collect()
}

/// Copies an image into the folder of its class, under a name that no file there has.
fn copy(file: &Path, folder: &Path, class: &str) -> Result<(), Error> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = file.extension().map(|own| format!(".{}", own.to_string_lossy()));
    let to = folder.join(in_a_name(class));
    let path = created(&to, &stem, &extension.unwrap_or_default())?;
    std::fs::copy(file, &path).map(drop).map_err(|e| unwritten(&path, &e))
}

/// Draws what in an image spoke for its class, as `STEM.CLASS.png`.
fn class_map(
    classifier: &Classifier,
    file: &Path,
    folder: &Path,
    best: &Guess,
) -> Result<(), Error> {
    let bytes =
        crate::files::read(file).map_err(|e| Error::data(format!("{}: {e}", file.display())))?;
    let values = classifier
        .prepare(&bytes)
        .map_err(|error| Error::data(format!("{}: {}", file.display(), reason(&error))))?;
    let picture = classifier.pixels(&values);
    let drawn = classifier.class_map(values, best.index).drawn(&picture);
    let mut png = Cursor::new(Vec::new());
    drawn.write_to(&mut png, image::ImageFormat::Png).expect("memory takes every byte");
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let path = created(folder, &format!("{stem}.{}", in_a_name(&best.class)), ".png")?;
    std::fs::write(&path, png.into_inner()).map_err(|e| unwritten(&path, &e))
}

/// A class in the name of a file.
fn in_a_name(class: &str) -> String {
    class.replace(['/', '\\'], "_")
}

fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    Error::file(format!("{}: cannot write: {error}", path.display()))
}

/// Makes a file in a folder under a name that no file there has. It is made before it is filled, so
/// that of two at once neither is lost.
fn created(folder: &Path, stem: &str, extension: &str) -> Result<PathBuf, Error> {
    create_folders(folder)?;
    let mut number = 1;
    loop {
        let name = match number {
            1 => format!("{stem}{extension}"),
            _ => format!("{stem}-{number}{extension}"),
        };
        let path = folder.join(name);
        match std::fs::File::create_new(&path) {
            Ok(_) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(e) => return Err(unwritten(&path, &e)),
        }
    }
}

/// The sources with patterns resolved and the list on standard input read.
///
/// # Errors
/// A pattern without a file; a list that cannot be read.
fn listed(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for source in sources {
        let text = source.to_string_lossy();
        if text == "-" {
            let list = std::io::read_to_string(std::io::stdin())
                .map_err(|e| Error::data(format!("standard input: cannot read: {e}")))?;
            found.extend(
                list.lines().map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from),
            );
        } else if !source.exists() && text.contains(['*', '?', '[']) {
            let paths = glob::glob(&text)
                .map_err(|e| Error::usage(format!("{text}: not a pattern: {}", e.msg)))?;
            let before = found.len();
            found.extend(paths.flatten());
            if found.len() == before {
                return Err(Error::data(format!("{text}: no file matches the pattern")));
            }
        } else {
            found.push(source.clone());
        }
    }
    Ok(found)
}

/// Lists the images of `sources`: files as given, folders recursively in the order of their names.
/// Notes what was left out on the way.
///
/// # Errors
/// A source that does not exist, or no image at all.
pub(super) fn gather(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
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
/// Litter and images of other formats go to `left_out`. A pipe, a socket or a device is no image,
/// and opening one could wait for ever.
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
