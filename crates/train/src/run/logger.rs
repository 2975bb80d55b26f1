//! The console and `train.log` of a run: a progress bar on a terminal, plain lines elsewhere, or
//! JSON.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use deploy::files::open_log;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::output::LogFormat;
use crate::err;
use crate::error::Error;
use crate::learner::evaluate::EvalReport;
use crate::run::observer::{BatchRecord, Observer, accuracy_line, clock};
use crate::stdout::write_line;

/// The console of one run.
pub struct Logger {
    bar: Option<ProgressBar>,
    interval: usize,
    format: LogFormat,
    log: Mutex<Option<File>>,
    /// Console lines that wait for [`Logger::finish`]; none where lines are printed at once.
    buffered: Mutex<Option<Vec<String>>>,
    /// Standard output can no longer be written to: its reader has gone, or its disk is full.
    console_lost: AtomicBool,
}

impl Logger {
    /// A bar if standard error is a terminal, otherwise a line every `interval` batches.
    pub fn new(interval: usize, format: LogFormat) -> Self {
        let people = format == LogFormat::Text && std::io::stderr().is_terminal();
        let bar = people.then(|| {
            let bar = ProgressBar::new(0);
            let style = "{prefix} [{bar:24}] {pos}/{len}  {msg}";
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar
        });
        Self {
            bar,
            interval,
            format,
            log: Mutex::new(None),
            buffered: Mutex::new(None),
            console_lost: AtomicBool::new(false),
        }
    }

    /// This logger without a bar, its lines buffered until [`Logger::finish`], because a dashboard
    /// has the terminal.
    pub fn buffered(self) -> Self {
        Self { bar: None, buffered: Mutex::new(Some(Vec::new())), ..self }
    }

    /// Appends all further lines to the file too.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`].
    pub fn log_to(&self, path: &Path) -> Result<(), Error> {
        let file = open_log(path)
            .map_err(|e| Error::file(format!("{}: cannot write: {e}", path.display())))?;
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// Removes the bar and prints the buffered lines.
    pub fn finish(&mut self) {
        let buffered = self.buffered.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        buffered.iter().flatten().for_each(|line| self.print(line));
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Prints the closing lines of a run, to the console alone.
    pub fn result(&self, text: &str) {
        self.print(text);
    }

    /// Prints a line on standard output. A run outlives its console: once a line cannot be written,
    /// the run says so on standard error and in `train.log`, and goes on.
    fn print(&self, line: &str) {
        if self.console_lost.load(Ordering::Relaxed) {
            return;
        }
        let Err(error) = write_line(format_args!("{line}")) else { return };
        self.console_lost.store(true, Ordering::Relaxed);
        let note = format!(
            "standard output: cannot write: {error}; training goes on, and train.log in the run \
             folder has every further line"
        );
        err!("note: {note}");
        self.append(&note);
    }

    /// Appends a line to `train.log`. A failure is ignored: on a full disk the checkpoint reports
    /// the error.
    fn append(&self, line: &str) {
        if let Some(file) = &mut *self.log.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = writeln!(file, "{line}");
        }
    }

    fn put(&self, console: &str, plain: &str) {
        match (&self.bar, &mut *self.buffered.lock().unwrap_or_else(PoisonError::into_inner)) {
            (_, Some(buffered)) => buffered.push(console.to_owned()),
            (Some(bar), _) => bar.suspend(|| self.print(console)),
            (None, None) => self.print(console),
        }
        self.append(plain);
    }

    fn move_bar(&self, record: &BatchRecord, numbers: &str) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(record.batches as u64);
        bar.set_prefix(format!("Train: {}/{}", record.epoch, record.epochs));
        bar.set_message(numbers.to_owned());
        bar.set_position(record.batch as u64);
    }
}

impl Observer for Logger {
    fn batch(&self, record: &BatchRecord) {
        let BatchRecord { epoch, batch, batches, loss, lr, epoch_stats, .. } = record;
        let wait = epoch_stats.wait_percent();
        let losses = match (epoch_stats.mean_loss(), epoch_stats.skipped_steps) {
            (Some(mean), _) => format!("Loss: {loss:.4} ({mean:.4})"),
            (None, 0) => "Loss: none, no image was read".to_owned(),
            (None, _) => "Loss: none, every step was skipped".to_owned(),
        };
        let numbers = format!(
            "{losses}  {:.1}/s  LR: {lr:.3e}  Data: {wait:.0}%  ETA: {}",
            epoch_stats.img_per_s(),
            clock(record.remaining)
        );
        self.move_bar(record, &numbers);
        if !(batch.is_multiple_of(self.interval) || batch == batches) {
            return;
        }
        let percent = 100.0 * *batch as f64 / *batches as f64;
        let text = format!("Train: {epoch} [{batch:>4}/{batches} ({percent:>3.0}%)]  {numbers}");
        match self.format {
            LogFormat::Text if self.bar.is_none() => self.put(&text, &text),
            LogFormat::Text => {}
            LogFormat::Json => self.put(
                &serde_json::json!({
                    "epoch": epoch,
                    "batch": batch,
                    "batches": batches,
                    "loss": loss,
                    "lr": lr,
                    "img_per_s": epoch_stats.img_per_s(),
                    "data_wait_pct": wait,
                    "eta_s": record.remaining.as_secs(),
                })
                .to_string(),
                &text,
            ),
        }
    }

    fn evaluated(&self, done: u64, all: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_prefix("Test");
            bar.set_message("");
            bar.set_position(done);
        }
    }

    fn epoch(&self, _epoch: u64, report: &EvalReport) {
        self.note(&accuracy_line(report));
    }

    fn note(&self, text: &str) {
        let line = match self.format {
            LogFormat::Text => text.to_owned(),
            LogFormat::Json => serde_json::json!({ "message": text }).to_string(),
        };
        self.put(&line, text);
    }
}
