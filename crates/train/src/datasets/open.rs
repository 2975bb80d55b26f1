//! Opens the splits of a data set: class folders or shards, a training split, an evaluation split.
//! The class list comes from the training split and is shared with the evaluation split, so that no
//! empty or additional folder can shift an index.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::layout::{train_folder, val_folder};
use crate::datasets::listing::{
    entries, entries_and_litter, images, is_image, named, notes, subfolders,
};
use crate::datasets::passed_over::{foreign_name, take_notes};
use crate::datasets::shards;
use crate::datasets::shards::Split;
use crate::datasets::storage::is_about_the_file;
use crate::suggest::did_you_mean;

impl ImageFolder {
    /// The training split of `root`: `root/train`, or the folder named by `split` (empty: `root`
    /// itself).
    ///
    /// # Errors
    /// [`DataError::Folder`] when there is none, no class folder, or no image.
    pub fn open_train(root: &Path, split: Option<&str>) -> Result<Self, DataError> {
        if let Some(index) = shards::index(root)? {
            return shards::open(root, Split::Train, &index);
        }
        let folder = match split {
            Some("") => root.to_path_buf(),
            Some(named) => root.join(named),
            None => train_folder(root).unwrap_or_else(|| root.join("train")),
        };
        check_folder(root, "give a folder with train/<class>/* and val/<class>/*")?;
        check_folder(&folder, "the images to train on are expected there, by class")?;
        let classes = subfolders(&folder)?;
        refuse_flat(&folder, &classes)?;
        if classes.len() < 2 {
            return Err(DataError::folder(
                &folder,
                "at least two class folders are needed to train",
            ));
        }
        let read = Self::gather(&folder, classes)?;
        for (class, count) in read.classes.iter().zip(read.class_counts()) {
            if count == 0 {
                let why = "no image of this class to train on; add some or remove the folder";
                return Err(DataError::folder(&folder.join(class), why));
            }
        }
        Ok(read)
    }

    /// The training split of `root` where its shards lie on several hosts, of which this one may
    /// have some. Its items are those of all shards.
    ///
    /// # Errors
    /// As [`ImageFolder::open_train`], but for shards that are missing.
    pub fn open_train_part(root: &Path) -> Result<Self, DataError> {
        match shards::index(root)? {
            Some(index) => shards::open_part(root, Split::Train, &index),
            None => Self::open_train(root, None),
        }
    }

