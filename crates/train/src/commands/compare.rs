//! `kindling compare`: two checkpoints on the same images, and whether their difference is chance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::commands::checkpoint_args::{chosen, open};
use crate::commands::eval::seen_in_training;
use crate::config::range::number;
use crate::datasets::batch::Batch;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::image_keys::ImageKeys;
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::device::Backend;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::evaluate::{evaluate_each, forward};
use crate::learner::interval::wilson;
use crate::report::Prediction;
use crate::report::metrics::mcnemar;
use crate::run::checkpoint::Checkpoint;
use crate::run::open_data::{PREFETCH_BYTES, splits};
use crate::run::run_folder::quoted;
use crate::signal::Stop;
use crate::{err, out};
use deploy::manifest::WeightsKind;

/// Arguments of `kindling compare`.
#[derive(Args)]
pub struct CompareArgs {
    /// First checkpoint, or the folder of a run
    #[arg(value_name = "A")]
    first: PathBuf,
    /// Second checkpoint, or the folder of a run
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Folder with `val/<class>/*` or `<class>/*` [default: the images of A's evaluation]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// CSV file of the images that the two classify differently [default: none]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the result as JSON [default: text]
    #[arg(long)]
    json: bool,
    /// Significance level: a smaller p-value counts as a difference [default: 0.05] [range: 0 to 1]
    #[arg(long, default_value_t = 0.05, value_name = "P", value_parser = number(0.0..=1.0))]
    #[arg(hide_short_help = true)]
    level: f64,
    /// Images per batch [range: at least 1]
    #[arg(short, long, default_value_t = 64, value_name = "N", hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Threads that read and prepare images [range: 1 to 1024]
    #[arg(short = 'j', long, default_value_t = 2, value_name = "N", hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
}

/// Images that are shown on the console, at most.
const SHOWN: usize = 10;

/// What a checkpoint says to an image.
struct Answer {
    label: String,
    guess: String,
    probability: f32,
}

impl Answer {
    fn is_right(&self) -> bool {
        self.label == self.guess
    }
}

/// What a checkpoint says to all images, by path.
struct Answers {
    images: BTreeMap<PathBuf, Answer>,
    /// The folder on which it was evaluated.
    root: PathBuf,
    interrupted: Option<u8>,
}

/// The images on which two checkpoints are compared.
struct Difference<'a> {
    /// Right in both, in the first alone, in the second alone, in none.
    counts: [u64; 4],
    /// Those with two different classes.
    apart: Vec<(&'a PathBuf, &'a Answer, &'a Answer)>,
}

/// Evaluates both and prints what differs; the exit code.
///
/// # Errors
/// A checkpoint or folder that cannot be used.
pub fn compare(args: &CompareArgs) -> Result<u8, Error> {
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let paths = [chosen(Some(&args.first))?, chosen(Some(&args.second))?];
    let first = answers(args, &paths[0], args.folder.as_deref(), None, &stop)?;
    // The second sees the images of the first, whatever its own training had.
    let own = args.folder.is_none().then_some(&first.images);
    let folder = args.folder.clone().unwrap_or_else(|| first.root.clone());
    let second = answers(args, &paths[1], Some(&folder), own, &stop)?;
    if let Some(signal) = first.interrupted.or(second.interrupted) {
        err!("interrupted; no result");
        return Ok(signal);
    }
    let found = difference(&first, &second);
    let [both, a, b, neither] = found.counts;
    let images = both + a + b + neither;
    if images == 0 {
        return Err(Error::data(format!(
            "{}: the checkpoints have no image in common; give a folder with <class>/*",
            folder.display()
        )));
    }
    let p = mcnemar(a, b);
    if let Some(path) = &args.output {
        write_atomically(path, csv(&found).as_bytes())?;
    }
    let right = [both + a, both + b];
    if args.json {
        let side = |right: u64, path: &Path| {
            let (low, high) = wilson(right, images);
            json!({ "checkpoint": path.to_string_lossy(), "top1": 100.0 * right as f64 / images as f64,
                    "top1_low": 100.0 * low, "top1_high": 100.0 * high })
        };
        let text = json!({
            "images": images, "a": side(right[0], &paths[0]), "b": side(right[1], &paths[1]),
            "both_right": both, "a_alone": a, "b_alone": b, "both_wrong": neither,
            "other_class": found.apart.len(), "mcnemar_p": p,
        });
        out!("{}", serde_json::to_string_pretty(&text).expect("plain data"));
        return Ok(0);
    }
    for (name, (right, path)) in ["A", "B"].into_iter().zip(right.into_iter().zip(&paths)) {
        let (low, high) = wilson(right, images);
        out!(
            "{name}  top-1 {:.1} % ({:.1} to {:.1} % with 95 % confidence)  {}",
            100.0 * right as f64 / images as f64,
            100.0 * low,
            100.0 * high,
            path.display()
        );
    }
    out!("{images} images: both right {both}, A alone {a}, B alone {b}, both wrong {neither}");
    out!("{}", significance([a, b], p, args.level));
    shown(&found, args.output.as_deref());
    Ok(0)
}

/// Whether the difference is chance, in a sentence.
fn significance([a, b]: [u64; 2], p: f64, level: f64) -> String {
    let test = format!("McNemar's exact test, p {p:.2}");
    let test = if p < 0.01 { "McNemar's exact test, p below 0.01".to_owned() } else { test };
    match (a.cmp(&b), p < level) {
        (std::cmp::Ordering::Greater, true) => format!("A is better, beyond chance ({test})"),
        (std::cmp::Ordering::Less, true) => format!("B is better, beyond chance ({test})"),
        _ => format!("the difference may be chance ({test}); more images would tell"),
    }
}

/// The first images with two different classes.
fn shown(found: &Difference, output: Option<&Path>) {
    if found.apart.is_empty() {
        return;
    }
    out!("different classes for {} images:", found.apart.len());
    for (path, a, b) in found.apart.iter().take(SHOWN) {
        out!(
            "  {}: {}, A says {} {:.2}, B says {} {:.2}",
            path.display(),
            a.label,
            a.guess,
            a.probability,
            b.guess,
            b.probability
        );
    }
    match (found.apart.len().saturating_sub(SHOWN), output) {
        (0, None) => {}
        (more, None) => out!("  and {more} more; --output FILE.csv lists all"),
        (_, Some(path)) => out!("all of them: {}", path.display()),
    }
}

/// Evaluates a checkpoint on a folder, or on the images of `only` in it; without a folder on the
/// images of its own evaluation.
fn answers(
    args: &CompareArgs,
    path: &Path,
    folder: Option<&Path>,
    only: Option<&BTreeMap<PathBuf, Answer>>,
    stop: &Stop,
) -> Result<Answers, Error> {
    let checkpoint = Checkpoint::read(path)?;
    let (network, manifest, device) = open(checkpoint, path, WeightsKind::Best, args.backend)?;
    let mut images = match folder {
        Some(folder) => ImageFolder::open_val(folder, None, &manifest.classes)?,
        None => splits(&manifest.plan, path.parent())?.1,
    };
    let root = match folder {
        Some(folder) => folder.to_path_buf(),
        None => manifest.plan.data.data_dir.clone(),
    };
    if let Some(only) = only {
        images.items.retain(|(path, _)| only.contains_key(path));
    }
    let images = Arc::new(images);
    let keys = Arc::new(ImageKeys::new(images.items.len()));
    let config = LoaderConfig {
        batch_size: args.batch_size as usize,
        workers: args.workers as usize,
        prefetch_bytes: PREFETCH_BYTES,
        seed: 0,
        strict: false,
        drop_last: false,
    };
    let loader = Loader::new(Arc::clone(&images), manifest.preprocess.clone(), Mode::Eval, config)
        .recording(&keys);
    let mut answers = BTreeMap::new();
    let each = |index: usize, label: usize, logits: &[f32]| {
        let said = Prediction::new(index, label, logits);
        let answer = Answer {
            label: manifest.classes[label].clone(),
            guess: manifest.classes[said.guess].clone(),
            probability: said.probability,
        };
        answers.insert(images.items[index].0.clone(), answer);
    };
    let note = |text: &str| err!("note: {text}");
    let classes = &manifest.classes;
    let answer = |batch: &mut Batch| Ok(forward(&network, batch, &device));
    let report = evaluate_each(&answer, &loader, classes, stop, |_| (), &note, each)?;
    if let Some(known) = manifest.trained_images.as_ref().map(|trained| keys.known_to(trained))
        && known.images > 0
    {
        note(&format!("{}: {}", path.display(), seen_in_training(known, report.images)));
    }
    report.skipped.iter().for_each(|line| err!("skipped: {line}"));
    if !report.not_finite.is_empty() {
        return Err(Error::diverged(format!(
            "{}: the logits of {} of {} images are not finite numbers; take an earlier checkpoint",
            path.display(),
            report.not_finite.len(),
            report.images
        )));
    }
    let interrupted = stop.requested().filter(|_| report.interrupted);
    Ok(Answers { images: answers, root, interrupted })
}

/// Counts by image. An image that one of them could not read counts for none.
fn difference<'a>(first: &'a Answers, second: &'a Answers) -> Difference<'a> {
    let mut found = Difference { counts: [0; 4], apart: Vec::new() };
    for (path, a) in &first.images {
        let Some(b) = second.images.get(path) else { continue };
        let case = match (a.is_right(), b.is_right()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        found.counts[case] += 1;
        if a.guess != b.guess {
            found.apart.push((path, a, b));
        }
    }
    found
}

fn csv(found: &Difference) -> String {
    let mut text = "file,class,a,a_probability,b,b_probability\n".to_owned();
    for (path, a, b) in &found.apart {
        text += &format!(
            "{},{},{},{:.6},{},{:.6}\n",
            quoted(&path.to_string_lossy()),
            quoted(&a.label),
            quoted(&a.guess),
            a.probability,
            quoted(&b.guess),
            b.probability
        );
    }
    text
}
