//! Bytes of an image file to 8-bit RGB.
//!
//! The content decides the format, never the file name: a PNG called `.JPEG` decodes. The pixels
//! are those of Pillow 13's `Image.open(file).convert("RGB")` in every bit: alpha is dropped, not
//! composited, and colour profiles are ignored. What Pillow would give otherwise is an error:
//! truncated and damaged files, kinds that are not supported (by name), and images larger than
//! [`MAX_BYTES`]. docs/images.md lists the kinds and the few deliberate departures. `preprocess`
//! goes on from the pixels.
//!
//! `decode/` has a room for every format; `crate::jpeg` decodes JPEGs, the usual ones in part.

mod bmp;
mod byte_reader;
mod error;
mod format;
mod gif;
mod header;
mod jpeg;
mod lzw;
mod palette;
mod png;
mod sixteen_bits;
mod tiff;
mod webp;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};

use crate::decode::error::checked_size;
pub use crate::decode::error::{DecodeError, MAX_BYTES};
pub use crate::decode::format::{foreign_kind, format, looks_like_an_image};
pub use crate::decode::header::{ImageHeader, header};
use crate::exif;
use crate::jpeg::{Jpeg, JpegScratch};
use crate::orientation::Orientation;
use crate::resize::{Patch, Region};

/// Whether training may decode a large JPEG at a smaller size before its crop is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Decoding {
    /// Every pixel; evaluation always decodes so.
    #[default]
    Exact,
    /// At 1/2, 1/4 or 1/8 of the size where the resize still halves the result.
    Scaled,
}

/// Decodes jpeg, png, webp, bmp, gif (first frame) and tiff (first page).
///
/// With `exif` the image is turned as its EXIF orientation says, as viewers do; torchvision does
/// not. A TIFF is turned by its own tag in either case, as by Pillow.
///
/// # Errors
/// See [`DecodeError`]. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8], exif: bool) -> Result<RgbImage, DecodeError> {
    guarded(|| {
        let mut scratch = DecodeScratch::default();
        let image = EncodedImage::open_unguarded(bytes, exif)?;
        image.region_unguarded(image.whole(), 1, &mut scratch)?;
        Ok(match image.content {
            Content::Jpeg(..) => scratch.pixels,
            Content::Pixels(pixels) => pixels.into_owned(),
        })
    })
}

fn guarded<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, DecodeError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(DecodeError::Panicked(panic_message(panic.as_ref()))))
}

/// Memory that decoding reuses from image to image.
#[derive(Default)]
pub struct DecodeScratch {
    jpeg: JpegScratch,
    /// The pixels of the last region.
    pixels: RgbImage,
    /// The same before they were turned.
    stored: Vec<u8>,
}

/// An image of which regions are decoded: a JPEG that `jpeg` supports region by region, every other
/// image at once when it is opened. All sizes are those of the turned image.
pub struct EncodedImage<'a> {
    bytes: &'a [u8],
    content: Content<'a>,
}

