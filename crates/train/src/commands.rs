//! One file per subcommand: arguments in, printed result out. Nothing below this folder prints.

pub mod average;
pub mod bench;
pub mod convert;
pub mod data;
pub mod dry_run;
pub mod explain;
pub mod forward;
pub mod lr_find;
pub mod model_args;
pub mod predict;
pub mod profile;
pub mod replay;
pub mod summary;
pub mod train;
