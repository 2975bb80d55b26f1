//! Batches of prepared pictures from N threads, delivered in index order, the memory of what waits
//! bounded in bytes. What is in a batch is a function of (seed, epoch, batch number) alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

use crate::decode::Picture;
use crate::folder::{DataError, ImageFolder};
use crate::preprocess::{Augment, Preprocess, Workspace};
use crate::random::{Counter, permutation};

/// Purpose of the counter that draws a picture's crop and flip.
const AUGMENT: u64 = 0xA6;

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Pictures per batch.
    pub batch_size: usize,
    /// Threads.
    pub workers: usize,
    /// Bytes of finished batches that may wait; at least one batch always may.
    pub prefetch_bytes: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Whether an unreadable picture ends the epoch instead of being skipped.
    pub strict: bool,
    /// Whether a last, smaller batch is left out; a data set smaller than one batch is one batch.
    pub drop_last: bool,
}

/// What happens to the pictures.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Shuffled and augmented.
    Train(Augment),
    /// In order, exactly preprocessed.
    Eval,
}

/// Prepared pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Values `[n, 3, h, w]`, normalised.
    pub images: Vec<f32>,
    /// `[n, 3, h, w]`.
    pub shape: [usize; 4],
    /// Class indices, n of them.
    pub labels: Vec<i64>,
    /// Indices into the folder's items, n of them.
    pub indices: Vec<usize>,
    /// Unreadable pictures and why.
    pub skipped: Vec<(PathBuf, String)>,
}

/// A folder with a rule for making batches of it.
#[derive(Clone)]
pub struct Loader {
    folder: Arc<ImageFolder>,
    preprocess: Preprocess,
    mode: Mode,
    config: LoaderConfig,
    /// The part of the folder's items that is used: from, to.
    range: (usize, usize),
}

impl Loader {
    /// A loader of the whole folder.
    pub fn new(
        folder: Arc<ImageFolder>,
        preprocess: Preprocess,
        mode: Mode,
        config: LoaderConfig,
    ) -> Self {
        assert!(config.batch_size > 0, "a batch has at least 1 picture, got 0");
        assert!(config.workers > 0, "at least 1 worker, got 0");
        let range = (0, folder.items.len());
        Self { folder, preprocess, mode, config, range }
    }

    fn pictures(&self) -> usize {
        self.range.1 - self.range.0
    }

    /// Batches of an epoch.
    pub fn batches(&self) -> usize {
        let (n, size) = (self.pictures(), self.config.batch_size);
        match self.config.drop_last {
            true if n < size => usize::from(n > 1),
            true => n / size,
            false => n.div_ceil(size),
        }
    }

    /// The batches of `epoch` from number `first_batch` on.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Epoch {
        let order = match self.mode {
            Mode::Train(_) => permutation(self.pictures(), self.config.seed, epoch),
            Mode::Eval => (0..self.pictures()).collect(),
        };
        let shared = Arc::new(Shared {
            loader: self.clone(),
            order,
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
        let left = self.batches().saturating_sub(first_batch);
        let threads = (0..self.config.workers.min(left))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work())
            })
            .collect();
        Epoch { shared, threads, waited: Duration::ZERO, given: 0 }
    }

    fn make(
        &self,
        order: &[usize],
        epoch: u64,
        number: usize,
        room: &mut Room,
    ) -> Result<Batch, DataError> {
        let from = number * self.config.batch_size;
        let to = (from + self.config.batch_size).min(order.len());
        let [h, w] = self.preprocess.crop;
        let mut batch = Batch {
            images: Vec::with_capacity((to - from) * 3 * h * w),
            shape: [0, 3, h, w],
            labels: Vec::new(),
            indices: Vec::new(),
            skipped: Vec::new(),
        };
        for &place in &order[from..to] {
            let index = self.range.0 + place;
            // The picture is made where it stays: in the batch.
            let before = batch.images.len();
            batch.images.resize(before + self.preprocess.values(), 0.0);
            match self.prepare(index, epoch, room, &mut batch.images[before..]) {
                Ok(()) => {}
                Err(DataError::Picture { path, why }) if !self.config.strict => {
                    batch.images.truncate(before);
                    batch.skipped.push((path, why));
                    continue;
                }
                Err(error) => return Err(error),
            }
            batch.labels.push(self.folder.items[index].1 as i64);
            batch.indices.push(index);
        }
        batch.shape[0] = batch.labels.len();
        Ok(batch)
    }

    /// Reads a picture and makes of it what the network sees.
    fn prepare(
        &self,
        index: usize,
        epoch: u64,
        room: &mut Room,
        values: &mut [f32],
    ) -> Result<(), DataError> {
        let Room { bytes, space } = room;
        self.folder.bytes(index, bytes)?;
        let prepared =
            Picture::open(bytes, self.preprocess.exif).and_then(|picture| match &self.mode {
                Mode::Eval => self.preprocess.apply_eval_into(&picture, space, values),
                Mode::Train(augment) => {
                    let mut draw = Counter::new(self.config.seed, epoch, index as u64, AUGMENT);
                    self.preprocess.apply_train_into(augment, &picture, &mut draw, space, values)
                }
            });
        prepared.map_err(|error| DataError::Picture {
            path: self.folder.items[index].0.clone(),
            why: error.to_string(),
        })
    }
}

