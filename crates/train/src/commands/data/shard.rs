//! `kindling data shard`: a folder of images as a few tar files, which a disk reads in long runs and a copy moves
//! at once.
//!
//! Any tar reads them, and `webdataset` by its conventions: an image is `<key>.<ending>`, followed by `<key>.cls` with
//! its label, where the key is `<class>/<name>` without dots in the name and is no other image's. `index.json` has
//! the names of the folder. The training split is written in a shuffled order, as `webdataset` expects it and
//! `--shard-window` needs it: what lies together is of all classes then.
//!
//! Files are called `.tmp` until all of them are made: what a run that was killed leaves has no other name.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::datasets::image_folder::{DataError, ImageFolder, VAL_NAMES};
use crate::datasets::quarantine::{FILE, Quarantine, leave_out_of, relative};
use crate::datasets::shards::tar::Tar;
use crate::datasets::shards::{FORMAT, INDEX, Index, Member, Shard};
use crate::error::Error;
use crate::out;
use crate::run::checkpoint::write_atomically;
use crate::signal::Stop;
use transforms::random::Counter;

/// Purpose of the counter that shuffles what is written.
const SHUFFLE: u64 = 0x5A;

/// The words of `kindling data shard`.
#[derive(Args)]
pub struct ShardArgs {
    /// Folder with `train/<class>/*` and, if there is one, `val/<class>/*`; or `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Folder of the shards; `train`, `eval` and `data preview` take it like DIR
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Megabytes from which the next file is begun, such as 256 or 0.5
    #[arg(long, default_value = "256", value_name = "MB", value_parser = megabytes)]
    shard_size: f64,
    /// Seed of the order in which the training images are written
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Write the training images in the folder's order, class after class, as the val split always is
    #[arg(long, conflicts_with = "seed")]
    no_shuffle: bool,
    /// Name of the split folder to evaluate on [default: val, validation, valid or test]
    #[arg(long, value_name = "NAME")]
    val_split: Option<String>,
}

fn megabytes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(size) if size > 0.0 && size <= f64::from(1 << 20) => Ok(size),
        _ => Err("expected a number above 0, at most 1048576".into()),
    }
}

/// Runs the subcommand; its exit code: 130 and 143 where SIGINT and SIGTERM ended it and nothing was left.
///
/// # Errors
/// Faults of the folder, an image that cannot be read, a file that cannot be written, shards that are there.
#[expect(clippy::print_stderr, reason = "an interruption is told like a failure")]
pub fn shard(args: &ShardArgs) -> Result<u8, Error> {
    let (root, place) = (&args.data_dir, args.output.join(INDEX));
    if place.exists() {
        return Err(Error::usage(format!(
            "{}: there are shards already; remove them or choose another --output",
            place.display()
        )));
    }
    if crate::datasets::shards::index(root)?.is_some() {
        return Err(Error::usage(format!(
            "{}: a folder of shards; give the folder that they were made of",
            root.display()
        )));
    }
    let usual = || VAL_NAMES.into_iter().find(|name| root.join(name).is_dir());
    let val_folder = args.val_split.as_deref().or_else(usual);
    // Without splits the class folders lie in the folder itself, and `--val-fraction` parts them in training.
    let whole = !root.join("train").is_dir() && val_folder.is_none();
    let mut train = ImageFolder::open_train(root, whole.then_some(""))?;
    let mut val = match val_folder {
        Some(name) => Some(ImageFolder::open_val(root, Some(name), &train.classes)?),
        None => None,
    };
    let left_out = leave_out(root, &mut train, val.as_mut())?;
    let notes = train.notes.iter().chain(val.iter().flat_map(|val| &val.notes));
    notes.for_each(|note| out!("note: {note}"));

    let mut order: Vec<usize> = (0..train.items.len()).collect();
    if !args.no_shuffle {
        Counter::new(args.seed, 0, 0, SHUFFLE).shuffle(&mut order);
    }
    let stop = Stop::listen().map_err(|e| Error::file(format!("signals: {e}")))?;
    let mut unfinished = Unfinished::begin(&args.output)?;
    let limit = (args.shard_size * f64::from(1 << 20)) as u64;
    let mut write = |split: &str, folder: &ImageFolder, order: &[usize]| {
        write_split(split, folder, order, limit, &stop, &mut unfinished)
    };
    let train_files = write("train", &train, &order)?;
    let val_files = match &val {
        Some(val) => write("val", val, &(0..val.items.len()).collect::<Vec<_>>())?,
        None => Vec::new(),
    };
    if let Some(signal) = stop.requested() {
        drop(unfinished);
        eprintln!("interrupted; nothing of the shards is left in {}", args.output.display());
        return Ok(signal);
    }
    unfinished.rename()?;
    let shuffled = train_files.iter().any(|shard| !shard.order.is_empty());
    let index = Index {
        format: if shuffled { FORMAT } else { 1 },
        classes: train.classes.clone(),
        train: train_files,
        val: val_files,
        train_folder: if whole { String::new() } else { "train".to_owned() },
        val_folder: val_folder.unwrap_or("val").to_owned(),
        left_out,
    };
    // The index comes last: a folder that has one is whole.
    let text = serde_json::to_vec(&index).expect("an index is plain data");
    write_atomically(&place, &text)?;
    unfinished.keep();
    for (split, shards) in [("train", &index.train), ("val", &index.val)] {
        let images: usize = shards.iter().map(|shard| shard.images.len()).sum();
        let bytes: u64 = shards.iter().map(|shard| shard.bytes).sum();
        let shuffled = match shards.iter().any(|shard| !shard.order.is_empty()) {
            true => format!(", shuffled with seed {}", args.seed),
            false => String::new(),
        };
        out!(
            "{split}: {images} images in {} files, {:.1} MB{shuffled}",
            shards.len(),
            bytes as f64 / 1e6
        );
    }
    if !index.left_out.is_empty() {
        out!("{} images left out, as {} says", index.left_out.len(), root.join(FILE).display());
    }
    Ok(0)
}

