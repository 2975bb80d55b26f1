//! Everything of Kindling that touches the world: folders of pictures, the training loop,
//! checkpoints, evaluation, the command line. Networks live in `nn`, kernels in `kernels`.

#![forbid(unsafe_code)]

pub mod augment;
pub mod average;
pub mod backend;
pub mod begin;
pub mod bench;
pub mod cache;
pub mod checkpoint;
pub mod command;
pub mod config;
pub mod console;
pub mod convert;
pub mod dashboard;
pub mod data;
pub mod data_check;
pub mod data_preview;
pub mod data_shard;
pub mod decode;
pub mod dry_run;
pub mod evaluate;
pub mod explain;
pub mod failure;
pub mod fit;
pub mod folder;
pub mod forward;
pub mod gradients;
pub mod guard;
pub mod journal;
pub mod jpeg;
pub mod lesson;
pub mod loader;
pub mod loss;
pub mod lr_find;
pub mod memory;
pub mod merge;
pub mod mix;
pub mod objective;
pub mod optimizer;
pub mod options;
pub mod parameters;
pub mod predict;
pub mod preprocess;
pub mod profile;
pub mod quarantine;
pub mod random;
pub mod recipe;
pub mod replay;
pub mod resize;
pub mod roof;
pub mod run_folder;
pub mod schedule;
pub mod selection;
pub mod shards;
pub mod signal;
pub mod state;
pub mod statistics;
pub mod summary;
pub mod values;

/// A training step asks for the same large blocks of memory again and again.
#[global_allocator]
static MEMORY: kernels::memory::Recycler = kernels::memory::Recycler::new();
