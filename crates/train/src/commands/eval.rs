//! `kindling eval`: the accuracy of a checkpoint on a folder of images.

mod real_labels;
mod test_time;
mod thresholds;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nn::cost::cost;

use crate::commands::checkpoint_args::{WeightsArgs, chosen, is_checkpoint, open};
use crate::commands::eval::real_labels::{RealLabels, RealScore};
use crate::commands::eval::test_time::{TestTimeAugmentation, Views, masked, valid_labels};
use crate::commands::eval::thresholds::{print_thresholds, thresholds};
use crate::commands::foreign_weights::{RuleArgs, as_checkpoint, class_names};
use crate::commands::model_args::{ModelArgs, size_or_native};
use crate::config::output::LogFormat;
use crate::config::range::number;
use crate::datasets::batch::Batch;
use crate::datasets::class_order;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::image_keys::{ImageKeys, KnownImages};
use crate::datasets::loader::{Loader, LoaderConfig, Mode};
use crate::datasets::quarantine;
use crate::device::Backend;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::evaluate::{EvalReport, evaluate_each};
use crate::report::metrics::calibration;
use crate::report::{Prediction, predictions_csv};
use crate::run::checkpoint::{Checkpoint, Manifest};
use crate::run::log_lines::accuracy;
use crate::run::logger::Logger;
use crate::run::observer::Observer as _;
use crate::run::open_data;
use crate::run::open_data::PREFETCH_BYTES;
use crate::run::run_folder;
use crate::run::split_list;
use crate::signal::Stop;
use crate::{err, out};
use transforms::preprocess::Preprocess;

/// Arguments of `eval`.
#[derive(Args)]
pub struct EvalArgs {
    /// Checkpoint to evaluate, or the folder of a run [default: CKPT, otherwise the newest run in
    /// checkpoints]
    #[arg(long = "checkpoint", value_name = "CKPT")]
    checkpoint_flag: Option<PathBuf>,
    #[command(flatten)]
    weights: WeightsArgs,
    /// Model of a .pth, .safetensors or .pb file given as CKPT; `kindling models` lists them
    /// [default: none]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    model: Option<String>,
    /// With --model: file of class names, one a line in the order of the logits [default: the
    /// class folders, sorted as torchvision sorts them]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    classes: Option<PathBuf>,
    /// Height and width of the network's input, pixels [default: the checkpoint's] [range: 1 to
    /// 16384]
    #[arg(long, visible_alias = "imgsz", value_name = "PIXELS", hide_short_help = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16384))]
    img_size: Option<u32>,
    /// Share of the resized image's short edge that the centre crop keeps [default: the
    /// checkpoint's] [range: 0.1 to 1]
    #[arg(long, value_name = "SHARE", value_parser = number(0.1..=1.0), hide_short_help = true)]
    crop_pct: Option<f64>,
    /// Checkpoint or folder of a run, and a folder with `val/<class>/*` or `<class>/*`
    /// [default: the images of the training's evaluation]
    #[arg(value_names = ["CKPT", "DIR"], num_args = 0..=2)]
    paths: Vec<PathBuf>,
    /// Folder to evaluate on, in place of DIR [default: DIR]
    #[arg(long = "data-dir", visible_aliases = ["data-path", "data"], value_name = "DIR")]
    #[arg(hide_short_help = true)]
    data_dir_flag: Option<PathBuf>,
    /// Name of the split folder [default: val, validation, valid or test]
    #[arg(long, value_name = "NAME")]
    val_split: Option<String>,
    /// List of the labels of a flat DIR, such as ILSVRC's: `NAME LABEL` a line, or labels alone in
    /// the order of the names [default: the class folders]
    #[arg(long, value_name = "FILE", hide_short_help = true, conflicts_with = "val_split")]
    labels: Option<PathBuf>,
    /// Test-time augmentation: the mean of the probabilities of an image's views
    #[arg(long, value_enum, default_value = "none", value_name = "VIEWS", hide_short_help = true)]
    tta: TestTimeAugmentation,
    /// JSON list of the right labels of every image, in the order of the names (ImageNet ReaL): a
    /// prediction among them is correct, an image without any is omitted [default: none]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    real_labels: Option<PathBuf>,
    /// File of class names or of indices of logits, one a line: no other class is predicted
    /// [default: all]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    valid_labels: Option<PathBuf>,
    /// Print the coverage and the accuracy for each threshold on the probability [default: no]
    #[arg(long, hide_short_help = true)]
    thresholds: bool,
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
    /// CSV file of the predictions, one row per image [default: none]
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// With --predictions: the mistakes alone [default: every image]
    #[arg(long, requires = "predictions", hide_short_help = true)]
    wrong: bool,
    /// File for the result in the columns of timm's validate.py, .csv or .json [default: none]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    results_file: Option<PathBuf>,
    /// Folder for per_class.csv, top_confusions.csv and, for up to 1000 classes, confusion.csv
    /// [default: none]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl EvalArgs {
    /// The checkpoint, and the folder if one is given. Of two paths the first is the checkpoint; a
    /// single one is what it is.
    fn paths(&self) -> Result<(PathBuf, Option<PathBuf>), Error> {
        let mut paths = self.paths.iter();
        let checkpoint = match (&self.checkpoint_flag, self.paths.as_slice()) {
            (Some(flag), [] | [_]) => Some(flag),
            (Some(flag), _) => {
                return Err(Error::usage(format!(
                    "--checkpoint {}: given beside another checkpoint; omit one",
                    flag.display()
                )));
            }
            (None, [_, _]) => paths.next(),
            (None, [only]) if self.data_dir_flag.is_some() || is_checkpoint(only) => paths.next(),
            (None, _) => None,
        };
        let folder = match (paths.next(), &self.data_dir_flag) {
            (Some(folder), Some(flag)) => {
                return Err(Error::usage(format!(
                    "--data-dir {}: given beside {}; omit one",
                    flag.display(),
                    folder.display()
                )));
            }
            (folder, flag) => folder.or(flag.as_ref()),
        };
        Ok((chosen(checkpoint.map(PathBuf::as_path))?, folder.cloned()))
    }
}

