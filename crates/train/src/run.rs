//! One run: a plan and a folder. The training loop, its state, checkpoints, and what is written
//! about them.

pub mod checkpoint;
pub mod dashboard;
pub mod fit;
pub mod logger;
pub mod run_folder;
pub mod state;
