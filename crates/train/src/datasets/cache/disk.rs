//! Decoded images as files, one each, named by a hash of where the image lies.
//!
//! A file is written under a temporary name and renamed, so that runs can share a folder; its head
//! holds path, size, times and inode of the image and a checksum of everything, so that one of
//! another image, of an older state or a damaged one is not taken.

use std::fs::{File, Metadata};
use std::io::{Error, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use image::RgbImage;
use rayon::prelude::*;

use crate::datasets::image_folder::ImageFolder;

/// First bytes of a file: what it is, and the version of the layout and of the decoders, which gave
/// other pixels before 3 (of kinds of TIFF, GIF and others).
const MAGIC: [u8; 8] = *b"KdlPix\x00\x03";

/// Bytes before the path: magic, checksum of what follows, the stamp of the image, width, height,
/// path's length.
const FIXED: usize = 8 + 4 + 4 * 8 + 4 + 4 + 4;

/// Tells whether an image's file changed: equal stamps mean an unchanged file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Length in bytes.
    size: u64,
    /// Time of the last change of the content, nanoseconds since 1970; the checksum for an image in
    /// a shard.
    time: u64,
    /// Time of the last change of the inode, which no program can set, so that a replacement of
    /// equal size and time is noticed. Unix only.
    change: u64,
    /// Number of the file in its file system. Unix only.
    inode: u64,
}

/// The files of a folder of images.
pub(super) struct DiskCache {
    folder: PathBuf,
    /// The folder of the images, absolute where possible.
    root: PathBuf,
    exif: bool,
    /// In the names of files that are being written: no other run has it.
    token: String,
    written: AtomicU64,
}

