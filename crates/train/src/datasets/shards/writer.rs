//! Writes tar files: the images of a split, in a given order, with the entries of the index.
//!
//! An image is `<key>.<extension>`, followed by `<key>.cls` with its label, as `webdataset` expects
//! it. The key is `<class>/<name>` without dots in the name, and unique. Files are called `.tmp`
//! until all of them are complete, so that an aborted run leaves nothing under another name.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::quarantine::FILE;
use crate::datasets::shards::tar::TarWriter;
use crate::datasets::shards::{Member, Shard};
use crate::error::Error;
use crate::signal::Stop;

/// Files that are removed again unless all of them are made, and their folder, if it was made for
/// them.
pub(crate) struct Unfinished {
    output: PathBuf,
    is_new: bool,
    files: Vec<PathBuf>,
}

impl Unfinished {
    /// Makes the folder, and removes from it what a run that was killed has left.
    pub(crate) fn begin(output: &Path) -> Result<Self, Error> {
        let failed = |e: std::io::Error| cannot_write(output, &e);
        let is_new = !output.exists();
        std::fs::create_dir_all(output).map_err(failed)?;
        for entry in std::fs::read_dir(output).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().and_then(|name| name.to_str()).is_some_and(is_scratch) {
                std::fs::remove_file(&path).map_err(|e| cannot_write(&path, &e))?;
            }
        }
        Ok(Self { output: output.to_path_buf(), is_new, files: Vec::new() })
    }

    /// A file of this name, to be written under another until all are.
    fn create(&mut self, name: &str) -> Result<File, Error> {
        let scratch = self.output.join(format!("{name}{SCRATCH}"));
        let file = File::create(&scratch).map_err(|e| cannot_write(&scratch, &e))?;
        self.files.push(scratch);
        Ok(file)
    }

    /// Gives all files their names.
    pub(crate) fn rename(&mut self) -> Result<(), Error> {
        for file in &mut self.files {
            let named = file.with_extension("");
            std::fs::rename(&*file, &named).map_err(|e| cannot_write(&named, &e))?;
            *file = named;
        }
        Ok(())
    }

    /// Nothing of it is removed any more.
    pub(crate) fn keep(mut self) {
        self.files.clear();
        self.is_new = false;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
        if self.is_new {
            // Only where it is empty.
            let _ = std::fs::remove_dir(&self.output);
        }
    }
}

/// What a file's name ends with until all files are made.
const SCRATCH: &str = ".tmp";

/// Whether [`Unfinished::create`] gives such names.
fn is_scratch(name: &str) -> bool {
    let numbered = || {
        let (split, number) = name.strip_suffix(SCRATCH)?.strip_suffix(".tar")?.rsplit_once('-')?;
        let digits = number.len() >= 6 && number.bytes().all(|digit| digit.is_ascii_digit());
        Some(digits && ["train", "val"].contains(&split))
    };
    numbered().unwrap_or(false)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    Error::file(format!(
        "{}: cannot write: {error}; make room or choose another --output",
        path.display()
    ))
}

