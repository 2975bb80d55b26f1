//! Images in tar files: the folder of `kindling data shard`, read like the folder it was made of.
//!
//! `index.json` says of every image which file holds it, where, how long it is, its label and its checksum, and of
//! shuffled files which image of the folder it was. An image is read by its place, so that order, quarantine and
//! every bit of a training are those of the folder; or, with `--shard-window`, in the order of the files
//! (`shards/order.rs`), which are then read from front to back (`shards/window.rs`).

pub(crate) mod order;
pub(crate) mod read_ahead;
pub(crate) mod tar;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::datasets::image_folder::{DataError, ImageFolder};
use crate::datasets::shards::order::Layout;

/// The file that makes a folder one of shards.
pub const INDEX: &str = "index.json";

/// Newest version of the index. Version 1 has the images in the order of the folder; it is written still where they
/// are, and read.
pub const FORMAT: u32 = 2;

/// Files that stay open: a process may often have 256, and the network's files want some.
const OPEN: usize = 64;

/// What a folder of shards holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Of the layout.
    pub format: u32,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// The files of the training split.
    pub train: Vec<Shard>,
    /// The files of the evaluation split, if the folder had one.
    pub val: Vec<Shard>,
    /// Folder that was the training split, empty where that was the folder itself: what a quarantine list calls it.
    #[serde(default = "train", skip_serializing_if = "is_train")]
    pub train_folder: String,
    /// Folder that was the evaluation split.
    #[serde(default = "val", skip_serializing_if = "is_val")]
    pub val_folder: String,
    /// What the quarantine list left out, by the names on the list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

fn train() -> String {
    "train".to_owned()
}

fn is_train(name: &String) -> bool {
    name == "train"
}

fn val() -> String {
    "val".to_owned()
}

fn is_val(name: &String) -> bool {
    name == "val"
}

impl Index {
    /// Names as a quarantine list has them, of the images that are there or were left out for such a list.
    pub fn names(&self) -> HashSet<String> {
        let of = |folder: &str, shards: &[Shard]| -> Vec<String> {
            let name = |member: &Member| match folder {
                "" => member.4.clone(),
                _ => format!("{folder}/{}", member.4),
            };
            shards.iter().flat_map(|shard| &shard.images).map(name).collect()
        };
        let mut names: HashSet<String> = self.left_out.iter().cloned().collect();
        names.extend(of(&self.train_folder, &self.train));
        names.extend(of(&self.val_folder, &self.val));
        names
    }
}

/// The two splits of a folder of shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To train on.
    Train,
    /// To evaluate on.
    Val,
}

/// One tar file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Its name in the folder.
    pub file: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its images, as they lie in it.
    #[serde(rename = "pictures")]
    pub images: Vec<Member>,
    /// Of each of them, where the files are shuffled: its number among the split's images in the order of the folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<usize>,
}

/// An image of a tar file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member(
    /// First byte of the image.
    pub u64,
    /// Bytes.
    pub u64,
    /// Label.
    pub usize,
    /// CRC-32 of the bytes.
    pub u32,
    /// Path below the split, `<class>/<name>`.
    pub String,
);

/// The files of a split, a few of them open.
#[derive(Debug, Default)]
pub struct Shards {
    files: Vec<PathBuf>,
    /// Number and handle, the last used at the end.
    open: Mutex<Vec<(usize, Arc<File>)>>,
    places: HashMap<PathBuf, Place>,
}

/// Where an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the file.
    pub(crate) file: usize,
    /// First byte.
    pub(crate) from: u64,
    /// Bytes.
    pub(crate) count: usize,
    /// CRC-32 of them.
    pub(crate) crc: u32,
}

/// Equal where they read the same places of the same files.
impl PartialEq for Shards {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.places == other.places
    }
}

fn fail(path: &Path, why: impl Into<String>) -> DataError {
    DataError::Folder { path: path.to_path_buf(), why: why.into() }
}

/// The index of a folder, if it is one of shards.
///
/// # Errors
/// An index that cannot be read, or of another layout.
pub fn index(root: &Path) -> Result<Option<Index>, DataError> {
    let path = root.join(INDEX);
    // A folder of images is one, whatever else lies in it.
    if root.join("train").is_dir() || !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| fail(&path, e.to_string()))?;
    let foreign = |e: &dyn std::fmt::Display| {
        fail(&path, format!("not the index of `kindling data shard` ({e}); shard the folder again"))
    };
    let any: serde_json::Value = serde_json::from_str(&text).map_err(|e| foreign(&e))?;
    match any.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if (1..=u64::from(FORMAT)).contains(&format) => {}
        Some(format) => {
            let why = format!(
                "layout {format} where this program reads 1 to {FORMAT}; shard the folder again"
            );
            return Err(fail(&path, why));
        }
        None => return Err(foreign(&"no format")),
    }
    serde_json::from_value(any).map(Some).map_err(|e| foreign(&e))
}

