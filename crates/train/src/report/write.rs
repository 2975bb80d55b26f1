//! The report of one run: `report.html`, and its parts as files.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::plan::Plan;
use crate::device::OpenedDevice;
use crate::error::Error;
use crate::files::write_atomically;
use crate::learner::interval::wilson;
use crate::plot::calibration::reliability;
use crate::plot::heat_map;
use crate::report::curves;
use crate::report::history::{Epoch, history};
use crate::report::metrics::calibration;
use crate::report::page::Page;
use crate::report::pictures::{data_address, thumbnail, training_images};
use crate::report::predictions::{Evaluated, Prediction, evaluate, predictions_csv};
use crate::report::worst::{Mistake, png};
use crate::run::observer::clock;
use crate::run::run_folder;
use crate::signal::Stop;

/// Mistakes with a picture.
const WORST: usize = 24;

/// Training images on the sheet.
const SHEET: usize = 16;

/// What was written.
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// Files beside it.
    pub files: Vec<PathBuf>,
}

/// Writes the report of a run into its folder: `report.html`, `curves.svg`, `confusion.svg`,
/// `worst.png`, `predictions.csv`.
///
/// # Errors
/// No run in the folder; data that are no more there; files that cannot be written.
pub fn write(folder: &Path, opened: &OpenedDevice, stop: &Stop) -> Result<Written, Error> {
    let evaluated = evaluate(folder, opened, stop)?;
    let Evaluated { manifest, val, report, predictions, .. } = &evaluated;
    let epochs = history(folder)?;
    let mut files = Vec::new();
    let mut put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_atomically(&path, bytes)?;
        files.push(path);
        Ok::<(), Error>(())
    };
    let csv = predictions_csv(predictions, val, &manifest.classes, false);
    put("predictions.csv", csv.as_bytes())?;
    let charts = curves::of_run(&epochs, manifest.best.map(|best| best.epoch as f64 + 1.0));
    put("curves.svg", curves::stacked(&charts).as_bytes())?;
    // What an older report has and this one has not would be of another result.
    for stale in ["confusion.svg", "worst.png"] {
        let _ = std::fs::remove_file(folder.join(stale));
    }
    run_folder::write_evaluation(&folder.join("eval"), report)?;
    if manifest.classes.len() <= heat_map::MOST {
        let drawing = heat_map::confusion(&manifest.classes, |a, b| report.confusion.count(a, b));
        put("confusion.svg", drawing.as_bytes())?;
    }
    let mistakes = mistakes(&evaluated);
    if let Some(bytes) = png(&mistakes) {
        put("worst.png", &bytes)?;
    }
    let page = folder.join("report.html");
    write_atomically(&page, page_of(folder, &evaluated, &epochs, &mistakes).as_bytes())?;
    Ok(Written { page, files })
}

/// The mistakes of which the network is surest, with their pictures.
fn mistakes(evaluated: &Evaluated) -> Vec<Mistake> {
    let Evaluated { manifest, val, predictions, .. } = evaluated;
    let mut wrong: Vec<&Prediction> = predictions.iter().filter(|one| !one.is_right()).collect();
    let doubt = |one: &Prediction| one.label_probability - one.probability;
    wrong.sort_by(|a, b| doubt(a).total_cmp(&doubt(b)).then(a.index.cmp(&b.index)));
    let mistakes = wrong.into_iter().filter_map(|one| {
        let path = &val.items[one.index].0;
        let below = path.strip_prefix(&val.root).unwrap_or(path);
        Some(Mistake {
            picture: thumbnail(val, one.index, manifest.preprocess.exif)?,
            file: below.to_string_lossy().into_owned(),
            truth: manifest.classes[one.label].clone(),
            guess: manifest.classes[one.guess].clone(),
            probability: one.probability,
        })
    });
    mistakes.take(WORST).collect()
}

