//! The files of a run beside its checkpoints: `run.json`, `summary.csv`, `steps.jsonl`, `eval/`.
//!
//! A resumed run appends to the same files, without a second header and without a step twice.

use std::io::ErrorKind;
use std::path::Path;

use deploy::files::append_line;
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;
use crate::files::{create_folders, failed, write_atomically};
use crate::learner::evaluate::EvalReport;
use crate::run::manifest::DatasetFingerprint;
use crate::run::progress::{EpochStats, Position};

/// Writes `run.json`: the command, the machine and the data of the run. A resume keeps the old file
/// and adds the new start to its `resumes`.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn write_facts(
    folder: &Path,
    backend: &str,
    data: DatasetFingerprint,
    resumed: Option<Position>,
) -> Result<(), Error> {
    let command: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let start = json!({
        "time": chrono::Local::now().to_rfc3339(),
        "command": command,
        "kindling": env!("CARGO_PKG_VERSION"),
        "backend": backend,
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
    });
    let path = folder.join("run.json");
    let old = std::fs::read_to_string(&path).ok().and_then(|t| serde_json::from_str(&t).ok());
    let facts = match (resumed, old) {
        (Some(position), Some(Value::Object(mut facts))) => {
            let mut again = start;
            again["at"] = serde_json::to_value(position).expect("plain data");
            let list = facts.entry("resumes").or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(again);
            }
            Value::Object(facts)
        }
        _ => {
            let mut facts = start;
            facts["data"] = serde_json::to_value(data).expect("plain data");
            facts["resumes"] = json!([]);
            facts
        }
    };
    write_atomically(&path, format!("{facts:#}\n").as_bytes())
}

/// A line of `steps.jsonl`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct StepRecord {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Batches done in the epoch.
    pub batch: usize,
    /// Optimizer steps done in the run.
    pub step: u64,
    /// Loss of the batch.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Norm of all gradients before clipping, if the batch closed a step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Steps of the epoch skipped because a loss or gradient was not finite.
    pub skipped_steps: u64,
    /// Images per second over the epoch so far.
    pub img_per_s: f64,
    /// Share of the epoch's time so far spent waiting for data, percent.
    pub data_wait_pct: f64,
}

/// Appends to `steps.jsonl`.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn record_step(folder: &Path, step: &StepRecord) -> Result<(), Error> {
    append(&folder.join("steps.jsonl"), &serde_json::to_string(step).expect("plain data"))
}

/// Removes the lines of `steps.jsonl` after the position that a run is resumed from, half lines of
/// a killed run, and bytes that are no text.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn rewind_steps(folder: &Path, to: Position) -> Result<(), Error> {
    let path = folder.join("steps.jsonl");
    let Some(text) = read_lossy(&path)? else { return Ok(()) };
    let before = |line: &&str| {
        let value: Value = serde_json::from_str(line).unwrap_or_default();
        let number = |key: &str| value[key].as_u64();
        number("epoch").zip(number("batch")).is_some_and(|at| at <= (to.epoch, to.batch as u64))
    };
    let records = text.lines().filter_map(record_in);
    let kept: String = records.filter(before).map(|line| format!("{line}\n")).collect();
    match kept == text {
        true => Ok(()),
        false => write_atomically(&path, kept.as_bytes()),
    }
}

/// The JSON object at the end of a line, behind whatever a write that was cut short left there.
fn record_in(line: &str) -> Option<&str> {
    let end = line.rfind('}')? + 1;
    let begins = line[..end].match_indices('{').map(|(at, _)| at);
    let mut objects = begins.map(|at| &line[at..end]);
    objects.find(|object| serde_json::from_str::<Value>(object).is_ok())
}

/// The text of a file, bytes that are no UTF-8 replaced; none if there is no such file.
fn read_lossy(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(format!("{}: cannot read: {error}", path.display()))),
    }
}

const HEADER: &str = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,img_per_s,data_wait_pct,\
     epoch_s,skipped,eval_top1_ema\n";

