//! TIFF, GIF, BMP, PNG and WebP files of every kind decode to Pillow's pixels in every bit, or are
//! refused by the name of their kind.
//!
//! `fixtures/make_formats.py` made the files and Pillow's checksums, and says what departs from
//! Pillow on purpose.
//!
//! Mutations caught, each by the files of its kind: the transparent colour or the offset of a GIF's
//! frame ignored, the screen not enlarged, the passes of interlacing exchanged, stray bytes
//! refused; a BMP's rows in the other order, the palette not skipped, words aligned from the data
//! instead of the file, 565 as 555, a delta without rows, runs past the row; a PNG's 16 bits of
//! colour the lower byte, of gray the higher, 2 and 4 bits not spread, a missing end not added; a
//! WebP's frame at the corner; of TIFF: predictor 2 of 16 bits by bytes, associated alpha not
//! divided, CMYK without black or truncated, YCbCr's table rounded down, two-dimensional rows read
//! in one dimension, b1 at the start of a row skipped, chroma of the row before, orientation
//! ignored, FillOrder 2 not reversed, a palette's levels rounded, planes one after another, signed
//! bytes refused, floats not named, tags of BigTIFF too short, byte counts believed, white 0 not
//! inverted, luma of a JPEG taken for red, the rows of the last strip not bounded, the first of
//! several offsets taken, YCbCr's coefficients or levels ignored.

use std::io::Read as _;

use flate2::read::ZlibDecoder;
use serde::Deserialize;
use transforms::decode::{DecodeError, decode, header};

#[derive(Deserialize)]
struct Case {
    name: String,
    bytes: usize,
    /// Width and height.
    size: Option<[u32; 2]>,
    /// CRC-32 of the pixels.
    crc32: Option<u32>,
    /// A part of the error.
    refused: Option<String>,
}

/// The cases, each with its file.
fn cases() -> Vec<(Case, Vec<u8>)> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/formats.json")).unwrap();
    assert!(cases.len() > 500, "{} cases", cases.len());
    let mut all = Vec::new();
    ZlibDecoder::new(&include_bytes!("fixtures/formats.bin")[..]).read_to_end(&mut all).unwrap();
    let mut files = &all[..];
    let with_file = |case: Case| {
        let (file, rest) = files.split_at(case.bytes);
        files = rest;
        (case, file.to_vec())
    };
    let cases = cases.into_iter().map(with_file).collect();
    assert!(files.is_empty());
    cases
}

/// Errors of files that are faulty; every other refused file is sound and of a kind.
const FAULTS: [&str; 5] = ["truncated", "damaged", "shrink it", "without a frame", "another size"];

#[test]
fn pixels_are_pillows_or_the_kind_is_named() {
    let mut wrong = Vec::new();
    for (case, file) in cases() {
        let name = &case.name;
        match (decode(&file, false), case.crc32, &case.refused) {
            (Ok(pixels), Some(crc32), _) => {
                let size = <[u32; 2]>::from(pixels.dimensions());
                if Some(size) != case.size || crc32fast::hash(pixels.as_raw()) != crc32 {
                    wrong.push(format!("{name}: other pixels, {size:?}"));
                }
            }
            (Err(error), None, Some(part)) => {
                let is_kind = matches!(error, DecodeError::Unsupported(_));
                let said = error.to_string();
                if !said.contains(part) || is_kind == FAULTS.contains(&part.as_str()) {
                    wrong.push(format!("{name}: {said}"));
                }
            }
            (result, ..) => wrong.push(format!("{name}: {:?}", result.map(|p| p.dimensions()))),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// None of these files has an EXIF block; a TIFF is turned by its own tag, once.
#[test]
fn exif_turns_no_file_without_it() {
    for (case, file) in cases() {
        let (plain, turned) = (decode(&file, false), decode(&file, true));
        assert!(plain.ok() == turned.ok(), "{}", case.name);
    }
}

/// The header alone gives the size of the pixels, for everything that decodes.
#[test]
fn headers_give_the_size() {
    let mut wrong = Vec::new();
    for (case, file) in cases() {
        // A frame beyond a GIF's screen is seen only later.
        let grown = case.name.starts_with("gif") && case.name.contains("screen");
        if let (Some(size), false) = (case.size, grown) {
            let header = header(&file).map(|header| [header.width, header.height]);
            if header != Some(size) {
                wrong.push(format!("{}: {header:?} instead of {size:?}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Cut and changed files give an error or some image, never a panic, and nothing is reserved for
/// pixels that cannot come.
#[test]
fn damage_is_no_panic() {
    for (case, file) in cases() {
        let step = (file.len() / 40).max(1);
        for at in (0..file.len()).step_by(step) {
            let mut changed = file.clone();
            changed[at] ^= 1 << (at % 8);
            let mut filled = file.clone();
            filled[at..(at + 4).min(file.len())].fill(0xFF);
            for bytes in [&changed[..], &filled[..], &file[..at]] {
                let result = decode(bytes, true);
                assert!(
                    !matches!(result, Err(DecodeError::Panicked(_))),
                    "{} at {at}: {:?}",
                    case.name,
                    result.map(|pixels| pixels.dimensions())
                );
                let _ = header(bytes);
            }
        }
    }
}