/// A split of a folder of shards, as the folder it was made of would give it.
///
/// # Errors
/// A file that is missing or shorter than the index says; a label without a class; no image.
pub fn open(root: &Path, split: Split, index: &Index) -> Result<ImageFolder, DataError> {
    let (folder, shards) = match split {
        Split::Train => (&index.train_folder, &index.train),
        Split::Val => (&index.val_folder, &index.val),
    };
    let place = if folder.is_empty() { root.to_path_buf() } else { root.join(folder) };
    let (mut files, mut places, mut items) = (Vec::new(), HashMap::new(), Vec::new());
    let mut order = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let path = root.join(&shard.file);
        let length = std::fs::metadata(&path)
            .map_err(|e| fail(&path, format!("{e}; copy the shards again")))?
            .len();
        if length != shard.bytes {
            let why = format!("{length} bytes where the index has {}; copy it again", shard.bytes);
            return Err(fail(&path, why));
        }
        for Member(from, count, label, crc, name) in &shard.images {
            let end = from.checked_add(*count).is_some_and(|end| end <= length);
            if *label >= index.classes.len() || !end {
                let why = format!(
                    "`{name}` lies outside its file or has no class; shard the folder again"
                );
                return Err(fail(&root.join(INDEX), why));
            }
            let image = place.join(name);
            let there = Place { file: number, from: *from, count: *count as usize, crc: *crc };
            if places.insert(image.clone(), there).is_some() {
                let why = format!("two images are called `{name}`; rename one and shard again");
                return Err(fail(&root.join(INDEX), why));
            }
            items.push((image, *label));
        }
        order.extend(&shard.order);
        files.push(path);
    }
    if !order.is_empty() {
        items = in_order(items, &order).ok_or_else(|| {
            let why = "not every image has a place of its own in the folder's order; shard the folder again";
            fail(&root.join(INDEX), why)
        })?;
    }
    if items.is_empty() {
        let why = match split {
            Split::Train => "no image of this split in the shards; shard a folder that has it",
            Split::Val => {
                "no image of this split in the shards; shard a folder that has it, or train with --val-fraction 0.1"
            }
        };
        return Err(fail(&place, why));
    }
    let open = Mutex::new(Vec::with_capacity(OPEN));
    let shards = Some(Arc::new(Shards { files, open, places }));
    let (classes, notes) = (index.classes.clone(), Vec::new());
    Ok(ImageFolder { root: place, classes, items, notes, exif: false, shards })
}

/// Megabytes that the windows of `--shard-window` take; 0 without them.
pub fn window_mb(folder: &ImageFolder, images: usize) -> f64 {
    let layout = if images > 0 { Layout::new(folder, images) } else { None };
    layout.map_or(0.0, |layout| layout.bytes(folder) as f64 / f64::from(1 << 20))
}

/// The items by their numbers; `None` where these are not all the numbers there are, each once.
fn in_order<T>(items: Vec<T>, order: &[usize]) -> Option<Vec<T>> {
    let mut sorted: Vec<Option<T>> = items.iter().map(|_| None).collect();
    if order.len() != sorted.len() {
        return None;
    }
    for (item, number) in items.into_iter().zip(order) {
        sorted.get_mut(*number)?.replace(item);
    }
    sorted.into_iter().collect()
}

impl Shards {
    /// How many files there are.
    pub(crate) fn files(&self) -> usize {
        self.files.len()
    }

    /// Where an image is.
    ///
    /// # Panics
    /// When it is in none of the files.
    pub(crate) fn place(&self, image: &Path) -> Place {
        self.places[image]
    }

    /// Reads a part of a file, whatever lies in it.
    ///
    /// # Errors
    /// Whatever the system says.
    pub(crate) fn read_run(&self, file: usize, from: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        read_at(&*self.file(file)?, from, bytes)
    }

    /// Reads an image into memory that is there, and verifies it.
    ///
    /// # Errors
    /// A sentence.
    pub fn read(&self, image: &Path, bytes: &mut Vec<u8>) -> Result<(), String> {
        let Place { file: number, from, count, crc } = self.place(image);
        let path = &self.files[number];
        bytes.clear();
        bytes.resize(count, 0);
        self.file(number)
            .and_then(|file| read_at(&file, from, bytes))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        if crc32fast::hash(bytes) != crc {
            return Err(format!("altered in {} (checksum); copy it again", path.display()));
        }
        Ok(())
    }

    /// Bytes and checksum of an image, as the index has them.
    pub fn identity(&self, image: &Path) -> (u64, u32) {
        let Place { count, crc, .. } = self.place(image);
        (count as u64, crc)
    }

    /// The file of a number, open: read by place, threads share it. The one not used for longest is closed for it.
    fn file(&self, number: usize) -> std::io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.iter().position(|(other, _)| *other == number) {
            Some(at) => open.remove(at).1,
            None => {
                if open.len() >= OPEN {
                    open.remove(0);
                }
                Arc::new(File::open(&self.files[number])?)
            }
        };
        open.push((number, Arc::clone(&file)));
        Ok(file)
    }
}

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
