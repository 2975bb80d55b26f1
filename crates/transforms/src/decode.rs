//! Bytes of an image file to 8-bit RGB.
//!
//! The content decides the format, never the file name: a PNG called `.JPEG` decodes. Alpha is
//! dropped, not composited, and colour profiles are ignored, as torchvision's loader does.
//! Truncated files, floating-point samples and images larger than [`MAX_BYTES`] are refused.
//! `preprocess` goes on from the pixels.

use std::borrow::Cow;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{
    DynamicImage, ImageBuffer, ImageDecoder as _, ImageError, ImageFormat, ImageReader, Limits,
    Pixel, RgbImage,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::jpeg::{Jpeg, JpegError, JpegScratch, decode_any, exif_block};
use crate::resize::{Patch, Region};

/// Most bytes of a decoded image, 512 MiB: 179 million RGB pixels, where Pillow too reports a
/// decompression bomb.
pub const MAX_BYTES: u64 = 512 << 20;

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

/// Why a file is not an image that can be used.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// The bytes begin like no known format.
    #[error("not an image of a known format (jpeg, png, webp, bmp, gif, tiff)")]
    Format,
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The end of the file is missing.
    #[error("the image is truncated")]
    Truncated,
    /// The image has more pixels than [`MAX_BYTES`] hold.
    #[error("{width} x {height} pixels are more than the 512 MiB an image may take; shrink it")]
    Large {
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
    },
    /// A kind of image that is not read.
    #[error("{0} is not supported; convert it to an 8-bit PNG or JPEG")]
    Unsupported(String),
    /// The samples are floating point, which has no agreed range.
    #[error("samples in floating point; convert it to 8 or 16 bits")]
    Float,
    /// The decoder found a fault, in its own words.
    #[error("damaged image: {0}")]
    Damaged(String),
    /// The decoder panicked with this message.
    #[error("damaged image: the decoder panicked: {0}")]
    Panicked(String),
}

/// Decodes jpeg, png, webp, bmp, gif (first frame) and tiff.
///
/// Gray is repeated, alpha dropped, a palette looked up, CMYK converted; 16-bit samples become
/// round(v / 257). With `exif` the image is turned as its EXIF orientation says; torchvision never
/// turns it.
///
/// # Errors
/// See [`DecodeError`]. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8], exif: bool) -> Result<RgbImage, DecodeError> {
    guarded(|| {
        let mut scratch = DecodeScratch::default();
        let image = EncodedImage::open_unguarded(bytes, exif)?;
        image.region_unguarded(image.whole(), 1, &mut scratch)?;
        Ok(match image.content {
            Content::Jpeg(_) => scratch.pixels,
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
}

/// An image of which regions are decoded: a JPEG that `jpeg` supports region by region, every other
/// image at once when it is opened.
pub struct EncodedImage<'a> {
    bytes: &'a [u8],
    content: Content<'a>,
}

enum Content<'a> {
    Jpeg(Box<Jpeg<'a>>),
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
        let content = match Jpeg::parse(bytes) {
            Some(jpeg) if !(exif && jpeg.exif.is_some()) => {
                if (jpeg.width * jpeg.height * 3) as u64 > MAX_BYTES {
                    let (width, height) = (jpeg.width as u32, jpeg.height as u32);
                    return Err(DecodeError::Large { width, height });
                }
                Content::Jpeg(Box::new(jpeg))
            }
            _ => Content::Pixels(Cow::Owned(decode_generally(bytes, exif)?)),
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
        let jpeg = match &self.content {
            Content::Pixels(pixels) => return Some(pixels.as_ref().clone()),
            Content::Jpeg(jpeg) => jpeg,
        };
        let (whole, mut rgb) = (self.whole(), Vec::new());
        guarded(|| Ok(jpeg.decode(whole, 1, &mut scratch.jpeg, &mut rgb))).ok()?.ok()?;
        RgbImage::from_raw(whole.width as u32, whole.height as u32, rgb)
    }

    /// The region of all pixels.
    #[must_use]
    pub fn whole(&self) -> Region {
        let (height, width) = match &self.content {
            Content::Jpeg(jpeg) => (jpeg.height, jpeg.width),
            Content::Pixels(pixels) => (pixels.height() as usize, pixels.width() as usize),
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
        let jpeg = match &self.content {
            Content::Jpeg(jpeg) => jpeg,
            Content::Pixels(pixels) => return Ok((pixels, region.into())),
        };
        let patch = Patch::at(region, shrink);
        let mut rgb = std::mem::take(&mut scratch.pixels).into_raw();
        if jpeg.decode(patch.region, shrink, &mut scratch.jpeg, &mut rgb).is_err() {
            // The general decoder has the last word, and names the fault.
            scratch.pixels = decode_generally(self.bytes, false)?;
            return Ok((&scratch.pixels, region.into()));
        }
        let Region { height, width, .. } = patch.region;
        scratch.pixels =
            RgbImage::from_raw(width as u32, height as u32, rgb).expect("three bytes for a pixel");
        let decoded = Region { top: 0, left: 0, height, width };
        Ok((&scratch.pixels, Patch { region: decoded, ..patch }))
    }
}

/// Whether bytes begin like an image of a format that [`decode`] reads; the first 64 are enough.
#[must_use]
pub fn looks_like_an_image(bytes: &[u8]) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    matches!(image::guess_format(bytes), Ok(Bmp | Gif | Jpeg | Png | Tiff | WebP))
}

/// The message of a caught panic.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "no message".to_owned(),
    }
}

