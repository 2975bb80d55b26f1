//! Batches of prepared images from N threads, delivered in index order, the memory of what waits
//! bounded in bytes. What is in a batch is a function of (seed, epoch, batch number) alone.

pub mod epoch;
mod node_readers;
pub mod patient_epoch;
mod scratch;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use kernels::allocator::try_with_capacity;
use transforms::augment::Augment;
use transforms::decode::EncodedImage;
use transforms::preprocess::Preprocess;
use transforms::random::Counter;
use transforms::train_transform::{TrainTransform, shrunk_from};

use crate::datasets::batch::{Batch, ByteImages};
use crate::datasets::cache::{Caching, PixelCache};
use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::image_keys::ImageKeys;
use crate::datasets::loader::epoch::{BatchSource, Epoch, EpochConfig};
use crate::datasets::loader::node_readers::{NodeReader, NodeReaders};
use crate::datasets::loader::scratch::WorkerScratch;
use crate::datasets::sampler::{BatchShare, EpochOrder, Sampler};
use crate::datasets::shards::interleave::Interleave;
use crate::datasets::shards::order::{WindowShuffle, WindowedOrder};
use crate::datasets::shards::read_ahead::ReadAhead;

/// Purpose of the counter that draws an image's crop and flip.
const AUGMENT: u64 = 0xA6;

/// An image's second, third, .. occurrence in a row has a purpose this much further.
const REPEAT: u64 = 1 << 32;

/// Purpose of the counter that draws how a batch is mixed.
const MIX: u64 = 0x31;

/// How batches are made.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Images per batch.
    pub batch_size: usize,
    /// Threads.
    pub workers: usize,
    /// Bytes of finished batches that may wait; at least one batch always may.
    pub prefetch_bytes: usize,
    /// Seed of order and augmentation.
    pub seed: u64,
    /// Whether an unreadable image ends the epoch instead of being skipped.
    pub strict: bool,
    /// Whether a last, smaller batch is left out; a data set smaller than one batch is one batch.
    pub drop_last: bool,
}

/// What happens to the images.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a loader has one of them")]
pub enum Mode {
    /// Shuffled and augmented.
    Train(Augment),
    /// In order, exactly preprocessed.
    Eval,
}

/// Makes the batches of a folder.
#[derive(Clone)]
pub struct Loader {
    folder: Arc<ImageFolder>,
    preprocess: Preprocess,
    mode: Mode,
    config: LoaderConfig,
    sampler: Sampler,
    share: BatchShare,
    cache: Arc<PixelCache>,
    /// Images that no batch has, although they stay in the order.
    left_out: Arc<HashSet<usize>>,
    /// Gets the key of every image that is read; none where nobody asks.
    keys: Option<Arc<ImageKeys>>,
    /// Whether batches have bytes instead of normalised values.
    as_bytes: bool,
}

/// Where the images of a batch are made: in the batch itself.
enum Room {
    Values(Vec<f32>),
    Bytes(Vec<u8>),
}

impl Room {
    /// Room for so many values or bytes; none where there is no memory.
    fn new(count: usize, as_bytes: bool) -> Option<Self> {
        match as_bytes {
            true => try_with_capacity(count).map(Room::Bytes),
            false => try_with_capacity(count).map(Room::Values),
        }
    }

    /// Makes room for the next image, of `count` numbers. Returns where it begins.
    fn grow(&mut self, count: usize) -> usize {
        match self {
            Room::Values(values) => {
                values.resize(values.len() + count, 0.0);
                values.len() - count
            }
            Room::Bytes(bytes) => {
                bytes.resize(bytes.len() + count, 0);
                bytes.len() - count
            }
        }
    }

    /// Gives up what begins at `start`.
    fn truncate(&mut self, start: usize) {
        match self {
            Room::Values(values) => values.truncate(start),
            Room::Bytes(bytes) => bytes.truncate(start),
        }
    }
}