/// The rule of a checkpoint with another input size or share of the crop. The share stays where the
/// size alone is given, as in timm's `validate.py`.
fn departed(rule: Preprocess, img_size: Option<u32>, crop_pct: Option<f64>) -> Preprocess {
    if img_size.is_none() && crop_pct.is_none() {
        return rule;
    }
    let share = crop_pct.unwrap_or(rule.crop[0] as f64 / rule.resize as f64);
    let crop = img_size.map_or(rule.crop, |side| [side as usize; 2]);
    Preprocess { resize: (crop[0] as f64 / share).round() as usize, crop, ..rule }
}

/// The checkpoint to evaluate. Weights of others become one: their classes are the sorted folders
/// of `data_dir` unless a list is given, as torchvision's `ImageFolder` numbers them.
fn read(args: &EvalArgs, path: &Path, data_dir: Option<&Path>) -> Result<Checkpoint, Error> {
    let weights_of_others = path
        .extension()
        .is_some_and(|x| ["pth", "pt", "bin", "safetensors", "pb"].iter().any(|own| x == *own));
    let Some(model) = args.model.as_ref().filter(|_| weights_of_others) else {
        return match (&args.model, &args.classes) {
            (Some(name), _) => Err(Error::usage(format!(
                "--model {name}: {}: a checkpoint names its own model; omit --model",
                path.display()
            ))),
            (_, Some(_)) => Err(Error::usage(
                "--classes: a checkpoint has its own class names; it takes weights with --model",
            )),
            _ if weights_of_others => Err(Error::usage(format!(
                "{}: weights without a model; add --model NAME (`kindling models` lists them)",
                path.display()
            ))),
            _ => Checkpoint::read(path),
        };
    };
    let Some(data_dir) = data_dir else {
        return Err(Error::usage(format!(
            "{}: a weight file names no images; add a folder with <class>/*",
            path.display()
        )));
    };
    let classes = match &args.classes {
        Some(file) => class_names(file)?,
        None => ImageFolder::val_classes(data_dir, args.val_split.as_deref())?,
    };
    let selection = ModelArgs { model: Some(model.clone()), ..ModelArgs::default() };
    as_checkpoint(path, args.weights.kind(), &selection, &RuleArgs::default(), Some(classes))
}