fn decode_generally(bytes: &[u8], exif: bool) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if !looks_like_an_image(bytes) {
        return Err(DecodeError::Format);
    }
    if bytes.starts_with(&[0xFF, 0xD8]) {
        return decode_any_jpeg(bytes, exif);
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|_| DecodeError::Format)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DecodeError::Damaged(format!("{width} x {height} pixels")));
    }
    if decoder.total_bytes() > MAX_BYTES || u64::from(width) * u64::from(height) * 3 > MAX_BYTES {
        return Err(DecodeError::Large { width, height });
    }
    // A broken EXIF block does not make the image unreadable.
    let orientation = exif.then(|| decoder.orientation().ok()).flatten();
    let image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    let mut image = DynamicImage::ImageRgb8(rgb(image)?);
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(image.into_rgb8())
}

/// Decodes a JPEG of any kind.
fn decode_any_jpeg(bytes: &[u8], exif: bool) -> Result<RgbImage, DecodeError> {
    let (width, height, rgb) = decode_any(bytes, MAX_BYTES).map_err(|error| match error {
        JpegError::Truncated => DecodeError::Truncated,
        JpegError::Unsupported(kind) => DecodeError::Unsupported(kind.to_owned()),
        JpegError::Damaged(fault) => DecodeError::Damaged(fault.to_owned()),
        JpegError::Large { width, height } => DecodeError::Large { width, height },
    })?;
    let pixels = RgbImage::from_raw(width, height, rgb).expect("three bytes for a pixel");
    // A broken EXIF block does not make the image unreadable.
    let block = exif.then(|| exif_block(bytes)).flatten();
    let Some(orientation) = block.and_then(Orientation::from_exif_chunk) else { return Ok(pixels) };
    let mut image = DynamicImage::ImageRgb8(pixels);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn damaged(error: ImageError) -> DecodeError {
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        error => DecodeError::Damaged(error.to_string()),
    }
}

fn rgb(image: DynamicImage) -> Result<RgbImage, DecodeError> {
    Ok(match image {
        DynamicImage::ImageRgb8(pixels) => pixels,
        DynamicImage::ImageLuma8(pixels) => convert(&pixels, |p| [p[0]; 3]),
        DynamicImage::ImageLumaA8(pixels) => convert(&pixels, |p| [p[0]; 3]),
        DynamicImage::ImageRgba8(pixels) => convert(&pixels, |p| [p[0], p[1], p[2]]),
        DynamicImage::ImageLuma16(pixels) => convert(&pixels, |p| [eight(p[0]); 3]),
        DynamicImage::ImageLumaA16(pixels) => convert(&pixels, |p| [eight(p[0]); 3]),
        DynamicImage::ImageRgb16(pixels) => {
            convert(&pixels, |p| [eight(p[0]), eight(p[1]), eight(p[2])])
        }
        DynamicImage::ImageRgba16(pixels) => {
            convert(&pixels, |p| [eight(p[0]), eight(p[1]), eight(p[2])])
        }
        _ => return Err(DecodeError::Float),
    })
}

/// 16 bits to 8: round(v / 257), so that 0 and 65535 become 0 and 255. (Pillow clips gray instead.)
fn eight(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

fn convert<P: Pixel>(
    pixels: &ImageBuffer<P, Vec<P::Subpixel>>,
    rgb: impl Fn(&[P::Subpixel]) -> [u8; 3],
) -> RgbImage {
    let samples = pixels.pixels().flat_map(|pixel| rgb(pixel.channels())).collect();
    RgbImage::from_raw(pixels.width(), pixels.height(), samples).expect("three bytes for a pixel")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use serde::Deserialize;

    use super::{DecodeError, decode, eight};

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

    #[test]
    fn sixteen_bits_are_rounded() {
        let check = |from, to| assert_eq!(eight(from), to, "{from}");
        check(0, 0);
        check(128, 0);
        check(129, 1);
        check(257, 1);
        check(65_535, 255);
        check(65_406, 254);
        check(65_407, 255);
    }
}
