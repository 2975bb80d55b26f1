//! Decoded images that are kept from epoch to epoch, in memory or in a folder: what comes back is
//! not decoded again.
//!
//! The pixels are those of the whole image before crop and augmentation, so that a run computes the
//! same bits with a cache, without one, and with one that holds a part. Images are taken as they
//! come until the limit is reached; none is ever put out for another, which in a shuffled epoch
//! would gain nothing. Neighbours: `loader` asks, `cache/disk.rs` is the format of the files.

mod disk;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::datasets::cache::disk::{DiskCache, Stamp};
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::sync::lock;
use crate::system_memory::available;
use transforms::decode::{DecodeScratch, EncodedImage, ImageHeader, header};

/// Bytes of the GB of `--cache-gb`.
const GB: f64 = (1_u64 << 30) as f64;

/// Images that are looked at to say how many will fit.
const SAMPLE: usize = 64;

/// The limit in memory where neither a flag nor the system says how much there is.
const CAUTIOUS: u64 = 2 << 30;

/// Where decoded images are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// In memory, for the length of the run.
    Ram,
    /// In a folder, which later runs use too.
    Disk,
    /// Nowhere.
    None,
}

/// Where, and how many bytes at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Caching {
    /// Nothing is kept.
    #[default]
    Nothing,
    /// In memory.
    Ram {
        /// Limit of the pixels.
        bytes: u64,
    },
    /// In files.
    Disk {
        /// Their folder; made where it is missing.
        folder: PathBuf,
        /// Limit of the files of this data set; `u64::MAX` is no limit but the disk's.
        bytes: u64,
    },
}

impl Caching {
    /// The cache that the options ask for: `--cache`, `--cache-gb` (0: not given) and
    /// `--cache-dir`. Without a limit it is half of the free memory, or all that the disk takes.
    pub fn new(kind: Option<CacheKind>, gigabytes: f64, folder: Option<PathBuf>) -> Self {
        let given = (gigabytes > 0.0).then_some((gigabytes * GB) as u64);
        match kind {
            None if given.is_none() => Caching::Nothing,
            Some(CacheKind::None) => Caching::Nothing,
            None | Some(CacheKind::Ram) => {
                let half = || available().map_or(CAUTIOUS, |free| free / 2);
                Caching::Ram { bytes: given.unwrap_or_else(half) }
            }
            Some(CacheKind::Disk) => Caching::Disk {
                folder: folder.unwrap_or_else(crate::files::user_cache_folder),
                bytes: given.unwrap_or(u64::MAX),
            },
        }
    }
}

/// What is kept, shared by the clones of a loader.
pub(crate) struct PixelCache {
    store: PixelStore,
    limit: u64,
    /// Bytes that are kept.
    held: AtomicU64,
    /// For every image: its bytes in `held`.
    counted: Vec<AtomicU64>,
    /// For every image: whether a thread is storing it now.
    busy: Vec<AtomicBool>,
    /// Whether more is kept.
    open: AtomicBool,
    /// Why not, until it is reported.
    warning: Mutex<Option<String>>,
    /// Height and width from which an image is not kept, because the run decodes it smaller.
    large: Option<[usize; 2]>,
}

enum PixelStore {
    Nothing,
    Ram(Vec<OnceLock<RgbImage>>),
    Disk(DiskCache),
}

impl Default for PixelCache {
    fn default() -> Self {
        Self {
            store: PixelStore::Nothing,
            limit: 0,
            held: AtomicU64::new(0),
            counted: Vec::new(),
            busy: Vec::new(),
            open: AtomicBool::new(false),
            warning: Mutex::new(None),
            large: None,
        }
    }
}

