//! One split of a data set: its images, its class list, and the bytes of an image. `open.rs` makes
//! one of class folders, `shards.rs` of tar files.

use std::path::PathBuf;
use std::sync::Arc;

use crate::datasets::data_error::DataError;
use crate::datasets::storage::read_listed;
use crate::datasets::tar_reader::TarReader;

/// One split: its images with labels, in natural order.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageFolder {
    /// The split's folder.
    pub root: PathBuf,
    /// Class names in label order.
    pub classes: Vec<String>,
    /// Path and label of every image.
    pub items: Vec<(PathBuf, usize)>,
    /// Notes for the user: empty classes, ignored files.
    pub notes: Vec<String>,
    /// The tar files that contain the images; none where each image is a file.
    pub shards: Option<Arc<TarReader>>,
}

impl ImageFolder {
    /// The number of images of each class, in label order.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.items.iter().for_each(|&(_, label)| counts[label] += 1);
        counts
    }

    /// Reads the encoded bytes of image `index` into `bytes`, which is cleared first.
    ///
    /// # Errors
    /// [`DataError::Image`]: the file is no more. [`DataError::Storage`]: it cannot be read now.
    /// [`DataError::Folder`]: a shard is damaged.
    pub fn read_bytes(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), DataError> {
        let (path, _) = &self.items[index];
        match &self.shards {
            // The fault is the shard's, so the image is never skipped: the run would differ from
            // the folder's.
            Some(shards) => shards.read(path, bytes),
            None => read_listed(path, bytes),
        }
    }
}
