//! The running epoch: threads that take batches by number, and the order in which they are given out.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::datasets::image_folder::DataError;
use crate::datasets::loader::{Batch, Loader, WorkerScratch};
use crate::datasets::shards::order::Windowed;
use crate::datasets::shards::read_ahead::Windows;

struct State {
    /// Next batch that a worker takes.
    next: usize,
    /// Next batch that is given out.
    wanted: usize,
    ready: BTreeMap<usize, Result<Batch, DataError>>,
    /// Bytes in `ready`.
    bytes: usize,
    stopped: bool,
}

struct Shared {
    loader: Loader,
    order: Vec<usize>,
    /// Where shards are read in such: what is read ahead, and the order before repeats.
    windows: Option<(Windows, Windowed)>,
    epoch: u64,
    state: Mutex<State>,
    changed: Condvar,
}

fn bytes_of(batch: &Result<Batch, DataError>) -> usize {
    batch.as_ref().map_or(0, |b| b.images.len() * 4)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A worker never panics while it holds the lock; if one did, the state is still whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn work(&self) {
        let mut room = WorkerScratch::default();
        loop {
            let number = {
                let mut state = self.lock();
                // The batch that is wanted next may always be made, or nothing would move.
                while !state.stopped
                    && state.bytes >= self.loader.config.prefetch_bytes
                    && state.next != state.wanted
                {
                    state = self.wait(state);
                }
                if state.stopped || state.next >= self.loader.batches() {
                    return;
                }
                state.next += 1;
                state.next - 1
            };
            let windows = self.windows.as_ref().map(|(windows, _)| windows);
            let mut make = || self.loader.make(&self.order, self.epoch, number, windows, &mut room);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut make));
            let batch = made.unwrap_or_else(|_| {
                let path = self.loader.folder.root.clone();
                let why =
                    format!("preparing batch {number} panicked; this is a defect of Kindling");
                Err(DataError::Folder { path, why })
            });
            windows.iter().for_each(|windows| windows.made(number));
            let mut state = self.lock();
            state.bytes += bytes_of(&batch);
            state.ready.insert(number, batch);
            self.changed.notify_all();
        }
    }

    /// The work of the thread that reads windows ahead.
    fn read_ahead(&self) {
        if let Some((windows, windowed)) = &self.windows {
            windows.read_ahead(|place| self.loader.unread(windowed.places[place]));
        }
    }
}

/// The running epoch; dropping it stops and joins the threads.
pub struct Epoch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
    given: usize,
}

impl Epoch {
    /// Starts the threads of a loader's epoch.
    pub(super) fn begin(
        loader: Loader,
        order: Vec<usize>,
        windowed: Option<Windowed>,
        epoch: u64,
        first_batch: usize,
    ) -> Self {
        let left = loader.batches().saturating_sub(first_batch);
        let workers = loader.config.workers.min(left);
        let windows =
            windowed.and_then(|order| loader.windows(&order, first_batch).map(|w| (w, order)));
        let shared = Arc::new(Shared {
            loader,
            order,
            windows,
            epoch,
            state: Mutex::new(State {
                next: first_batch,
                wanted: first_batch,
                ready: BTreeMap::new(),
                bytes: 0,
                stopped: false,
            }),
            changed: Condvar::new(),
        });
        let start = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared))
        };
        let reader = shared.windows.as_ref().map(|_| start(Shared::read_ahead));
        let threads = reader.into_iter().chain((0..workers).map(|_| start(Shared::work))).collect();
        Self { shared, threads, waited: Duration::ZERO, given: 0 }
    }

    /// Time that the consumer has waited for batches.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let began = Instant::now();
        let mut state = self.shared.lock();
        let wanted = state.wanted;
        if wanted >= self.shared.loader.batches() {
            return None;
        }
        let batch = loop {
            if let Some(batch) = state.ready.remove(&wanted) {
                break batch;
            }
            state = self.shared.wait(state);
        };
        state.bytes -= bytes_of(&batch);
        state.wanted += 1;
        drop(state);
        self.shared.changed.notify_all();
        self.waited += began.elapsed();
        self.given += batch.as_ref().map_or(0, |b| b.labels.len() + b.skipped.len());
        Some(batch)
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        self.shared.windows.iter().for_each(|(windows, _)| windows.stop());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Burn's view of an epoch.
struct BurnEpoch(Epoch);

impl Iterator for BurnEpoch {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.map_err(DatasetError::new))
    }
}

impl DataLoaderIterator<Batch> for BurnEpoch {
    fn progress(&self) -> Progress {
        let total = self.0.shared.loader.images();
        Progress { items_processed: self.0.given, items_total: total, unit: Some("images".into()) }
    }
}

/// Batches are plain memory, so a device changes nothing; `iter` gives epoch 0 (Burn's trait knows no
/// epochs; the training loop calls [`Loader::epoch`]).
impl DataLoader<Batch> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(BurnEpoch(self.epoch(0, 0)))
    }

    fn num_items(&self) -> usize {
        self.images()
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let mut part = self.clone();
        part.range = (self.range.0 + start, self.range.0 + end.min(self.images()));
        Arc::new(part)
    }
}
