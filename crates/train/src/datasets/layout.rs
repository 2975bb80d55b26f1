//! How the images of a folder are arranged: with splits, without an evaluation split, or as plain
//! class folders. What people have is mostly the last.

use std::path::{Path, PathBuf};

use crate::datasets::data_error::DataError;
use crate::datasets::listing::{entries, is_image, subfolders};
use crate::datasets::shards;

/// Names of the training split, in lower case and order of preference.
const TRAIN_NAMES: [&str; 2] = ["train", "training"];

/// Names that the evaluation split may have, in lower case and order of preference.
pub const VAL_NAMES: [&str; 5] = ["val", "validation", "valid", "test", "testing"];

/// The arrangement of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `train/<class>/*` and an evaluation split, or shards of both.
    Splits,
    /// `train/<class>/*` alone, or shards of it.
    TrainOnly,
    /// `<class>/*`.
    Classes,
}

impl Layout {
    /// The layout of `root`. A folder that does not exist has [`Layout::Splits`]: whoever opens it
    /// says what is wrong.
    ///
    /// # Errors
    /// A folder that cannot be read; class folders beside an evaluation split without a training
    /// split, of which no reading is certain.
    pub fn of(root: &Path) -> Result<Self, DataError> {
        if !root.is_dir() {
            return Ok(Self::Splits);
        }
        if let Some(index) = shards::index(root)? {
            return Ok(if index.val.is_empty() { Self::TrainOnly } else { Self::Splits });
        }
        if train_folder(root).is_some() {
            return Ok(if val_folder(root).is_some() { Self::Splits } else { Self::TrainOnly });
        }
        let found = subfolders(root)?;
        let split = found.iter().find(|name| VAL_NAMES.contains(&name.to_lowercase().as_str()));
        match split {
            Some(split) => Err(DataError::folder(
                root,
                format!(
                    "it has a folder `{split}` and no `train`: name the folder with the images to train on \
                     `train`, or `{split}` by its class"
                ),
            )),
            None => Ok(Self::Classes),
        }
    }
}

/// The folder with the training split, whatever the case of its name.
pub(crate) fn train_folder(root: &Path) -> Option<PathBuf> {
    split_folder(root, &TRAIN_NAMES)
}

/// The folder with the evaluation split, whatever the case of its name.
pub(crate) fn val_folder(root: &Path) -> Option<PathBuf> {
    split_folder(root, &VAL_NAMES)
}

/// The first of `names` that is a folder in `root`: as it stands, otherwise in another case.
fn split_folder(root: &Path, names: &[&str]) -> Option<PathBuf> {
    let exact = names.iter().map(|name| root.join(name)).find(|path| path.is_dir());
    exact.or_else(|| {
        let found = subfolders(root).ok()?;
        let alike = |name: &&str| found.iter().find(|have| have.eq_ignore_ascii_case(name));
        names.iter().find_map(alike).map(|name| root.join(name))
    })
}

/// The data set in `folder`: the folder itself, or the only folder in it, as archives and downloads
/// wrap one in another.
pub fn unwrap_folder(folder: &Path) -> PathBuf {
    let mut root = folder.to_path_buf();
    // Eight levels are more than anyone nests; a link cannot make it endless.
    for _ in 0..8 {
        let held = shards::index(&root).is_ok_and(|index| index.is_some());
        let Ok(below) = subfolders(&root) else { break };
        let [only] = below.as_slice() else { break };
        let inner = root.join(only);
        let loose = entries(&root).is_ok_and(|all| all.iter().any(|path| is_image(path)));
        let classes = subfolders(&inner).is_ok_and(|inner| !inner.is_empty());
        let split = train_folder(&root).is_some() || val_folder(&root).is_some();
        if held || loose || !classes || split {
            break;
        }
        root = inner;
    }
    root
}
