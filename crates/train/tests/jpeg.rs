//! JPEGs decode to Pillow's pixels in every bit, and a part of one to that part of the whole.
//!
//! `fixtures/make_jpeg.py` made the files and checksums: every chroma subsampling that Pillow writes, gray, restart
//! markers, optimised tables, sizes around the blocks' edges.

use serde::Deserialize;
use train::decode::{Picture, decode};
use train::jpeg::{Jpeg, Space};
use train::preprocess::Region;

#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    size: [usize; 2],
    crc32: u32,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&self.file[at..at + 2], 16).unwrap();
        (0..self.file.len()).step_by(2).map(byte).collect()
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/jpeg.json")).unwrap();
    assert_eq!(cases.len(), 60);
    cases
}

/// Seen to fail with luma's quantisation for chroma, a restart marker expected one unit late.
#[test]
fn pixels_are_pillows() {
    let mut faults = Vec::new();
    for case in cases() {
        let bytes = case.bytes();
        assert!(Jpeg::parse(&bytes).is_some(), "{}: left to the general decoder", case.name);
        let pixels = decode(&bytes, false).unwrap();
        assert_eq!([pixels.width() as usize, pixels.height() as usize], case.size);
        if crc32fast::hash(pixels.as_raw()) != case.crc32 {
            faults.push(case.name);
        }
    }
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_part_is_that_part_of_the_whole() {
    let mut space = Space::default();
    for case in cases() {
        let bytes = case.bytes();
        let whole = decode(&bytes, false).unwrap();
        let picture = Picture::open(&bytes, false).unwrap();
        let [width, height] = case.size;
        for seed in 0..40_usize {
            let (top, left) = (seed * 7919 % height, seed * 104_729 % width);
            let tall = 1 + seed * 31 % (height - top);
            let wide = 1 + seed * 57 % (width - left);
            let region = Region { top, left, height: tall, width: wide };
            let (part, place) = picture.region(region, &mut space, Vec::new()).unwrap();
            assert_eq!((place.height, place.width), (tall, wide));
            for (x, y) in (0..wide).flat_map(|x| (0..tall).map(move |y| (x, y))) {
                let (a, b) = (
                    part.get_pixel((place.left + x) as u32, (place.top + y) as u32),
                    whole.get_pixel((left + x) as u32, (top + y) as u32),
                );
                assert_eq!(a, b, "{}: {region:?} {x} {y}", case.name);
            }
        }
    }
}

/// Changed and cut files: an error or some picture, never a panic.
#[test]
fn damage_is_no_panic() {
    let mut space = Space::default();
    for case in cases().iter().filter(|case| case.size[0] == 50) {
        let whole = case.bytes();
        for at in (2..whole.len()).step_by(11) {
            let mut changed = whole.clone();
            changed[at] ^= 0xA5;
            for bytes in [&changed, &whole[..at]] {
                let Ok(picture) = Picture::open(bytes, false) else { continue };
                let region = picture.whole();
                if let Err(error) = picture.region(region, &mut space, Vec::new()) {
                    assert!(
                        !error.to_string().contains("panicked"),
                        "{}: {at}: {error}",
                        case.name
                    );
                }
            }
            assert!(decode(&whole[..at], false).is_err(), "{}: cut to {at}", case.name);
        }
    }
}