    /// The evaluation split of `root`: the folder named by `split`, the first of
    /// [`crate::datasets::layout::VAL_NAMES`], or
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
                return Err(DataError::folder(root, why));
            }
            let split = match split {
                None | Some("val") => Split::Val,
                Some(name) if name == index.val_folder => Split::Val,
                Some(name) if name == index.train_folder => Split::Train,
                Some(name) => {
                    let val = if index.val.is_empty() { "" } else { ", val" };
                    let why = format!("no split `{name}` in these shards, which hold train{val}");
                    return Err(DataError::folder(root, why));
                }
            };
            return shards::open(root, split, &index);
        }
        let gone = |name: &&str| root.join(name).try_exists().is_ok_and(|there| !there);
        if let Some(name) = split.filter(gone) {
            let near = did_you_mean(name, &subfolders(root)?);
            let why = format!("no such folder{near}; the images to evaluate on are expected there");
            return Err(DataError::folder(&root.join(name), why));
        }
        let given = split.map(|name| root.join(name));
        let usual = || val_folder(root);
        let own =
            || subfolders(root).ok()?.iter().any(|f| classes.contains(f)).then(|| root.into());
        let Some(folder): Option<PathBuf> = given.or_else(usual).or_else(own) else {
            let why = "no val, validation, valid or test folder, and no class folder of the training; add one, or \
                 train with --val-fraction 0.1";
            if entries(root)?.iter().any(|p| is_image(p)) {
                refuse_flat(root, &[])?;
            }
            return Err(DataError::folder(root, why));
        };
        check_folder(&folder, "the images to evaluate on are expected there, by class")?;
        let found = subfolders(&folder)?;
        refuse_flat(&folder, &found)?;
        let mut notes = Vec::new();
        let known: HashSet<&String> = classes.iter().collect();
        for extra in found.iter().filter(|f| !known.contains(f)) {
            if !images(&folder.join(extra), &mut Vec::new())?.is_empty() {
                let why = "images of a class that the training does not have; remove the folder \
                           or train with it";
                return Err(DataError::folder(&folder.join(extra), why));
            }
            notes.push(format!(
                "{}: empty, and no class of the training",
                folder.join(extra).display()
            ));
        }
        let mut read = Self::gather(&folder, classes.to_vec())?;
        let counts = read.class_counts();
        let empty = classes.iter().zip(counts).filter(|(_, count)| *count == 0);
        let empty: Vec<&str> = empty.map(|(class, _)| class.as_str()).collect();
        if !empty.is_empty() {
            notes.push(format!("{}: no image of {}", folder.display(), named(&empty)));
        }
        read.notes.splice(0..0, notes);
        Ok(read)
    }

    /// The class folders of the images to evaluate on, sorted by code points as torchvision's
    /// `ImageFolder` sorts them: those of the split, or of `root` itself.
    ///
    /// # Errors
    /// [`DataError`]: a folder that is missing or holds no class folder.
    pub fn val_classes(root: &Path, split: Option<&str>) -> Result<Vec<String>, DataError> {
        check_folder(root, "give a folder with val/<class>/* or <class>/*")?;
        if let Some(index) = shards::index(root)? {
            return Ok(index.classes);
        }
        let folder = match split {
            Some(name) => root.join(name),
            None => val_folder(root).unwrap_or_else(|| root.to_path_buf()),
        };
        check_folder(&folder, "the images to evaluate on are expected there, by class")?;
        let mut found = subfolders(&folder)?;
        found.sort_unstable();
        match found.is_empty() {
            true => Err(DataError::folder(&folder, "no class folder in it")),
            false => Ok(found),
        }
    }

    fn gather(folder: &Path, classes: Vec<String>) -> Result<Self, DataError> {
        let (mut items, mut ignored) = (Vec::new(), Vec::new());
        for (label, class) in classes.iter().enumerate() {
            let class_folder = folder.join(class);
            match std::fs::metadata(&class_folder) {
                Ok(found) if found.is_dir() => items.extend(
                    images(&class_folder, &mut ignored)?.into_iter().map(|path| (path, label)),
                ),
                // An evaluation split may lack a class.
                Ok(_) => {}
                Err(error) if is_about_the_file(&error) => {}
                Err(error) => return Err(DataError::storage(&class_folder, &error)),
            }
        }
        if items.is_empty() {
            let why = "no image (jpg, png, webp, bmp, gif, tiff) in its class folders";
            let notes = take_notes(&mut ignored);
            return Err(DataError::folder(
                folder,
                [&[why.to_owned()], &notes[..]].concat().join("; "),
            ));
        }
        let loose = loose_images(folder, &mut ignored)?;
        let mut found = take_notes(&mut ignored);
        found.extend(notes(&ignored));
        if let Some(first) = loose.first() {
            found.push(format!(
                "{} images beside the class folders left out, such as {}: move each into a folder named by its class",
                loose.len(),
                first.display()
            ));
        }
        Ok(Self { root: folder.to_path_buf(), classes, items, notes: found, shards: None })
    }
}

/// Images directly in the folder of a split, which have no class; what lies there besides class
/// folders and is no image of ours goes to `ignored`, if it has a name of its own.
fn loose_images(folder: &Path, ignored: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, DataError> {
    let mut loose = Vec::new();
    for path in entries_and_litter(folder, ignored)? {
        if is_image(&path) {
            loose.push(path);
        } else if foreign_name(&path).is_some() && path.is_file() {
            ignored.push(path);
        }
    }
    Ok(loose)
}

fn check_folder(path: &Path, way_out: &str) -> Result<(), DataError> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(DataError::folder(path, format!("a file, not a folder; {way_out}"))),
        Err(error) if is_about_the_file(&error) => {
            Err(DataError::folder(path, format!("no such folder; {way_out}")))
        }
        Err(error) => Err(DataError::storage(path, &error)),
    }
}

/// A split without class folders, like ILSVRC2012's flat val, would give labels that mean nothing.
fn refuse_flat(folder: &Path, classes: &[String]) -> Result<(), DataError> {
    if !classes.is_empty() {
        return Ok(());
    }
    let any = entries(folder)?.iter().any(|p| is_image(p));
    match any {
        true => Err(DataError::folder(
            folder,
            "images without class folders (a raw ILSVRC val?); move each into a folder named by \
             its class",
        )),
        false => Err(DataError::folder(
            folder,
            "no class folder in it; expected <class>/*.jpg and the like",
        )),
    }
}
