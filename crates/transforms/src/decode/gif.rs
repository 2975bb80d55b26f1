//! The first frame of a GIF, on its screen, as Pillow 13 shows it: what the frame does not cover
//! has the transparent colour, or colour 0.

use image::RgbImage;
use weezl::BitOrder;
use weezl::decode::Decoder;

use crate::decode::byte_reader::ByteReader;
use crate::decode::error::{DecodeError, checked_size};
use crate::decode::lzw::lzw;
use crate::decode::palette::Palette;

/// The position of a frame on the screen, and how its pixels are stored.
struct Frame {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    interlaced: bool,
    /// Its own palette.
    palette: Option<Palette>,
}

/// Decodes the first frame of a GIF.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let mut reader = ByteReader::new(bytes, 6); // after GIF89a
    let (width, height) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    let flags = reader.u8()?;
    reader.take(2)?; // background and aspect ratio, which nobody applies
    let screen_palette = palette(flags, &mut reader)?;
    let (frame, transparent) = first_frame(&mut reader)?;
    // A frame beyond the screen enlarges it.
    let (width, height) =
        (width.max(frame.left + frame.width), height.max(frame.top + frame.height));
    let [height, width] = checked_size(width as u64, height as u64)?;
    checked_size(frame.width as u64, frame.height as u64)?;
    let numbers = pixels(&mut reader, &frame)?;
    let palette = frame.palette.or(screen_palette).unwrap_or_else(Palette::gray);
    let mut screen = palette.colour(transparent.unwrap_or(0)).repeat(width * height);
    for (number, row) in numbers.chunks_exact(frame.width).enumerate() {
        let y = if frame.interlaced { interlaced_row(number, frame.height) } else { number };
        let first = ((frame.top + y) * width + frame.left) * 3;
        let to = &mut screen[first..][..frame.width * 3];
        for (pixel, &number) in to.as_chunks_mut::<3>().0.iter_mut().zip(row) {
            *pixel = palette.colour(number);
        }
    }
    Ok(RgbImage::from_raw(width as u32, height as u32, screen).expect("three bytes for a pixel"))
}

/// A palette, if the flags announce one.
fn palette(flags: u8, reader: &mut ByteReader) -> Result<Option<Palette>, DecodeError> {
    if flags & 0x80 == 0 {
        return Ok(None);
    }
    let colours = reader.take(3 << ((flags & 7) + 1))?;
    Ok(Some(Palette::new(colours.as_chunks::<3>().0.iter().copied())))
}

/// Reads blocks up to the first frame: its position, and the transparent colour.
fn first_frame(reader: &mut ByteReader) -> Result<(Frame, Option<u8>), DecodeError> {
    let mut transparent = None;
    loop {
        match reader.u8()? {
            // An extension; 0xF9 is the graphic control.
            b'!' => {
                let label = reader.u8()?;
                let mut first = true;
                while let Some(block) = sub_block(reader)? {
                    if let (0xF9, true, &[flags, _, _, colour, ..]) = (label, first, block)
                        && flags & 1 == 1
                    {
                        transparent = Some(colour);
                    }
                    first = false;
                }
            }
            b',' => {
                let mut edge = || reader.u16().map(usize::from);
                let (left, top, width, height) = (edge()?, edge()?, edge()?, edge()?);
                let flags = reader.u8()?;
                let (interlaced, palette) = (flags & 0x40 != 0, palette(flags, reader)?);
                let frame = Frame { top, left, height, width, interlaced, palette };
                return Ok((frame, transparent));
            }
            b';' => return Err(DecodeError::damaged("a GIF without a frame")),
            // Stray bytes between blocks.
            _ => {}
        }
    }
}

/// The next part of a block's data, or none at its end.
fn sub_block<'a>(reader: &mut ByteReader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    let count = usize::from(reader.u8()?);
    if count == 0 { Ok(None) } else { reader.take(count).map(Some) }
}

/// The numbers of a frame's colours, rows as in the file.
fn pixels(reader: &mut ByteReader, frame: &Frame) -> Result<Vec<u8>, DecodeError> {
    let bits = reader.u8()?;
    if !(2..=12).contains(&bits) {
        return Err(DecodeError::damaged(format!("LZW codes of {bits} bits")));
    }
    let mut codes = Vec::new();
    // A part that is cut off is not read.
    while let Ok(Some(block)) = sub_block(reader) {
        codes.extend_from_slice(block);
    }
    lzw(Decoder::new(BitOrder::Lsb, bits), &codes, frame.width * frame.height)
}

/// The row that stands at index `number` of an interlaced frame: every eighth, those between, every
/// fourth, every second.
fn interlaced_row(number: usize, height: usize) -> usize {
    let mut before = 0;
    for (first, step) in [(0, 8), (4, 8), (2, 4), (1, 2)] {
        let rows = height.saturating_sub(first).div_ceil(step);
        if number < before + rows {
            return first + (number - before) * step;
        }
        before += rows;
    }
    unreachable!("row {number} of {height}")
}