impl Loader {
    /// A loader of the whole folder, without a cache.
    ///
    /// # Panics
    /// When the configuration has no image per batch or no worker.
    pub fn new(
        folder: Arc<ImageFolder>,
        preprocess: Preprocess,
        mode: Mode,
        config: LoaderConfig,
    ) -> Self {
        assert!(config.batch_size > 0, "a batch has at least 1 image, got 0");
        assert!(config.workers > 0, "at least 1 worker, got 0");
        let (count, seed) = (folder.items.len(), config.seed);
        let sampler = match &mode {
            Mode::Train(augment) => Sampler::shuffled(count, seed, augment.repeats),
            Mode::Eval => Sampler::sequential(count, seed),
        };
        let (cache, left_out) = (Arc::default(), Arc::default());
        let share = BatchShare::WHOLE;
        Self {
            folder,
            preprocess,
            mode,
            config,
            sampler,
            share,
            cache,
            left_out,
            keys: None,
            as_bytes: false,
        }
    }

    /// Makes batches of bytes, for a device that normalises them itself, where `wanted` and where
    /// nothing of the training path works on normalised numbers: mixing and random erasing do.
    #[must_use]
    pub fn as_bytes(self, wanted: bool) -> Self {
        let numbers = match &self.mode {
            Mode::Train(augment) => augment.mix.is_some() || augment.erase.is_some(),
            Mode::Eval => false,
        };
        Self { as_bytes: wanted && !numbers, ..self }
    }

    /// Prepares one rank's share of every batch. All ranks have as many batches, and an image is
    /// the same whichever rank prepares it.
    #[must_use]
    pub fn sharing(self, share: BatchShare) -> Self {
        Self { share, ..self }
    }

    /// Leaves these images out of their batches. The order and every bit of the others stay.
    #[must_use]
    pub fn leaving_out(self, images: HashSet<usize>) -> Self {
        Self { left_out: Arc::new(images), ..self }
    }

    /// Keeps decoded images from epoch to epoch; every bit of the batches stays.
    #[must_use]
    pub fn caching(self, caching: &Caching) -> Self {
        let large = match &self.mode {
            Mode::Train(augment) => {
                // Images grow from epoch to epoch: the first are the smallest.
                shrunk_from(augment.decode, self.rule(0).crop)
            }
            Mode::Eval => None,
        };
        let cache = PixelCache::new(caching, &self.folder, self.preprocess.exif).without(large);
        Self { cache: Arc::new(cache), ..self }
    }

    /// Gives the key of every image that is read to `keys`.
    #[must_use]
    pub fn recording(self, keys: &Arc<ImageKeys>) -> Self {
        Self { keys: Some(Arc::clone(keys)), ..self }
    }

    /// One line that estimates how many images the cache will hold; none without a cache.
    pub fn cache_estimate(&self) -> Option<String> {
        self.cache.estimate(&self.folder)
    }

    /// Why the cache takes no more images, the first time after that happened.
    pub fn cache_warning(&self) -> Option<String> {
        self.cache.warning()
    }

    /// Reads shards sequentially, shuffling within windows of `images` images. Has no effect if 0,
    /// for plain folders, or in evaluation.
    #[must_use]
    pub fn windowed(mut self, images: usize) -> Self {
        self.sampler = self.sampler.windowed(&self.folder, images);
        self
    }

    /// Deals the shards to canonical nodes: every batch has as many images of each, and ranks whose
    /// number divides theirs read the files of their own. Has no effect without windows, and with
    /// one node.
    ///
    /// # Panics
    /// When batches have no two images of every node, the last one is not left out, or images come
    /// several times.
    #[must_use]
    pub fn canonical_nodes(mut self, nodes: usize) -> Self {
        assert!(
            nodes == 1 || self.config.drop_last,
            "canonical nodes of batches that are not whole"
        );
        self.sampler = self.sampler.with_nodes(Interleave { nodes, batch: self.config.batch_size });
        self
    }

