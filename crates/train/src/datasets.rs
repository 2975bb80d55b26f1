//! Image folders and tar shards to batches: index, order, cache, threads. No tensor of a device
//! stands here.

pub mod cache;
pub mod check;
pub mod image_folder;
pub mod loader;
pub mod quarantine;
pub mod shards;
