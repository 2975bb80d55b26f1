//! The lines of a run in the three formats of `--log-format`: for people, as timm prints them, and
//! as JSON. Accuracies are percent in all of them. People count epochs from 1, timm and the files
//! of a run from 0.

use serde_json::{Value, json};

use crate::learner::evaluate::EvalReport;
use crate::run::observer::{BatchRecord, EpochRecord, clock};
use crate::run::progress::EpochStats;
use crate::terminal::{Style, styled};

/// Classes from which top-5 says something: of ten classes five are half.
const TOP5_CLASSES: usize = 20;

/// Share of the time spent waiting for data, percent, from which a line says so.
const SLOW_DATA: f64 = 15.0;

/// Between the parts of a line.
pub const DOT: &str = " · ";

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn loss(stats: &EpochStats) -> String {
    match (stats.mean_loss(), stats.skipped_steps) {
        (Some(mean), _) => format!("{mean:.3}"),
        (None, 0) => "none, no image was read".to_owned(),
        (None, _) => "none, every step was skipped".to_owned(),
    }
}

/// An epoch's number: `epoch  3/30`.
pub(super) fn epoch_number(epoch: u64, epochs: u64) -> String {
    let width = epochs.to_string().len();
    format!("epoch {:>width$}/{epochs}", epoch + 1)
}

/// A batch for people, without its epoch.
pub(super) fn batch(record: &BatchRecord) -> String {
    let stats = &record.epoch_stats;
    let mut parts = vec![
        format!("train {}", loss(stats)),
        format!("{:.0} images/s", stats.img_per_s()),
        format!("{} left", clock(record.remaining)),
    ];
    parts.extend(slow_data(stats));
    parts.join(DOT)
}

fn slow_data(stats: &EpochStats) -> Option<String> {
    let wait = stats.wait_percent();
    (wait >= SLOW_DATA).then(|| format!("waiting for data {wait:.0} %"))
}

/// A trained epoch for people; `left` is the expected time to the end of the run.
pub(super) fn epoch(record: &EpochRecord, left: &str, colour: bool) -> String {
    let stats = &record.stats;
    let mut parts =
        vec![epoch_number(record.epoch, record.epochs), format!("train {}", loss(stats))];
    if let Some((report, average)) = record.chosen() {
        parts.push(format!("val {:.3}", report.loss));
        let best = if record.better { " (best)" } else { "" };
        let whose = if average { ", EMA" } else { "" };
        let top1 = format!("top-1 {}{best}{whose}", percent(report.top1));
        parts.push(styled(&top1, if record.better { Style::Green } else { Style::Bold }, colour));
        if report.classes.len() >= TOP5_CLASSES {
            parts.push(format!("top-5 {}", percent(report.top5)));
        }
        if !report.skipped.is_empty() {
            parts.push(format!("{} images unreadable", report.skipped.len()));
        }
    }
    parts.push(format!("{:.0} images/s", stats.img_per_s()));
    parts.extend(slow_data(stats));
    if stats.skipped_steps > 0 {
        parts.push(format!("{} steps skipped", stats.skipped_steps));
    }
    if record.epoch + 1 < record.epochs {
        parts.push(format!("{left} left"));
    }
    parts.join(&styled(DOT, Style::Dim, colour))
}

/// An evaluation for people: accuracy, loss, images.
pub fn accuracy(report: &EvalReport) -> String {
    let mut parts = vec![format!("top-1 {}", percent(report.top1))];
    if report.classes.len() >= TOP5_CLASSES {
        parts.push(format!("top-5 {}", percent(report.top5)));
    }
    parts.push(format!("loss {:.3}", report.loss));
    parts.push(format!("{} images", report.images));
    if !report.skipped.is_empty() {
        parts.push(format!("{} unreadable", report.skipped.len()));
    }
    parts.push(format!("{:.0} images/s", report.img_per_s));
    parts.join(DOT)
}

/// A batch in timm's words.
pub(super) fn timm_batch(record: &BatchRecord) -> String {
    let BatchRecord { epoch, batch, batches, loss, lr, epoch_stats, .. } = record;
    let losses = match (epoch_stats.mean_loss(), epoch_stats.skipped_steps) {
        (Some(mean), _) => format!("Loss: {loss:.4} ({mean:.4})"),
        (None, 0) => "Loss: none, no image was read".to_owned(),
        (None, _) => "Loss: none, every step was skipped".to_owned(),
    };
    let percent = 100.0 * *batch as f64 / *batches as f64;
    format!(
        "Train: {epoch} [{batch:>4}/{batches} ({percent:>3.0}%)]  {losses}  {:.1}/s  LR: {lr:.3e}  Data: {:.0}%  \
         ETA: {}",
        epoch_stats.img_per_s(),
        epoch_stats.wait_percent(),
        clock(record.remaining)
    )
}

/// A trained epoch in timm's words.
pub(super) fn timm_epoch(record: &EpochRecord) -> Vec<String> {
    let stats = &record.stats;
    let skipped = match stats.skipped_steps {
        0 => String::new(),
        count => format!("  {count} steps skipped"),
    };
    let loss = stats.mean_loss().map_or_else(|| "none".to_owned(), |loss| format!("{loss:.4}"));
    let first = format!(
        "Epoch {}: Loss {loss}  {:.1} images/s  data wait {:.1}%{skipped}",
        record.epoch,
        stats.img_per_s(),
        stats.wait_percent()
    );
    let ema = record.ema.map(|report| format!("{} EMA", timm_accuracy(report)));
    [Some(first), record.report.map(timm_accuracy), ema].into_iter().flatten().collect()
}

/// timm's closing line of an evaluation.
pub fn timm_accuracy(report: &EvalReport) -> String {
    let (a, b) = (100.0 * report.top1, 100.0 * report.top5);
    format!(
        " * Acc@1 {a:.3} ({:.3}) Acc@5 {b:.3} ({:.3})  Loss {:.4}  ({} images, {} skipped, {:.1}/s)",
        100.0 - a,
        100.0 - b,
        report.loss,
        report.images,
        report.skipped.len(),
        report.img_per_s
    )
}

/// A batch as JSON.
pub(super) fn json_batch(record: &BatchRecord) -> Value {
    let stats = &record.epoch_stats;
    json!({
        "epoch": record.epoch,
        "batch": record.batch,
        "batches": record.batches,
        "loss": record.loss,
        "lr": record.lr,
        "img_per_s": stats.img_per_s(),
        "data_wait_pct": stats.wait_percent(),
        "eta_s": record.remaining.as_secs(),
    })
}

/// A trained epoch as JSON.
pub(super) fn json_epoch(record: &EpochRecord) -> Value {
    let stats = &record.stats;
    let mut line = json!({
        "epoch": record.epoch,
        "epochs": record.epochs,
        "train_loss": stats.mean_loss(),
        "img_per_s": stats.img_per_s(),
        "data_wait_pct": stats.wait_percent(),
        "skipped_steps": stats.skipped_steps,
        "best": record.better,
    });
    if let Some(report) = record.report {
        line["eval"] = json_accuracy(report);
    }
    if let Some(report) = record.ema {
        line["eval_ema"] = json_accuracy(report);
    }
    line
}

/// An evaluation as JSON.
pub(super) fn json_accuracy(report: &EvalReport) -> Value {
    json!({
        "top1": 100.0 * report.top1,
        "top5": 100.0 * report.top5,
        "loss": report.loss,
        "images": report.images,
        "skipped": report.skipped.len(),
    })
}
