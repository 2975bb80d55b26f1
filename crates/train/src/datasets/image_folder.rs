//! An ImageNet-style folder: `train/<class>/*`, `val/<class>/*`. The class list comes from train and
//! is shared with val, so that no empty or extra folder can shift an index.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataset::{Dataset, DatasetError};
use image::RgbImage;
use thiserror::Error;

use crate::datasets::shards;
use crate::datasets::shards::{Shards, Split};
use transforms::decode::decode;
use transforms::random::permutation;

/// Names that the evaluation split may have, in order of preference.
pub const VAL_NAMES: [&str; 4] = ["val", "validation", "valid", "test"];

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// What can be wrong with a data set.
#[derive(Debug, Error)]
pub enum DataError {
    /// The folder itself.
    #[error("{}: {why}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What is wrong and the way out.
        why: String,
    },
    /// One image, when images may not be skipped.
    #[error("{}: {why}; repair or remove it, or leave --strict-data away", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// One decoded image.
#[derive(Clone, Debug)]
pub struct Example {
    /// RGB, 8 bits.
    pub pixels: RgbImage,
    /// Index into the class list.
    pub label: usize,
    /// Index into the folder's items.
    pub index: usize,
}

/// One split: its images with labels, in natural order.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// The split's folder.
    pub root: PathBuf,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Image and label.
    pub items: Vec<(PathBuf, usize)>,
    /// What a user should know: empty classes, ignored files.
    pub notes: Vec<String>,
    /// Whether images are turned by their EXIF orientation when read through [`Dataset`].
    pub exif: bool,
    /// The tar files that hold the images, where they are no files of their own.
    pub shards: Option<Arc<Shards>>,
}

impl ImageFolder {
    /// The training split of `root`: `root/train`, or the folder named by `split` (empty: `root` itself).
    ///
    /// # Errors
    /// [`DataError::Folder`] when there is none, no class folder, or no image.
    pub fn open_train(root: &Path, split: Option<&str>) -> Result<Self, DataError> {
        if let Some(index) = shards::index(root)? {
            return shards::open(root, Split::Train, &index);
        }
        let folder = match split {
            Some("") => root.to_path_buf(),
            named => root.join(named.unwrap_or("train")),
        };
        check_folder(root, "give a folder with train/<class>/* and val/<class>/*")?;
        check_folder(&folder, "the images to train on are expected there, by class")?;
        let classes = subfolders(&folder)?;
        refuse_flat(&folder, &classes)?;
        if classes.len() < 2 {
            return Err(fail(&folder, "at least two class folders are needed to train"));
        }
        let read = Self::gather(&folder, classes)?;
        for (class, count) in read.classes.iter().zip(read.class_counts()) {
            if count == 0 {
                let why = "no image of this class to train on; add some or remove the folder";
                return Err(fail(&folder.join(class), why));
            }
        }
        Ok(read)
    }

    /// Both splits out of one: a share of every class's images goes to the evaluation, chosen by `seed` and
    /// the image's number alone. `root` holds `train/<class>/*`, or the class folders themselves.
    ///
    /// # Errors
    /// As [`ImageFolder::open_train`]; a class of a single image, which cannot be shared.
    ///
    /// # Panics
    /// When `share` is not between 0 and 1.
    pub fn split(root: &Path, share: f64, seed: u64) -> Result<(Self, Self), DataError> {
        assert!(share > 0.0 && share < 1.0, "a share of {share} of the images");
        check_folder(root, "give a folder with train/<class>/* or <class>/*")?;
        let all = match root.join("train").is_dir() || root.join(shards::INDEX).is_file() {
            true => Self::open_train(root, None)?,
            false => Self::open_train(root, Some(""))?,
        };
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (label, class) in all.classes.iter().enumerate() {
            let own: Vec<_> = all.items.iter().filter(|(_, l)| *l == label).cloned().collect();
            if own.len() < 2 {
                let why =
                    "a single image cannot be shared between training and evaluation; add one";
                return Err(fail(&all.root.join(class), why));
            }
            let count = ((own.len() as f64 * share).round() as usize).clamp(1, own.len() - 1);
            let order = permutation(own.len(), seed, label as u64);
            let chosen: HashSet<usize> = order.into_iter().take(count).collect();
            for (i, item) in own.into_iter().enumerate() {
                if chosen.contains(&i) { val.push(item) } else { train.push(item) }
            }
        }
        let note = format!("{} of {} images set aside for evaluation", val.len(), all.items.len());
        let val = Self { items: val, notes: vec![note], ..all.clone() };
        Ok((Self { items: train, ..all }, val))
    }

