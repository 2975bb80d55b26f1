//! `kindling data`: subcommands about folders of images.

pub mod check;
pub mod preview;
pub mod shard;
pub mod split;

use clap::Subcommand;

use crate::commands::data::check::{CheckArgs, check};
use crate::commands::data::preview::{PreviewArgs, preview};
use crate::commands::data::shard::{ShardArgs, shard};
use crate::commands::data::split::{SplitArgs, split};
use crate::commands::plan_args::PRECEDENCE;
use crate::error::Error;

/// The subcommands of `kindling data`.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Check a folder of images: classes, unreadable files, duplicates, leaks from train to val
    Check(CheckArgs),
    /// Draw a contact sheet of augmented and mixed training images
    #[command(mut_arg("output", |arg| arg.value_name("FILE").help("PNG file of the sheet [default: preview.png]")))]
    #[command(after_long_help = PRECEDENCE)]
    Preview(Box<PreviewArgs>),
    /// Pack a folder of images into tar files, which `train` takes like the folder
    Shard(ShardArgs),
    /// Part class folders into train and val, near-duplicates on one side
    Split(SplitArgs),
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// The errors of the subcommand.
pub fn data(command: &DataCommand) -> Result<u8, Error> {
    match command {
        DataCommand::Check(args) => check(args),
        DataCommand::Preview(args) => preview(args),
        DataCommand::Shard(args) => shard(args),
        DataCommand::Split(args) => split(args),
    }
}
