//! WebP, by the `image-webp` crate: the colours of a still image, or of an animation's first frame
//! on its canvas. Alpha is dropped unread.

use std::io::{Cursor, ErrorKind};

use image::RgbImage;
use image_webp::{DecodingError, WebPDecoder};

use crate::decode::byte_reader::ByteReader;
use crate::decode::error::{DecodeError, MAX_BYTES, checked_size};

/// Bytes before the first chunk: RIFF, the length of the file, WEBP.
const HEADER: usize = 12;

/// A chunk: its name and its data.
type Chunk<'a> = (&'a [u8], &'a [u8]);

/// Decodes a WebP.
pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    let length = ByteReader::new(bytes, 4).u32()? as usize;
    let bytes = bytes.get(..length.saturating_add(8)).ok_or(DecodeError::Truncated)?;
    let mut reader = ByteReader::new(bytes, HEADER);
    let (name, data) = chunk(&mut reader)?;
    if name != b"VP8X" {
        return still((name, data));
    }
    let mut extended = ByteReader::new(data, 0);
    let animated = extended.u8()? & 2 != 0;
    extended.take(3)?;
    let (width, height) = (u24(&mut extended)? + 1, u24(&mut extended)? + 1);
    let [height, width] = checked_size(width as u64, height as u64)?;
    if !animated {
        let image = still(bitstream(&mut reader)?)?;
        if (image.height() as usize, image.width() as usize) != (height, width) {
            return Err(DecodeError::damaged("a WebP of another size than its canvas"));
        }
        return Ok(image);
    }
    let frame = loop {
        let (name, data) = chunk(&mut reader)?;
        if name == b"ANMF" {
            break data;
        }
    };
    let mut frame = ByteReader::new(frame, 0);
    let (left, top) = (u24(&mut frame)? * 2, u24(&mut frame)? * 2);
    let size = [u24(&mut frame)? + 1, u24(&mut frame)? + 1];
    frame.take(4)?; // duration and flags
    let image = still(bitstream(&mut frame)?)?;
    if size != [image.width() as usize, image.height() as usize]
        || left + size[0] > width
        || top + size[1] > height
    {
        return Err(DecodeError::damaged("a WebP frame beside its canvas"));
    }
    // The canvas is transparent black, whatever background the file names.
    let mut canvas = RgbImage::new(width as u32, height as u32);
    image::imageops::replace(&mut canvas, &image, left as i64, top as i64);
    Ok(canvas)
}

fn u24(reader: &mut ByteReader) -> Result<usize, DecodeError> {
    Ok(usize::from(reader.u16()?) | usize::from(reader.u8()?) << 16)
}

fn chunk<'a>(reader: &mut ByteReader<'a>) -> Result<Chunk<'a>, DecodeError> {
    let name = reader.take(4)?;
    let length = reader.u32()? as usize;
    let data = reader.take(length)?;
    reader.at += length % 2;
    Ok((name, data))
}

/// The chunk that holds the colours.
fn bitstream<'a>(reader: &mut ByteReader<'a>) -> Result<Chunk<'a>, DecodeError> {
    loop {
        let (name, data) = chunk(reader)?;
        if matches!(name, b"VP8 " | b"VP8L") {
            return Ok((name, data));
        }
    }
}

/// Decodes the colours of one bitstream, as the only chunk of a file.
fn still((name, data): Chunk) -> Result<RgbImage, DecodeError> {
    if !matches!(name, b"VP8 " | b"VP8L") {
        let kind = format!("a WebP that begins with {}", name.escape_ascii());
        return Err(DecodeError::unsupported(kind));
    }
    let mut file = Vec::with_capacity(data.len() + 21);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(data.len().next_multiple_of(2) as u32 + 12).to_le_bytes());
    file.extend_from_slice(b"WEBP");
    file.extend_from_slice(name);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    file.resize(file.len().next_multiple_of(2), 0);
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(fault)?;
    decoder.set_memory_limit(MAX_BYTES as usize);
    let (width, height) = decoder.dimensions();
    checked_size(width.into(), height.into())?;
    let size = decoder.output_buffer_size().ok_or(DecodeError::Large { width, height })?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(fault)?;
    if decoder.has_alpha() {
        let opaque = pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]);
        pixels = opaque.collect();
    }
    Ok(RgbImage::from_raw(width, height, pixels).expect("three bytes for a pixel"))
}

fn fault(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated,
        error => DecodeError::damaged(error.to_string()),
    }
}
