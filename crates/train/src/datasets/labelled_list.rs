//! A flat folder of images with a list of their labels, as ILSVRC publishes its validation images.

use std::collections::HashMap;
use std::path::Path;

use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::listing::{entries, has_image_extension, is_image};
use crate::text_list::{lines, read_text};

impl ImageFolder {
    /// The images directly in `folder` with the labels of the list `file`. A line of it is
    /// `NAME LABEL`, or a label alone for the images in the order of their names. A label is a
    /// class name (ILSVRC: `n01440764`) or an index from 0 in `classes`.
    ///
    /// # Errors
    /// [`DataError::Folder`]: a line that names no image or no class, an image without a label, or
    /// as many labels as there are no images.
    pub fn open_labelled(
        folder: &Path,
        file: &Path,
        classes: &[String],
    ) -> Result<Self, DataError> {
        let fault = |why: String| DataError::folder(file, why);
        let text = read_text(file).map_err(fault)?;
        // A name may hold spaces, and so may a class: the name ends with an image's extension.
        let split = |text: &'_ str| {
            let ends = text.match_indices([' ', '\t', ',']).map(|(at, _)| at);
            ends.into_iter().find(|&at| has_image_extension(Path::new(&text[..at])))
        };
        let rows: Vec<(usize, Option<&str>, &str)> = lines(&text)
            .map(|line| match split(line.text) {
                Some(at) => (line.number, Some(&line.text[..at]), line.text[at + 1..].trim()),
                None => (line.number, None, line.text),
            })
            .collect();
        let mut images: Vec<_> =
            entries(folder)?.into_iter().filter(|path| is_image(path)).collect();
        images.sort();
        let numbers: HashMap<&str, usize> =
            classes.iter().enumerate().map(|(number, class)| (class.as_str(), number)).collect();
        let label = |number: usize, word: &str| {
            let by_name = numbers.get(word).copied();
            let by_index = || word.parse().ok().filter(|&index: &usize| index < classes.len());
            by_name.or_else(by_index).ok_or_else(|| {
                fault(format!(
                    "line {number}: `{word}`: neither a class nor an index from 0 to {}",
                    classes.len() - 1
                ))
            })
        };
        let in_order = rows.iter().all(|(_, name, _)| name.is_none());
        let mut labels = HashMap::new();
        for (at, &(number, name, word)) in rows.iter().enumerate() {
            let name = match name {
                // ImageNet's own lists have folders in front of the names.
                Some(name) => name.rsplit('/').next().unwrap_or(name).to_owned(),
                None if in_order => {
                    let image = images.get(at).ok_or_else(|| {
                        fault(format!("{} labels for {} images", rows.len(), images.len()))
                    })?;
                    image.file_name().unwrap_or_default().to_string_lossy().into_owned()
                }
                None => {
                    return Err(fault(format!(
                        "line {number}: expected `NAME LABEL`, or one label a line in the order of the names"
                    )));
                }
            };
            labels.insert(name, label(number, word)?);
        }
        if in_order && rows.len() != images.len() {
            return Err(fault(format!("{} labels for {} images", rows.len(), images.len())));
        }
        let mut items = Vec::with_capacity(images.len());
        for path in images {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(label) = labels.remove(&name) else {
                return Err(fault(format!("no label for {name}")));
            };
            items.push((path, label));
        }
        if let Some(name) = labels.keys().min() {
            return Err(fault(format!("{name}: no such image in {}", folder.display())));
        }
        if items.is_empty() {
            return Err(DataError::folder(folder, "no image in it"));
        }
        let root = folder.to_path_buf();
        Ok(Self { root, classes: classes.to_vec(), items, notes: Vec::new(), shards: None })
    }
}
