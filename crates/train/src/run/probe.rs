//! The observer of a dry run: measures the loop's batches, prints nothing, and stops the loop when
//! it has enough of them.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::learner::evaluate::EvalReport;
use crate::run::observer::{BatchRecord, EpochRecord, Observer};

/// Training batches that are measured.
pub const BATCHES: usize = 20;

/// The first batches, which fill caches and queues and do not count.
pub const WARMUP_BATCHES: usize = 2;

/// Seconds after which fewer batches are enough.
const MAX_SECONDS: f64 = 60.0;

/// Measures a run.
#[derive(Default)]
pub struct Probe {
    measurements: Mutex<Measurements>,
}

/// What a [`Probe`] has measured.
#[derive(Clone, Default)]
pub struct Measurements {
    /// Every batch so far.
    pub batches: Vec<MeasuredBatch>,
    /// Batches of an epoch.
    pub batches_per_epoch: usize,
    /// Epochs of the run.
    pub epochs: u64,
    /// Sentences that the loop reported.
    pub notes: Vec<String>,
    /// When the first batch ended.
    began: Option<Instant>,
    /// The epoch of the last batch, and the sums of that epoch after it.
    last: (u64, MeasuredBatch),
}

/// One batch.
#[derive(Clone, Copy, Default)]
pub struct MeasuredBatch {
    /// Seconds spent.
    pub seconds: f64,
    /// Seconds of these spent waiting for data.
    pub waited: f64,
    /// Images seen.
    pub images: u64,
}

impl Probe {
    /// The measurements so far.
    pub fn measurements(&self) -> Measurements {
        self.with(|measurements| measurements.clone())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Measurements) -> T) -> T {
        act(&mut self.measurements.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Probe {
    fn batch(&self, record: &BatchRecord) {
        let sums = &record.epoch_stats;
        let now = MeasuredBatch { seconds: sums.seconds, waited: sums.waited, images: sums.seen };
        self.with(|m| {
            let (epoch, last) = m.last;
            let before = if epoch == record.epoch { last } else { MeasuredBatch::default() };
            m.batches.push(MeasuredBatch {
                seconds: now.seconds - before.seconds,
                waited: now.waited - before.waited,
                images: now.images - before.images,
            });
            m.last = (record.epoch, now);
            m.began.get_or_insert_with(Instant::now);
            (m.batches_per_epoch, m.epochs) = (record.batches, record.epochs);
        });
    }

    fn evaluated(&self, _done: u64, _all: usize) {}

    fn epoch(&self, _record: &EpochRecord) {}

    fn averaged(&self, _report: &EvalReport) {}

    fn note(&self, text: &str) {
        self.with(|m| m.notes.push(text.to_owned()));
    }

    fn stop_requested(&self) -> bool {
        self.with(|m| {
            let late = m.began.is_some_and(|began| began.elapsed().as_secs_f64() > MAX_SECONDS);
            m.batches.len() >= BATCHES || (late && m.batches.len() > WARMUP_BATCHES)
        })
    }
}