/// Leaves out what training and evaluation would leave out; its names on the list.
fn leave_out(
    root: &Path,
    train: &mut ImageFolder,
    mut val: Option<&mut ImageFolder>,
) -> Result<Vec<String>, Error> {
    let list = Quarantine::of(root, None)?;
    let mut left_out = Vec::new();
    let listed = list.paths(root);
    for split in std::iter::once(&mut *train).chain(val.as_deref_mut()) {
        let gone = split.items.iter().filter(|(path, _)| listed.contains(path));
        left_out.extend(gone.filter_map(|(path, _)| relative(root, path)));
        leave_out_of(&list, root, split);
    }
    let none_left = |what: &str| {
        Error::data(format!(
            "{}: no image {what}; take some off the list, or add others",
            root.join(FILE).display()
        ))
    };
    for (class, count) in train.classes.iter().zip(train.class_counts()) {
        if count == 0 {
            return Err(none_left(&format!("of class {class} is left to train on")));
        }
    }
    if val.is_some_and(|val| val.items.is_empty()) {
        return Err(none_left("is left to evaluate on"));
    }
    Ok(left_out)
}

/// Files that are removed again unless all of them are made, and their folder, if it was made for them.
struct Unfinished {
    output: PathBuf,
    is_new: bool,
    files: Vec<PathBuf>,
}

impl Unfinished {
    /// Makes the folder, and removes from it what a run that was killed has left.
    fn begin(output: &Path) -> Result<Self, Error> {
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
    fn rename(&mut self) -> Result<(), Error> {
        for file in &mut self.files {
            let named = file.with_extension("");
            std::fs::rename(&*file, &named).map_err(|e| cannot_write(&named, &e))?;
            *file = named;
        }
        Ok(())
    }

    /// Nothing of it is removed any more.
    fn keep(mut self) {
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
fn write_split(
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
        let mut tar = Tar::new(BufWriter::new(unfinished.create(&name)?));
        let (mut images, mut numbers) = (Vec::new(), Vec::new());
        while let Some((&number, rest)) = left.split_first()
            && (tar.written() < limit || images.is_empty())
            && stop.requested().is_none()
        {
            folder.bytes(number, &mut bytes).map_err(unreadable)?;
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
        DataError::Image { path, why } => Error::data(format!(
            "{}: {why}; repair it, remove it, or list it in {FILE}",
            path.display()
        )),
        DataError::Folder { .. } => error.into(),
    }
}

/// What an image is called in webdataset, and its ending: all up to the first dot of the name is the key there, and
/// what has the same key is one sample.
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

    /// Planted and seen red: the stem with its dots, a key given twice.
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
