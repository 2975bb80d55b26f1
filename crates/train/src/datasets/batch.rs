//! A batch of prepared images in plain memory.

use std::path::PathBuf;

/// Prepared images before their normalisation, `(byte / 255 - mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct ByteImages {
    /// `[n, height, width, 3]`.
    pub pixels: Vec<u8>,
    /// Mean of each channel, of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel.
    pub std: [f32; 3],
}

/// Prepared images of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Normalised values, `[n, 3, height, width]`; empty where there are bytes.
    pub images: Vec<f32>,
    /// The same images as bytes, for a device that normalises them itself.
    pub bytes: Option<ByteImages>,
    /// `[n, 3, height, width]`.
    pub shape: [usize; 4],
    /// The n class indices.
    pub labels: Vec<i64>,
    /// For a mixed batch: the labels of the images mixed in, and lambda, the weight of an image's
    /// own label.
    pub mixed_labels: Option<(Vec<i64>, f32)>,
    /// Indices into the folder's items, n of them.
    pub indices: Vec<usize>,
    /// Row of each image in the batch of the step, of which this is the share of a rank; n of them.
    pub rows: Vec<usize>,
    /// Paths of unreadable images, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
    /// Their indices into the folder's items.
    pub skipped_indices: Vec<usize>,
}
