//! The fingerprint of a training set, and the refusal to resume a run on another one.

use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::run::manifest::{DatasetFingerprint, Manifest};

/// The fingerprint of a training set. With a shard window the positions in the shards belong to it.
pub(super) fn fingerprint(folder: &ImageFolder, windowed: bool) -> DatasetFingerprint {
    let mut crc = crc32fast::Hasher::new();
    for (path, label) in &folder.items {
        let path = path.strip_prefix(&folder.root).unwrap_or(path);
        crc.update(path.to_string_lossy().as_bytes());
        crc.update(&label.to_le_bytes());
    }
    if let (true, Some(shards)) = (windowed, &folder.shards) {
        crc.update(&(shards.files() as u64).to_le_bytes());
        for entry in folder.items.iter().map(|(path, _)| shards.entry(path)) {
            crc.update(&(entry.file as u64).to_le_bytes());
            crc.update(&entry.from.to_le_bytes());
        }
    }
    DatasetFingerprint { images: folder.items.len(), crc32: crc.finalize() }
}

/// Refuses to resume on other data than the run was begun on.
///
/// # Errors
/// [`crate::error::ErrorKind::Data`]: other classes, or other images.
pub(super) fn same_data(
    manifest: &Manifest,
    data: DatasetFingerprint,
    classes: &[String],
) -> Result<(), Error> {
    if manifest.classes != classes {
        let first = |of: &[String], other: &[String]| {
            of.iter().find(|class| !other.contains(class)).map(|class| format!("`{class}`"))
        };
        let gone = first(&manifest.classes, classes).map(|class| format!("{class} is missing"));
        let new = first(classes, &manifest.classes).map(|class| format!("{class} is new"));
        let difference: Vec<String> = gone.into_iter().chain(new).collect();
        let difference = match difference.is_empty() {
            true => "the order is another".to_owned(),
            false => difference.join(", "),
        };
        return Err(Error::data(format!(
            "{}: {} classes where the run to resume has {}: {difference}; give the folder it was \
             begun on, or start anew with --pretrained-path",
            manifest.plan.data.data_dir.display(),
            classes.len(),
            manifest.classes.len()
        )));
    }
    if manifest.data != data {
        return Err(Error::data(format!(
            "{}: the training images{} changed since the run began ({} then, {} now); restore \
             them, or start anew with --pretrained-path",
            manifest.plan.data.data_dir.display(),
            if manifest.plan.data.shard_window > 0 { " or their order in the shards" } else { "" },
            manifest.data.images,
            data.images
        )));
    }
    Ok(())
}