enum Content<'a> {
    /// A header, and how to turn the stored pixels.
    Jpeg(Box<Jpeg<'a>>, Orientation),
    /// Pixels, turned already.
    Pixels(Cow<'a, RgbImage>),
}

impl<'a> EncodedImage<'a> {
    /// Reads the header of a supported JPEG, and decodes every other image; see [`decode`].
    ///
    /// # Errors
    /// See [`DecodeError`]. Never panics, whatever the bytes.
    pub fn open(bytes: &'a [u8], exif: bool) -> Result<Self, DecodeError> {
        guarded(|| Self::open_unguarded(bytes, exif))
    }

    fn open_unguarded(bytes: &'a [u8], exif: bool) -> Result<Self, DecodeError> {
        let orientation = if exif { exif::orientation(bytes) } else { Orientation::default() };
        let content = match Jpeg::parse(bytes) {
            Some(jpeg) => {
                checked_size(jpeg.width as u64, jpeg.height as u64)?;
                Content::Jpeg(Box::new(jpeg), orientation)
            }
            None => Content::Pixels(Cow::Owned(turned(stored_pixels(bytes)?, orientation))),
        };
        Ok(Self { bytes, content })
    }

    /// Wraps pixels that are decoded already.
    #[must_use]
    pub fn of(pixels: &'a RgbImage) -> Self {
        Self { bytes: &[], content: Content::Pixels(Cow::Borrowed(pixels)) }
    }

    /// All pixels, if every [`EncodedImage::region`] is certain to be a part of them. A damaged
    /// JPEG gives none: a region may not reach the fault.
    #[must_use]
    pub fn pixels(&self, scratch: &mut DecodeScratch) -> Option<RgbImage> {
        let (jpeg, orientation) = match &self.content {
            Content::Pixels(pixels) => return Some(pixels.as_ref().clone()),
            Content::Jpeg(jpeg, orientation) => (jpeg, *orientation),
        };
        let (height, width) = (jpeg.height, jpeg.width);
        let (whole, mut rgb) = (Region { top: 0, left: 0, height, width }, Vec::new());
        guarded(|| Ok(jpeg.decode(whole, 1, &mut scratch.jpeg, &mut rgb))).ok()?.ok()?;
        Some(turned(RgbImage::from_raw(width as u32, height as u32, rgb)?, orientation))
    }

    /// The region of all pixels.
    #[must_use]
    pub fn whole(&self) -> Region {
        let [height, width] = match &self.content {
            Content::Jpeg(jpeg, orientation) => orientation.size([jpeg.height, jpeg.width]),
            Content::Pixels(pixels) => [pixels.height() as usize, pixels.width() as usize],
        };
        Region { top: 0, left: 0, height, width }
    }

    /// Decodes a region: pixels that hold it, and the patch of them that it is.
    ///
    /// With `shrink` 2, 4 or 8 (see [`crate::jpeg::SHRINKS`]) a supported JPEG is decoded at
    /// 1/`shrink` of its size; `shrink` has no effect on other images.
    ///
    /// # Errors
    /// See [`DecodeError`]; a fault outside the region may remain unseen.
    ///
    /// # Panics
    /// Never; a region that is not inside the image is [`DecodeError::Panicked`].
    pub fn region<'s>(
        &'s self,
        region: Region,
        shrink: usize,
        scratch: &'s mut DecodeScratch,
    ) -> Result<(&'s RgbImage, Patch), DecodeError> {
        guarded(move || self.region_unguarded(region, shrink, scratch))
    }

    fn region_unguarded<'s>(
        &'s self,
        region: Region,
        shrink: usize,
        scratch: &'s mut DecodeScratch,
    ) -> Result<(&'s RgbImage, Patch), DecodeError> {
        let (jpeg, orientation) = match &self.content {
            Content::Jpeg(jpeg, orientation) => (jpeg, *orientation),
            Content::Pixels(pixels) => return Ok((pixels, region.into())),
        };
        let stored = orientation.stored_region(region, [jpeg.height, jpeg.width]);
        let patch = Patch::at(stored, shrink);
        let Region { height, width, .. } = patch.region;
        let DecodeScratch { jpeg: scratch_jpeg, pixels, stored } = scratch;
        let mut rgb = std::mem::take(pixels).into_raw();
        let into = if orientation.is_upright() { &mut rgb } else { &mut *stored };
        if jpeg.decode(patch.region, shrink, scratch_jpeg, into).is_err() {
            // The general decoder has the last word, and names the fault.
            *pixels = turned(jpeg::decode(self.bytes)?, orientation);
            return Ok((pixels, region.into()));
        }
        if !orientation.is_upright() {
            orientation.turn(stored, [height, width], &mut rgb);
        }
        let patch = orientation.turned_patch(patch);
        let Region { height, width, .. } = patch.region;
        *pixels =
            RgbImage::from_raw(width as u32, height as u32, rgb).expect("three bytes for a pixel");
        Ok((pixels, patch))
    }
}

/// Turns all pixels.
fn turned(image: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation.is_upright() {
        return image;
    }
    let stored = [image.height() as usize, image.width() as usize];
    let mut pixels = Vec::new();
    orientation.turn(image.as_raw(), stored, &mut pixels);
    let [height, width] = orientation.size(stored).map(|edge| edge as u32);
    RgbImage::from_raw(width, height, pixels).expect("as many pixels as before")
}

/// The message of a caught panic.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_owned(),
    }
}