impl PixelCache {
    /// An empty one of a folder's images, turned by EXIF or not; what its folder holds already is
    /// counted.
    pub(crate) fn new(caching: &Caching, folder: &ImageFolder, exif: bool) -> Self {
        let count = folder.items.len();
        let (store, limit) = match caching {
            Caching::Nothing => return Self::default(),
            Caching::Ram { bytes } => {
                (PixelStore::Ram((0..count).map(|_| OnceLock::new()).collect()), *bytes)
            }
            Caching::Disk { folder: path, bytes } => match DiskCache::open(path, folder, exif) {
                Ok(disk) => (PixelStore::Disk(disk), *bytes),
                Err(error) => {
                    let warning = Mutex::new(Some(unwritable(path, &error)));
                    return Self { warning, ..Self::default() };
                }
            },
        };
        let counted: Vec<AtomicU64> = match &store {
            PixelStore::Disk(disk) => disk.bytes(folder).into_iter().map(AtomicU64::new).collect(),
            _ => (0..count).map(|_| AtomicU64::new(0)).collect(),
        };
        let held = counted.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
        Self {
            store,
            limit,
            held: AtomicU64::new(held),
            counted,
            busy: (0..count).map(|_| AtomicBool::new(false)).collect(),
            open: AtomicBool::new(true),
            warning: Mutex::new(None),
            large: None,
        }
    }

    /// Excludes images of at least this height and width.
    pub(crate) fn without(self, large: Option<[usize; 2]>) -> Self {
        Self { large, ..self }
    }

    fn is_large(&self, [height, width]: [usize; 2]) -> bool {
        self.large.is_some_and(|from| height >= from[0] && width >= from[1])
    }

    /// One line of how much will be kept of how much there is; `None` without a cache.
    pub(crate) fn estimate(&self, folder: &ImageFolder) -> Option<String> {
        let count = folder.items.len();
        let mut sizes = Vec::new();
        let mut bytes = Vec::new();
        let (mut looked, mut large) = (0_usize, 0_usize);
        let step = count.div_ceil(SAMPLE).max(1);
        for index in (0..count).step_by(step) {
            if folder.read_bytes(index, &mut bytes).is_ok()
                && let Some(ImageHeader { width, height, .. }) = header(&bytes)
            {
                looked += 1;
                let pixels = 3 * u64::from(width) * u64::from(height);
                match self.is_large([height as usize, width as usize]) {
                    true => large += 1,
                    false => sizes.push(self.cost(folder, index, pixels)),
                }
            }
        }
        if large > 0 && sizes.is_empty() && !matches!(self.store, PixelStore::Nothing) {
            return Some(
                "cache: holds nothing, all images are large and decoded smaller each time (--decode exact keeps them)"
                    .to_owned(),
            );
        }
        let mean = sizes.iter().sum::<u64>() as f64 / sizes.len().max(1) as f64;
        let count = (count * (looked - large)).checked_div(looked).unwrap_or(count);
        let needed = mean * count as f64;
        let about = if step == 1 { "" } else { "about " };
        let limit = self.limit as f64;
        let share = match needed > limit {
            true => format!("{:.0} % of the {count} images", 100.0 * limit / needed),
            false => format!("all {count} images"),
        };
        let mut line = match &self.store {
            PixelStore::Nothing => return None,
            PixelStore::Ram(_) => format!(
                "cache: {} of memory hold {share}, which need {about}{} decoded",
                size(limit),
                size(needed)
            ),
            PixelStore::Disk(disk) => {
                let there = self.counted.iter().filter(|b| b.load(Ordering::Relaxed) > 0).count();
                let room = match self.limit {
                    u64::MAX => "holds".to_owned(),
                    _ => format!("may take {} and holds", size(limit)),
                };
                format!(
                    "cache: {} {room} {share}, which need {about}{} decoded; {there} are there already",
                    disk.folder().display(),
                    size(needed)
                )
            }
        };
        if large > 0 {
            let share = 100.0 * large as f64 / looked as f64;
            line += &format!(
                "; {about}{share:.0} % are large, decoded smaller each time and not kept (--decode exact keeps them)"
            );
        }
        Some(line)
    }

    /// Why nothing more is kept, once.
    pub(crate) fn warning(&self) -> Option<String> {
        lock(&self.warning).take()
    }

