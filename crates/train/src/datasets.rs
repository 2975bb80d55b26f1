//! Image folders and tar shards to batches: index, order, cache, threads. No tensor of a device
//! stands here.

pub mod archive;
pub mod batch;
pub mod burn_adapters;
pub mod cache;
pub mod check;
pub(crate) mod class_order;
pub mod data_error;
pub mod facts;
pub mod image_folder;
pub mod image_keys;
mod labelled_list;
pub mod layout;
pub(crate) mod listing;
pub mod loader;
pub mod open;
pub(crate) mod passed_over;
pub mod quarantine;
pub mod sampler;
pub mod shards;
pub mod split;
pub(crate) mod storage;
mod sync;
pub mod tar_reader;
