//! An epoch that outlives a storage that is gone for a moment: it waits, and goes on with the same
//! batch.

use std::time::{Duration, Instant};

use crate::datasets::batch::Batch;
use crate::datasets::data_error::DataError;
use crate::datasets::loader::Loader;
use crate::datasets::loader::epoch::Epoch;
use crate::signal::Stop;

/// How long a storage may be gone, unless `KINDLING_TEST_STORAGE_WAIT_MS` says otherwise.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// The batches of an epoch, each made again while the storage is gone.
pub struct PatientEpoch<'a> {
    loader: &'a Loader,
    epoch: u64,
    /// The next batch.
    number: usize,
    batches: Epoch,
    /// What the epochs before `batches` have waited.
    waited: Duration,
    patience: Duration,
    stop: &'a Stop,
    note: &'a dyn Fn(&str),
}

impl<'a> PatientEpoch<'a> {
    /// The batches of `epoch` from number `first` on. `note` gets a sentence when the storage is
    /// gone and when it is back; a signal in `stop` ends the waiting.
    pub fn new(
        loader: &'a Loader,
        epoch: u64,
        first: usize,
        stop: &'a Stop,
        note: &'a dyn Fn(&str),
    ) -> Self {
        let given = std::env::var("KINDLING_TEST_STORAGE_WAIT_MS").ok();
        let patience = given.and_then(|ms| ms.parse().ok()).map_or(PATIENCE, Duration::from_millis);
        let batches = loader.epoch(epoch, first);
        Self { loader, epoch, number: first, batches, waited: Duration::ZERO, patience, stop, note }
    }

    /// How long the consumer has waited for batches.
    pub fn waited(&self) -> Duration {
        self.waited + self.batches.waited()
    }

    /// Makes the next batch again until the storage is back: the batch, or the last error.
    fn retry(&mut self, mut error: DataError) -> Option<Result<Batch, DataError>> {
        let began = Instant::now();
        (self.note)(&format!("{error}; waiting for it, up to {} s", self.patience.as_secs_f32()));
        let mut pause = Duration::from_millis(250);
        while began.elapsed() < self.patience && self.stop.requested().is_none() {
            self.pause(pause.min(self.patience.saturating_sub(began.elapsed())));
            pause = PAUSE.min(2 * pause);
            self.waited += self.batches.waited();
            self.batches = self.loader.epoch(self.epoch, self.number);
            match self.batches.next() {
                Some(Err(again @ DataError::Storage { .. })) => error = again,
                result => {
                    (self.note)(&format!("the storage is back after {:.0?}", began.elapsed()));
                    return result;
                }
            }
        }
        Some(Err(error))
    }

    /// Sleeps, but not through a signal.
    fn pause(&mut self, time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time && self.stop.requested().is_none() {
            std::thread::sleep(Duration::from_millis(50).min(time));
        }
        self.waited += began.elapsed();
    }
}

impl Iterator for PatientEpoch<'_> {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.batches.next()? {
            Err(error @ DataError::Storage { .. }) => self.retry(error)?,
            result => result,
        };
        self.number += usize::from(result.is_ok());
        Some(result)
    }
}