/// All pixels as the file stores them; a TIFF's are turned.
fn stored_pixels(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    match format(bytes)? {
        ImageFormat::Jpeg => jpeg::decode(bytes),
        ImageFormat::Png => png::decode(bytes),
        ImageFormat::WebP => webp::decode(bytes),
        ImageFormat::Bmp => bmp::decode(bytes),
        ImageFormat::Gif => gif::decode(bytes),
        _ => tiff::decode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::{DecodeError, decode};

    /// The pixels that Pillow decodes from a file of `tests/fixtures/decode`.
    #[derive(Deserialize)]
    struct Expected {
        size: [u32; 2],
        /// Largest mean difference of a sample; 0 for lossless formats.
        tolerance: f64,
        rgb: String,
    }

    fn fixtures() -> PathBuf {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures").into()
    }

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(fixtures().join("decode").join(name)).unwrap()
    }

    #[test]
    fn every_format_decodes_to_pillows_pixels() {
        let text = std::fs::read_to_string(fixtures().join("decode.json")).unwrap();
        let files: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
        assert_eq!(files.len(), 26);
        let mut faults = Vec::new();
        for (name, expected) in files {
            let pixels = match decode(&file(&name), name.starts_with("orientation")) {
                Ok(pixels) => pixels,
                Err(error) => {
                    faults.push(format!("{name}: {error}"));
                    continue;
                }
            };
            assert_eq!(<[u32; 2]>::from(pixels.dimensions()), expected.size, "{name}");
            let byte = |i: usize| u8::from_str_radix(&expected.rgb[i * 2..i * 2 + 2], 16).unwrap();
            let samples = pixels.as_raw();
            assert_eq!(samples.len() * 2, expected.rgb.len());
            let difference: u32 =
                (0..samples.len()).map(|i| u32::from(samples[i].abs_diff(byte(i)))).sum();
            let difference = f64::from(difference) / samples.len() as f64;
            if difference > expected.tolerance {
                faults.push(format!("{name}: mean difference {difference}"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn orientation_is_applied_only_on_request() {
        let bytes = file("orientation_6.png");
        assert_eq!(decode(&bytes, false).unwrap(), decode(&file("rgb.png"), true).unwrap());
        assert_eq!(decode(&bytes, true).unwrap().dimensions(), (11, 19));
    }

    /// A file cut anywhere, or with a byte changed, gives an image or an error, never a panic. No
    /// cut file passes for a whole one as long as pixels are missing.
    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for name in [
            "rgb.png",
            "rgb.jpg",
            "progressive.jpg",
            "rgba.webp",
            "animated.gif",
            "rgb.bmp",
            "rgb.tif",
        ] {
            let whole = file(name);
            for keep in (0..whole.len()).step_by(7) {
                let cut = decode(&whole[..keep], true);
                // The trailers of png, gif and tiff in the later half hold no pixels.
                let fatal = keep < whole.len() / 2 || name.ends_with("jpg");
                assert!(cut.is_err() || !fatal, "{name} cut to {keep} of {}", whole.len());
                if let Err(error) = cut {
                    assert!(!error.to_string().ends_with('.'), "{error}");
                }
                let mut changed = whole.clone();
                changed[keep] ^= 0x55;
                assert!(
                    !matches!(decode(&changed, true), Err(DecodeError::Panicked(_))),
                    "{name} {keep}"
                );
            }
        }
    }

    #[test]
    fn bytes_that_are_no_image_get_a_reason() {
        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(decode(bytes, false).unwrap_err().to_string(), expected);
        };
        check(b"", "the file is empty");
        check(b"words", "not an image of a known format (jpeg, png, webp, bmp, gif, tiff)");
        let jpeg = file("rgb.jpg");
        check(&jpeg[..jpeg.len() - 40], "the image is truncated");
        // A header that promises 100,000 x 100,000 pixels.
        let mut bomb = file("gray.png");
        bomb[16..24].copy_from_slice(&[0, 1, 0x86, 0xA0, 0, 1, 0x86, 0xA0]);
        let checksum = crc32fast::hash(&bomb[12..29]).to_be_bytes();
        bomb[29..33].copy_from_slice(&checksum);
        assert!(matches!(
            decode(&bomb, false),
            Err(DecodeError::Large { .. } | DecodeError::Damaged(_))
        ));
    }
}
