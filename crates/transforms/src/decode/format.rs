//! The format of a file, by its first bytes.

use image::ImageFormat;

use crate::decode::error::DecodeError;

/// The format, if it is one that `decode` reads.
fn known(bytes: &[u8]) -> Option<ImageFormat> {
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(ImageFormat::Jpeg),
        [0x89, b'P', b'N', b'G', 13, 10, 26, 10, ..] => Some(ImageFormat::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(ImageFormat::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(ImageFormat::Gif),
        // BigTIFF too, and with the magic number in the wrong byte order, as Pillow does.
        [b'I', b'I', 42 | 43, 0, ..]
        | [b'I', b'I', 0, 42, ..]
        | [b'M', b'M', 42, 0, ..]
        | [b'M', b'M', 0, 42 | 43, ..] => Some(ImageFormat::Tiff),
        [b'B', b'M', ..] => Some(ImageFormat::Bmp),
        _ => None,
    }
}

/// Whether bytes begin like an image of a format that [`crate::decode::decode`] reads; the first 64
/// are enough.
#[must_use]
pub fn looks_like_an_image(bytes: &[u8]) -> bool {
    known(bytes).is_some()
}

/// The format of the content of a file.
///
/// # Errors
/// [`DecodeError::Empty`]; [`DecodeError::Unsupported`] with the name of another image format;
/// [`DecodeError::Format`].
pub fn format(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    known(bytes).ok_or_else(|| match foreign_kind(bytes) {
        Some(kind) => DecodeError::unsupported(kind),
        None => DecodeError::Format,
    })
}

/// The name of an image format that [`crate::decode::decode`] does not read, by a file's first 64
/// bytes.
#[must_use]
pub fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    if let [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] = bytes {
        return match brand.get(..4)? {
            b"avif" | b"avis" => Some("AVIF"),
            b"mif1" if brand.windows(4).any(|other| other == b"avif") => Some("AVIF"),
            b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
                Some("HEIC (a photo of an iPhone)")
            }
            b"crx " => Some("a camera's raw file (CR3)"),
            _ => None,
        };
    }
    let kinds: [(&[u8], &str); 15] = [
        (b"\xFF\x0A", "JPEG XL"),
        (b"\0\0\0\x0CJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xFF\x4F\xFF\x51", "JPEG 2000"),
        (b"8BPS", "Photoshop (PSD)"),
        (b"v/1\x01", "OpenEXR"),
        (b"#?RADIANCE", "Radiance HDR"),
        (b"qoif", "QOI"),
        (b"DDS ", "DirectDraw Surface (DDS)"),
        (b"\0\0\x01\0", "an icon (ICO)"),
        (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
        (b"IIU\0", "a camera's raw file (RW2)"),
        (b"IIRO", "a camera's raw file (ORF)"),
        (b"gimp xcf", "GIMP (XCF)"),
        (b"<svg", "SVG"),
    ];
    if let Some((_, kind)) = kinds.iter().find(|(magic, _)| begins(magic)) {
        return Some(kind);
    }
    match bytes {
        [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t' | b'#', ..] => Some("PNM (PPM, PGM, PBM)"),
        _ if begins(b"<?xml") && bytes.windows(4).any(|word| word == b"<svg") => Some("SVG"),
        _ => None,
    }
}
