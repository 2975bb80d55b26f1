//! `kindling data`: subcommands about folders of pictures.

use clap::Subcommand;

use crate::data_check::{Check, check};
use crate::failure::Failure;

/// The words of `kindling data`.
#[derive(Subcommand)]
pub enum Data {
    /// Examine a folder of pictures: classes, broken files, duplicates, leaks between train and val
    Check(Check),
}

/// Runs the subcommand; its exit code.
///
/// # Errors
/// As the subcommand.
pub fn data(words: &Data) -> Result<u8, Failure> {
    match words {
        Data::Check(args) => check(args),
    }
}
