//! JPEGs decode to Pillow's pixels in every bit at every scale, and a region decodes to that region
//! of the whole.
//!
//! `fixtures/make_jpeg.py` made the files and checksums: every chroma subsampling that Pillow
//! writes, gray, restart markers, optimised tables, sizes around the blocks' edges.

use serde::Deserialize;
use transforms::augment::Augment;
use transforms::decode::{DecodeScratch, Decoding, EncodedImage, decode};
use transforms::jpeg::{Jpeg, JpegScratch, SHRINKS};
use transforms::preprocess::{Preprocess, TransformScratch};
use transforms::random::Counter;
use transforms::resize::{Patch, Region};
use transforms::train_transform::TrainTransform;

#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    size: [usize; 2],
    /// CRC-32 of the pixels at each of [`SHRINKS`].
    crc32: [u32; 4],
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&self.file[at..at + 2], 16).unwrap();
        (0..self.file.len()).step_by(2).map(byte).collect()
    }
}

fn cases() -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("fixtures/jpeg.json")).unwrap();
    assert_eq!(cases.len(), 70);
    cases
}

/// Mutations caught: luma's quantisation for chroma, a restart marker expected one unit late.
#[test]
fn pixels_are_pillows() {
    let mut faults = Vec::new();
    for case in cases() {
        let bytes = case.bytes();
        assert!(Jpeg::parse(&bytes).is_some(), "{}: left to the general decoder", case.name);
        let pixels = decode(&bytes, false).unwrap();
        assert_eq!([pixels.width() as usize, pixels.height() as usize], case.size);
        if crc32fast::hash(pixels.as_raw()) != case.crc32[0] {
            faults.push(case.name);
        }
    }
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), faults.join("\n"));
}

/// The image at 1/`shrink` of its size.
fn whole(jpeg: &Jpeg, shrink: usize) -> Vec<u8> {
    let [height, width] = jpeg.size(shrink);
    let mut pixels = Vec::new();
    let region = Region { top: 0, left: 0, height, width };
    jpeg.decode(region, shrink, &mut JpegScratch::default(), &mut pixels).unwrap();
    pixels
}

/// Mutations caught: a wrong sign in a reduced transform, chroma of 4:2:0 not kept at 1/2, samples
/// of 4:4:0 smoothed at 1/8.
#[test]
fn smaller_images_are_pillows_draft() {
    let mut faults = Vec::new();
    for case in cases() {
        let bytes = case.bytes();
        let jpeg = Jpeg::parse(&bytes).unwrap();
        for (shrink, crc32) in SHRINKS.into_iter().zip(case.crc32) {
            if crc32fast::hash(&whole(&jpeg, shrink)) != crc32 {
                faults.push(format!("{} at 1/{shrink}", case.name));
            }
        }
    }
    assert!(faults.is_empty(), "{} differ:\n{}", faults.len(), faults.join("\n"));
}

/// Mutations caught: the sample of chroma beside the region omitted.
#[test]
fn a_part_is_that_part_of_the_whole() {
    let mut scratch = DecodeScratch::default();
    for (case, shrink) in cases().iter().flat_map(|case| SHRINKS.map(|shrink| (case, shrink))) {
        let bytes = case.bytes();
        let jpeg = Jpeg::parse(&bytes).unwrap();
        let row = jpeg.size(shrink)[1] * 3;
        let whole = whole(&jpeg, shrink);
        let image = EncodedImage::open(&bytes, false).unwrap();
        let [width, height] = case.size;
        for seed in 0..40_usize {
            let (top, left) = (seed * 7919 % height, seed * 104_729 % width);
            let tall = 1 + seed * 31 % (height - top);
            let wide = 1 + seed * 57 % (width - left);
            let region = Region { top, left, height: tall, width: wide };
            let (part, patch) = image.region(region, shrink, &mut scratch).unwrap();
            let Region { top, left, height, width } = Patch::at(region, shrink).region;
            assert_eq!(patch.region, Region { top: 0, left: 0, height, width });
            for (y, line) in part.as_raw().chunks_exact(width * 3).enumerate() {
                let from = (top + y) * row + left * 3;
                let same = line == &whole[from..from + width * 3];
                assert!(same, "{} at 1/{shrink}: {region:?} {y}", case.name);
            }
        }
    }
}

/// The training inputs of both ways of decoding, compared in levels: close where an image is large,
/// with and without random crops, and equal in every bit where it is not.
///
/// Mutations caught: the offset in the first pixel omitted, a gap of 1, a whole image whose patch
/// is too narrow.
#[test]
fn training_on_smaller_images_is_nearly_the_same() {
    let mut seen = 0;
    for case in cases().iter().filter(|case| case.size == [97, 61]) {
        let bytes = case.bytes();
        let image = EncodedImage::open(&bytes, false).unwrap();
        let difference = |edge: usize, no_augmentation, index| {
            let rule = Preprocess {
                mean: [0.0; 3],
                std: [1.0 / 255.0; 3],
                ..Preprocess::imagenet(edge, edge)
            };
            let make = |decode| {
                let scale = [0.9, 1.0];
                let augment = Augment { decode, no_augmentation, scale, ..Augment::default() };
                let mut values = vec![0.0; rule.values()];
                let mut random = Counter::new(1, 2, index, 3);
                let mut scratch = TransformScratch::default();
                TrainTransform { preprocess: &rule, augment: &augment }
                    .apply_into(&image, &mut random, &mut scratch, &mut values)
                    .unwrap();
                values
            };
            let (exact, scaled) = (make(Decoding::Exact), make(Decoding::Scaled));
            let sum: f32 = exact.iter().zip(&scaled).map(|(a, b)| (a - b).abs()).sum();
            sum / exact.len() as f32
        };
        for (no_augmentation, index) in
            [false, true].into_iter().flat_map(|s| (0..20).map(move |i| (s, i)))
        {
            // 61 rows are more than 4 x 10 or 4 x 14, and fewer than 4 x 16.
            for edge in [10, 14] {
                let levels = difference(edge, no_augmentation, index);
                assert!(levels < 3.0, "{}: {edge}: {levels} levels", case.name);
                seen += usize::from(levels > 0.0);
            }
            assert_eq!(difference(16, no_augmentation, index), 0.0, "{}", case.name);
        }
    }
    assert!(seen > 400, "{seen}");
}

/// Changed and cut files give an error or some image, never a panic.
#[test]
fn damage_is_no_panic() {
    let mut scratch = DecodeScratch::default();
    for case in cases().iter().filter(|case| case.size[0] == 50) {
        let whole = case.bytes();
        for at in (2..whole.len()).step_by(11) {
            let mut changed = whole.clone();
            changed[at] ^= 0xA5;
            for bytes in [&changed, &whole[..at]] {
                let Ok(image) = EncodedImage::open(bytes, false) else { continue };
                let (region, shrink) = (image.whole(), SHRINKS[at % 4]);
                if let Err(error) = image.region(region, shrink, &mut scratch) {
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