    /// The evaluation split of `root`: the folder named by `split`, the first of [`VAL_NAMES`], or
    /// `root` itself when it holds the class folders. Labels follow `classes`.
    ///
    /// # Errors
    /// [`DataError::Folder`]: no split, a flat folder, images of an unknown class, no image.
    pub fn open_val(
        root: &Path,
        split: Option<&str>,
        classes: &[String],
    ) -> Result<Self, DataError> {
        check_folder(root, "give a folder with val/<class>/*")?;
        if let Some(index) = shards::index(root)? {
            if index.classes != classes {
                let why = "shards of other classes than the training's; shard the folder it was trained on";
                return Err(fail(root, why));
            }
            let split = match split {
                None | Some("val") => Split::Val,
                Some(name) if name == index.val_folder => Split::Val,
                Some(name) if name == index.train_folder => Split::Train,
                Some(name) => {
                    let val = if index.val.is_empty() { "" } else { ", val" };
                    let why = format!("no split `{name}` in these shards, which hold train{val}");
                    return Err(fail(root, &why));
                }
            };
            return shards::open(root, split, &index);
        }
        let named = split.map(|name| root.join(name));
        let usual = || VAL_NAMES.iter().map(|n| root.join(n)).find(|p| p.is_dir());
        let own =
            || subfolders(root).ok()?.iter().any(|f| classes.contains(f)).then(|| root.into());
        let Some(folder): Option<PathBuf> = named.or_else(usual).or_else(own) else {
            let why = "no val, validation, valid or test folder, and no class folder of the training; add one, or \
                 train with --val-fraction 0.1";
            if entries(root)?.iter().any(|p| is_image(p)) {
                refuse_flat(root, &[])?;
            }
            return Err(fail(root, why));
        };
        check_folder(&folder, "the images to evaluate on are expected there, by class")?;
        let found = subfolders(&folder)?;
        refuse_flat(&folder, &found)?;
        let mut notes = Vec::new();
        for extra in found.iter().filter(|f| !classes.contains(f)) {
            if !images(&folder.join(extra), &mut Vec::new())?.is_empty() {
                let why = "images of a class that the training does not have; remove the folder \
                           or train with it";
                return Err(fail(&folder.join(extra), why));
            }
            notes.push(format!(
                "{}: empty, and no class of the training",
                folder.join(extra).display()
            ));
        }
        let mut read = Self::gather(&folder, classes.to_vec())?;
        for (class, count) in classes.iter().zip(read.class_counts()) {
            if count == 0 {
                notes.push(format!("{}: no image of class {class}", folder.display()));
            }
        }
        read.notes.splice(0..0, notes);
        Ok(read)
    }

    fn gather(folder: &Path, classes: Vec<String>) -> Result<Self, DataError> {
        let (mut items, mut ignored) = (Vec::new(), Vec::new());
        for (label, class) in classes.iter().enumerate() {
            let place = folder.join(class);
            if place.is_dir() {
                items.extend(images(&place, &mut ignored)?.into_iter().map(|path| (path, label)));
            }
        }
        if items.is_empty() {
            return Err(fail(
                folder,
                "no image (jpg, png, webp, bmp, gif, tiff) in its class folders",
            ));
        }
        let notes = match ignored.len() {
            0 => Vec::new(),
            n => vec![format!(
                "{n} files that are no images ignored, such as {}",
                ignored[0].display()
            )],
        };
        Ok(Self { root: folder.to_path_buf(), classes, items, notes, exif: false, shards: None })
    }

    /// Images of each class.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.items.iter().for_each(|&(_, label)| counts[label] += 1);
        counts
    }

    /// Reads the bytes of one image into memory that is there.
    ///
    /// # Errors
    /// [`DataError::Image`].
    pub fn bytes(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let (path, _) = &self.items[index];
        if let Some(shards) = &self.shards {
            // Not one image's fault: the run would no longer be that of the folder.
            return shards.read(path, bytes).map_err(|why| fail(path, &why));
        }
        bytes.clear();
        let read = std::fs::File::open(path).and_then(|mut file| file.read_to_end(bytes));
        read.map(|_| ()).map_err(|e| DataError::Image { path: path.clone(), why: e.to_string() })
    }

    /// Reads and decodes one image.
    ///
    /// # Errors
    /// [`DataError::Image`].
    pub fn read(&self, index: usize, exif: bool) -> Result<Example, DataError> {
        let (path, label) = &self.items[index];
        let image = |why: String| DataError::Image { path: path.clone(), why };
        let mut bytes = Vec::new();
        self.bytes(index, &mut bytes)?;
        let pixels = decode(&bytes, exif).map_err(|e| image(e.to_string()))?;
        Ok(Example { pixels, label: *label, index })
    }
}

