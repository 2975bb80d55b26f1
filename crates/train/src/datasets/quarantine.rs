//! The quarantine list of a folder of images: what training and evaluation leave out. One line for
//! an image: its path relative to the folder, a TAB, the reason.
//! `kindling data check --write-quarantine` writes it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::shards;
use crate::error::Error;
use crate::files::write_atomically;
use crate::text_list::{Line, lines, read_text};

/// Name of the list in its folder.
pub const FILE: &str = "quarantine.txt";

/// A list as read, or as it will be written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quarantine {
    /// Relative path with `/` -> reason.
    entries: BTreeMap<String, String>,
}

impl Quarantine {
    /// Reads a list.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Data`] with the line: no TAB, a path that is absolute or leads
    /// out of the folder; [`crate::error::ErrorKind::File`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let name = path.display();
        let text = read_text(path)
            .map_err(|why| Error::file(format!("{name}: the quarantine list: {why}")))?;
        let mut entries = BTreeMap::new();
        for Line { number, text, whole } in lines(&text) {
            let wrong = |why: &str| Error::data(format!("{name}: line {number}: `{text}`: {why}"));
            let (image, reason) = whole
                .split_once('\t')
                .map(|(image, reason)| (image.trim(), reason.trim()))
                .ok_or_else(|| wrong("expected a relative path, a TAB and the reason"))?;
            let inside = |c: Component| matches!(c, Component::Normal(_) | Component::CurDir);
            if image.is_empty() || !Path::new(image).components().all(inside) {
                return Err(wrong("expected a path inside the folder of images, without `..`"));
            }
            entries.insert(image.to_owned(), reason.to_owned());
        }
        Ok(Self { entries })
    }

    /// The list of `root`: the file named, or [`FILE`] in the folder if it is there.
    ///
    /// # Errors
    /// The errors of [`Quarantine::read`].
    pub fn of(root: &Path, named: Option<&Path>) -> Result<Self, Error> {
        match (named, root.join(FILE)) {
            (Some(path), _) => Self::read(path),
            (None, path) if path.is_file() => Self::read(&path),
            (None, _) => Ok(Self::default()),
        }
    }

    /// Adds an image of `root`; an older reason stays. Whether it was new, or why it cannot be
    /// listed.
    pub fn add(&mut self, root: &Path, image: &Path, reason: &str) -> Result<bool, String> {
        let name = relative(root, image)
            .filter(|name| !name.contains(['\t', '\n', '\r']))
            .ok_or_else(|| format!("{}: such a name cannot be listed", image.display()))?;
        if self.entries.contains_key(&name) {
            return Ok(false);
        }
        self.entries.insert(name, reason.replace(['\t', '\n', '\r'], " "));
        Ok(true)
    }

    /// Images on the list.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Full paths of what is listed.
    pub fn paths(&self, root: &Path) -> HashSet<PathBuf> {
        self.entries.keys().map(|name| root.join(name)).collect()
    }

    /// Listed images that are not there: in the folder, or in its shards, which know those left out
    /// of them too.
    pub fn missing(&self, root: &Path) -> Vec<&str> {
        let index = if self.is_empty() { None } else { shards::index(root).ok().flatten() };
        let held = index.map(|index| index.names());
        let absent = |name: &&str| match &held {
            Some(held) => !held.contains(*name),
            None => !root.join(name).exists(),
        };
        self.entries.keys().map(String::as_str).filter(absent).collect()
    }

    /// Writes the list, sorted by path.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::File`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let lines: String =
            self.entries.iter().map(|(name, why)| format!("{name}\t{why}\n")).collect();
        write_atomically(path, lines.as_bytes())
    }
}

/// Path below `root`, with `/`.
pub fn relative(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> =
        path.strip_prefix(root).ok()?.components().map(|c| c.as_os_str().to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

/// Removes the quarantined images from both splits of `root`, and notes how many. The list is
/// `named`, or [`FILE`] in `root`.
///
/// # Errors
/// A malformed list; a class or an evaluation split without an image left.
pub fn leave_out(
    root: &Path,
    named: Option<&Path>,
    train: &mut ImageFolder,
    val: &mut ImageFolder,
) -> Result<(), Error> {
    let list = Quarantine::of(root, named)?;
    let list_path = named.map_or_else(|| root.join(FILE), Path::to_path_buf);
    let gone = leave_out_of(&list, root, train) + leave_out_of(&list, root, val);
    for (class, count) in train.classes.iter().zip(train.class_counts()) {
        if count == 0 {
            return Err(none_left(&list_path, &format!("of class {class} is left to train on")));
        }
    }
    if val.items.is_empty() {
        return Err(none_left(&list_path, "is left to evaluate on"));
    }
    train.notes.extend(notes(&list, root, &list_path, gone));
    Ok(())
}

/// Removes the quarantined images from a split that is evaluated alone, and notes how many.
///
/// # Errors
/// A malformed list; no image left.
pub fn leave_out_of_val(
    root: &Path,
    named: Option<&Path>,
    val: &mut ImageFolder,
) -> Result<(), Error> {
    let list = Quarantine::of(root, named)?;
    let list_path = named.map_or_else(|| root.join(FILE), Path::to_path_buf);
    let gone = leave_out_of(&list, root, val);
    if val.items.is_empty() {
        return Err(none_left(&list_path, "is left to evaluate on"));
    }
    val.notes.extend(notes(&list, root, &list_path, gone));
    Ok(())
}

fn none_left(list_path: &Path, what: &str) -> Error {
    Error::data(format!(
        "{}: no image {what}; take some off the list, add others, or give --ignore-quarantine",
        list_path.display()
    ))
}

/// Removes the listed images from a split; the number of removed images.
pub(crate) fn leave_out_of(list: &Quarantine, root: &Path, split: &mut ImageFolder) -> usize {
    let (before, listed) = (split.items.len(), list.paths(root));
    split.items.retain(|(path, _)| !listed.contains(path));
    before - split.items.len()
}

/// Notes for the user about a list that was applied.
fn notes(list: &Quarantine, root: &Path, list_path: &Path, gone: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if gone > 0 {
        notes.push(format!(
            "{gone} images left out, as {} says (--ignore-quarantine takes them)",
            list_path.display()
        ));
    }
    let missing = list.missing(root);
    if let Some(first) = missing.first() {
        notes.push(format!(
            "{}: {} of the listed images are not there, such as {first}",
            list_path.display(),
            missing.len()
        ));
    }
    notes
}
