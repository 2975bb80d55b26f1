//! The files of a folder: which count as images, and the order in which they are listed.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;
use crate::datasets::passed_over::is_litter;

/// Extensions of images, in lower case.
const EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "jfif", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Everything directly in `folder` that is neither hidden nor litter, in natural order.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    entries_and_litter(folder, &mut Vec::new())
}

/// [`entries`]; litter (`passed_over`) goes to `litter`.
pub(crate) fn entries_and_litter(
    folder: &Path,
    litter: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, DataError> {
    let list = std::fs::read_dir(folder).map_err(|e| DataError::folder(folder, e.to_string()))?;
    let mut found: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        if is_litter(name) {
            litter.push(path.clone());
            return false;
        }
        !name.as_encoded_bytes().starts_with(b".")
    });
    found.sort_by(|a, b| natural(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(found)
}

/// The names of the folders directly in `folder`, in natural order.
pub(crate) fn subfolders(folder: &Path) -> Result<Vec<String>, DataError> {
    let folders = entries(folder)?.into_iter().filter(|p| p.is_dir());
    folders
        .map(|path| match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => Ok(name.to_owned()),
            None => {
                Err(DataError::folder(&path, "the name of a class is not UTF-8; rename the folder"))
            }
        })
        .collect()
}

/// Whether a path is a file with the extension of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|x| EXTENSIONS.contains(&x.to_string_lossy().to_lowercase().as_str()))
}

/// Levels of folders below a class; deeper is a link that leads back up.
const DEPTH: usize = 8;

/// Images below `folder`, in natural order; other files and litter go to `ignored`.
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
        return Err(DataError::folder(folder, why));
    }
    let mut found = Vec::new();
    for path in entries_and_litter(folder, ignored)? {
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

    #[test]
    fn numeric_folders_sort_as_numbers() {
        let mut names: Vec<String> = (0..1000).rev().map(|n| n.to_string()).collect();
        names.sort_by(|a, b| natural(a, b));
        assert!(names.iter().enumerate().all(|(i, n)| *n == i.to_string()));
        assert!(natural("img9.png", "img10.png").is_lt());
        assert!(natural("01", "1").is_lt());
    }
}
