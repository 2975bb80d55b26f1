//! Windows bitmaps, as Pillow 13 reads them: 1, 4, 8, 16, 24 and 32 bits, run lengths, bit fields,
//! headers from OS/2 1 to version 5. The fourth byte of a pixel is dropped.
//!
//! A palette of black and white under 8 bits is looked up; Pillow takes such pixels for single
//! bits.

use image::RgbImage;

use crate::byte_order::ByteOrder;
use crate::decode::byte_reader::ByteReader;
use crate::decode::error::{DecodeError, checked_size};
use crate::decode::palette::{Palette, unpack};

struct Header {
    height: usize,
    width: usize,
    /// The first row of the file is the top one.
    top_down: bool,
    bits: u16,
    compression: u32,
    /// Bytes of a colour of the palette.
    entry: usize,
    /// Colours of the palette.
    colours: u32,
    /// Bits of red, green, blue and alpha, where the header names them.
    masks: Option<[u32; 4]>,
}

/// How the bytes of a pixel of 16 to 32 bits become a colour.
#[derive(Clone, Copy)]
enum Layout {
    /// Offsets of red, green and blue in a pixel of so many bytes.
    Bytes(usize, [usize; 3]),
    /// Two bytes with 5 bits of blue, 5 or 6 of green, 5 of red.
    Sixteen { green: u16 },
}

/// Decodes a BMP.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let mut reader = ByteReader::new(bytes, 10); // after magic, size, reserved
    let mut data = reader.u32()? as usize;
    let header = header(&mut reader)?;
    let bits = usize::from(header.bits);
    // Some writers forget the palette in the offset of the data.
    if data == reader.at && bits <= 8 && header.masks.is_none() {
        data = (header.colours as usize).saturating_mul(header.entry).saturating_add(data);
    }
    let layout = if bits > 8 { Some(layout(&header)?) } else { None };
    let palette = match layout {
        Some(_) => Palette::gray(), // not looked at
        None => palette(&header, &mut reader)?,
    };
    if data == 0 {
        data = reader.at;
    }
    let is_compressed = matches!(header.compression, 1 | 2);
    let numbers;
    // Bytes from row to row, and of a row; run lengths become a byte per pixel.
    let (rows, stride, row_bytes) = if is_compressed {
        numbers = run_lengths(ByteReader::new(bytes, data), &header);
        (&numbers[..], header.width, header.width)
    } else {
        let stride = ((header.width * bits + 31) >> 3) & !3;
        (bytes.get(data..).unwrap_or_default(), stride, (header.width * bits).div_ceil(8))
    };
    // The padding of the last row may be missing.
    if rows.len() < stride * (header.height - 1) + row_bytes {
        return Err(DecodeError::Truncated);
    }
    let mut pixels = Vec::with_capacity(header.height * header.width * 3);
    for y in 0..header.height {
        let y = if header.top_down { y } else { header.height - 1 - y };
        let row = &rows[y * stride..][..row_bytes];
        match layout {
            Some(layout) => layout.colours(row, &mut pixels),
            None if bits < 8 && !is_compressed => {
                let numbers = unpack(bits, row).take(header.width);
                pixels.extend(numbers.flat_map(|number| palette.colour(number)));
            }
            None => pixels.extend(row.iter().flat_map(|&number| palette.colour(number))),
        }
    }
    let (width, height) = (header.width as u32, header.height as u32);
    Ok(RgbImage::from_raw(width, height, pixels).expect("three bytes for a pixel"))
}

/// Reads the header of the bitmap and the masks behind it.
fn header(reader: &mut ByteReader) -> Result<Header, DecodeError> {
    let size = reader.u32()? as usize;
    if !matches!(size, 12 | 40 | 52 | 56 | 64 | 108 | 124) {
        return Err(DecodeError::unsupported(format!("a BMP with a header of {size} bytes")));
    }
    let body = reader.take(size - 4)?;
    let short = |at| u64::from(ByteOrder::Little.u16(body, at).unwrap_or_default());
    let long = |at| ByteOrder::Little.u32(body, at).unwrap_or_default();
    if size == 12 {
        let ([height, width], bits) = (checked_size(short(0), short(2))?, short(6) as u16);
        return Ok(Header {
            height,
            width,
            top_down: false,
            bits,
            compression: 0,
            entry: 3,
            colours: 1 << bits.min(8),
            masks: None,
        });
    }
    let top_down = body[7] == 0xFF;
    let height = if top_down { long(4).wrapping_neg() } else { long(4) };
    let [height, width] = checked_size(u64::from(long(0)), u64::from(height))?;
    let (bits, compression) = (short(10) as u16, long(12));
    let masks = match (compression, size) {
        (3, 52) => Some([long(36), long(40), long(44), 0]),
        (3, 56..) => Some([long(36), long(40), long(44), long(48)]),
        (3, _) => Some([reader.u32()?, reader.u32()?, reader.u32()?, 0]),
        _ => None,
    };
    let colours = match long(28) {
        0 => 1 << bits.min(8),
        given => given,
    };
    Ok(Header { height, width, top_down, bits, compression, entry: 4, colours, masks })
}

