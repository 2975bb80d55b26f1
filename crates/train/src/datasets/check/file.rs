//! The facts of one file: format, size, colour, whether it decodes, and a hash of its looks.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};

use image::ImageFormat;

use crate::datasets::check::image_hash::ImageHash;
use crate::datasets::storage::is_about_the_file;
use transforms::decode::{DecodeError, decode, format, header};
use transforms::exif;

/// A file in a class folder.
pub(super) struct ImageFile {
    pub(super) path: PathBuf,
    /// Number of the split and of the class in it.
    pub(super) split: usize,
    pub(super) class: usize,
    pub(super) bytes: u64,
    /// Hash of the file's bytes.
    pub(super) file_hash: u64,
    /// The format that the content has.
    pub(super) format: Option<ImageFormat>,
    pub(super) decoded: Result<ImageFacts, Unusable>,
}

/// Why an image cannot be trained on.
pub(super) struct Unusable {
    pub(super) fault: Fault,
    /// Lower case, no full stop.
    pub(super) why: String,
}

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The end of the file is missing.
    Truncated,
    /// The file may be sound, and is of a kind that is not supported.
    Unsupported,
    /// The file could not be read, which says nothing about what is in it.
    Storage,
    Other,
}

/// An image that decodes.
pub(super) struct ImageFacts {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) colour: Colour,
    /// Whether EXIF asks to turn it.
    pub(super) turned: bool,
    /// Hash of size and decoded RGB: equal for files that differ in container, compression without
    /// loss or metadata.
    pub(super) pixel_hash: u64,
    pub(super) image_hash: ImageHash,
}

/// How samples are stored in the file.
#[derive(Clone, Copy, Default)]
pub(super) struct Colour {
    pub(super) gray: bool,
    pub(super) cmyk: bool,
    pub(super) alpha: bool,
    pub(super) sixteen: bool,
}

impl ImageFile {
    /// Reads and decodes a file. Never panics, whatever is in it.
    pub(super) fn examine(path: PathBuf, split: usize, class: usize) -> Self {
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let storage = !is_about_the_file(&error);
                let fault = if storage { Fault::Storage } else { Fault::Other };
                let decoded = Err(Unusable { fault, why: error.to_string() });
                return Self { path, split, class, bytes: 0, file_hash: 0, format: None, decoded };
            }
        };
        Self {
            path,
            split,
            class,
            bytes: bytes.len() as u64,
            file_hash: hash(&[&bytes]),
            format: format(&bytes).ok(),
            decoded: facts_of(&bytes),
        }
    }

    /// The format of the extension and of the content, where they differ.
    pub(super) fn promised(&self) -> Option<(ImageFormat, ImageFormat)> {
        let promised = ImageFormat::from_path(&self.path).ok()?;
        let actual = self.format?;
        (promised != actual).then_some((promised, actual))
    }
}

/// Decodes an image and collects its facts.
fn facts_of(bytes: &[u8]) -> Result<ImageFacts, Unusable> {
    let pixels = decode(bytes, false).map_err(|error| Unusable {
        fault: match error {
            DecodeError::Truncated => Fault::Truncated,
            DecodeError::Unsupported(_) => Fault::Unsupported,
            _ => Fault::Other,
        },
        why: error.to_string(),
    })?;
    let (width, height) = pixels.dimensions();
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let colour = header(bytes).map_or_else(Colour::default, |header| Colour {
        gray: header.gray,
        cmyk: header.cmyk,
        alpha: header.alpha,
        sixteen: header.sixteen,
    });
    let turned = !exif::orientation(bytes).is_upright();
    let pixel_hash = hash(&[&size, pixels.as_raw()]);
    Ok(ImageFacts { width, height, colour, turned, pixel_hash, image_hash: ImageHash::of(&pixels) })
}

/// SipHash of 64 bits: among a million images two different ones meet with probability 3e-8.
fn hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

/// Whether two files hold the same bytes.
pub(super) fn same_bytes(a: &Path, b: &Path) -> bool {
    matches!((std::fs::read(a), std::fs::read(b)), (Ok(a), Ok(b)) if a == b)
}