impl Dataset<Example> for ImageFolder {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        self.read(index, self.exif).map_err(DatasetError::new)
    }

    fn len(&self) -> usize {
        self.items.len()
    }
}

fn fail(path: &Path, why: &str) -> DataError {
    DataError::Folder { path: path.to_path_buf(), why: why.to_owned() }
}

fn check_folder(path: &Path, way_out: &str) -> Result<(), DataError> {
    match (path.is_dir(), path.exists()) {
        (true, _) => Ok(()),
        (false, true) => Err(fail(path, &format!("a file, not a folder; {way_out}"))),
        (false, false) => Err(fail(path, &format!("no such folder; {way_out}"))),
    }
}

/// A split without class folders, like ILSVRC2012's flat val, would give labels that mean nothing.
fn refuse_flat(folder: &Path, classes: &[String]) -> Result<(), DataError> {
    if !classes.is_empty() {
        return Ok(());
    }
    let any = entries(folder)?.iter().any(|p| is_image(p));
    match any {
        true => Err(fail(
            folder,
            "images without class folders (a raw ILSVRC val?); move each into a folder named by \
             its class",
        )),
        false => Err(fail(folder, "no class folder in it; expected <class>/*.jpg and the like")),
    }
}

pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let list = std::fs::read_dir(folder).map_err(|e| fail(folder, &e.to_string()))?;
    let mut found: Vec<PathBuf> = list
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| !p.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')))
        .collect();
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(found)
}

fn subfolders(folder: &Path) -> Result<Vec<String>, DataError> {
    let folders = entries(folder)?.into_iter().filter(|p| p.is_dir());
    folders
        .map(|path| match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => Ok(name.to_owned()),
            None => Err(fail(&path, "the name of a class is not UTF-8; rename the folder")),
        })
        .collect()
}

pub(crate) fn is_image(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|x| EXTENSIONS.contains(&x.to_string_lossy().to_lowercase().as_str()))
}

/// Folders in folders in a class; more is a link that leads back up.
const DEPTH: usize = 8;

/// Images below `folder`, in natural order; other files go to `ignored`.
pub(crate) fn images(folder: &Path, ignored: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, DataError> {
    images_within(folder, ignored, DEPTH)
}

fn images_within(
    folder: &Path,
    ignored: &mut Vec<PathBuf>,
    depth: usize,
) -> Result<Vec<PathBuf>, DataError> {
    if depth == 0 {
        let why =
            format!("more than {DEPTH} folders deep, or a link that leads back up; remove it");
        return Err(fail(folder, &why));
    }
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            found.extend(images_within(&path, ignored, depth - 1)?);
        } else if is_image(&path) {
            found.push(path);
        } else {
            ignored.push(path);
        }
    }
    Ok(found)
}

/// Digits compare as numbers: `2` before `10`; equal numbers by their text.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    while let (Some(p), Some(q)) = (x.chars().next(), y.chars().next()) {
        if p.is_ascii_digit() && q.is_ascii_digit() {
            let digits = |t: &str| t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
            let ((m, xs), (n, ys)) = (x.split_at(digits(x)), y.split_at(digits(y)));
            let (m, n) = (m.trim_start_matches('0'), n.trim_start_matches('0'));
            let order = m.len().cmp(&n.len()).then_with(|| m.cmp(n));
            if order != Ordering::Equal {
                return order;
            }
            (x, y) = (xs, ys);
        } else if p == q {
            (x, y) = (&x[p.len_utf8()..], &y[q.len_utf8()..]);
        } else {
            return p.cmp(&q);
        }
    }
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn numeric_folders_sort_as_numbers() {
        let mut names: Vec<String> = (0..1000).rev().map(|n| n.to_string()).collect();
        names.sort_by(|a, b| natural(a, b));
        assert!(names.iter().enumerate().all(|(i, n)| *n == i.to_string()));
        assert!(natural("img9.png", "img10.png").is_lt());
        assert!(natural("01", "1").is_lt());
    }
}
