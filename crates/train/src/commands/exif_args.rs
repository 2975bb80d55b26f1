//! Whether a command turns images by their EXIF orientation.

use clap::Args;

/// `--exif` and `--no-exif`.
#[derive(Args, Default)]
pub(super) struct ExifArgs {
    /// Turn images by their EXIF orientation [default: the checkpoint's rule, or --exif]
    #[arg(long)]
    exif: bool,
    /// Leave images as they are stored, as torchvision does
    #[arg(long, conflicts_with = "exif")]
    no_exif: bool,
}

impl ExifArgs {
    /// What is given, or else `rule`.
    pub(super) fn or(&self, rule: bool) -> bool {
        self.exif || (rule && !self.no_exif)
    }
}
