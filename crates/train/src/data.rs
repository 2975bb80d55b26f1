//! `kindling data`: subcommands about folders of pictures.

use clap::Subcommand;

use crate::data_check::{Check, check};
use crate::data_preview::{Preview, preview};
use crate::data_shard::{ShardArgs, shard};
use crate::failure::Failure;

/// The words of `kindling data`.
#[derive(Subcommand)]
pub enum Data {
    /// Examine a folder of pictures: classes, broken files, duplicates, leaks between train and val
    Check(Check),
    /// Draw a contact sheet of what the network is shown in training, augmentation and mixing included
    #[command(args_override_self = true, allow_negative_numbers = true)]
    #[command(mut_arg("output", |arg| arg.value_name("FILE").help("PNG file of the sheet [default: preview.png]")))]
    Preview(Box<Preview>),
    /// Put a folder of pictures into a few tar files, which are trained on like the folder
    Shard(ShardArgs),
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// As the subcommand.
pub fn data(words: &Data) -> Result<u8, Failure> {
    match words {
        Data::Check(args) => check(args),
        Data::Preview(args) => preview(args),
        Data::Shard(args) => shard(args),
    }
}
