//! The orientation of an image file, wherever its container keeps EXIF or XMP: APP1 of a JPEG,
//! `eXIf` and text chunks of a PNG, `EXIF` and `XMP ` of a WebP.
//!
//! The rule is that of Pillow's `ImageOps.exif_transpose`: XMP counts where EXIF has no orientation.
//! A block that is broken, and a value that EXIF does not define, ask for nothing. A TIFF is turned
//! by its own tag when it is decoded.

use std::borrow::Cow;
use std::io::Read as _;

use flate2::read::ZlibDecoder;

use crate::byte_order::ByteOrder;
use crate::orientation::Orientation;

/// What stands before the TIFF header in a JPEG, and in some WebP and PNG files.
const PREFIX: &[u8] = b"Exif\0\0";

/// What stands before the XMP packet in a JPEG.
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// The keyword of the text chunk of a PNG with an XMP packet.
const XMP_KEYWORD: &[u8] = b"XML:com.adobe.xmp";

/// The keyword of the text chunk of a PNG in which ImageMagick writes EXIF.
const EXIF_KEYWORD: &[u8] = b"Raw profile type exif";

/// Most bytes of a text chunk once it is inflated, as in Pillow.
const TEXT: u64 = 1 << 20;

/// The blocks of a file that may say how to turn it.
#[derive(Default)]
struct Blocks<'a> {
    exif: Option<Cow<'a, [u8]>>,
    xmp: Option<Cow<'a, [u8]>>,
}

/// How the EXIF block of a file, or else its XMP packet, asks to turn it; upright without both.
#[must_use]
pub fn orientation(bytes: &[u8]) -> Orientation {
    let mut blocks = Blocks::default();
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => in_jpeg(bytes, &mut blocks),
        [0x89, b'P', b'N', b'G', ..] => in_png(bytes, &mut blocks),
        [b'R', b'I', b'F', b'F', ..] => {
            // None at the end of the file.
            let _ = in_webp(bytes, &mut blocks);
        }
        _ => {}
    }
    let by_exif = blocks.exif.and_then(|block| of_block(&block));
    by_exif.or_else(|| of_xmp(&blocks.xmp?)).unwrap_or_default()
}

/// The segments of a JPEG up to its first scan. A block of EXIF of more than 64 KB is split; of
/// several XMP packets the last one counts.
fn in_jpeg<'a>(bytes: &'a [u8], found: &mut Blocks<'a>) {
    let mut offset = 2; // after SOI
    while let Some(&[first, marker]) = bytes.get(offset..offset + 2) {
        match (first, marker) {
            // Fill bytes, and stray bytes between segments.
            (0xFF, 0x00 | 0xFF) => offset += 1,
            (0xFF, 0x01 | 0xD0..=0xD8) => offset += 2,
            (0xFF, 0xD9 | 0xDA) => break,
            (0xFF, _) => {
                let Some(length) = ByteOrder::Big.u16(bytes, offset + 2) else { return };
                let length = usize::from(length).max(2);
                let end = (offset + 2 + length).min(bytes.len());
                let body = &bytes[offset + 4..end.max(offset + 4)];
                if marker == 0xE1
                    && let Some(block) = body.strip_prefix(PREFIX)
                {
                    match &mut found.exif {
                        Some(whole) => whole.to_mut().extend_from_slice(block),
                        None => found.exif = Some(Cow::Borrowed(block)),
                    }
                } else if marker == 0xE1
                    && let Some(packet) = body.strip_prefix(XMP_PREFIX)
                {
                    found.xmp = Some(Cow::Borrowed(packet));
                }
                offset += 2 + length;
            }
            _ => offset += 1,
        }
    }
}

/// The chunks of a PNG, before or behind the data. ImageMagick's block counts where there is no
/// other.
fn in_png<'a>(bytes: &'a [u8], found: &mut Blocks<'a>) {
    let (mut offset, mut raw) = (8, None);
    while let Some((kind, body, next)) = png_chunk(bytes, offset) {
        match kind {
            b"eXIf" => found.exif = Some(Cow::Borrowed(body)),
            b"tEXt" | b"zTXt" | b"iTXt" => match text_of(kind, body) {
                Some((XMP_KEYWORD, text)) => found.xmp = Some(text),
                Some((EXIF_KEYWORD, text)) => raw = Some(text),
                _ => {}
            },
            b"IEND" => break,
            _ => {}
        }
        offset = next;
    }
    if found.exif.is_none() {
        found.exif = raw.and_then(|text| of_hex(&text)).map(Cow::Owned);
    }
}

