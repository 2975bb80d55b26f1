//! What a run reports while it trains, and to whom.
//!
//! The loop knows its observers by the trait [`Observer`] alone. The logger (console and
//! `train.log`), the dashboard and the probe of a dry run implement it; [`Observers`] passes every
//! report on to several of them.

use std::time::Duration;

use crate::learner::evaluate::EvalReport;
use crate::run::progress::EpochStats;

/// The numbers of one training batch.
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
    /// Sums of the epoch so far.
    pub epoch_stats: EpochStats,
    /// Expected time to the end of the run.
    pub remaining: Duration,
}

/// Whoever follows a run.
pub trait Observer {
    /// A training batch is done.
    fn batch(&self, record: &BatchRecord);

    /// An evaluation has done `done` of `all` images.
    fn evaluated(&self, done: u64, all: usize);

    /// An epoch, counted from 0, was evaluated.
    fn epoch(&self, epoch: u64, report: &EvalReport);

    /// A sentence for people.
    fn note(&self, text: &str);

    /// Whether the run shall save and stop.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// Several observers, each of which gets every report in this order.
pub struct Observers<'a>(pub Vec<&'a dyn Observer>);

impl Observer for Observers<'_> {
    fn batch(&self, record: &BatchRecord) {
        self.0.iter().for_each(|observer| observer.batch(record));
    }

    fn evaluated(&self, done: u64, all: usize) {
        self.0.iter().for_each(|observer| observer.evaluated(done, all));
    }

    fn epoch(&self, epoch: u64, report: &EvalReport) {
        self.0.iter().for_each(|observer| observer.epoch(epoch, report));
    }

    fn note(&self, text: &str) {
        self.0.iter().for_each(|observer| observer.note(text));
    }

    fn stop_requested(&self) -> bool {
        self.0.iter().any(|observer| observer.stop_requested())
    }
}

/// timm's closing line of an evaluation.
pub fn accuracy_line(report: &EvalReport) -> String {
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

/// A time as hours, minutes and seconds: `1:02:03`.
pub fn clock(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
