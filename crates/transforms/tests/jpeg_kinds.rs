//! JPEGs of every kind decode to Pillow's pixels in every bit, or are refused by their names.
//!
//! `fixtures/make_jpeg_kinds.py` made the files and checksums.

use serde::Deserialize;
use transforms::decode::{MAX_BYTES, decode};
use transforms::jpeg::{Jpeg, decode_any};

#[derive(Deserialize)]
struct Case {
    name: String,
    length: usize,
    /// Width and height, pixels.
    size: Option<[u32; 2]>,
    /// CRC-32 of the pixels.
    crc32: Option<u32>,
    /// Words of the message of a file that is refused.
    refused: Option<String>,
    /// Whether it has a fault that libjpeg passes over: it may be refused, with any message.
    #[serde(default)]
    broken: bool,
}

fn cases() -> Vec<(Case, &'static [u8])> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/jpeg_kinds.json")).unwrap();
    let mut files: &[u8] = include_bytes!("fixtures/jpeg_kinds.bin");
    let mut next = |length| {
        let (file, rest) = files.split_at(length);
        files = rest;
        file
    };
    let cases: Vec<_> = cases.into_iter().map(|case| (next(case.length), case)).collect();
    assert!(files.is_empty() && cases.len() == 277, "{} cases", cases.len());
    cases.into_iter().map(|(file, case)| (case, file)).collect()
}

/// The usual kinds have a decoder of their own: both give the same pixels.
///
/// Mutations caught: JFIF does not outweigh Adobe; a JFIF or Adobe segment that is too short
/// counts; names that say RGB ignored; YCCK read as CMYK; CMYK not inverted; two components of one
/// name read as one; no standard tables; blocks that fill up units expected in a scan of one
/// component; a run of 15 zeros; no refinement; the end of a band one block late; a value behind
/// its band dropped; products not truncated to 16 bits; sums of the transform not wrapped; rows
/// above and below exchanged; narrow images interpolated; constants kept over a restart marker; a
/// marker that comes too early taken for the one expected; one that comes too late taken; units
/// decoded from bits that ran out; a file that ends early, or without its last scans, passed.
#[test]
fn every_kind_has_pillows_pixels_or_a_name() {
    let (mut faults, mut usual, mut passed) = (Vec::new(), 0, 0);
    for (case, file) in cases() {
        let any = decode_any(file, MAX_BYTES);
        let seen = decode(file, false);
        usual += usize::from(Jpeg::parse(file).is_some());
        let name = &case.name;
        match (case.refused, any, seen) {
            (None, Ok((width, height, rgb)), Ok(image)) => {
                let size = [width, height];
                let same = image.as_raw() == &rgb && <[u32; 2]>::from(image.dimensions()) == size;
                if Some(size) != case.size || Some(crc32fast::hash(&rgb)) != case.crc32 {
                    faults.push(format!("{name}: other pixels than Pillow"));
                }
                if !same {
                    faults.push(format!("{name}: two decoders, two results"));
                }
            }
            (Some(word), Err(error), Err(seen)) => {
                for text in [error.to_string(), seen.to_string()] {
                    if !text.contains(&word) {
                        faults.push(format!("{name}: {text}"));
                    }
                }
            }
            (None, Err(_), Err(_)) if case.broken => passed += 1,
            (refused, any, seen) => {
                let any = any.map(|(width, height, _)| (width, height));
                let seen = seen.map(|image| image.dimensions());
                faults.push(format!("{name}: {any:?} {seen:?}, expected {refused:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(usual > 20 && passed < 60, "{usual} usual, {passed} broken files refused");
}

#[test]
fn damage_is_no_panic() {
    for (case, file) in cases() {
        for at in (2..file.len()).step_by(13) {
            let mut changed = file.to_vec();
            changed[at] ^= 0x5A;
            for bytes in [&changed[..], &file[..at]] {
                let _ = decode_any(bytes, 1 << 24);
                if let Err(error) = decode(bytes, false) {
                    assert!(
                        !error.to_string().contains("panicked"),
                        "{}: {at}: {error}",
                        case.name
                    );
                }
            }
        }
    }
}