impl DiskCache {
    /// Makes the folder and tries it.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub(super) fn open(folder: &Path, images: &ImageFolder, exif: bool) -> Result<Self, Error> {
        std::fs::create_dir_all(folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let token = format!("{}-{now}", std::process::id());
        let probe = folder.join(format!("{token}.tmp"));
        File::create(&probe).and_then(|_| std::fs::remove_file(&probe))?;
        // The folder of a split of shards is only a name; what it lies in is there.
        let above = images.root.parent().filter(|path| !path.as_os_str().is_empty());
        let absolute =
            |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)).ok();
        let root = match (images.root.is_dir(), above, images.root.file_name()) {
            (false, Some(above), Some(name)) => absolute(above).map(|path| path.join(name)),
            _ => absolute(&images.root),
        };
        let root = root.unwrap_or_else(|| images.root.clone());
        let (folder, written) = (folder.to_path_buf(), AtomicU64::new(0));
        Ok(Self { folder, root, exif, token, written })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The absolute path of an image.
    fn path(&self, images: &ImageFolder, index: usize) -> PathBuf {
        let path = &images.items[index].0;
        path.strip_prefix(&images.root).map_or_else(|_| path.clone(), |p| self.root.join(p))
    }

    /// The cache file of an image.
    fn cache_file(&self, path: &Path) -> PathBuf {
        // FNV-1a of 64 bits; the path in the head tells two of one hash apart.
        let turned = [u8::from(self.exif)];
        let all = path.as_os_str().as_encoded_bytes().iter().chain(&turned);
        let hash = all.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        self.folder.join(format!("{:02x}", hash >> 56)).join(format!("{hash:016x}.rgb"))
    }

    /// Bytes that a file has beside the pixels.
    pub(super) fn head(&self, images: &ImageFolder, index: usize) -> u64 {
        (FIXED + self.path(images, index).as_os_str().len()) as u64
    }

    /// For every image: the length of its cache file, 0 if there is none.
    pub(super) fn bytes(&self, images: &ImageFolder) -> Vec<u64> {
        let file = |index| self.cache_file(&self.path(images, index));
        let bytes = |index| std::fs::metadata(file(index)).map_or(0, |file| file.len());
        (0..images.items.len()).into_par_iter().map(bytes).collect()
    }

    /// Size and time of an image's file; of one in a shard what the index has.
    pub(super) fn stamp(images: &ImageFolder, index: usize) -> Option<Stamp> {
        let path = &images.items[index].0;
        if let Some(shards) = &images.shards {
            let (size, checksum) = shards.identity(path);
            return Some(Stamp { size, time: u64::from(checksum), ..Stamp::default() });
        }
        let file = std::fs::metadata(path).ok()?;
        let time = file.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (change, inode) = identity(&file);
        Some(Stamp { size: file.len(), time: time.as_nanos() as u64, change, inode })
    }

    /// The pixels of an image and the length of their file; nothing where there are none that can
    /// be trusted.
    pub(super) fn read(
        &self,
        images: &ImageFolder,
        index: usize,
        memory: &mut Vec<u8>,
    ) -> Option<(RgbImage, u64)> {
        let path = self.path(images, index);
        let mut file = File::open(self.cache_file(&path)).ok()?;
        let name = path.as_os_str().as_encoded_bytes();
        let mut head = vec![0; FIXED + name.len()];
        file.read_exact(&mut head).ok()?;
        let four = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (checksum, width, height) = (four(8), four(44), four(48));
        let stamp = Self::stamp(images, index)?;
        if head != self.head_of(name, checksum, stamp, (width, height)) {
            return None;
        }
        let count = u64::from(width) * u64::from(height) * 3;
        // The length first: a broken head must not ask for all the memory there is.
        let bytes = file.metadata().ok()?.len();
        if bytes != head.len() as u64 + count {
            return None;
        }
        let mut pixels = std::mem::take(memory);
        pixels.resize(count as usize, 0);
        file.read_exact(&mut pixels).ok()?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[12..]);
        hasher.update(&pixels);
        if hasher.finalize() != checksum {
            return None;
        }
        Some((RgbImage::from_raw(width, height, pixels)?, bytes))
    }

    fn head_of(
        &self,
        name: &[u8],
        checksum: u32,
        stamp: Stamp,
        (width, height): (u32, u32),
    ) -> Vec<u8> {
        let mut head = Vec::with_capacity(FIXED + name.len());
        head.extend(MAGIC);
        head.extend(checksum.to_le_bytes());
        let Stamp { size, time, change, inode } = stamp;
        [size, time, change, inode].iter().for_each(|word| head.extend(word.to_le_bytes()));
        head.extend(width.to_le_bytes());
        head.extend(height.to_le_bytes());
        // The hash of two paths may be one; whether EXIF has turned the image stands with the
        // length.
        let length = (name.len() as u32) << 1 | u32::from(self.exif);
        head.extend(length.to_le_bytes());
        head.extend(name);
        head
    }

    /// Writes the file of an image; the checksum tells later what a crash or a disk has left of it.
    ///
    /// # Errors
    /// The error of the system; no partial file remains.
    pub(super) fn write(
        &self,
        images: &ImageFolder,
        index: usize,
        stamp: Stamp,
        pixels: &RgbImage,
    ) -> Result<(), Error> {
        let path = self.path(images, index);
        let target = self.cache_file(&path);
        let name = path.as_os_str().as_encoded_bytes();
        let mut head = self.head_of(name, 0, stamp, pixels.dimensions());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[12..]);
        hasher.update(pixels.as_raw());
        head[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let parent = target.parent().expect("a folder of 256");
        std::fs::create_dir_all(parent)?;
        let scratch = parent.join(format!("{}-{number}.tmp", self.token));
        let write = || {
            let mut file = File::create(&scratch)?;
            file.write_all(&head)?;
            file.write_all(pixels.as_raw())?;
            drop(file);
            std::fs::rename(&scratch, &target)
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&scratch);
        })
    }
}

/// When the file itself was changed last, in nanoseconds since 1970, and its number.
#[cfg(unix)]
fn identity(file: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let change = file.ctime().wrapping_mul(1_000_000_000).wrapping_add(file.ctime_nsec());
    (change as u64, file.ino())
}

/// Zeros: other systems have no such numbers.
#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