/// The images to evaluate on, with a note of which they are and of what was passed over.
fn opened(
    args: &EvalArgs,
    checkpoint: &Path,
    data_dir: Option<&Path>,
    manifest: &Manifest,
) -> Result<ImageFolder, Error> {
    let root = data_dir.unwrap_or(&manifest.plan.data.data_dir);
    let plan = &manifest.plan;
    let mut folder = match (&args.labels, data_dir) {
        (Some(list), Some(flat)) => ImageFolder::open_labelled(flat, list, &manifest.classes)?,
        (Some(_), None) => {
            return Err(Error::usage("--labels: expected the folder of the images too"));
        }
        // The images that the run itself set aside, and no others.
        (None, None) if plan.data.val_fraction.is_some() && args.val_split.is_none() => {
            open_data::splits(plan, checkpoint.parent())?.1
        }
        _ => ImageFolder::open_val(root, args.val_split.as_deref(), &manifest.classes)?,
    };
    if !args.ignore_quarantine {
        quarantine::leave_out_of_val(root, args.quarantine.as_deref(), &mut folder)?;
    }
    let note = |text: &str| err!("note: {text}");
    let set_aside =
        plan.data.val_fraction.is_some() && data_dir.is_none() && args.val_split.is_none();
    if set_aside {
        let list = checkpoint.parent().map(|run| run.join(split_list::FILE));
        let whose = match list.filter(|list| list.exists()) {
            Some(list) => format!("listed in {}", list.display()),
            None => "chosen by --val-fraction and --seed as then".to_owned(),
        };
        note(&format!("the {} images that the run set aside, {whose}", folder.items.len()));
    }
    folder.notes.iter().for_each(|text| note(text));
    if class_order::is_numbering(&manifest.classes) && manifest.data.images == 0 {
        class_order::notes(&manifest.classes).iter().for_each(|text| note(text));
    }
    Ok(folder)
}

/// Evaluates a checkpoint and prints the result; the exit code.
pub fn eval(args: &EvalArgs) -> Result<u8, Error> {
    let (checkpoint, data_dir) = args.paths()?;
    if let Some(path) = &args.results_file
        && !["csv", "json"].iter().any(|own| path.extension().is_some_and(|x| x == *own))
    {
        return Err(Error::usage(format!(
            "--results-file: {}: expected a name ending in .csv or .json",
            path.display()
        )));
    }
    let read = read(args, &checkpoint, data_dir.as_deref())?;
    let (network, mut manifest, device) =
        open(read, &checkpoint, args.weights.kind(), args.backend)?;
    manifest.preprocess = departed(manifest.preprocess, args.img_size, args.crop_pct);
    let [side, _] = manifest.preprocess.crop;
    if args.img_size.is_some() {
        size_or_native(Some(side), manifest.network.architecture)?;
    }
    let note = |text: &str| err!("note: {text}");
    let folder = opened(args, &checkpoint, data_dir.as_deref(), &manifest)?;
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
    let mut predictions = Vec::new();
    let real =
        args.real_labels.as_deref().map(|file| RealLabels::read(file, &items)).transpose()?;
    let mut real_score = RealScore::default();
    let answer = |index: usize, label: usize, logits: &[f32]| {
        if args.predictions.is_some() || args.thresholds || args.json {
            predictions.push(Prediction::new(index, label, logits));
        }
        if let Some(real) = &real {
            real_score.add(real.of(index), logits);
        }
    };
    let views = Views::new(args.tta, &manifest.preprocess, &items)?;
    let valid = valid_labels(args.valid_labels.as_deref(), &manifest.classes, &items)?;
    let forward = |batch: &mut Batch| {
        views.logits(&network, batch, &device).map(|logits| masked(logits, valid.as_deref()))
    };
    let mut report =
        evaluate_each(&forward, &loader, &manifest.classes, &stop, each, &note, answer)?;
    logger.finish();
    if let (true, Some(signal)) = (report.interrupted, stop.requested()) {
        err!("interrupted after {} of {images} images; no result", report.images);
        return Ok(signal);
    }
    all_finite(&report, &checkpoint, &items)?;
    report.skipped.iter().for_each(|line| err!("skipped: {line}"));
    if let Some(trained) = &manifest.trained_images {
        let known = keys.known_to(trained);
        report.trained_on = Some(known.images);
        if known.images > 0 {
            note(&seen_in_training(known, report.images));
        }
    }
    if let Some(path) = &args.predictions {
        let text = predictions_csv(&predictions, &items, &manifest.classes, args.wrong);
        write_atomically(path, text.as_bytes())?;
    }
    if let Some(path) = &args.results_file {
        write_atomically(path, timm_results(&report, &manifest, path).as_bytes())?;
    }
    // The files first: the program ends where the report's reader has gone.
    if let Some(folder) = &args.output {
        run_folder::write_evaluation(folder, &report)?;
    }
    let real = real.is_some().then_some(&real_score);
    print(args, &report, real, &predictions);
    Ok(0)
}

