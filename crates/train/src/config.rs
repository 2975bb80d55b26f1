//! The configuration of a run: options, recipes and files become a checked plan. One theme, one
//! file, and in it one entry for an option, with its flag, default, range and help. `config` knows
//! the mechanisms that it configures; no mechanism knows `config`.

pub mod augmentation;
pub mod auto;
pub mod averaging;
pub mod checkpoints;
pub mod datasets;
mod file;
pub mod machine;
pub mod model;
pub mod optimizer;
pub mod options;
pub mod output;
pub mod plan;
pub(crate) mod range;
pub mod recipe;
pub mod regularisation;
pub mod schedule;
mod theme;
pub mod training;