    /// The files of shards that this loader's share of the batches comes from; none without
    /// windows.
    pub fn shard_files(&self) -> Vec<&Path> {
        let Some(shuffle) = self.sampler.window_shuffle() else { return Vec::new() };
        let rows = self.share.rows(self.config.batch_size, true);
        let shards = shuffle.shards();
        let files: Vec<usize> = self.sampler.files_of(&rows);
        files.into_iter().map(|file| shards.path(file)).collect()
    }

    /// Notes for the user about the windows; empty without windows.
    pub fn window_notes(&self) -> Vec<String> {
        let notes = |shuffle: &Arc<WindowShuffle>| shuffle.notes(&self.folder, self.sampler.seed());
        self.sampler.window_shuffle().map(notes).unwrap_or_default()
    }

    /// Draws every class equally often, with replacement, as many images as there are. Has no
    /// effect if `balanced` is false, in windows, or in evaluation.
    #[must_use]
    pub fn balanced(mut self, balanced: bool) -> Self {
        if balanced {
            self.sampler = self.sampler.balanced(&self.folder);
        }
        self
    }

    /// A loader of the images `start..end` of the folder's order.
    pub(crate) fn with_range(mut self, start: usize, end: usize) -> Self {
        self.sampler = self.sampler.with_range(start, end);
        self
    }

    /// The label of an item of the folder.
    pub(crate) fn label(&self, index: usize) -> usize {
        self.folder.items[index].1
    }

    /// The number of images of an epoch.
    pub(crate) fn images(&self) -> usize {
        self.sampler.images()
    }

    /// The readers of shards for the batches of an epoch from number `first` on; none without
    /// windows.
    fn node_readers(
        &self,
        indices: &[usize],
        orders: Vec<WindowedOrder>,
        first: usize,
    ) -> Option<NodeReaders> {
        let shards = Arc::clone(self.sampler.window_shuffle()?.shards());
        let (interleave, repeats) = (self.sampler.interleave(), self.sampler.repeats());
        let (count, size) = match interleave.nodes {
            1 => (self.images(), self.config.batch_size),
            _ => (self.batches() * interleave.node_batch(), interleave.node_batch()),
        };
        let positions = |number: usize| {
            let to = ((number + 1) * size).min(count);
            number * size / repeats..to.div_ceil(repeats)
        };
        let mut read: Vec<Vec<bool>> =
            orders.iter().map(|order| vec![false; order.indices.len()]).collect();
        for (_, position) in (first..self.batches()).flat_map(|number| self.rows(indices, number)) {
            let (node, at) = interleave.place(position / repeats);
            read[node][at] = true;
        }
        let reader = |(order, read): (WindowedOrder, Vec<bool>)| {
            if !read.contains(&true) {
                return None;
            }
            let batches = (first..self.batches()).map(positions).collect();
            let (bounds, turns) = (order.bounds.clone(), order.turns.clone());
            let reader = ReadAhead::new(Arc::clone(&shards), bounds, turns, first, batches);
            Some(NodeReader { reader, order, read })
        };
        let nodes = orders.into_iter().zip(read).map(reader).collect();
        Some(NodeReaders { nodes, interleave, repeats })
    }

    /// The path of an item, unless the cache holds its pixels.
    fn unread(&self, index: usize) -> Option<&Path> {
        (!self.cache.holds(index)).then(|| &*self.folder.items[index].0)
    }

    /// The number of batches of an epoch.
    pub fn batches(&self) -> usize {
        let (n, size) = (self.images(), self.config.batch_size);
        match self.config.drop_last {
            true if n < size => usize::from(n > 1),
            true => n / size,
            false => n.div_ceil(size),
        }
    }

