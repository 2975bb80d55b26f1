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

/// The numbers of a trained epoch.
pub struct EpochRecord<'a> {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Epochs of the run.
    pub epochs: u64,
    /// Sums over the epoch's batches.
    pub stats: EpochStats,
    /// The evaluation of the network; none where none was due.
    pub report: Option<&'a EvalReport>,
    /// The evaluation of the exponential average of its weights.
    pub ema: Option<&'a EvalReport>,
    /// Whether the better of the two is the best of the run so far.
    pub better: bool,
}

impl<'a> EpochRecord<'a> {
    /// The better of the evaluations, by top-1 accuracy, and whether it is the average's.
    pub fn chosen(&self) -> Option<(&'a EvalReport, bool)> {
        let raw = self.report?;
        match self.ema.filter(|ema| ema.top1 > raw.top1) {
            Some(ema) => Some((ema, true)),
            None => Some((raw, false)),
        }
    }
}

/// Whoever follows a run. What an observer does not implement it does not hear.
pub trait Observer {
    /// A training batch is done.
    fn batch(&self, _record: &BatchRecord) {}

    /// An evaluation has done `done` of `all` images.
    fn evaluated(&self, _done: u64, _all: usize) {}

    /// An epoch was trained, and evaluated where that was due.
    fn epoch(&self, _record: &EpochRecord) {}

    /// The equal average of the weights (SWA) was evaluated.
    fn averaged(&self, _report: &EvalReport) {}

    /// A sentence for people.
    fn note(&self, _text: &str) {}

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

    fn epoch(&self, record: &EpochRecord) {
        self.0.iter().for_each(|observer| observer.epoch(record));
    }

    fn averaged(&self, report: &EvalReport) {
        self.0.iter().for_each(|observer| observer.averaged(report));
    }

    fn note(&self, text: &str) {
        self.0.iter().for_each(|observer| observer.note(text));
    }

    fn stop_requested(&self) -> bool {
        self.0.iter().any(|observer| observer.stop_requested())
    }
}

/// A time as hours, minutes and seconds: `1:02:03`.
pub fn clock(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