/// Memory that a worker uses again from picture to picture.
#[derive(Default)]
struct Room {
    /// Of the file.
    bytes: Vec<u8>,
    space: Workspace,
}

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
        let mut room = Room::default();
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
            let mut make = || self.loader.make(&self.order, self.epoch, number, &mut room);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut make));
            let batch = made.unwrap_or_else(|_| {
                let path = self.loader.folder.root.clone();
                let why =
                    format!("preparing batch {number} panicked; this is a defect of Kindling");
                Err(DataError::Folder { path, why })
            });
            let mut state = self.lock();
            state.bytes += bytes_of(&batch);
            state.ready.insert(number, batch);
            self.changed.notify_all();
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
        let total = self.0.shared.loader.pictures();
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
        self.pictures()
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        let mut part = self.clone();
        part.range = (self.range.0 + start, self.range.0 + end.min(self.pictures()));
        Arc::new(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str, corrupt: bool) -> (PathBuf, Arc<ImageFolder>) {
        let root =
            std::env::temp_dir().join(format!("kindling-loader-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for class in ["a", "b"] {
            let place = root.join("train").join(class);
            std::fs::create_dir_all(&place).unwrap();
            for i in 0..11_u8 {
                let shade = i * 9 + class.as_bytes()[0];
                image::RgbImage::from_fn(9, 7, |x, y| {
                    image::Rgb([shade, x as u8 * 20, y as u8 * 30])
                })
                .save(place.join(format!("{i}.png")))
                .unwrap();
            }
        }
        if corrupt {
            std::fs::write(root.join("train/a/3.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
        }
        (root.clone(), Arc::new(ImageFolder::open_train(&root, None).unwrap()))
    }

    fn loader(folder: &Arc<ImageFolder>, workers: usize, bytes: usize, strict: bool) -> Loader {
        let augment = Augment { scale: [0.3, 1.0], ratio: [0.75, 4.0 / 3.0], hflip: 0.5 };
        let config = LoaderConfig {
            batch_size: 4,
            workers,
            prefetch_bytes: bytes,
            seed: 7,
            strict,
            drop_last: true,
        };
        Loader::new(Arc::clone(folder), Preprocess::imagenet(8, 8), Mode::Train(augment), config)
    }

    fn all(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
        loader.epoch(epoch, first).map(|b| b.unwrap()).collect()
    }

    #[test]
    fn batches_do_not_depend_on_workers_or_on_where_the_epoch_begins() {
        let (root, folder) = folder("order", false);
        let one = all(&loader(&folder, 1, 1 << 20, true), 3, 0);
        assert_eq!(one.len(), 5);
        for (workers, bytes) in [(2, 1 << 20), (5, 0), (3, 1)] {
            assert_eq!(all(&loader(&folder, workers, bytes, true), 3, 0), one);
        }
        assert_eq!(all(&loader(&folder, 3, 1 << 20, true), 3, 2), one[2..]);
        assert_ne!(all(&loader(&folder, 3, 1 << 20, true), 4, 0), one);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_corrupt_picture_is_named_and_skipped_or_fatal() {
        let (root, folder) = folder("corrupt", true);
        let lenient = all(&loader(&folder, 2, 1 << 20, false), 0, 0);
        let wide = all(&loader(&folder, 2, 1 << 20, false), 1, 0);
        let named = |b: &Batch| b.skipped.iter().any(|(p, _)| p.ends_with("a/3.png"));
        assert!(lenient.iter().chain(&wide).any(named));
        let strict = loader(&folder, 2, 1 << 20, true);
        let error = (0..4).flat_map(|e| strict.epoch(e, 0)).find_map(Result::err);
        assert!(error.unwrap().to_string().contains("3.png"));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_abandoned_epoch_ends_its_threads() {
        let (root, folder) = folder("drop", false);
        let mut epoch = loader(&folder, 3, 0, true).epoch(0, 0);
        assert!(epoch.next().is_some());
        drop(epoch); // would hang here if a waiting worker were not woken
        std::fs::remove_dir_all(root).unwrap();
    }
}