/// Kind and body of the chunk at an offset, and the offset of the next one.
fn png_chunk(bytes: &[u8], offset: usize) -> Option<(&[u8], &[u8], usize)> {
    let length = ByteOrder::Big.u32(bytes, offset)? as usize;
    let end = (offset + 8).checked_add(length)?;
    Some((bytes.get(offset + 4..offset + 8)?, bytes.get(offset + 8..end)?, end.checked_add(4)?))
}

/// Keyword and text of a text chunk; nothing for keywords that do not matter here.
fn text_of<'a>(kind: &[u8], body: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let (keyword, rest) = (&body[..end], &body[end + 1..]);
    if keyword != XMP_KEYWORD && keyword != EXIF_KEYWORD {
        return None;
    }
    let (compressed, text) = match (kind, rest) {
        (b"tEXt", text) => (false, text),
        (b"zTXt", [0, text @ ..]) => (true, text),
        // A flag, a method, and two names that end with a zero.
        (b"iTXt", [flag @ (0 | 1), 0, rest @ ..]) => {
            let mut ends = rest.iter().enumerate().filter(|(_, byte)| **byte == 0);
            (*flag == 1, &rest[ends.nth(1)?.0 + 1..])
        }
        _ => return None,
    };
    if !compressed {
        return Some((keyword, Cow::Borrowed(text)));
    }
    let mut inflated = Vec::new();
    ZlibDecoder::new(text).take(TEXT + 1).read_to_end(&mut inflated).ok()?;
    (inflated.len() as u64 <= TEXT).then_some((keyword, Cow::Owned(inflated)))
}

/// The bytes of ImageMagick's text: three lines, then hexadecimal digits.
fn of_hex(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|byte| *byte == b'\n').skip(3);
    let digits: Vec<u32> = lines
        .flatten()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16))
        .collect::<Option<_>>()?;
    Some(digits.chunks_exact(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

/// The chunks of a WebP; none at the end of the file.
fn in_webp<'a>(bytes: &'a [u8], found: &mut Blocks<'a>) -> Option<()> {
    let mut offset = 12;
    loop {
        let kind = bytes.get(offset..offset + 4)?;
        let length = ByteOrder::Little.u32(bytes, offset + 4)? as usize;
        let body = offset + 8..(offset + 8).checked_add(length)?;
        match kind {
            b"EXIF" if found.exif.is_none() => {
                found.exif = Some(Cow::Borrowed(bytes.get(body.clone())?));
            }
            b"XMP " if found.xmp.is_none() => {
                found.xmp = Some(Cow::Borrowed(bytes.get(body.clone())?));
            }
            _ => {}
        }
        offset = body.end.checked_add(length & 1)?;
    }
}

/// The orientation of an EXIF block: a TIFF header, and tag 0x0112 of its first directory as a
/// single integer of any type. None where the block has no such tag; upright where its value is none
/// that EXIF defines.
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
    let value = (0..count).find_map(|number| {
        let entry = block.get(directory.checked_add(2 + number * 12)?..)?.get(..12)?;
        if order.u16(entry, 0)? != ORIENTATION {
            return None;
        }
        let value = match (order.u32(entry, 4)?, order.u16(entry, 2)?) {
            (1, 1 | 6) => u64::from(entry[8]),
            (1, 3 | 8) => u64::from(order.u16(entry, 8)?),
            (1, 4 | 9) => u64::from(order.u32(entry, 8)?),
            _ => 0,
        };
        Some(value)
    })?;
    Some(Orientation::from_exif(value).unwrap_or_default())
}

/// The orientation of an XMP packet: the first digit behind `tiff:Orientation`, as an attribute or
/// as an element.
fn of_xmp(packet: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let digit = packet.windows(NAME.len()).enumerate().filter(|(_, name)| *name == NAME);
    let digit = digit.into_iter().find_map(|(at, _)| match &packet[at + NAME.len()..] {
        [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => Some(*digit),
        _ => None,
    });
    Orientation::from_exif(u64::from(digit? - b'0'))
}
