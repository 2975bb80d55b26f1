//! Options completed by what the data set is: where its images are, whether they are split, and the
//! defaults that follow from how many they are and how large.

use std::path::{Path, PathBuf};

use crate::config::auto;
use crate::config::auto::Task;
use crate::config::datasets::DEFAULT_DATA;
use crate::config::options::Options;
use crate::datasets::archive::{is_archive, open_archive};
use crate::datasets::facts::DataFacts;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::layout::{Layout, unwrap_folder};
use crate::datasets::listing::subfolders;
use crate::error::Error;
use crate::run::pretrained::WeightClasses;
use crate::suggest::did_you_mean;

/// Share of the images to evaluate on where the folder has no evaluation split.
const VAL_FRACTION: f64 = 0.2;

/// Options of a new run over the defaults that follow its data and the classes of the `weights` that
/// it starts from, and what was chosen, in sentences.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: no such folder, or a faulty one.
pub fn follow_data(
    mut options: Options,
    weights: Option<&WeightClasses>,
) -> Result<(Options, Vec<String>), Error> {
    let given = options.data.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA.into());
    let (root, mut notes) = resolve(&given)?;
    if root != given {
        options.data.data_dir = Some(root.clone());
    }
    let layout = Layout::of(&root)?;
    if layout != Layout::Splits && options.data.val_fraction.is_none() {
        options.data.val_fraction = Some(VAL_FRACTION);
        notes.push(format!(
            "{}: no val split: {:.0} % of each class are set aside for evaluation; --val-fraction \
             takes another share",
            root.display(),
            100.0 * VAL_FRACTION
        ));
    }
    if options.training.recipe.is_some() {
        return Ok((options, notes));
    }
    let (folder, share) = match options.data.val_fraction {
        Some(share) => (ImageFolder::open_whole(&root)?, 1.0 - share),
        None if options.data.canonical_nodes.is_some_and(|nodes| nodes > 1) => {
            (ImageFolder::open_train_part(&root)?, 1.0)
        }
        None => (ImageFolder::open_train(&root, None)?, 1.0),
    };
    let facts = DataFacts::of(&folder, share);
    let task = Task {
        images: facts.images,
        short_edge: facts.short_edge,
        pretrained: options.network.pretrained_path.is_some()
            || options.network.pretrained.is_some(),
        new_head: weights.is_some_and(|weights| weights.start_anew(&folder.classes)),
        model_given: options.network.model.is_some(),
    };
    let (options, said) = auto::under(&options, task)?;
    notes.extend(said);
    Ok((options, notes))
}

/// The folder with the images that a path means, and what was found out on the way.
fn resolve(given: &Path) -> Result<(PathBuf, Vec<String>), Error> {
    if !given.exists() {
        let parent = given.parent().filter(|parent| !parent.as_os_str().is_empty());
        let name = given.file_name().unwrap_or_default().to_string_lossy();
        let near =
            did_you_mean(&name, &subfolders(parent.unwrap_or(Path::new("."))).unwrap_or_default());
        return Err(Error::data(format!(
            "{}: no such folder{near}; give a folder with <class>/* or with train/<class>/* and \
             val/<class>/*",
            given.display()
        )));
    }
    let given = &match is_archive(given) {
        true => open_archive(given)?,
        false => given.to_path_buf(),
    };
    let root = unwrap_folder(given);
    let note = (root != *given).then(|| format!("the images are taken from {}", root.display()));
    Ok((root, note.into_iter().collect()))
}