    /// The pixels of an image if they are kept, and if its file is the one that they were decoded
    /// of. `memory` may be used for them.
    pub(crate) fn get(
        &self,
        folder: &ImageFolder,
        index: usize,
        memory: &mut Vec<u8>,
    ) -> Option<Cow<'_, RgbImage>> {
        match &self.store {
            PixelStore::Nothing => None,
            PixelStore::Ram(images) => images[index].get().map(Cow::Borrowed),
            PixelStore::Disk(disk) => {
                let (pixels, bytes) = disk.read(folder, index, memory)?;
                if self.is_large([pixels.height() as usize, pixels.width() as usize]) {
                    return None;
                }
                // Another run has put it there.
                let zero = (Ordering::Relaxed, Ordering::Relaxed);
                if self.counted[index].compare_exchange(0, bytes, zero.0, zero.1).is_ok() {
                    self.held.fetch_add(bytes, Ordering::Relaxed);
                }
                Some(Cow::Owned(pixels))
            }
        }
    }

    /// Whether an image is kept, as far as is known without a look at it: in a file it may be old.
    pub(crate) fn holds(&self, index: usize) -> bool {
        match &self.store {
            PixelStore::Nothing => false,
            PixelStore::Ram(images) => images[index].get().is_some(),
            PixelStore::Disk(_) => self.counted[index].load(Ordering::Relaxed) > 0,
        }
    }

    /// When and how large an image's file is, to be asked before it is read; see
    /// [`PixelCache::put`].
    pub(crate) fn stamp(&self, folder: &ImageFolder, index: usize) -> Option<Stamp> {
        match &self.store {
            PixelStore::Nothing => None,
            PixelStore::Ram(_) => Some(Stamp::default()),
            PixelStore::Disk(_) => DiskCache::stamp(folder, index),
        }
    }

    /// Keeps an image that was just read, while there is room; its pixels, decoded as a whole.
    pub(crate) fn put(
        &self,
        folder: &ImageFolder,
        index: usize,
        stamp: Stamp,
        image: &EncodedImage,
        space: &mut DecodeScratch,
    ) -> Option<Cow<'_, RgbImage>> {
        if !self.open.load(Ordering::Relaxed) || self.busy[index].swap(true, Ordering::Acquire) {
            return None;
        }
        let kept = self.put_alone(folder, index, stamp, image, space);
        self.busy[index].store(false, Ordering::Release);
        kept
    }

    /// Stores an image; one thread at a time does so for an image.
    fn put_alone(
        &self,
        folder: &ImageFolder,
        index: usize,
        stamp: Stamp,
        image: &EncodedImage,
        space: &mut DecodeScratch,
    ) -> Option<Cow<'_, RgbImage>> {
        let whole = image.whole();
        if self.is_large([whole.height, whole.width]) {
            return None;
        }
        let bytes = self.cost(folder, index, (whole.height * whole.width * 3) as u64);
        // A changed image replaces the old one.
        let before = self.counted[index].load(Ordering::Relaxed);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                let after = held.saturating_sub(before).checked_add(bytes)?;
                (after <= self.limit || after <= held).then_some(after)
            })
            .ok()?;
        let kept = image.pixels(space).and_then(|pixels| match &self.store {
            PixelStore::Nothing => None,
            PixelStore::Ram(images) => {
                images[index].set(pixels).ok()?;
                images[index].get().map(Cow::Borrowed)
            }
            PixelStore::Disk(disk) => match disk.write(folder, index, stamp, &pixels) {
                Ok(()) => Some(Cow::Owned(pixels)),
                Err(error) => {
                    self.open.store(false, Ordering::Relaxed);
                    let message = unwritable(disk.folder(), &error);
                    *lock(&self.warning) = Some(message);
                    None
                }
            },
        });
        match kept {
            Some(_) => self.counted[index].store(bytes, Ordering::Relaxed),
            None => {
                self.held.fetch_add(before, Ordering::Relaxed);
                self.held.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        kept
    }

    /// Bytes that an image of so many takes.
    fn cost(&self, folder: &ImageFolder, index: usize, pixels: u64) -> u64 {
        match &self.store {
            PixelStore::Disk(disk) => pixels + disk.head(folder, index),
            _ => pixels,
        }
    }
}

fn unwritable(folder: &Path, error: &std::io::Error) -> String {
    format!(
        "{}: the cache cannot be written ({error}); the run goes on and keeps no more images; make room, or name \
         another folder with --cache-dir",
        folder.display()
    )
}

/// Bytes in a unit that leaves figures to see.
fn size(bytes: f64) -> String {
    match bytes >= 0.1 * GB {
        true => format!("{:.1} GB", bytes / GB),
        false => format!("{:.1} MB", bytes / f64::from(1 << 20)),
    }
}
