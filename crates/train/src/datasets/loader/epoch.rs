//! The running epoch: threads take batches by number, and the consumer receives them in that order.
//! What is in a batch is the business of the `BatchSource`.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kernels::allocator::has_room;

use crate::datasets::batch::Batch;
use crate::datasets::data_error::DataError;
use crate::datasets::loader::scratch::WorkerScratch;
use crate::datasets::sync::{lock, wait, wait_for};

/// Attempts at a batch that found no memory while the consumer waits for it, and the time between
/// them.
const TRIES: usize = 10;
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes of addresses that a thread takes at its start: two stacks and what stands between them.
const ROOM_OF_A_THREAD: usize = 8 << 20;

/// Makes the batches of one epoch.
pub(super) trait BatchSource: Send + Sync {
    /// Makes batch `number`; `scratch` is the calling thread's own.
    fn make(&self, number: usize, scratch: &mut WorkerScratch) -> Result<Batch, DataError>;

    /// Tells the source that a batch is made, or given up.
    fn made(&self, number: usize);

    /// Whether a thread of its own reads files ahead.
    fn reads_ahead(&self) -> bool;

    /// The work of that thread, until the epoch ends or [`BatchSource::stop`] is called.
    fn read_ahead(&self);

    /// Ends [`BatchSource::read_ahead`].
    fn stop(&self);

    /// The error for a batch whose preparation panicked.
    fn panicked(&self, number: usize) -> DataError;
}

/// Which batches an epoch makes, and with how many threads.
pub(super) struct EpochConfig {
    /// The first batch.
    pub(super) first_batch: usize,
    /// The end of the epoch, as a batch number.
    pub(super) batches: usize,
    /// Threads that make batches.
    pub(super) workers: usize,
    /// Bytes of finished batches that may wait; one batch always may.
    pub(super) prefetch_bytes: usize,
}

struct EpochState {
    /// The next batch for a worker.
    next: usize,
    /// The next batch for the consumer.
    wanted: usize,
    ready: BTreeMap<usize, Result<Batch, DataError>>,
    /// Bytes in `ready`.
    bytes: usize,
    stopped: bool,
}

struct SharedEpoch {
    source: Box<dyn BatchSource>,
    config: EpochConfig,
    state: Mutex<EpochState>,
    changed: Condvar,
}

fn bytes_of(batch: &Result<Batch, DataError>) -> usize {
    let bytes = |b: &Batch| b.bytes.as_ref().map_or(0, |bytes| bytes.pixels.len());
    batch.as_ref().map_or(0, |b| b.images.len() * 4 + bytes(b))
}

impl SharedEpoch {
    /// The work of a thread: takes the next number and makes that batch, until none is left.
    fn work(&self) {
        let mut scratch = WorkerScratch::default();
        while let Some(number) = self.take_number() {
            let mut make = || {
                let make = || self.source.make(number, &mut scratch);
                let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(make));
                made.unwrap_or_else(|_| Err(self.source.panicked(number)))
            };
            let mut batch = make();
            let mut tries = 0;
            while matches!(batch, Err(DataError::Exhausted { .. }))
                && self.waits(number, &mut tries)
            {
                batch = make();
            }
            self.source.made(number);
            let mut state = lock(&self.state);
            state.bytes += bytes_of(&batch);
            state.ready.insert(number, batch);
            self.changed.notify_all();
        }
    }

    /// Waits until a batch for which there was no memory may be tried again: a step that ends frees
    /// its maps, and a consumer its batches. `false` when the batch is given up: the consumer,
    /// which waits for it, frees nothing any more.
    fn waits(&self, number: usize, tries: &mut usize) -> bool {
        let state = lock(&self.state);
        *tries += usize::from(state.wanted == number);
        if state.stopped || *tries > TRIES {
            return false;
        }
        !wait_for(&self.changed, state, PAUSE).stopped
    }

    /// The next batch to make; none when the epoch ends. Waits while finished batches take all the
    /// memory they may.
    fn take_number(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        // The batch that is wanted next may always be made, or nothing would move.
        while !state.stopped
            && state.bytes >= self.config.prefetch_bytes
            && state.next != state.wanted
        {
            state = wait(&self.changed, state);
        }
        if state.stopped || state.next >= self.config.batches {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }
}

/// The running epoch; dropping it stops and joins the threads.
pub struct Epoch {
    shared: Arc<SharedEpoch>,
    threads: Vec<JoinHandle<()>>,
    waited: Duration,
    /// Why no thread could be started, until it is reported.
    no_thread: Option<String>,
}

impl Epoch {
    /// Starts the threads of an epoch. Fewer than asked for are enough: what is in a batch does not
    /// depend on them.
    pub(super) fn start(source: Box<dyn BatchSource>, config: EpochConfig) -> Self {
        let left = config.batches.saturating_sub(config.first_batch);
        let workers = config.workers.min(left);
        let state = Mutex::new(EpochState {
            next: config.first_batch,
            wanted: config.first_batch,
            ready: BTreeMap::new(),
            bytes: 0,
            stopped: false,
        });
        let shared = Arc::new(SharedEpoch { source, config, state, changed: Condvar::new() });
        let start = |work: fn(&SharedEpoch)| {
            if !has_room(ROOM_OF_A_THREAD) {
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().spawn(move || work(&shared))
        };
        let (mut threads, mut no_thread) = (Vec::new(), None);
        if shared.source.reads_ahead() {
            match start(|shared| shared.source.read_ahead()) {
                Ok(thread) => threads.push(thread),
                // Everything is read individually then.
                Err(_) => shared.source.stop(),
            }
        }
        for number in 0..workers {
            match start(SharedEpoch::work) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    no_thread = (number == 0).then(|| {
                        format!(
                            "the system starts no thread to prepare images ({error}); lower --threads, or raise \
                             `ulimit -u` or `ulimit -v`"
                        )
                    });
                    break;
                }
            }
        }
        Self { shared, threads, waited: Duration::ZERO, no_thread }
    }

    /// How long the consumer has waited for batches.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(why) = self.no_thread.take() {
            lock(&self.shared.state).wanted = self.shared.config.batches;
            return Some(Err(DataError::Exhausted { why }));
        }
        let began = Instant::now();
        let mut state = lock(&self.shared.state);
        let wanted = state.wanted;
        if wanted >= self.shared.config.batches {
            return None;
        }
        let batch = loop {
            if let Some(batch) = state.ready.remove(&wanted) {
                break batch;
            }
            state = wait(&self.shared.changed, state);
        };
        state.bytes -= bytes_of(&batch);
        state.wanted += 1;
        drop(state);
        self.shared.changed.notify_all();
        self.waited += began.elapsed();
        Some(batch)
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.changed.notify_all();
        self.shared.source.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
