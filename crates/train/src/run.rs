//! One run: a plan and a folder. The training loop and its steps, the state, checkpoints, and what
//! is written and reported about them.
//!
//! This folder alone knows the plan and the mechanisms below it, and converts the one into the
//! arguments of the other. It prints nothing but through an [`observer::Observer`].

mod advice;
mod averaging;
pub mod begin;
pub mod build_objective;
pub mod checkpoint;
pub mod dashboard;
mod dataset_fingerprint;
pub mod fit;
pub mod incident;
mod late_step;
pub mod log_lines;
pub mod logger;
pub mod manifest;
pub mod observer;
pub mod open_data;
pub mod pretrained;
pub mod probe;
pub mod progress;
mod readable;
pub mod resume;
pub mod retention;
pub mod run_folder;
pub mod run_lock;
pub mod split_list;
pub mod state;
mod step;
mod synchronise;
pub mod task;
pub mod tensorboard;
pub mod trainer;
mod validate;
