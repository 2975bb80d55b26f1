//! The files of a folder: which count as images, and the order in which they are listed.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;
use crate::datasets::passed_over::is_litter;
use crate::datasets::storage::is_about_the_file;

/// Extensions of images, in lower case.
const EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jfif", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Everything directly in `folder` that is neither hidden nor litter, in natural order.
///
/// # Errors
/// A folder that cannot be read to its end: a part of it would pass for the whole.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    entries_and_litter(folder, &mut Vec::new())
}

/// [`entries`]; litter (`passed_over`) goes to `litter`.
pub(crate) fn entries_and_litter(
    folder: &Path,
    litter: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, DataError> {
    let failed = |e: io::Error| DataError::unreadable(folder, &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default();
        if is_litter(name) {
            litter.push(path);
        } else if !name.as_encoded_bytes().starts_with(b".") {
            found.push(path);
        }
    }
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(found)
}

/// What a path leads to; nothing for a link that leads nowhere.
///
/// # Errors
/// A path that the system cannot examine now.
fn metadata(path: &Path) -> Result<Option<Metadata>, DataError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_about_the_file(&error) => Ok(None),
        Err(error) => Err(DataError::storage(path, &error)),
    }
}

/// The names of the folders directly in `folder`, in natural order.
///
/// # Errors
/// A name that is not UTF-8; a link that leads back to `folder` or above it.
pub(crate) fn subfolders(folder: &Path) -> Result<Vec<String>, DataError> {
    let above = ancestors(folder)?;
    let mut names = Vec::new();
    for path in entries(folder)? {
        let Some(found) = metadata(&path)?.filter(Metadata::is_dir) else { continue };
        if above.contains(&identity(&path, &found)) {
            return Err(DataError::folder(&path, LEADS_BACK));
        }
        match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => names.push(name.to_owned()),
            None => {
                let why = "the name of a class is not UTF-8; rename the folder";
                return Err(DataError::folder(&path, why));
            }
        }
    }
    Ok(names)
}

/// What is wrong with a class folder that [`leads_back`].
pub(crate) const LEADS_BACK: &str = "a link that leads back to a folder above it; remove it";

/// Whether a folder in `folder` is a link to `folder` or to one above it.
pub(crate) fn leads_back(folder: &Path, path: &Path) -> bool {
    let found = std::fs::metadata(path).map(|found| identity(path, &found));
    found.is_ok_and(|found| ancestors(folder).is_ok_and(|above| above.contains(&found)))
}

/// What tells a folder from every other, by whatever links it was reached.
#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(_path: &Path, found: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (found.dev(), found.ino())
}

#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(not(unix))]
fn identity(path: &Path, _found: &Metadata) -> Identity {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// A folder and all above it.
fn ancestors(folder: &Path) -> Result<HashSet<Identity>, DataError> {
    let failed = |e: io::Error| DataError::unreadable(folder, &e);
    let whole = folder.canonicalize().map_err(failed)?;
    let named = folder.ancestors().filter(|path| !path.as_os_str().is_empty());
    let each =
        whole.ancestors().chain(named).map(|path| Ok(identity(path, &std::fs::metadata(path)?)));
    each.collect::<io::Result<_>>().map_err(failed)
}

/// Whether a path is a file with the extension of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    has_image_extension(path) && path.is_file()
}

/// Whether a name has the extension of an image.
pub(crate) fn has_image_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|x| EXTENSIONS.contains(&x.to_string_lossy().to_lowercase().as_str()))
}

/// Images below `folder`, in natural order; litter and everything else that is no folder goes to
/// `ignored`, and so do links to a folder that was read already or lies above: each image is listed
/// once.
pub(crate) fn images(folder: &Path, ignored: &mut Vec<PathBuf>) -> Result<Vec<PathBuf>, DataError> {
    images_within(folder, ignored, &mut ancestors(folder)?)
}

/// An image below `folder`, the first in natural order; none where the folder has none or cannot be
/// read.
pub(crate) fn first_image(folder: &Path) -> Option<PathBuf> {
    let mut entries = entries(folder).ok()?;
    entries.sort();
    let is_file = |path: &&PathBuf| is_image(path);
    let own = entries.iter().find(is_file).cloned();
    let below = |path: &PathBuf| if leads_back(folder, path) { None } else { first_image(path) };
    own.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(below))
}

fn images_within(
    folder: &Path,
    ignored: &mut Vec<PathBuf>,
    visited: &mut HashSet<Identity>,
) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for path in entries_and_litter(folder, ignored)? {
        match metadata(&path)? {
            Some(of) if of.is_dir() && visited.insert(identity(&path, &of)) => {
                found.extend(images_within(&path, ignored, visited)?);
            }
            Some(of) if of.is_file() && has_image_extension(&path) => found.push(path),
            _ => ignored.push(path),
        }
    }
    Ok(found)
}

/// Notes for the user on what [`images`] passed over, one for each kind.
pub(crate) fn notes(ignored: &[PathBuf]) -> Vec<String> {
    let (mut files, mut links, mut broken, mut special) = (vec![], vec![], vec![], vec![]);
    for path in ignored {
        match std::fs::metadata(path) {
            Ok(found) if found.is_file() => files.push(path),
            Ok(found) if found.is_dir() => links.push(path),
            Ok(_) => special.push(path),
            Err(_) => broken.push(path),
        }
    }
    let kinds = [
        (files, ["file that is no image ignored", "files that are no images ignored"]),
        (
            links,
            ["link to a folder that was read already", "links to folders that were read already"],
        ),
        (broken, ["link that leads nowhere", "links that lead nowhere"]),
        (special, ["pipe, socket or device passed over", "pipes, sockets or devices passed over"]),
    ];
    let note = |(paths, [one, many]): (Vec<&PathBuf>, [&str; 2])| {
        let first = paths.first()?.display();
        Some(match paths.len() {
            1 => format!("1 {one}: {first}"),
            count => format!("{count} {many}, such as {first}"),
        })
    };
    kinds.into_iter().filter_map(note).collect()
}

/// Classes in a sentence: all of a few, the first of many.
pub(crate) fn named(classes: &[&str]) -> String {
    match classes {
        [one] => format!("class {one}"),
        few if few.len() <= 5 => format!("classes {}", few.join(", ")),
        many => format!("{} classes, such as {}", many.len(), many[..3].join(", ")),
    }
}

/// Digits compare as numbers: `2` before `10`; equal numbers by their text.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
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

    /// Mutations caught, each alone: numbers compared digit by digit; equal numbers without an
    /// order.
    #[test]
    fn numeric_folders_sort_as_numbers() {
        let mut names: Vec<String> = (0..1000).rev().map(|n| n.to_string()).collect();
        names.sort_by(|a, b| natural(a, b));
        assert!(names.iter().enumerate().all(|(i, n)| *n == i.to_string()));
        assert!(natural("img9.png", "img10.png").is_lt());
        assert!(natural("01", "1").is_lt());
    }
}