/// Refuses logits that are not finite numbers.
fn all_finite(report: &EvalReport, checkpoint: &Path, items: &ImageFolder) -> Result<(), Error> {
    if let Some(&first) = report.not_finite.first() {
        return Err(Error::diverged(format!(
            "{}: the logits of {} of {} images are not finite numbers, first those of {}; the weights \
             are too large, take an earlier checkpoint",
            checkpoint.display(),
            report.not_finite.len(),
            report.images,
            items.items[first].0.display()
        )));
    }
    Ok(())
}

/// Prints the result, as JSON or for people.
fn print(
    args: &EvalArgs,
    report: &EvalReport,
    real: Option<&RealScore>,
    predictions: &[Prediction],
) {
    if args.json {
        let mut json = serde_json::json!(report);
        json["ece"] = serde_json::json!(calibration(predictions).1);
        if let Some(real) = real {
            json["real"] = serde_json::json!(real);
        }
        if args.thresholds {
            json["thresholds"] = serde_json::json!(thresholds(predictions));
        }
        out!("{}", serde_json::to_string_pretty(&json).expect("plain data"));
        return;
    }
    out!("{}", accuracy(report));
    if let Some(real) = real {
        out!("{}", real.line());
    }
    if args.thresholds {
        let error = 100.0 * calibration(predictions).1;
        out!("expected calibration error {error:.1} % (15 bins)");
        print_thresholds(predictions);
    }
    if args.per_class {
        print_classes(report);
    }
}

/// The result in the columns of timm's `validate.py`: accuracies in percent, rounded to four digits
/// as there. JSON where the path ends so, otherwise CSV.
fn timm_results(report: &EvalReport, manifest: &Manifest, path: &Path) -> String {
    let round =
        |value: f64, digits: i32| (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
    let percent = |share: f64| round(100.0 * share, 4);
    let rule = &manifest.preprocess;
    let interpolation = serde_json::json!(rule.interpolation);
    let size = rule.crop[0];
    let parameters = cost(&manifest.network, size, size).parameters;
    let values = [
        ("model", serde_json::json!(manifest.plan.network.model)),
        ("top1", percent(report.top1).into()),
        ("top1_err", percent(1.0 - report.top1).into()),
        ("top5", percent(report.top5).into()),
        ("top5_err", percent(1.0 - report.top5).into()),
        ("param_count", round(parameters as f64 / 1e6, 2).into()),
        ("img_size", size.into()),
        ("crop_pct", round(size as f64 / rule.resize as f64, 3).into()),
        ("interpolation", interpolation),
    ];
    match path.extension().and_then(|own| own.to_str()) {
        Some("json") => {
            let map: serde_json::Map<String, serde_json::Value> =
                values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            serde_json::to_string_pretty(&map).expect("plain data") + "\n"
        }
        _ => {
            let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
            let field = |value: &serde_json::Value| match value {
                serde_json::Value::String(text) => run_folder::quoted(text),
                other => other.to_string(),
            };
            let fields: Vec<String> = values.iter().map(|(_, value)| field(value)).collect();
            format!("{}\n{}\n", names.join(","), fields.join(","))
        }
    }
}

/// The sentence for images that the network was trained on.
pub(super) fn seen_in_training(known: KnownImages, images: u64) -> String {
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
