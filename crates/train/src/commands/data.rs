//! `kindling data`: subcommands about folders of images.

pub mod check;
pub mod preview;
pub mod shard;

use clap::Subcommand;

use crate::commands::data::check::{CheckArgs, check};
use crate::commands::data::preview::{PreviewArgs, preview};
use crate::commands::data::shard::{ShardArgs, shard};
use crate::error::Error;

/// The subcommands of `kindling data`.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Examine a folder of images: classes, broken files, duplicates, leaks between train and val
    Check(CheckArgs),
    /// Draw a contact sheet of what the network is shown in training, augmentation and mixing included
    #[command(args_override_self = true, allow_negative_numbers = true)]
    #[command(mut_arg("output", |arg| arg.value_name("FILE").help("PNG file of the sheet [default: preview.png]")))]
    #[command(
        after_help = "Only the most important options are listed; --help lists all of them.",
        after_long_help = ""
    )]
    Preview(Box<PreviewArgs>),
    /// Put a folder of images into a few tar files, which are trained on like the folder
    Shard(ShardArgs),
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
    }
}
