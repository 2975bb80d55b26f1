//! Images in tar files: the folder of `kindling data shard`, read like the folder it was made of.
//!
//! For every image, `index.json` has the file, offset, length, label and checksum, and for shuffled
//! files the number of the image in the folder. An image is read at its offset, so that order,
//! quarantine and every bit of a training are those of the folder; or, with `--shard-window`, in
//! the order of the files (`shards/order.rs`), which are then read from front to back
//! (`shards/read_ahead.rs`).

pub(crate) mod interleave;
pub mod order;
pub(crate) mod read_ahead;
pub(crate) mod tar;
pub(crate) mod writer;

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Component, Path};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::storage::is_about_the_file;
use crate::datasets::tar_reader::{TarEntry, TarReader};

/// The file that makes a folder one of shards.
pub const INDEX: &str = "index.json";

/// Newest version of the index. Version 1 has the images in the order of the folder; it is written
/// still where they are, and read.
pub const FORMAT: u32 = 2;

/// The content of a folder of shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardIndex {
    /// Version of the layout.
    pub format: u32,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// The files of the training split.
    pub train: Vec<Shard>,
    /// The files of the evaluation split, if the folder had one.
    pub val: Vec<Shard>,
    /// Folder that was the training split, empty where that was the folder itself: what a
    /// quarantine list calls it.
    #[serde(default = "train", skip_serializing_if = "is_train")]
    pub train_folder: String,
    /// Folder that was the evaluation split.
    #[serde(default = "val", skip_serializing_if = "is_val")]
    pub val_folder: String,
    /// Images that were omitted because the quarantine list names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// CRC-32 of the index without this field, as compact JSON in the order of these fields; older
    /// ones have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32: Option<u32>,
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

impl ShardIndex {
    /// The text of `index.json`, with its checksum.
    pub fn to_json(mut self) -> Vec<u8> {
        self.crc32 = None;
        self.crc32 = Some(self.checksum());
        serde_json::to_vec(&self).expect("an index is plain data")
    }

    /// The checksum of an index without one.
    fn checksum(&self) -> u32 {
        /// Counts what is written to it.
        struct Checksum(crc32fast::Hasher);
        impl std::io::Write for Checksum {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.update(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut checksum = Checksum(crc32fast::Hasher::new());
        serde_json::to_writer(&mut checksum, self).expect("an index is plain data");
        checksum.0.finalize()
    }

    /// What cannot be in an index that `kindling data shard` wrote, as a sentence.
    fn fault(&self) -> Option<String> {
        let again = "shard the folder again";
        if self.classes.len() < 2 {
            return Some(format!("{} classes, expected at least 2; {again}", self.classes.len()));
        }
        let mut seen = HashSet::new();
        let odd = |name: &String| !is_below(name) || Path::new(name).components().count() != 1;
        if let Some(class) = self.classes.iter().find(|class| odd(class) || !seen.insert(*class)) {
            return Some(format!("`{class}` is no class name, or stands there twice; {again}"));
        }
        for folder in [&self.train_folder, &self.val_folder] {
            if !folder.is_empty() && !is_below(folder) {
                return Some(format!("`{folder}` is no folder of a split; {again}"));
            }
        }
        let mut files = HashSet::new();
        for shard in self.train.iter().chain(&self.val) {
            if odd(&shard.file) || !files.insert(&shard.file) {
                let file = &shard.file;
                return Some(format!("`{file}` is no file name, or stands there twice; {again}"));
            }
            if let Some(image) = shard.images.iter().find(|image| !is_below(&image.4)) {
                return Some(format!("`{}` is no path below a split; {again}", image.4));
            }
        }
        None
    }

    /// Names as a quarantine list has them, of the images that are there or were left out for such
    /// a list.
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

/// Whether a path stays below the folder that it is joined to.
fn is_below(path: &str) -> bool {
    let plain = |part: Component| matches!(part, Component::Normal(_));
    !path.is_empty() && Path::new(path).components().all(plain)
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
    /// For each image of a shuffled file: its number among the split's images in the order of the
    /// folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<usize>,
}

/// An image of a tar file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member(
    /// First byte of the image.
    pub u64,
    /// Length in bytes.
    pub u64,
    /// Label.
    pub usize,
    /// CRC-32 of the bytes.
    pub u32,
    /// Path below the split, `<class>/<name>`.
    pub String,
);

/// The index of a folder, if it is one of shards.
///
/// # Errors
/// An index that cannot be read, or of another layout.
pub fn index(root: &Path) -> Result<Option<ShardIndex>, DataError> {
    let path = root.join(INDEX);
    // A folder of images is one, whatever else lies in it.
    if root.join("train").is_dir() || !path.is_file() {
        return Ok(None);
    }
    let bytes = std::fs::read(&path).map_err(|e| match is_about_the_file(&e) {
        true => DataError::unreadable(&path, &e),
        false => DataError::storage(&path, &e),
    })?;
    let foreign = |e: &dyn std::fmt::Display| {
        DataError::folder(
            &path,
            format!("not the index of `kindling data shard` ({e}); shard the folder again"),
        )
    };
    let any: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| foreign(&e))?;
    match any.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if (1..=u64::from(FORMAT)).contains(&format) => {}
        Some(format) => {
            let why = format!(
                "layout {format} where this program reads 1 to {FORMAT}; shard the folder again"
            );
            return Err(DataError::folder(&path, why));
        }
        None => return Err(foreign(&"no format")),
    }
    let mut index: ShardIndex = serde_json::from_value(any).map_err(|e| foreign(&e))?;
    let stated = index.crc32.take();
    if stated.is_some_and(|stated| stated != index.checksum()) {
        return Err(DataError::folder(&path, "altered (checksum); copy it again"));
    }
    match index.fault() {
        Some(why) => Err(DataError::folder(&path, why)),
        None => Ok(Some(index)),
    }
}

