//! Keys of the images that were read: equal for equal files, whatever they are called. A checkpoint
//! holds a sample of those that it was trained on, so that `eval` can tell images that the network
//! has seen from new ones.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use kernels::random::mix;
use serde::{Deserialize, Serialize};

use crate::datasets::sync::lock;

/// Most keys of a sample: 64 KB. Data sets of so many images are known whole.
const SAMPLE: usize = 8192;

/// Bytes at the beginning and at the end of a file that are hashed to 64 bits; the whole file to 32.
const ENDS: usize = 4096;

/// The key of every image of a folder that was read so far.
#[derive(Debug, Default)]
pub struct ImageKeys {
    /// In the order of the folder's items; 0 for an image that was not read.
    keys: Vec<AtomicU64>,
    /// The sample of the run before it was resumed.
    earlier: OnceLock<TrainedImages>,
    /// The samples of the other ranks.
    others: Mutex<Vec<TrainedImages>>,
}

/// The keys of the images that a network was trained on, or a sample of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedImages {
    /// Number of training images.
    #[serde(rename = "pictures")]
    images: usize,
    /// The smallest keys, at most 8192 of them, ascending, 16 hexadecimal digits each.
    keys: String,
}

impl ImageKeys {
    /// For a folder of `count` images, none of which is read.
    pub fn new(count: usize) -> Self {
        let keys = (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { keys, ..Self::default() }
    }

    /// Adds what the run knew before it was resumed. A second call has no effect.
    pub(crate) fn resume(&self, earlier: TrainedImages) {
        let _ = self.earlier.set(earlier);
    }

    /// Adds what other ranks have read so far, in place of what they had read before.
    pub(crate) fn set_others(&self, others: Vec<TrainedImages>) {
        *lock(&self.others) = others;
    }

    /// Whether an image was read.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.keys[index].load(Ordering::Relaxed) != 0
    }

    /// Records the bytes of an image, the first time that it is read.
    pub(crate) fn record(&self, index: usize, bytes: &[u8]) {
        if !self.has(index) {
            self.keys[index].store(key_of(bytes), Ordering::Relaxed);
        }
    }

    fn recorded(&self) -> impl Iterator<Item = u64> {
        self.keys.iter().map(|key| key.load(Ordering::Relaxed)).filter(|key| *key != 0)
    }

    /// What a checkpoint holds of the images that were read.
    pub(crate) fn trained_images(&self) -> TrainedImages {
        let mut keys: Vec<u64> = self.recorded().collect();
        keys.extend(self.earlier.get().iter().flat_map(|earlier| earlier.keys()));
        keys.extend(lock(&self.others).iter().flat_map(TrainedImages::keys));
        if keys.len() > 4 * SAMPLE {
            keys.select_nth_unstable(2 * SAMPLE);
            keys.truncate(2 * SAMPLE);
        }
        keys.sort_unstable();
        keys.dedup();
        keys.truncate(SAMPLE);
        let digits = keys.iter().map(|key| format!("{key:016x}")).collect();
        TrainedImages { images: self.keys.len(), keys: digits }
    }

    /// How many of the images that were read are among those that a network was trained on; an
    /// estimate where only a sample of those is known.
    pub fn known_to(&self, trained: &TrainedImages) -> KnownImages {
        let all = trained.images;
        let known: HashSet<u64> = trained.keys().collect();
        let read = self.recorded().count();
        let found = self.recorded().filter(|key| known.contains(key)).count();
        let exact = known.len() < SAMPLE || all <= known.len();
        let images = match exact {
            true => found,
            false => (found as f64 * all as f64 / known.len() as f64).round() as usize,
        };
        KnownImages { images: images.min(read), exact }
    }
}

impl TrainedImages {
    fn keys(&self) -> impl Iterator<Item = u64> {
        let digits = self.keys.as_bytes().chunks_exact(16);
        digits.filter_map(|key| u64::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok())
    }
}

/// Images that a network has seen in its training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownImages {
    /// Their number.
    pub images: usize,
    /// Whether the number is counted; otherwise estimated from a sample.
    pub exact: bool,
}

/// The key of a file's bytes, never 0.
fn key_of(bytes: &[u8]) -> u64 {
    let ends = [&bytes[..bytes.len().min(ENDS)], &bytes[bytes.len().saturating_sub(ENDS)..]];
    let start = mix(bytes.len() as u64 ^ u64::from(crc32fast::hash(bytes)) << 32);
    let hash = ends.iter().flat_map(|end| end.chunks(8)).fold(start, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash.rotate_left(23) ^ u64::from_le_bytes(word))
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: usize) -> Vec<u8> {
        (0..10_000 + number % 7)
            .map(|at| if at == 5_000 { number as u8 } else { (number >> 8) as u8 })
            .collect()
    }

    fn read(files: impl Iterator<Item = usize>) -> ImageKeys {
        let files: Vec<usize> = files.collect();
        let keys = ImageKeys::new(files.len());
        files.iter().enumerate().for_each(|(index, number)| keys.record(index, &file(*number)));
        keys
    }

    /// Mutations caught, each alone: files known by their length; an image counted twice.
    #[test]
    fn equal_files_are_counted_and_others_are_not() {
        let trained = read(0..300).trained_images();
        let count = |files: std::ops::Range<usize>| read(files).known_to(&trained);
        assert_eq!(count(0..300), KnownImages { images: 300, exact: true });
        assert_eq!(count(290..1000).images, 10);
        assert_eq!(count(300..1000).images, 0);
        // A resumed run knows what it read before, and no image counts twice.
        let resumed = read(200..400);
        resumed.resume(trained.clone());
        assert_eq!(resumed.trained_images().keys, read(0..400).trained_images().keys);
        // Two ranks that read a half each know as much as one that has read all.
        let half = read(0..200);
        half.set_others(vec![read(150..300).trained_images()]);
        assert_eq!(half.trained_images().keys, trained.keys);
        let text = serde_json::to_string(&trained).unwrap();
        assert_eq!(serde_json::from_str::<TrainedImages>(&text).unwrap(), trained);
    }

    /// Mutations caught, each alone: a sample taken for the whole; files known by their length.
    #[test]
    fn a_large_set_is_estimated_from_a_sample() {
        let all = 5 * SAMPLE;
        let trained = read(0..all).trained_images();
        assert_eq!(trained.keys.len(), 16 * SAMPLE);
        let known = read(0..all).known_to(&trained);
        assert_eq!(known, KnownImages { images: all, exact: false });
        // A half of 40,000: the deviation of the estimate is about 180.
        let known = read(all / 2..all + all / 2).known_to(&trained);
        assert!(known.images.abs_diff(all / 2) < 900, "{known:?}");
        assert_eq!(read(all..2 * all).known_to(&trained).images, 0);
    }
}
