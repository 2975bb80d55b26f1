//! `kindling eval`: the accuracy of a checkpoint on a folder of images.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::commands::checkpoint_args::{WeightsArgs, load};
use crate::config::output::LogFormat;
use crate::datasets::class_order;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::image_keys::{ImageKeys, KnownImages};
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::device::Backend;
use crate::error::Error;
use crate::learner::evaluate::{EvalReport, evaluate};
use crate::run::logger::Logger;
use crate::run::observer::{Observer as _, accuracy_line};
use crate::run::open_data::PREFETCH_BYTES;
use crate::run::run_folder;
use crate::signal::Stop;
use crate::{err, out};

/// Arguments of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    /// Checkpoint to evaluate
    #[arg(long, value_name = "CKPT")]
    checkpoint: PathBuf,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Folder with `val/<class>/*` or `<class>/*` [default: the folder of the training]
    #[arg(value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Name of the split folder [default: val, validation, valid or test]
    #[arg(long, value_name = "NAME")]
    val_split: Option<String>,
    /// Images per batch [range: at least 1]
    #[arg(short, long, default_value_t = 64, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Threads that read and prepare images [range: 1 to 1024]
    #[arg(short = 'j', long, default_value_t = 2, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: u32,
    /// Backend; `list` prints those of this machine
    #[arg(long, value_enum, default_value = "auto", value_name = "NAME")]
    backend: Backend,
    /// End at the first unreadable image [default: skip the image]
    #[arg(long)]
    strict_data: bool,
    /// List of images to omit [default: DIR/quarantine.txt, if it exists]
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_quarantine")]
    quarantine: Option<PathBuf>,
    /// Use the images on the quarantine list too [default: omit them]
    #[arg(long)]
    ignore_quarantine: bool,
    /// Print the result as JSON [default: text]
    #[arg(long)]
    json: bool,
    /// Print a row for each class [default: one line]
    #[arg(long)]
    per_class: bool,
    /// Folder for per_class.csv, top_confusions.csv and, for up to 1000 classes, confusion.csv
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Evaluates a checkpoint and prints the result; the exit code.
pub fn eval(args: &EvalArgs) -> Result<u8, Error> {
    let (network, manifest, device) = load(&args.checkpoint, args.weights.kind(), args.backend)?;
    let root = args.data_dir.as_ref().unwrap_or(&manifest.plan.data.data_dir);
    let plan = &manifest.plan;
    let mut folder = match (plan.data.val_fraction, &args.data_dir, &args.val_split) {
        // The images that the run itself set aside, and no others.
        (Some(share), None, None) => ImageFolder::split(root, share, plan.training.seed)?.1,
        _ => ImageFolder::open_val(root, args.val_split.as_deref(), &manifest.classes)?,
    };
    if !args.ignore_quarantine {
        quarantine::leave_out_of_val(root, args.quarantine.as_deref(), &mut folder)?;
    }
    let note = |text: &str| err!("note: {text}");
    folder.notes.iter().for_each(|text| note(text));
    if class_order::is_numbering(&manifest.classes) && manifest.data.images == 0 {
        class_order::notes(&manifest.classes).iter().for_each(|text| note(text));
    }
    let folder = Arc::new(folder);
    let keys = Arc::new(ImageKeys::new(folder.items.len()));
    let config = LoaderConfig {
        batch_size: args.batch_size as usize,
        workers: args.workers as usize,
        prefetch_bytes: PREFETCH_BYTES,
        seed: 0,
        strict: args.strict_data,
        drop_last: false,
    };
    let images = folder.items.len();
    let items = Arc::clone(&folder);
    let loader =
        Loader::new(folder, manifest.preprocess.clone(), Mode::Eval, config).recording(&keys);
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let mut logger = Logger::new(1, LogFormat::Text);
    let each = |done| logger.evaluated(done, images);
    let mut report = evaluate(&network, &loader, &manifest.classes, &device, &stop, each, &note)?;
    logger.finish();
    if let (true, Some(signal)) = (report.interrupted, stop.requested()) {
        err!("interrupted after {} of {images} images; no result", report.images);
        return Ok(signal);
    }
    if let Some(&first) = report.not_finite.first() {
        return Err(Error::diverged(format!(
            "{}: the logits of {} of {} images are not finite numbers, first those of {}; the weights \
             are too large, take an earlier checkpoint",
            args.checkpoint.display(),
            report.not_finite.len(),
            report.images,
            items.items[first].0.display()
        )));
    }
    report.skipped.iter().for_each(|line| err!("skipped: {line}"));
    if let Some(trained) = &manifest.trained_images {
        let known = keys.known_to(trained);
        report.trained_on = Some(known.images);
        if known.images > 0 {
            note(&seen_in_training(known, report.images));
        }
    }
    // The files first: the program ends where the report's reader has gone.
    if let Some(folder) = &args.output {
        run_folder::write_evaluation(folder, &report)?;
    }
    match args.json {
        true => out!("{}", serde_json::to_string_pretty(&report).expect("plain data")),
        false => out!("{}", accuracy_line(&report)),
    }
    if args.per_class && !args.json {
        print_classes(&report);
    }
    Ok(0)
}

/// The sentence for images that the network was trained on.
fn seen_in_training(known: KnownImages, images: u64) -> String {
    let about = if known.exact { "" } else { "about " };
    format!(
        "{about}{} of these {images} images were trained on; the accuracy on new images is likely lower",
        known.images
    )
}

fn print_classes(report: &EvalReport) {
    out!("{:<24} {:>8} {:>8} {:>8} {:>9}", "class", "images", "correct", "recall", "precision");
    let percent = |a: u64, b: u64| match b {
        0 => "-".to_owned(),
        _ => format!("{:.1}%", 100.0 * a as f64 / b as f64),
    };
    for row in &report.classes {
        out!(
            "{:<24} {:>8} {:>8} {:>8} {:>9}",
            row.class,
            row.images,
            row.correct,
            percent(row.correct, row.images),
            percent(row.correct, row.predicted)
        );
    }
}
