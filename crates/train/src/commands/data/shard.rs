//! `kindling data shard`: a folder of images as a few tar files, which a disk reads in long runs
//! and a copy moves at once.
//!
//! Any tar reads them, and `webdataset` by its conventions: an image is `<key>.<ending>`, followed
//! by `<key>.cls` with its label, where the key is `<class>/<name>` without dots in the name and is
//! no other image's. `index.json` has the names of the folder. The training split is written in a
//! shuffled order, as `webdataset` expects it and `--shard-window` needs it: what lies together is
//! of all classes then.
//!
//! Files are called `.tmp` until all of them are made: what a run that was killed leaves has no
//! other name.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::layout;
use crate::datasets::layout::train_folder;
use crate::datasets::quarantine::{FILE, Quarantine, leave_out_of, relative};
use crate::datasets::shards;
use crate::datasets::shards::writer::{Unfinished, write_split};
use crate::datasets::shards::{FORMAT, INDEX, ShardIndex};
use crate::error::Error;
use crate::files::write_atomically;
use crate::signal::Stop;
use crate::{err, out};
use transforms::random::Counter;

/// Purpose of the counter that shuffles what is written.
const SHUFFLE: u64 = 0x5A;

/// Arguments of `kindling data shard`.
#[derive(Args)]
pub struct ShardArgs {
    /// Folder with `train/<class>/*` and, if there is one, `val/<class>/*`; or `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Folder of the shards, which `train`, `eval` and `data preview` take like DIR
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Megabytes after which the next file begins [range: above 0, at most 1048576]
    #[arg(long, default_value = "256", value_name = "MB", value_parser = megabytes)]
    shard_size: f64,
    /// Seed of the order of the training images
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Write the training images class after class, in the order of the folder [default: shuffle
    /// them with --seed]
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

/// Runs the subcommand; its exit code: 130 and 143 where SIGINT and SIGTERM ended it and nothing
/// was left.
///
/// # Errors
/// Faults of the folder, an image that cannot be read, a file that cannot be written, shards that
/// are there.
pub fn shard(args: &ShardArgs) -> Result<u8, Error> {
    let (root, index_path) = (&args.data_dir, args.output.join(INDEX));
    if index_path.exists() {
        return Err(Error::usage(format!(
            "{}: there are shards already; remove them or choose another --output",
            index_path.display()
        )));
    }
    if shards::index(root)?.is_some() {
        return Err(Error::usage(format!(
            "{}: a folder of shards; give the folder that they were made of",
            root.display()
        )));
    }
    let name_of = |folder: PathBuf| folder.file_name()?.to_str().map(str::to_owned);
    let train_name = train_folder(root).and_then(name_of);
    let usual = || layout::val_folder(root).and_then(name_of);
    let val_folder = args.val_split.clone().or_else(usual);
    let val_folder = val_folder.as_deref();
    // Without splits the class folders lie in the folder itself, and `--val-fraction` parts them in
    // training.
    let whole = train_name.is_none() && val_folder.is_none();
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
        err!("interrupted; nothing of the shards is left in {}", args.output.display());
        return Ok(signal);
    }
    unfinished.rename()?;
    let shuffled = train_files.iter().any(|shard| !shard.order.is_empty());
    let index = ShardIndex {
        format: if shuffled { FORMAT } else { 1 },
        classes: train.classes.clone(),
        train: train_files,
        val: val_files,
        train_folder: match whole {
            true => String::new(),
            false => train_name.unwrap_or_else(|| "train".to_owned()),
        },
        val_folder: val_folder.unwrap_or("val").to_owned(),
        left_out,
        crc32: None,
    };
    // The index comes last: a folder that has one is whole.
    write_atomically(&index_path, &index.clone().to_json())?;
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