/// The layout of pixels without a palette.
fn layout(header: &Header) -> Result<Layout, DecodeError> {
    let Header { bits, compression, masks, .. } = *header;
    let kind = || DecodeError::unsupported(format!("a BMP of {bits} bits with these bit fields"));
    match (bits, compression, masks) {
        (16, 0, _) | (16, 3, Some([0x7C00, 0x3E0, 0x1F, _])) => Ok(Layout::Sixteen { green: 5 }),
        (24, 0, _) | (24, 3, Some([0xFF_0000, 0xFF00, 0xFF, _])) => Ok(Layout::Bytes(3, [2, 1, 0])),
        (32, 0, _) => Ok(Layout::Bytes(4, [2, 1, 0])),
        (16, 3, Some([0xF800, 0x7E0, 0x1F, _])) => Ok(Layout::Sixteen { green: 6 }),
        (32, 3, Some(masks)) => match masks {
            [0xFF_0000, 0xFF00, 0xFF, 0 | 0xFF00_0000] | [0, 0, 0, 0] => {
                Ok(Layout::Bytes(4, [2, 1, 0]))
            }
            [0xFF00_0000, 0xFF_0000, 0xFF00, 0 | 0xFF] => Ok(Layout::Bytes(4, [3, 2, 1])),
            [0xFF00_0000, 0xFF00, 0xFF, 0 | 0xFF_0000] => Ok(Layout::Bytes(4, [3, 1, 0])),
            [0xFF, 0xFF00, 0xFF_0000, 0xFF00_0000] => Ok(Layout::Bytes(4, [0, 1, 2])),
            _ => Err(kind()),
        },
        (_, 3, _) => Err(kind()),
        (16 | 24 | 32, 4, _) => Err(DecodeError::unsupported("a BMP that holds a JPEG")),
        (16 | 24 | 32, 5, _) => Err(DecodeError::unsupported("a BMP that holds a PNG")),
        (16 | 24 | 32, other, _) => {
            Err(DecodeError::unsupported(format!("a BMP of {bits} bits with compression {other}")))
        }
        _ => Err(DecodeError::unsupported(format!("a BMP of {bits} bits"))),
    }
}

/// Reads the palette, which follows the header.
fn palette(header: &Header, reader: &mut ByteReader) -> Result<Palette, DecodeError> {
    let Header { bits, compression, entry, colours, .. } = *header;
    match (bits, compression) {
        (1 | 4 | 8, 0) | (8, 1) | (4, 2) => {}
        (1 | 4 | 8, other) => {
            let kind = format!("a BMP of {bits} bits with compression {other}");
            return Err(DecodeError::unsupported(kind));
        }
        _ => return Err(DecodeError::unsupported(format!("a BMP of {bits} bits"))),
    }
    if colours > 256 {
        return Err(DecodeError::unsupported(format!("a BMP with a palette of {colours} colours")));
    }
    let bytes = reader.take(entry * colours as usize)?;
    Ok(Palette::new(bytes.chunks_exact(entry).map(|bgr| [bgr[2], bgr[1], bgr[0]])))
}

impl Layout {
    /// Appends the colours of a row.
    fn colours(self, row: &[u8], pixels: &mut Vec<u8>) {
        match self {
            Self::Bytes(size, [red, green, blue]) => {
                let colour = |pixel: &[u8]| [pixel[red], pixel[green], pixel[blue]];
                pixels.extend(row.chunks_exact(size).flat_map(colour));
            }
            Self::Sixteen { green } => {
                let scaled = |value: u16, bits: u16| {
                    let most = (1 << bits) - 1;
                    ((value & most) * 255 / most) as u8
                };
                pixels.extend(row.chunks_exact(2).flat_map(|pixel| {
                    let pixel = u16::from_le_bytes([pixel[0], pixel[1]]);
                    [scaled(pixel >> (5 + green), 5), scaled(pixel >> 5, green), scaled(pixel, 5)]
                }));
            }
        }
    }
}

/// Decodes run lengths (RLE8, RLE4) to one number of a colour per pixel, rows as in the file.
///
/// Faults are treated as Pillow does: a run that is too long ends with its row, absolute pixels run
/// on into the next one.
fn run_lengths(mut reader: ByteReader, header: &Header) -> Vec<u8> {
    let (four, width) = (header.compression == 2, header.width);
    let wanted = width * header.height;
    let mut numbers: Vec<u8> = Vec::new();
    let mut x = 0;
    while numbers.len() < wanted {
        let (Ok(count), Ok(byte)) = (reader.u8(), reader.u8()) else { break };
        match (usize::from(count), usize::from(byte)) {
            (0, 0) => {
                numbers.resize(numbers.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let (Ok(right), Ok(up)) = (reader.u8(), reader.u8()) else { break };
                let skipped = usize::from(right) + usize::from(up) * width;
                numbers.resize((numbers.len() + skipped).min(wanted), 0);
                x = numbers.len() % width;
            }
            (0, absolute) => {
                let count = absolute.min(wanted - numbers.len());
                let size = if four { count.div_ceil(2) } else { count };
                let Ok(bytes) = reader.take(size) else { break };
                match four {
                    true => numbers.extend(unpack(4, bytes).take(count)),
                    false => numbers.extend_from_slice(bytes),
                }
                x += absolute;
                // Aligned to words of the file.
                reader.at += reader.at % 2;
            }
            (run, _) => {
                let run = run.min(width.saturating_sub(x));
                let pair = if four { [byte >> 4, byte & 15] } else { [byte, byte] };
                numbers.extend((0..run).map(|i| pair[i % 2]));
                x += run;
            }
        }
    }
    numbers
}
