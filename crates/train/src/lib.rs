//! Everything of Kindling that touches the world: folders of images, the training loop,
//! checkpoints, evaluation, the command line. Networks live in `nn`, kernels in `kernels`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod commands;
pub mod config;
pub mod datasets;
pub mod device;
pub mod distributed;
pub mod download;
pub mod error;
pub mod files;
pub mod foreign_flags;
mod free_space;
pub mod learner;
pub mod optimizers;
pub mod plot;
pub mod published_weights;
pub mod report;
pub mod run;
pub mod signal;
pub mod stdout;
pub mod suggest;
pub mod system_memory;
pub mod terminal;
pub mod text_list;
