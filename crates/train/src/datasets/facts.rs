//! What of a data set decides the defaults of a run: how many images, of how many classes, how
//! large.

use crate::datasets::image_folder::ImageFolder;
use transforms::decode::header;

/// Images whose size is looked at.
const SAMPLE: usize = 128;

/// The edge where no header could be read, pixels.
const UNKNOWN_EDGE: usize = 224;

/// The measure of a training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataFacts {
    /// Images to train on.
    pub images: usize,
    /// Classes.
    pub classes: usize,
    /// Median of the images' shorter edges, pixels.
    pub short_edge: usize,
}

impl DataFacts {
    /// The facts of a folder of which `share` is trained on. Sizes are read off the headers of at
    /// most 128 images, spread over all.
    pub fn of(folder: &ImageFolder, share: f64) -> Self {
        let count = folder.items.len();
        let step = count.div_ceil(SAMPLE).max(1);
        let mut bytes = Vec::new();
        let mut edges: Vec<usize> = (0..count)
            .step_by(step)
            .filter_map(|index| {
                folder.read_bytes(index, &mut bytes).ok()?;
                let header = header(&bytes)?;
                Some(header.width.min(header.height) as usize)
            })
            .collect();
        edges.sort_unstable();
        Self {
            images: (count as f64 * share).round() as usize,
            classes: folder.classes.len(),
            short_edge: edges.get(edges.len() / 2).copied().unwrap_or(UNKNOWN_EDGE),
        }
    }
}
