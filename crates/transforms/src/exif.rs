//! The orientation tag of an image file, wherever its container keeps EXIF: APP1 of a JPEG, `eXIf`
//! of a PNG, `EXIF` of a WebP.
//!
//! A block that is broken, and a value that EXIF does not define, ask for nothing. A TIFF is turned
//! by its own tag when it is decoded. XMP and text chunks are not read.

use std::borrow::Cow;

use crate::byte_order::ByteOrder;
use crate::orientation::Orientation;

/// What stands before the TIFF header in a JPEG, and in some WebP and PNG files.
const PREFIX: &[u8] = b"Exif\0\0";

/// How the EXIF block of a file asks to turn it; upright without one.
#[must_use]
pub fn orientation(bytes: &[u8]) -> Orientation {
    let block = match bytes {
        [0xFF, 0xD8, 0xFF, ..] => in_jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => in_png(bytes).map(Cow::Borrowed),
        [b'R', b'I', b'F', b'F', ..] => in_webp(bytes).map(Cow::Borrowed),
        _ => None,
    };
    block.and_then(|block| of_block(&block)).unwrap_or_default()
}

/// The EXIF segments of a JPEG up to its first scan. A block of more than 64 KB is split.
fn in_jpeg(bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut found: Option<Cow<[u8]>> = None;
    let mut offset = 2; // after SOI
    while let Some(&[first, marker]) = bytes.get(offset..offset + 2) {
        match (first, marker) {
            // Fill bytes, and stray bytes between segments.
            (0xFF, 0x00 | 0xFF) => offset += 1,
            (0xFF, 0x01 | 0xD0..=0xD8) => offset += 2,
            (0xFF, 0xD9 | 0xDA) => break,
            (0xFF, _) => {
                let length = usize::from(ByteOrder::Big.u16(bytes, offset + 2)?).max(2);
                let end = (offset + 2 + length).min(bytes.len());
                let body = &bytes[offset + 4..end.max(offset + 4)];
                if marker == 0xE1
                    && let Some(block) = body.strip_prefix(PREFIX)
                {
                    match &mut found {
                        Some(whole) => whole.to_mut().extend_from_slice(block),
                        None => found = Some(Cow::Borrowed(block)),
                    }
                }
                offset += 2 + length;
            }
            _ => offset += 1,
        }
    }
    found
}

/// The `eXIf` chunk of a PNG, before or behind the data.
fn in_png(bytes: &[u8]) -> Option<&[u8]> {
    let mut offset = 8;
    loop {
        let length = ByteOrder::Big.u32(bytes, offset)? as usize;
        let kind = bytes.get(offset + 4..offset + 8)?;
        let body = offset + 8..(offset + 8).checked_add(length)?;
        match kind {
            b"eXIf" => return bytes.get(body),
            b"IEND" => return None,
            _ => offset = body.end.checked_add(4)?,
        }
    }
}

/// The `EXIF` chunk of a WebP.
fn in_webp(bytes: &[u8]) -> Option<&[u8]> {
    let mut offset = 12;
    loop {
        let kind = bytes.get(offset..offset + 4)?;
        let length = ByteOrder::Little.u32(bytes, offset + 4)? as usize;
        let body = offset + 8..(offset + 8).checked_add(length)?;
        if kind == b"EXIF" {
            return bytes.get(body);
        }
        offset = body.end.checked_add(length & 1)?;
    }
}

/// The orientation of an EXIF block: a TIFF header, and tag 0x0112 of its first directory as a
/// single integer of any type.
fn of_block(block: &[u8]) -> Option<Orientation> {
    const ORIENTATION: u16 = 0x0112;
    let block = block.strip_prefix(PREFIX).unwrap_or(block);
    let order = match block.get(..4)? {
        [b'I', b'I', 42, 0] => ByteOrder::Little,
        [b'M', b'M', 0, 42] => ByteOrder::Big,
        _ => return None,
    };
    let directory = order.u32(block, 4)? as usize;
    let count = usize::from(order.u16(block, directory)?);
    (0..count).find_map(|number| {
        let entry = block.get(directory.checked_add(2 + number * 12)?..)?.get(..12)?;
        if order.u16(entry, 0)? != ORIENTATION || order.u32(entry, 4)? != 1 {
            return None;
        }
        let value = match order.u16(entry, 2)? {
            1 | 6 => u64::from(entry[8]),
            3 | 8 => u64::from(order.u16(entry, 8)?),
            4 | 9 => u64::from(order.u32(entry, 8)?),
            _ => return None,
        };
        Orientation::from_exif(value)
    })
}
