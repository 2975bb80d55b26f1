//! `kindling data split`: parts class folders into a training and an evaluation split, once and for
//! all programs.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::layout::{Layout, unwrap_folder};
use crate::datasets::quarantine::relative;
use crate::datasets::split::SplitRule;
use crate::error::Error;
use crate::files::{create_folders, write_atomically};
use crate::out;
use crate::run::split_list;

/// The arguments of `kindling data split`.
#[derive(Args)]
pub struct SplitArgs {
    /// Folder with `<class>/*`
    #[arg(value_name = "DIR")]
    data_dir: PathBuf,
    /// Folder to make, with `train/<class>/*` and `val/<class>/*`
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Share of each class to evaluate on [range: 0.001 to 0.9]
    #[arg(long, default_value_t = 0.2, value_name = "SHARE", value_parser = share)]
    val_fraction: f64,
    /// Seed of the choice; with the same seed `train` chooses the same
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    /// Allow near-duplicates on both sides [default: keep them on one side]
    #[arg(long)]
    no_group_duplicates: bool,
    /// Copy the images [default: hard links, and copies where the file system has none]
    #[arg(long)]
    copy: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.001..=0.9).contains(&value) => Ok(value),
        _ => Err("expected 0.001 to 0.9".into()),
    }
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// A folder that is split already or faulty; an output folder that is not empty; a file that cannot
/// be written.
pub fn split(args: &SplitArgs) -> Result<u8, Error> {
    let root = unwrap_folder(&args.data_dir);
    if Layout::of(&root)? == Layout::Splits && root.is_dir() {
        return Err(Error::data(format!(
            "{}: it has a training and an evaluation split already",
            root.display()
        )));
    }
    let taken = args.output.read_dir().is_ok_and(|mut entries| entries.next().is_some());
    if taken {
        return Err(Error::usage(format!(
            "--output: {}: the folder is not empty; give a new one",
            args.output.display()
        )));
    }
    let rule = SplitRule {
        share: args.val_fraction,
        seed: args.seed,
        group_duplicates: !args.no_group_duplicates,
    };
    let (train, val) = ImageFolder::split(&root, rule)?;
    if train.shards.is_some() {
        return Err(Error::usage(format!(
            "{}: a folder of shards; split the folder that they were made of",
            root.display()
        )));
    }
    train.notes.iter().chain(&val.notes).for_each(|note| out!("note: {note}"));
    for (folder, name) in [(&train, "train"), (&val, "val")] {
        for class in &folder.classes {
            create_folders(&args.output.join(name).join(class))?;
        }
        for (path, _) in &folder.items {
            let below = relative(&folder.root, path).map_or_else(|| path.clone(), PathBuf::from);
            place(path, &args.output.join(name).join(below), args.copy)?;
        }
    }
    write_atomically(
        &args.output.join(split_list::FILE),
        split_list::text(&train, &val).as_bytes(),
    )?;
    out!(
        "{}: {} training and {} validation images of {} classes",
        args.output.display(),
        train.items.len(),
        val.items.len(),
        train.classes.len()
    );
    out!("next: kindling train {}", args.output.display());
    Ok(0)
}

/// Makes `to` the same file as `from`, or a copy of it.
fn place(from: &Path, to: &Path, copy: bool) -> Result<(), Error> {
    if let Some(folder) = to.parent() {
        create_folders(folder)?;
    }
    if !copy && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to)
        .map(drop)
        .map_err(|e| Error::file(format!("{}: cannot write: {e}", to.display())))
}