/// Appends an epoch to `summary.csv`. Rows of the same or a later epoch (from before a resume) are
/// replaced; the header is written once.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn summarise(
    folder: &Path,
    epoch: u64,
    lr: f64,
    stats: &EpochStats,
    eval: &EvalReport,
    ema: Option<&EvalReport>,
) -> Result<(), Error> {
    let path = folder.join("summary.csv");
    let old = read_lossy(&path)?.unwrap_or_default();
    let mut text = HEADER.to_owned();
    let columns = HEADER.matches(',').count();
    for row in old.lines() {
        // Stray bytes in front of a row are no reason to lose the row; the header has no number.
        let row = row.trim_start_matches(|c: char| !c.is_ascii()).trim();
        let before = row.split(',').next().and_then(|e| e.parse::<u64>().ok());
        if before.is_some_and(|e| e < epoch) {
            text.push_str(row);
            // Older rows have no column for the average.
            let missing = columns.saturating_sub(row.matches(',').count());
            text.push_str(&",".repeat(missing));
            text.push('\n');
        }
    }
    let row = format!(
        "{epoch},{},{:.6},{:.4},{:.4},{lr:.6e},{:.1},{:.1},{:.1},{},{}\n",
        stats.mean_loss().map_or_else(String::new, |loss| format!("{loss:.6}")),
        eval.loss,
        100.0 * eval.top1,
        100.0 * eval.top5,
        stats.img_per_s(),
        stats.wait_percent(),
        stats.seconds,
        stats.skipped,
        ema.map_or_else(String::new, |report| format!("{:.4}", 100.0 * report.top1)),
    );
    write_atomically(&path, (text + &row).as_bytes())
}

/// Most classes for which `confusion.csv`, a table of all pairs, is written: 2 MB.
const TABLE_CLASSES: usize = 1000;

/// Most rows of `top_confusions.csv`.
const TOP_ROWS: usize = 1000;

/// Writes `per_class.csv`, `top_confusions.csv` and, for up to 1,000 classes, `confusion.csv` of an
/// evaluation into `folder`.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub fn write_evaluation(folder: &Path, report: &EvalReport) -> Result<(), Error> {
    create_folders(folder)?;
    write_atomically(&folder.join("per_class.csv"), per_class(report).as_bytes())?;
    write_atomically(&folder.join("top_confusions.csv"), top_confusions(report).as_bytes())?;
    if report.classes.len() > TABLE_CLASSES {
        return Ok(());
    }
    write_atomically(&folder.join("confusion.csv"), confusion(report).as_bytes())
}

/// The text of `per_class.csv`: one row per class with images, correct, predicted, recall,
/// precision.
pub fn per_class(report: &EvalReport) -> String {
    let share = |part: u64, all: u64| match all {
        0 => String::new(),
        _ => format!("{:.6}", part as f64 / all as f64),
    };
    let mut text = "class,images,correct,predicted,recall,precision\n".to_owned();
    for row in &report.classes {
        text += &format!(
            "{},{},{},{},{},{}\n",
            quoted(&row.class),
            row.images,
            row.correct,
            row.predicted,
            share(row.correct, row.images),
            share(row.correct, row.predicted)
        );
    }
    text
}

/// The text of `confusion.csv`: a row for each true class, a column for each predicted one.
pub fn confusion(report: &EvalReport) -> String {
    let names: Vec<String> = report.classes.iter().map(|row| quoted(&row.class)).collect();
    let mut text = format!("true\\predicted,{}\n", names.join(","));
    for (label, name) in names.iter().enumerate() {
        let count = |predicted| report.confusion.count(label, predicted).to_string();
        let counts: Vec<String> = (0..names.len()).map(count).collect();
        text += &format!("{name},{}\n", counts.join(","));
    }
    text
}

/// The text of `top_confusions.csv`: the most frequent wrong predictions, with their share of the
/// images of the true class.
pub fn top_confusions(report: &EvalReport) -> String {
    let mut text = "true,predicted,images,share\n".to_owned();
    for (label, predicted, images) in report.confusion.top(TOP_ROWS) {
        let [own, other] = [label, predicted].map(|class| &report.classes[class]);
        let share = images as f64 / own.images as f64;
        text += &format!("{},{},{images},{share:.6}\n", quoted(&own.class), quoted(&other.class));
    }
    text
}

/// A CSV field by RFC 4180: quoted if a comma, a quote or a line break would break the row.
pub fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// Appends one line to a log file.
///
/// # Errors
/// [`crate::error::ErrorKind::File`].
pub(super) fn append(path: &Path, line: &str) -> Result<(), Error> {
    append_line(path, line).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::record_in;

    /// Mutations caught: the first brace alone tried.
    #[test]
    fn a_record_is_found_behind_half_of_another_one() {
        let whole = r#"{"epoch":1,"batch":2}"#;
        assert_eq!(record_in(whole), Some(whole));
        assert_eq!(record_in(&format!("{{\"epoch\":0,\"ba{whole}\u{fffd}\0")), Some(whole));
        assert_eq!(record_in("{\"epoch\":0,\"ba"), None);
        assert_eq!(record_in(""), None);
    }
}
