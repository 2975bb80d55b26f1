//! What a run tells: the console (a bar on a terminal, plain lines elsewhere) and `summary.csv`.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::checkpoint::Tally;
use crate::evaluate::Report;
use crate::failure::Failure;

/// The console of one run.
pub struct Journal {
    bar: Option<ProgressBar>,
    interval: usize,
}

/// One line's worth of training.
pub struct Line {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Epochs of the run.
    pub epochs: u64,
    /// Batches done in the epoch.
    pub batch: usize,
    /// Batches of the epoch.
    pub batches: usize,
    /// Loss of this batch.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Pictures per second over the epoch so far.
    pub img_per_s: f64,
    /// Sums of the epoch.
    pub tally: Tally,
    /// Expected time to the end of the run.
    pub remaining: Duration,
}

impl Journal {
    /// A bar when standard error is a terminal, otherwise a line every `interval` batches.
    pub fn new(interval: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = "{prefix} [{bar:24}] {pos}/{len}  {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar
        });
        Self { bar, interval }
    }

    /// A sentence for people.
    #[expect(clippy::print_stdout, reason = "the console is this module's work")]
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// After every training batch.
    pub fn batch(&self, line: &Line) {
        let mean = line.tally.loss / line.tally.seen.max(1) as f64;
        let wait = 100.0 * line.tally.waited / line.tally.seconds.max(1e-9);
        let eta = clock(line.remaining);
        if let Some(bar) = &self.bar {
            bar.set_length(line.batches as u64);
            bar.set_prefix(format!("Train: {}/{}", line.epoch, line.epochs));
            bar.set_message(format!(
                "Loss: {:.4} ({mean:.4})  {:.1}/s  LR: {:.3e}  Data: {wait:.0}%  ETA: {eta}",
                line.loss, line.img_per_s, line.lr
            ));
            bar.set_position(line.batch as u64);
        } else if line.batch % self.interval == 0 || line.batch == line.batches {
            self.say(&format!(
                "Train: {} [{:>4}/{} ({:>3.0}%)]  Loss: {:.4} ({mean:.4})  {:.1}/s  LR: {:.3e}  \
                 Data: {wait:.0}%  ETA: {eta}",
                line.epoch,
                line.batch,
                line.batches,
                100.0 * line.batch as f64 / line.batches as f64,
                line.loss,
                line.img_per_s,
                line.lr
            ));
        }
    }

    /// During an evaluation.
    pub fn evaluated(&self, done: u64, all: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_prefix("Test");
            bar.set_message("");
            bar.set_position(done);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// timm's closing line of an evaluation.
pub fn accuracy_line(report: &Report) -> String {
    let (a, b) = (100.0 * report.top1, 100.0 * report.top5);
    format!(
        " * Acc@1 {a:.3} ({:.3}) Acc@5 {b:.3} ({:.3})  Loss {:.4}  ({} pictures, {} skipped, {:.1}/s)",
        100.0 - a,
        100.0 - b,
        report.loss,
        report.pictures,
        report.skipped.len(),
        report.img_per_s
    )
}

fn clock(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

const HEADER: &str =
    "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,img_per_s,data_wait_pct,epoch_s,skipped\n";

/// Appends an epoch to `summary.csv`; a row of the same or a later epoch (from before a resume) is
/// replaced, the header is written once.
///
/// # Errors
/// [`crate::failure::Kind::File`].
pub fn summarise(
    path: &Path,
    epoch: u64,
    lr: f64,
    tally: &Tally,
    eval: &Report,
) -> Result<(), Failure> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let mut text = HEADER.to_owned();
    for row in old.lines().skip(1) {
        let before = row.split(',').next().and_then(|e| e.parse::<u64>().ok());
        if before.is_some_and(|e| e < epoch) {
            text.push_str(row);
            text.push('\n');
        }
    }
    text.push_str(&format!(
        "{epoch},{:.6},{:.6},{:.4},{:.4},{lr:.6e},{:.1},{:.1},{:.1},{}\n",
        tally.loss / tally.seen.max(1) as f64,
        eval.loss,
        100.0 * eval.top1,
        100.0 * eval.top5,
        tally.seen as f64 / tally.seconds.max(1e-9),
        100.0 * tally.waited / tally.seconds.max(1e-9),
        tally.seconds,
        tally.skipped,
    ));
    crate::checkpoint::write_atomically(path, text.as_bytes())
}

/// Appends one line to a log file.
///
/// # Errors
/// [`crate::failure::Kind::File`].
pub fn append(path: &Path, line: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(|e| Failure::file(format!("{}: cannot write: {e}", path.display())))
}
