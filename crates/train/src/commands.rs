//! One file per subcommand: arguments in, printed result out. Nothing below this folder prints.

pub mod average;
pub mod bench;
pub mod bn_reestimate;
mod checkpoint_args;
mod checkpoint_edit;
pub mod completions;
pub mod convert;
pub mod data;
pub mod dry_run;
pub mod eval;
mod exif_args;
pub mod explain;
pub mod forward;
pub mod inspect;
pub mod lr_find;
pub mod man;
pub mod model_args;
pub mod models;
pub(crate) mod plan_args;
pub mod predict;
pub mod preprocess;
pub mod profile;
pub mod recipes;
pub mod replay;
pub mod report;
pub mod summary;
pub mod train;
