//! Preprocessing equals Pillow's and torchvision's in every bit.
//!
//! `fixtures/make_preprocess.py` made the expected checksums with Pillow and torchvision; the
//! images are made here by its formula. There is no tolerance: the resize is integer arithmetic,
//! and a normalised number is three operations in f32 in torchvision's order.
//!
//! Mutations caught: no antialias, truncating for rounding, half up for half to even, the long edge
//! rounded, the width always first, mean and deviation exchanged.

use image::{Rgb, RgbImage};
use serde::Deserialize;
use transforms::augment::Augment;
use transforms::decode::EncodedImage;
use transforms::preprocess::{Preprocess, TransformScratch};
use transforms::random::Counter;
use transforms::resize::{Interpolation, Patch, Region, resize};
use transforms::train_transform::TrainTransform;

#[derive(Deserialize)]
struct Fixture {
    resizes: Vec<Resize>,
    evals: Vec<Eval>,
    regions: Vec<Cut>,
    boxes: Vec<Boxed>,
    trains: Vec<Train>,
}

#[derive(Deserialize)]
struct Resize {
    from: [u32; 2],
    to: [usize; 2],
    interpolation: Interpolation,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct Eval {
    from: [u32; 2],
    resize: usize,
    crop: [usize; 2],
    interpolation: Interpolation,
    mean: [f32; 3],
    std: [f32; 3],
    crc32: u32,
    first: Vec<f32>,
}

#[derive(Deserialize)]
struct Cut {
    from: [u32; 2],
    /// Top, left, height, width.
    region: [usize; 4],
    size: [usize; 2],
    interpolation: Interpolation,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct Boxed {
    from: [u32; 2],
    /// Top, left, height, width of an image `shrink` times as high and wide.
    region: [usize; 4],
    shrink: usize,
    size: [usize; 2],
    interpolation: Interpolation,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct Train {
    from: [u32; 2],
    crop: [usize; 2],
    hflip: f64,
    interpolation: Interpolation,
    mean: [f32; 3],
    std: [f32; 3],
    crc32: u32,
    first: Vec<f32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/preprocess.json")).unwrap()
}

/// `synthetic` of `make_preprocess.py`.
fn synthetic([width, height]: [u32; 2]) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|c| {
            let smooth = x * 5 + y * 3 + c * 40;
            let noise = (x * 73 + y * 151 + c * 199 + x * y * (c + 1)) ^ (x * 3);
            let edge = ((x / 5 + y / 7 + c) % 2) * 255;
            let value = match ((x + y) % 3, (x / 16) % 2) {
                (0, _) => noise,
                (_, 0) => smooth,
                _ => edge,
            };
            (value & 255) as u8
        }))
    })
}

/// Whether the pixels differ from the fixture.
fn bytes_differ(pixels: &[u8], first: &[u8], crc32: u32) -> bool {
    pixels[..first.len()] != *first || crc32fast::hash(pixels) != crc32
}

fn floats_differ(values: &[f32], first: &[f32], crc32: u32) -> bool {
    let step = (values.len() / 6).max(1);
    let some: Vec<f32> = values.iter().step_by(step).take(6).copied().collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    some != first || crc32fast::hash(&bytes) != crc32
}

/// Lists all faults at once: the set of failing cases shows what is wrong.
#[track_caller]
fn none_of(count: usize, faults: &[String]) {
    assert!(faults.is_empty(), "{} of {count} differ:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn resize_is_pillows() {
    let (cases, mut faults) = (fixture().resizes, Vec::new());
    assert_eq!(cases.len(), 60);
    for case in &cases {
        let image = synthetic(case.from);
        let size = [case.to[1], case.to[0]];
        let pixels = resize(&image, Region::whole(&image).into(), size, case.interpolation);
        assert_eq!(pixels.len(), size[0] * size[1] * 3);
        if bytes_differ(&pixels, &case.first, case.crc32) {
            faults.push(format!("{:?} to {:?}, {:?}", case.from, case.to, case.interpolation));
        }
    }
    none_of(cases.len(), &faults);
}

#[test]
fn evaluation_input_is_torchvisions() {
    let (cases, mut faults) = (fixture().evals, Vec::new());
    assert_eq!(cases.len(), 14);
    for case in &cases {
        let &Eval { resize, crop, interpolation, mean, std, .. } = case;
        let rule = Preprocess { resize, crop, interpolation, mean, std, exif: false };
        let values = rule.apply(&synthetic(case.from));
        assert_eq!(values.len(), 3 * crop[0] * crop[1]);
        if floats_differ(&values, &case.first, case.crc32) {
            faults.push(format!("{:?}, {rule:?}", case.from));
        }
    }
    none_of(cases.len(), &faults);
}

#[test]
fn a_given_region_is_resized_as_torchvisions_resized_crop() {
    let (cases, mut faults) = (fixture().regions, Vec::new());
    assert_eq!(cases.len(), 18);
    for case in &cases {
        let [top, left, height, width] = case.region;
        let region = Region { top, left, height, width };
        let pixels = resize(&synthetic(case.from), region.into(), case.size, case.interpolation);
        if bytes_differ(&pixels, &case.first, case.crc32) {
            faults.push(format!("{:?}, {region:?}, {:?}", case.from, case.interpolation));
        }
    }
    none_of(cases.len(), &faults);
}

/// Borders that lie within pixels, as in Pillow's `box`. Mutations caught: the offset in the first
/// pixel omitted, the region a pixel short, the pass of a fraction of the height skipped.
#[test]
fn a_patch_is_resized_as_pillows_box() {
    let (cases, mut faults) = (fixture().boxes, Vec::new());
    assert_eq!(cases.len(), 14);
    for case in &cases {
        let [top, left, height, width] = case.region;
        let patch = Patch::at(Region { top, left, height, width }, case.shrink);
        let pixels = resize(&synthetic(case.from), patch, case.size, case.interpolation);
        if bytes_differ(&pixels, &case.first, case.crc32) {
            faults.push(format!("{:?}, {patch:?}, {:?}", case.from, case.interpolation));
        }
    }
    none_of(cases.len(), &faults);
}

/// A scale above 1 always ends in the fallback of `RandomResizedCrop`, which draws nothing.
#[test]
fn training_input_is_torchvisions_where_nothing_is_random() {
    let (cases, mut faults) = (fixture().trains, Vec::new());
    assert_eq!(cases.len(), 6);
    for case in &cases {
        let &Train { crop, interpolation, mean, std, hflip, .. } = case;
        let rule = Preprocess { resize: 1, crop, interpolation, mean, std, exif: false };
        let augment = Augment { scale: [4.0, 4.0], hflip, ..Augment::default() };
        let mut random = Counter::new(1, 2, 3, 4);
        let mut values = vec![0.0; rule.values()];
        TrainTransform { preprocess: &rule, augment: &augment }
            .apply_into(
                &EncodedImage::of(&synthetic(case.from)),
                &mut random,
                &mut TransformScratch::default(),
                &mut values,
            )
            .unwrap();
        if floats_differ(&values, &case.first, case.crc32) {
            faults.push(format!("{:?}, mirrored {hflip}, {rule:?}", case.from));
        }
    }
    none_of(cases.len(), &faults);
}

#[test]
fn a_very_long_image_costs_no_very_long_buffer() {
    let rule = Preprocess::imagenet(256, 224);
    // Its resized form would have 256 x 12,800,000 pixels.
    assert_eq!(rule.apply(&synthetic([1, 50_000])).len(), 3 * 224 * 224);
}
