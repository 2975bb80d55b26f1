//! `kindling data`: subcommands about folders of images.

pub mod preview;
pub mod shard;

use clap::Subcommand;

use crate::commands::data::preview::{Preview, preview};
use crate::commands::data::shard::{ShardArgs, shard};
use crate::datasets::check::{Check, check};
use crate::error::Error;

/// The words of `kindling data`.
#[derive(Subcommand)]
pub enum Data {
    /// Examine a folder of images: classes, broken files, duplicates, leaks between train and val
    Check(Check),
    /// Draw a contact sheet of what the network is shown in training, augmentation and mixing included
    #[command(args_override_self = true, allow_negative_numbers = true)]
    #[command(mut_arg("output", |arg| arg.value_name("FILE").help("PNG file of the sheet [default: preview.png]")))]
    Preview(Box<Preview>),
    /// Put a folder of images into a few tar files, which are trained on like the folder
    Shard(ShardArgs),
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// As the subcommand.
pub fn data(words: &Data) -> Result<u8, Error> {
    match words {
        Data::Check(args) => check(args),
        Data::Preview(args) => preview(args),
        Data::Shard(args) => shard(args),
    }
}
