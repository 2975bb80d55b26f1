//! What may be written (flags, TOML, recipes) becomes a checked plan. `config` knows the
//! mechanisms; no mechanism knows `config`.

mod augmentation;
mod defaults;
mod file;
pub mod options;
pub mod plan;
pub mod recipe;
mod training;
