//! Everything of Kindling that touches the world: folders of pictures, the training loop,
//! checkpoints, evaluation, the command line. Networks live in `nn`, kernels in `kernels`.

#![forbid(unsafe_code)]

pub mod backend;
pub mod begin;
pub mod bench;
pub mod checkpoint;
pub mod command;
pub mod config;
pub mod console;
pub mod convert;
pub mod dashboard;
pub mod decode;
pub mod evaluate;
pub mod explain;
pub mod failure;
pub mod fit;
pub mod folder;
pub mod forward;
pub mod journal;
pub mod jpeg;
pub mod loader;
pub mod loss;
pub mod optimizer;
pub mod options;
pub mod predict;
pub mod preprocess;
pub mod profile;
pub mod random;
pub mod roof;
pub mod run_folder;
pub mod schedule;
pub mod selection;
pub mod signal;
pub mod summary;

/// A training step asks for the same large blocks of memory again and again.
#[global_allocator]
static MEMORY: kernels::memory::Recycler = kernels::memory::Recycler::new();