/// The files of a split, its images in this order; some of them where a signal came.
pub(crate) fn write_split(
    split: &str,
    folder: &ImageFolder,
    order: &[usize],
    limit: u64,
    stop: &Stop,
    unfinished: &mut Unfinished,
) -> Result<Vec<Shard>, Error> {
    // By the folder's order, so that an image has the same key in whatever order they are written.
    let mut keys = HashSet::new();
    let named = |(path, _): &(PathBuf, usize)| {
        let below = below(&folder.root, path)?;
        let key = key(&below, &mut keys);
        Ok((below, key))
    };
    let mut names: Vec<_> = folder.items.iter().map(named).collect::<Result<_, Error>>()?;
    let in_order = order.is_sorted();
    let (mut shards, mut left, mut bytes) = (Vec::new(), order, Vec::new());
    while !left.is_empty() {
        let name = format!("{split}-{:06}.tar", shards.len());
        let path = unfinished.output.join(&name);
        let failed = |e: std::io::Error| cannot_write(&path, &e);
        let mut tar = TarWriter::new(BufWriter::new(unfinished.create(&name)?));
        let (mut images, mut numbers) = (Vec::new(), Vec::new());
        while let Some((&number, rest)) = left.split_first()
            && (tar.written() < limit || images.is_empty())
            && stop.requested().is_none()
        {
            folder.read_bytes(number, &mut bytes).map_err(unreadable)?;
            let label = folder.items[number].1;
            let (below, (key, ending)) = std::mem::take(&mut names[number]);
            let from = tar.file(&format!("{key}.{ending}"), &bytes).map_err(failed)?;
            tar.file(&format!("{key}.cls"), label.to_string().as_bytes()).map_err(failed)?;
            let crc = crc32fast::hash(&bytes);
            images.push(Member(from, bytes.len() as u64, label, crc, below));
            numbers.push(number);
            left = rest;
        }
        if stop.requested().is_some() {
            break;
        }
        let (file, length) = tar.finish().map_err(failed)?;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(failed)?;
        let order = if in_order { Vec::new() } else { numbers };
        shards.push(Shard { file: name, bytes: length, images, order });
    }
    Ok(shards)
}

/// An image's path below the split, with `/`.
fn below(root: &Path, path: &Path) -> Result<String, Error> {
    let below = path.strip_prefix(root).unwrap_or(path).to_str().ok_or_else(|| {
        Error::data(format!("{}: a name that is not UTF-8; rename it", path.display()))
    })?;
    Ok(if cfg!(windows) { below.replace('\\', "/") } else { below.to_owned() })
}

/// An image that cannot be read, in the words of this command.
fn unreadable(error: DataError) -> Error {
    match error {
        DataError::Image { path, why } | DataError::Storage { path, why } => Error::data(format!(
            "{}: {why}; repair it, remove it, or list it in {FILE}",
            path.display()
        )),
        DataError::Folder { .. } | DataError::Exhausted { .. } => error.into(),
    }
}

/// What an image is called in webdataset, and its ending: all up to the first dot of the name is
/// the key there, and what has the same key is one sample.
fn key(name: &str, taken: &mut HashSet<String>) -> (String, String) {
    let (folder, file) = match name.rsplit_once('/') {
        Some((folder, file)) => (format!("{folder}/"), file),
        None => (String::new(), name),
    };
    let (stem, ending) = file.rsplit_once('.').unwrap_or((file, "bin"));
    let plain = format!("{folder}{}", stem.replace('.', "_"));
    let with_ending = || format!("{plain}_{ending}");
    let numbered = (2..).map(|number| format!("{plain}_{ending}_{number}"));
    let mut candidates =
        std::iter::once(plain.clone()).chain(std::iter::once_with(with_ending)).chain(numbered);
    let key = candidates.find(|key| !taken.contains(key)).expect("numbers do not end");
    taken.insert(key.clone());
    (key, ending.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::key;

    /// Mutations caught: the stem with its dots, a key given twice.
    #[test]
    fn a_key_has_no_dot_and_is_no_other_images() {
        let mut taken = HashSet::new();
        let mut check = |name: &str, expected: &str, ending: &str| {
            assert_eq!(key(name, &mut taken), (expected.to_owned(), ending.to_owned()), "{name}");
        };
        check("cat/1.jpg", "cat/1", "jpg");
        check("cat/1.png", "cat/1_png", "png");
        check("dog/1.jpg", "dog/1", "jpg");
        check("v1.0/a/b.2.c.JPEG", "v1.0/a/b_2_c", "JPEG");
        check("cat/1_png.png", "cat/1_png_png", "png");
        check("cat/a.b.png", "cat/a_b", "png");
        check("cat/a_b.png", "cat/a_b_png", "png");
        check("cat/a_b_png.png", "cat/a_b_png_png", "png");
        check("cat/a_.b.png", "cat/a__b", "png");
    }
}
