//! The facts of one file: format, size, colour, whether it decodes, and a hash of its looks.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{ExtendedColorType, ImageDecoder as _, ImageFormat, ImageReader};

use crate::datasets::check::image_hash::ImageHash;
use crate::datasets::storage::is_about_the_file;
use transforms::decode::{DecodeError, decode};

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
    pub(super) truncated: bool,
    /// Whether the file could not be read, which says nothing about what is in it.
    pub(super) storage: bool,
    /// Lower case, no full stop.
    pub(super) why: String,
}

/// An image that decodes.
pub(super) struct ImageFacts {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) colour: Colour,
    /// Whether EXIF asks to turn it.
    pub(super) turned: bool,
    /// Hash of size and decoded RGB: equal for files that differ in container, compression without loss or metadata.
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
                let (storage, why) = (!is_about_the_file(&error), error.to_string());
                let decoded = Err(Unusable { truncated: false, storage, why });
                return Self { path, split, class, bytes: 0, file_hash: 0, format: None, decoded };
            }
        };
        Self {
            path,
            split,
            class,
            bytes: bytes.len() as u64,
            file_hash: hash(&[&bytes]),
            format: image::guess_format(&bytes).ok(),
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
        truncated: matches!(error, DecodeError::Truncated),
        storage: false,
        why: error.to_string(),
    })?;
    let (width, height) = pixels.dimensions();
    let size = [width.to_le_bytes(), height.to_le_bytes()].concat();
    // The pixels decode; a header that does not is no reason to lose the image.
    let (colour, turned) =
        catch_unwind(|| header(bytes)).ok().flatten().unwrap_or((Colour::default(), false));
    let pixel_hash = hash(&[&size, pixels.as_raw()]);
    Ok(ImageFacts { width, height, colour, turned, pixel_hash, image_hash: ImageHash::of(&pixels) })
}

/// Colour and EXIF orientation from the header of an encoded image.
fn header(bytes: &[u8]) -> Option<(Colour, bool)> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    let jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let mut decoder = reader.into_decoder().ok()?;
    let stored = decoder.original_color_type();
    let given = decoder.color_type();
    let cmyk = matches!(stored, ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16)
        || (jpeg && jpeg_components(bytes) == Some(4));
    let colour = Colour {
        gray: !given.has_color(),
        cmyk,
        alpha: given.has_alpha(),
        sixteen: given.bytes_per_pixel() > given.channel_count()
            || stored == ExtendedColorType::Cmyk16,
    };
    let turned = decoder.orientation().is_ok_and(|o| o != Orientation::NoTransforms);
    Some((colour, turned))
}

/// Components of a JPEG, from its frame header (SOF): 1 gray, 3 colour, 4 CMYK or YCCK.
fn jpeg_components(bytes: &[u8]) -> Option<u8> {
    let mut offset = 2; // after SOI
    loop {
        let &[first, marker] = bytes.get(offset..offset + 2)? else { return None };
        match (first, marker) {
            (0xFF, 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF) => {
                return bytes.get(offset + 9).copied(); // length 2, precision 1, height 2, width 2
            }
            (0xFF, 0x01 | 0xD0..=0xD8) => offset += 2,
            (0xFF, 0x00 | 0xFF) => offset += 1,
            (0xFF, _) => {
                let &[high, low] = bytes.get(offset + 2..offset + 4)? else { return None };
                offset += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
            _ => offset += 1,
        }
    }
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
