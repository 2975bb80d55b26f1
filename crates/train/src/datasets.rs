//! Image folders and tar shards to batches: index, order, cache, threads. No tensor of a device
//! stands here.

pub mod batch;
pub mod burn_adapters;
pub mod cache;
pub mod check;
pub mod data_error;
pub mod image_folder;
pub(crate) mod listing;
pub mod loader;
pub mod open;
pub(crate) mod passed_over;
pub mod quarantine;
mod sampler;
pub mod shards;
mod sync;
pub mod tar_reader;
