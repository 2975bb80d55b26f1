//! Memory that a worker uses again from image to image.

use transforms::decode::DecodeScratch;
use transforms::preprocess::TransformScratch;

/// The buffers of one worker.
#[derive(Default)]
pub(super) struct WorkerScratch {
    /// The encoded file.
    pub(super) bytes: Vec<u8>,
    /// Pixels that come out of a cache.
    pub(super) pixels: Vec<u8>,
    /// The decoder's buffers, where a whole image is decoded for a cache.
    pub(super) jpeg: DecodeScratch,
    /// The buffers of crop, resize and augmentation.
    pub(super) transform: TransformScratch,
}
