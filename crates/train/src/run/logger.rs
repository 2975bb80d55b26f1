//! The console and `train.log` of a run: a progress bar on a terminal, plain lines elsewhere, or
//! JSON.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use deploy::files::open_log;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::output::LogFormat;
use crate::err;
use crate::error::Error;
use crate::learner::evaluate::EvalReport;
use crate::run::log_lines;
use crate::run::log_lines::DOT;
use crate::run::observer::{BatchRecord, EpochRecord, Observer, clock};
use crate::stdout::write_line;
use crate::terminal;
use crate::terminal::Style;

/// Batches after which the time of the run is known well enough to say it.
const PACED: usize = 8;

/// The console of one run.
pub struct Logger {
    bar: Option<ProgressBar>,
    interval: usize,
    format: LogFormat,
    /// Lines go to standard error: standard output is for the result alone.
    result_alone: bool,
    colour: bool,
    log: Mutex<Option<File>>,
    /// Console lines that wait for [`Logger::finish`]; none where lines are printed at once.
    buffered: Mutex<Option<Vec<String>>>,
    /// Standard output can no longer be written to: its reader has gone, or its disk is full.
    console_lost: AtomicBool,
    /// Expected seconds to the end of the run; none before the first batch.
    left: Mutex<Option<Duration>>,
    /// The expected time of the run was said.
    said_time: AtomicBool,
}

impl Logger {
    /// A bar if standard error is a terminal, otherwise a line every `interval` batches.
    pub fn new(interval: usize, format: LogFormat) -> Self {
        let people = format != LogFormat::Json && std::io::stderr().is_terminal();
        let bar = people.then(|| {
            // Hidden until there is something to show: an empty bar reads as a full one.
            let bar = ProgressBar::hidden();
            let style = "{prefix} {bar:24.cyan/dim} {pos}/{len}{msg}";
            let style = ProgressStyle::with_template(style).expect("a valid template");
            bar.set_style(style.progress_chars("━━─"));
            bar
        });
        Self {
            bar,
            interval,
            format,
            result_alone: false,
            colour: terminal::colour(),
            log: Mutex::new(None),
            buffered: Mutex::new(None),
            console_lost: AtomicBool::new(false),
            left: Mutex::new(None),
            said_time: AtomicBool::new(false),
        }
    }

    /// This logger with its lines on standard error, so that standard output has the result alone.
    pub fn result_alone(self, alone: bool) -> Self {
        Self { result_alone: alone, ..self }
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

    /// Prints the result of a run: as JSON where that was asked for, to the console alone;
    /// otherwise the closing lines, which `train.log` has too.
    pub fn result(&self, result: &serde_json::Value, closing: &[String]) {
        let closing = || closing.iter().for_each(|line| self.put(&self.fitted(line), line));
        match self.format {
            _ if self.result_alone => {
                closing();
                self.print_out(&format!("{result:#}"));
            }
            LogFormat::Text => closing(),
            LogFormat::Timm => self.print(&format!("--result\n{result:#}")),
            LogFormat::Json => self.print(&serde_json::json!({ "result": result }).to_string()),
        }
    }

    /// Prints a line on the console: standard output, or standard error where the result is alone.
    fn print(&self, line: &str) {
        match self.result_alone {
            true => err!("{line}"),
            false => self.print_out(line),
        }
    }

    /// Prints a line on standard output. A run outlives its console: once a line cannot be written,
    /// the run says so on standard error and in `train.log`, and goes on.
    fn print_out(&self, line: &str) {
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

    /// A line for people in lines of the terminal's width, broken between words. `train.log` and
    /// other readers get it whole.
    fn fitted(&self, line: &str) -> String {
        let on_terminal = match self.result_alone {
            true => io::stderr().is_terminal(),
            false => io::stdout().is_terminal(),
        };
        terminal::fitted(line, on_terminal)
    }

    /// Shows a position on the bar.
    fn move_bar(&self, prefix: &str, at: u64, of: u64, message: &str) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(of);
        bar.set_prefix(prefix.to_owned());
        bar.set_message(message.to_owned());
        bar.set_position(at);
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Says once how long the run will take.
    fn say_time(&self, record: &BatchRecord) {
        let known = record.batch >= PACED.min(record.batches) && record.remaining.as_secs() >= 10;
        if !known || self.format == LogFormat::Json || self.said_time.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let left = clock(record.remaining);
        self.note(&format!("expected time: {left}, evaluations not counted"));
    }
}

impl Observer for Logger {
    fn batch(&self, record: &BatchRecord) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.remaining);
        let number = log_lines::epoch_number(record.epoch, record.epochs);
        let numbers = log_lines::batch(record);
        let message = format!("{DOT}{numbers}");
        self.move_bar(&number, record.batch as u64, record.batches as u64, &message);
        self.say_time(record);
        let (due, last) =
            (record.batch.is_multiple_of(self.interval), record.batch == record.batches);
        // The line of the epoch follows its last batches.
        let ends = record.batch + self.interval / 2 > record.batches;
        match self.format {
            LogFormat::Text if due && !ends => {
                let line =
                    format!("{number}{DOT}batch {}/{}{DOT}{numbers}", record.batch, record.batches);
                match self.bar {
                    Some(_) => self.append(&line),
                    None => self.put(&line, &line),
                }
            }
            LogFormat::Timm if due || last => {
                let line = log_lines::timm_batch(record);
                match self.bar {
                    Some(_) => self.append(&line),
                    None => self.put(&line, &line),
                }
            }
            LogFormat::Json if due || last => {
                let line = log_lines::json_batch(record).to_string();
                self.put(&line, &line);
            }
            _ => {}
        }
    }

    fn evaluated(&self, done: u64, all: usize) {
        self.move_bar("evaluating", done, all as u64, "");
    }

    fn epoch(&self, record: &EpochRecord) {
        let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let left = clock(left.unwrap_or_default());
        match self.format {
            LogFormat::Text => self.put(
                &log_lines::epoch(record, &left, self.colour),
                &log_lines::epoch(record, &left, false),
            ),
            LogFormat::Timm => {
                log_lines::timm_epoch(record).iter().for_each(|line| self.put(line, line));
            }
            LogFormat::Json => {
                let line = log_lines::json_epoch(record).to_string();
                self.put(&line, &line);
            }
        }
    }

    fn averaged(&self, report: &EvalReport) {
        match self.format {
            LogFormat::Text => {
                self.note(&format!(
                    "average of the weights (SWA){DOT}{}",
                    log_lines::accuracy(report)
                ));
            }
            LogFormat::Timm => self.note(&format!("{} SWA", log_lines::timm_accuracy(report))),
            LogFormat::Json => {
                let eval = log_lines::json_accuracy(report);
                let line = serde_json::json!({ "eval_swa": eval }).to_string();
                self.put(&line, &line);
            }
        }
    }

    fn note(&self, text: &str) {
        match self.format {
            LogFormat::Json => {
                let line = serde_json::json!({ "message": text }).to_string();
                self.put(&line, &line);
            }
            _ => {
                let warning = text.strip_prefix("warning: ");
                let coloured = warning.map(|rest| {
                    format!("{} {rest}", terminal::styled("warning:", Style::Yellow, self.colour))
                });
                self.put(&self.fitted(coloured.as_deref().unwrap_or(text)), text);
            }
        }
    }
}