fn page_of(folder: &Path, evaluated: &Evaluated, epochs: &[Epoch], mistakes: &[Mistake]) -> String {
    let Evaluated { manifest, val, train, report, predictions } = evaluated;
    let plan = &manifest.plan;
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
    let facts = run_facts(folder);
    let began = facts["time"].as_str().unwrap_or_default();
    let mut page = Page::new(
        &name,
        &format!(
            "{} on {}: {} classes, {} training and {} validation images{}",
            plan.network.model,
            plan.data.data_dir.display(),
            manifest.classes.len(),
            train.items.len(),
            val.items.len(),
            if began.is_empty() {
                String::new()
            } else {
                format!(" · {}", began.get(..16).unwrap_or(began).replace('T', " "))
            }
        ),
    );
    let right = predictions.iter().filter(|one| one.is_right()).count() as u64;
    let (low, high) = wilson(right, report.images);
    let seconds: f64 = epochs.iter().map(|epoch| epoch.seconds).filter(|s| s.is_finite()).sum();
    let (bins, ece) = calibration(predictions);
    let best = manifest.best.map_or_else(|| "-".to_owned(), |best| (best.epoch + 1).to_string());
    let of = format!("of {} trained", epochs.last().map_or(0.0, |epoch| epoch.number));
    page.facts(&[
        (
            "top-1 accuracy",
            format!("{:.1} %", 100.0 * report.top1),
            format!("{:.1} to {:.1} % with 95 % confidence", 100.0 * low, 100.0 * high),
        ),
        ("mistakes", (report.images - right).to_string(), format!("of {} images", report.images)),
        ("validation loss", format!("{:.3}", report.loss), "cross-entropy, nats".to_owned()),
        ("best epoch", best, of),
        (
            "training time",
            clock(std::time::Duration::from_secs_f64(seconds)),
            "evaluations not counted".to_owned(),
        ),
        ("input", format!("{0}x{0}", plan.data.img_size), "pixels".to_owned()),
    ]);
    page.section(
        "Curves",
        "The training loss includes label smoothing, mixing and augmentation, so that it may stay above the \
         validation loss.",
    );
    let charts = curves::of_run(epochs, manifest.best.map(|best| best.epoch as f64 + 1.0));
    page.charts(charts.iter().map(|chart| chart.svg()));
    page.confusion(report);
    match mistakes.len() {
        0 => page.section("Mistakes", "None: every validation image is classified correctly."),
        shown => {
            let all = report.images - right;
            page.section(
                "Mistakes",
                &format!(
                    "{shown} of {all}, the surest first. Look for wrong labels among them; predictions.csv has \
                     every image."
                ),
            );
            page.mistakes(mistakes);
        }
    }
    page.classes(report);
    page.section(
        "Calibration",
        &format!(
            "Expected calibration error {:.1} % (15 bins, {} images{}). Bars below the line: the network is surer \
             than it is right.",
            100.0 * ece,
            report.images,
            if report.images < 1000 { "; with so few it is biased upwards" } else { "" }
        ),
    );
    page.charts([reliability(&bins)]);
    page.section(
        "Training images as the network sees them",
        "The first of epoch 1, after crop, flip and every other augmentation.",
    );
    let tiles = training_images(plan, train, SHEET);
    let tiles: Vec<(String, String)> =
        tiles.into_iter().map(|(image, label)| (data_address(&image), label)).collect();
    page.sheet(&tiles);
    how_it_was_made(&mut page, plan, &facts);
    page.finish()
}

/// The command, the machine and every option.
fn how_it_was_made(page: &mut Page, plan: &Plan, facts: &Value) {
    page.section("How it was made", "The command, the machine and every option.");
    if let Some(command) = facts["command"].as_array() {
        let words: Vec<String> = command.iter().filter_map(Value::as_str).map(shell_word).collect();
        page.code(&words.join(" "));
    }
    let machine: Vec<(String, String)> = ["kindling", "backend", "os", "arch", "cores", "time"]
        .into_iter()
        .filter_map(|key| {
            let value = &facts[key];
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (!value.is_null()).then(|| (key.to_owned(), text))
        })
        .collect();
    page.folded("machine", &machine);
    let options = serde_json::to_value(plan).expect("a plan is plain data");
    let options: Vec<(String, String)> = options
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (key.clone(), text)
        })
        .collect();
    page.folded("options", &options);
}

/// `run.json`; nothing where there is none.
fn run_facts(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("run.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// A word as a shell takes it.
fn shell_word(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./=,:+@%".contains(letter);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