    /// The batches of `epoch` from number `first_batch` on.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Epoch {
        let EpochOrder { indices, windowed } = self.sampler.order(epoch);
        let windows = self.node_readers(&indices, windowed, first_batch);
        let config = EpochConfig {
            first_batch,
            batches: self.batches(),
            workers: self.config.workers,
            prefetch_bytes: self.config.prefetch_bytes,
        };
        let source = EpochSource { loader: self.clone(), indices, windows, epoch };
        Epoch::start(Box::new(source), config)
    }

    /// One batch of an epoch, made by the caller's thread.
    ///
    /// # Errors
    /// The errors that the epoch gives for this batch.
    pub fn batch(&self, epoch: u64, number: usize) -> Result<Batch, DataError> {
        let indices = self.sampler.order(epoch).indices;
        self.make(&indices, epoch, number, None, &mut WorkerScratch::default())
    }

    /// The images of batch `number` that this loader prepares: for each its row in the batch and
    /// its position in the order.
    fn rows(&self, order: &[usize], number: usize) -> impl Iterator<Item = (usize, usize)> {
        let from = number * self.config.batch_size;
        let to = (from + self.config.batch_size).min(order.len());
        let kept = (from..to).filter(|position| !self.left_out.contains(&order[*position]));
        let kept: Vec<usize> = kept.collect();
        let rows: Vec<(usize, usize)> = if self.sampler.interleave().nodes > 1 {
            // A rank keeps to its nodes where an image of others is left out.
            let all = self.share.rows(to - from, true).into_iter().map(|row| from + row);
            all.filter_map(|position| Some((kept.binary_search(&position).ok()?, position)))
                .collect()
        } else {
            let pairs = matches!(&self.mode, Mode::Train(Augment { mix: Some(_), .. }));
            let rows = self.share.rows(kept.len(), pairs);
            rows.into_iter().map(|row| (row, kept[row])).collect()
        };
        rows.into_iter()
    }

    fn make(
        &self,
        order: &[usize],
        epoch: u64,
        number: usize,
        windows: Option<&NodeReaders>,
        scratch: &mut WorkerScratch,
    ) -> Result<Batch, DataError> {
        let preprocess = self.rule(epoch);
        let [h, w] = preprocess.crop;
        let rows: Vec<(usize, usize)> = self.rows(order, number).collect();
        let values = rows.len() * 3 * h * w;
        let Some(mut images) = Room::new(values, self.as_bytes) else {
            let why = format!(
                "no memory for a batch of {} images of {h}x{w} pixels ({} MB); lower --batch-size or --workers",
                rows.len(),
                (4 * values).div_ceil(1 << 20)
            );
            return Err(DataError::Exhausted { why });
        };
        let mut batch = Batch {
            images: Vec::new(),
            bytes: None,
            shape: [0, 3, h, w],
            labels: Vec::new(),
            mixed_labels: None,
            indices: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            skipped_indices: Vec::new(),
        };
        for (row, position) in rows {
            let index = order[position];
            // The image is made where it stays: in the batch.
            let before = images.grow(preprocess.values());
            match self.prepare(
                &preprocess,
                index,
                (epoch, position),
                windows,
                scratch,
                (&mut images, before),
            ) {
                Ok(()) => {}
                Err(DataError::Image { path, why }) if !self.config.strict => {
                    images.truncate(before);
                    batch.skipped.push((path, why));
                    batch.skipped_indices.push(index);
                    continue;
                }
                Err(error) => return Err(error),
            }
            batch.labels.push(self.folder.items[index].1 as i64);
            batch.indices.push(index);
            // As if what cannot be read had never been there.
            batch.rows.push(row - batch.skipped.len().min(row));
        }
        batch.shape[0] = batch.labels.len();
        match images {
            Room::Values(values) => batch.images = values,
            Room::Bytes(pixels) => {
                let Preprocess { mean, std, .. } = preprocess;
                batch.bytes = Some(ByteImages { pixels, mean, std });
            }
        }
        if let Mode::Train(Augment { mix: Some(mix), .. }) = &self.mode {
            let mut draw = Counter::new(self.config.seed, epoch, number as u64, MIX);
            if let Some(mixed) = mix.draw(epoch, [h, w], &mut draw) {
                let share = mixed.apply(&mut batch.images, batch.shape);
                batch.mixed_labels = Some((batch.labels.iter().rev().copied().collect(), share));
            }
        }
        Ok(batch)
    }

    /// The rule of an epoch: with progressive resizing the first ones have smaller images.
    fn rule(&self, epoch: u64) -> Preprocess {
        let mut rule = self.preprocess.clone();
        if let Mode::Train(Augment { growth: Some(growth), .. }) = &self.mode {
            rule.crop = rule.crop.map(|full| growth.size(epoch, full));
        }
        rule
    }

    /// Reads an image and makes of it what the network sees.
    fn prepare(
        &self,
        preprocess: &Preprocess,
        index: usize,
        (epoch, position): (u64, usize),
        windows: Option<&NodeReaders>,
        scratch: &mut WorkerScratch,
        (room, start): (&mut Room, usize),
    ) -> Result<(), DataError> {
        let WorkerScratch { bytes, pixels, jpeg, transform } = scratch;
        let (folder, cache) = (&self.folder, &self.cache);
        let mut kept = cache.get(folder, index, pixels);
        // What is kept is that of the file as it was before it was read.
        let stamp = if kept.is_none() { cache.stamp(folder, index) } else { None };
        if kept.is_some()
            && let Some(keys) = &self.keys
            && !keys.has(index)
        {
            // What an earlier run cached is read once for its key.
            folder.read_bytes(index, bytes)?;
            keys.record(index, bytes);
        }
        let image = match &kept {
            Some(pixels) => Ok(EncodedImage::of(pixels)),
            None => {
                if !windows.is_some_and(|windows| windows.take(position, bytes)) {
                    folder.read_bytes(index, bytes)?;
                }
                self.keys.iter().for_each(|keys| keys.record(index, bytes));
                EncodedImage::open(bytes, preprocess.exif)
            }
        };
        let prepared = image.and_then(|image| {
            let whole = stamp.and_then(|stamp| cache.put(folder, index, stamp, &image, jpeg));
            let image = whole.as_deref().map_or(image, EncodedImage::of);
            let augment = match &self.mode {
                Mode::Eval => {
                    return match room {
                        Room::Values(all) => {
                            preprocess.apply_into(&image, transform, &mut all[start..])
                        }
                        Room::Bytes(all) => {
                            preprocess.apply_bytes_into(&image, transform, &mut all[start..])
                        }
                    };
                }
                Mode::Train(augment) => augment,
            };
            let purpose = AUGMENT + REPEAT * (position % augment.repeats) as u64;
            let draw = &mut Counter::new(self.config.seed, epoch, index as u64, purpose);
            let rule = TrainTransform { preprocess, augment };
            match room {
                Room::Values(all) => rule.apply_into(&image, draw, transform, &mut all[start..]),
                Room::Bytes(all) => {
                    rule.apply_bytes_into(&image, draw, transform, &mut all[start..])
                }
            }
        });
        if let Some(Cow::Owned(read)) = kept.take() {
            *pixels = read.into_raw();
        }
        prepared.map_err(|error| DataError::Image {
            path: self.folder.items[index].0.clone(),
            why: error.to_string(),
        })
    }
}

/// One epoch of a loader.
struct EpochSource {
    loader: Loader,
    indices: Vec<usize>,
    /// The readers of shards, where these are read in windows.
    windows: Option<NodeReaders>,
    epoch: u64,
}

impl BatchSource for EpochSource {
    fn make(&self, number: usize, scratch: &mut WorkerScratch) -> Result<Batch, DataError> {
        self.loader.make(&self.indices, self.epoch, number, self.windows.as_ref(), scratch)
    }

    fn made(&self, number: usize) {
        self.windows.iter().for_each(|readers| readers.made(number));
    }

    fn reads_ahead(&self) -> bool {
        self.windows.is_some()
    }

    fn read_ahead(&self) {
        self.windows
            .iter()
            .for_each(|readers| readers.read_ahead(|index| self.loader.unread(index)));
    }

    fn stop(&self) {
        self.windows.iter().for_each(NodeReaders::stop);
    }

    fn panicked(&self, number: usize) -> DataError {
        let why = format!("preparing batch {number} panicked; this is a defect of Kindling");
        DataError::folder(&self.loader.folder.root, why)
    }
}
