//! Reads images out of uncompressed tar files by their offset. The index of the shards says where
//! each image lies; the headers of the tar files are not read.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use crate::datasets::data_error::DataError;
use crate::datasets::sync::lock;

/// Most files that stay open: many systems allow a process 256, and sockets count too. A quarter of
/// what this process is allowed, where Linux says so.
static OPEN: LazyLock<usize> = LazyLock::new(|| {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    soft.map_or(64, |soft| (soft / 4).clamp(1, 64))
});

/// The tar files of a split, at most 64 of them open, and where each image lies in them.
#[derive(Debug, Default)]
pub struct TarReader {
    files: Vec<PathBuf>,
    /// Number and handle of the open files, the most recently used last.
    open: Mutex<Vec<(usize, Arc<File>)>>,
    entries: HashMap<PathBuf, TarEntry>,
}

/// Where an image lies in the tar files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TarEntry {
    /// Number of the file.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) from: u64,
    /// Length in bytes.
    pub(crate) count: usize,
    /// CRC-32 of the bytes.
    pub(crate) crc: u32,
}

/// Equal where both read the same entries of the same files.
impl PartialEq for TarReader {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.entries == other.entries
    }
}

impl TarReader {
    /// A reader of `files`; `entries` gives the position of every image.
    pub(crate) fn new(files: Vec<PathBuf>, entries: HashMap<PathBuf, TarEntry>) -> Self {
        Self { files, open: Mutex::default(), entries }
    }

    /// The path of a file.
    pub(crate) fn path(&self, file: usize) -> &Path {
        &self.files[file]
    }

    /// The number of files.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Where an image lies.
    ///
    /// # Panics
    /// When none of the files contains the image.
    pub(crate) fn entry(&self, image: &Path) -> TarEntry {
        self.entries[image]
    }

    /// Reads `bytes.len()` bytes of a file from offset `from` on, without a checksum.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn read_range(
        &self,
        file: usize,
        from: u64,
        bytes: &mut [u8],
    ) -> std::io::Result<()> {
        read_at(&*self.file(file)?, from, bytes)
    }

    /// Reads an image into `bytes`, which is cleared first, and verifies its checksum.
    ///
    /// # Errors
    /// [`DataError::Folder`]: a file that is shorter than its index says, or altered.
    /// [`DataError::Storage`]: a file that cannot be read now, or is gone.
    pub fn read(&self, image: &Path, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let TarEntry { file: number, from, count, crc } = self.entry(image);
        let path = self.path(number);
        bytes.clear();
        bytes.resize(count, 0);
        let read = self.file(number).and_then(|file| read_at(&file, from, bytes));
        if let Err(error) = read {
            // A handle from before a network file system was mounted again stays stale.
            lock(&self.open).retain(|(other, _)| *other != number);
            return Err(match error.kind() {
                ErrorKind::UnexpectedEof => DataError::folder(
                    image,
                    format!("truncated in {}; copy it again", path.display()),
                ),
                _ => DataError::storage(path, &error),
            });
        }
        if crc32fast::hash(bytes) != crc {
            let why = format!("altered in {} (checksum); copy it again", path.display());
            return Err(DataError::folder(image, why));
        }
        Ok(())
    }

    /// Length and checksum of an image according to the index.
    pub fn identity(&self, image: &Path) -> (u64, u32) {
        let TarEntry { count, crc, .. } = self.entry(image);
        (count as u64, crc)
    }

    /// An open handle of a file, shared by threads that read at offsets. Where [`OPEN`] files are
    /// open already, the least recently used one is closed.
    fn file(&self, number: usize) -> std::io::Result<Arc<File>> {
        let mut open = lock(&self.open);
        let file = match open.iter().position(|(other, _)| *other == number) {
            Some(position) => open.remove(position).1,
            None => {
                if open.len() >= *OPEN {
                    open.remove(0);
                }
                let opened = File::open(&self.files[number]).or_else(|error| {
                    // The process may have fewer handles than `OPEN`: it gets those kept here back.
                    let kept = open.len();
                    open.clear();
                    if kept == 0 { Err(error) } else { File::open(&self.files[number]) }
                });
                Arc::new(opened?)
            }
        };
        open.push((number, Arc::clone(&file)));
        Ok(file)
    }
}

/// Fills `bytes` from offset `from` on; the position of the file is not used.
#[cfg(unix)]
fn read_at(file: &File, from: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, from)
}

#[cfg(windows)]
fn read_at(file: &File, from: u64, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = from + done as u64;
        match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}
