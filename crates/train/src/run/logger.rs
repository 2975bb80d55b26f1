//! What a run tells on the console: a bar on a terminal, plain lines elsewhere, or JSON; and the same in
//! `train.log`.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use crate::commands::dry_run::Probe;
use crate::error::Error;
use crate::learner::evaluate::Report;
use crate::out;
use crate::run::checkpoint::EpochStats;
use crate::run::dashboard::Dashboard;

/// The console of one run.
pub struct Logger {
    bar: Option<ProgressBar>,
    interval: usize,
    format: LogFormat,
    log: Mutex<Option<File>>,
    dashboard: Option<Dashboard>,
    /// What was said while the dashboard had the terminal.
    held: Mutex<Vec<String>>,
    /// Listens instead of the console.
    rehearsal: Option<Arc<Probe>>,
}

/// The form of the console lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, no bar.
    Json,
}

/// One line's worth of training.
pub struct BatchRecord {
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
    /// Sums of the epoch.
    pub tally: EpochStats,
    /// Expected time to the end of the run.
    pub remaining: Duration,
}

impl Logger {
    /// A bar when standard error is a terminal, otherwise a line every `interval` batches.
    pub fn new(interval: usize, format: LogFormat) -> Self {
        let people = format == LogFormat::Text && std::io::stderr().is_terminal();
        let bar = people.then(|| {
            let bar = ProgressBar::new(0);
            let style = "{prefix} [{bar:24}] {pos}/{len}  {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar
        });
        let (log, held) = (Mutex::new(None), Mutex::default());
        Self { bar, interval, format, log, dashboard: None, held, rehearsal: None }
    }

    /// A journal that writes nothing, tells everything to the rehearsal and ends the loop when it has enough.
    pub fn rehearsing(rehearsal: Arc<Probe>) -> Self {
        Self { rehearsal: Some(rehearsal), bar: None, ..Self::new(usize::MAX, LogFormat::Text) }
    }

    /// The same with burn-train's dashboard on the terminal, for a run of so many epochs.
    pub fn with_dashboard(self, epochs: u64, first: u64) -> Self {
        Self { bar: None, dashboard: Some(Dashboard::open(epochs, first)), ..self }
    }

    /// Whether the user asked to stop, on the dashboard.
    pub fn stop_requested(&self) -> bool {
        if self.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.is_enough()) {
            return true;
        }
        self.dashboard.as_ref().is_some_and(Dashboard::stop_requested)
    }

    /// After an evaluation.
    pub fn epoch(&self, epoch: u64, report: &Report) {
        self.say(&accuracy_line(report));
        if let Some(dashboard) = &self.dashboard {
            dashboard.epoch(epoch, report);
        }
    }

    /// After the evaluation of an average of the weights.
    pub fn averaged(&self, name: &str, report: &Report) {
        self.say(&format!("{} {name}", accuracy_line(report)));
    }

    /// What is said from here on is appended to the file too.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`].
    pub fn log_to(&self, path: &Path) -> Result<(), Error> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|e| Error::file(format!("{}: cannot write: {e}", path.display())))?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// Whether this batch is one whose numbers are written down.
    pub fn due(&self, batch: usize, batches: usize) -> bool {
        batch.is_multiple_of(self.interval) || batch == batches
    }

    /// A sentence for people.
    pub fn say(&self, text: &str) {
        let line = match self.format {
            LogFormat::Text => text.to_owned(),
            LogFormat::Json => serde_json::json!({ "message": text }).to_string(),
        };
        self.put(&line, text);
    }

    fn put(&self, console: &str, plain: &str) {
        if let Some(rehearsal) = &self.rehearsal {
            return rehearsal.say(plain);
        }
        match (&self.bar, &self.dashboard) {
            (_, Some(_)) => {
                let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                held.push(console.to_owned());
            }
            (Some(bar), _) => bar.suspend(|| out!("{console}")),
            (None, None) => out!("{console}"),
        }
        // The log is a convenience: a full disk is told by what matters, the checkpoint.
        if let Some(file) = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(file, "{plain}");
        }
    }

    /// After every training batch.
    pub fn batch(&self, line: &BatchRecord) {
        if let Some(rehearsal) = &self.rehearsal {
            return rehearsal.batch(line);
        }
        if let Some(dashboard) = &self.dashboard {
            dashboard.batch(line);
        }
        let (mean, wait) = (line.tally.mean_loss(), line.tally.wait_percent());
        let eta = clock(line.remaining);
        let due = self.due(line.batch, line.batches);
        let text = format!(
            "Train: {} [{:>4}/{} ({:>3.0}%)]  Loss: {:.4} ({mean:.4})  {:.1}/s  LR: {:.3e}  \
             Data: {wait:.0}%  ETA: {eta}",
            line.epoch,
            line.batch,
            line.batches,
            100.0 * line.batch as f64 / line.batches as f64,
            line.loss,
            line.tally.img_per_s(),
            line.lr
        );
        if let Some(bar) = &self.bar {
            bar.set_length(line.batches as u64);
            bar.set_prefix(format!("Train: {}/{}", line.epoch, line.epochs));
            bar.set_message(format!(
                "Loss: {:.4} ({mean:.4})  {:.1}/s  LR: {:.3e}  Data: {wait:.0}%  ETA: {eta}",
                line.loss,
                line.tally.img_per_s(),
                line.lr
            ));
            bar.set_position(line.batch as u64);
        }
        match self.format {
            LogFormat::Text if due && self.bar.is_none() => self.put(&text, &text),
            LogFormat::Json if due => self.put(
                &serde_json::json!({
                    "epoch": line.epoch,
                    "batch": line.batch,
                    "batches": line.batches,
                    "loss": line.loss,
                    "lr": line.lr,
                    "img_per_s": line.tally.img_per_s(),
                    "data_wait_pct": wait,
                    "eta_s": line.remaining.as_secs(),
                })
                .to_string(),
                &text,
            ),
            _ => {}
        }
    }

    /// During an evaluation.
    pub fn evaluated(&self, done: u64, all: usize) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.evaluated(done, all);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_prefix("Test");
            bar.set_message("");
            bar.set_position(done);
        }
    }

    /// Removes the bar, or gives the terminal back and says what was held.
    pub fn finish(&mut self) {
        if self.dashboard.take().is_some() {
            let held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
            held.iter().for_each(|line| out!("{line}"));
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// timm's closing line of an evaluation.
pub fn accuracy_line(report: &Report) -> String {
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

/// Hours, minutes, seconds.
pub fn clock(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