/// A split of a folder of shards, as the folder it was made of would give it.
///
/// # Errors
/// A file that is missing or shorter than the index says; a label without a class; no image.
pub fn open(root: &Path, split: Split, index: &ShardIndex) -> Result<ImageFolder, DataError> {
    open_files(root, split, index, false)
}

/// A split of which this host may have some of the files, and the index all images: see [`open`].
///
/// # Errors
/// As [`open`], but for files that are missing.
pub fn open_part(root: &Path, split: Split, index: &ShardIndex) -> Result<ImageFolder, DataError> {
    open_files(root, split, index, true)
}

fn open_files(
    root: &Path,
    split: Split,
    index: &ShardIndex,
    some: bool,
) -> Result<ImageFolder, DataError> {
    let (folder, shards) = match split {
        Split::Train => (&index.train_folder, &index.train),
        Split::Val => (&index.val_folder, &index.val),
    };
    let split_folder = if folder.is_empty() { root.to_path_buf() } else { root.join(folder) };
    let (mut files, mut entries, mut items) = (Vec::new(), HashMap::new(), Vec::new());
    let mut order = Vec::new();
    for (number, shard) in shards.iter().enumerate() {
        let path = root.join(&shard.file);
        let length = match std::fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(e) if some && e.kind() == ErrorKind::NotFound => shard.bytes,
            Err(e) => return Err(DataError::folder(&path, format!("{e}; copy the shards again"))),
        };
        if length != shard.bytes {
            let why = format!("{length} bytes where the index has {}; copy it again", shard.bytes);
            return Err(DataError::folder(&path, why));
        }
        for Member(from, count, label, crc, name) in &shard.images {
            let end = from.checked_add(*count).is_some_and(|end| end <= length);
            if *label >= index.classes.len() || !end {
                let why = format!(
                    "`{name}` lies outside its file or has no class; shard the folder again"
                );
                return Err(DataError::folder(&root.join(INDEX), why));
            }
            let image = split_folder.join(name);
            let entry = TarEntry { file: number, from: *from, count: *count as usize, crc: *crc };
            if entries.insert(image.clone(), entry).is_some() {
                let why = format!("two images are called `{name}`; rename one and shard again");
                return Err(DataError::folder(&root.join(INDEX), why));
            }
            items.push((image, *label));
        }
        order.extend(&shard.order);
        files.push(path);
    }
    if !order.is_empty() {
        items = in_order(items, &order).ok_or_else(|| {
            let why = "not every image has a number of its own in the folder's order; shard the folder again";
            DataError::folder(&root.join(INDEX), why)
        })?;
    }
    if items.is_empty() {
        let why = match split {
            Split::Train => "no image of this split in the shards; shard a folder that has it",
            Split::Val => {
                "no image of this split in the shards; shard a folder that has it, or train with --val-fraction 0.1"
            }
        };
        return Err(DataError::folder(&split_folder, why));
    }
    let shards = Some(Arc::new(TarReader::new(files, entries)));
    let (classes, notes) = (index.classes.clone(), Vec::new());
    Ok(ImageFolder { root: split_folder, classes, items, notes, shards })
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
