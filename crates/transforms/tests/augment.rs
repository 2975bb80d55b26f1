//! Augmentation equals Pillow's, timm's and torchvision's: operations in every bit, tables entry by
//! entry, random draws by their statistics.
//!
//! `fixtures/make_augment.py` made the expected values from crops of scikit-image's chelsea and
//! coffee (both CC0).
//!
//! Mutations caught (47 in all, among them): another cubic, half-pixel borders, a quarter turn to
//! the other side, a fixed-point start without its second half, rounding where Pillow truncates,
//! other weights of gray, a truncated mean, a truncated smoothing, an equalize that overflows on
//! few pixels, `<=` for `<` in solarize, two boxes for three, one number of a table, other levels,
//! `linspace` with two roundings, pixels rounded instead of truncated, probabilities reversed,
//! noise not clamped to its range or of another shape, draws with repetition, AugMix's shares, the
//! area of several rectangles not shared, an aspect of one side, the box of CutMix linear in lambda
//! or without its odd pixel, partners exchanged, one epoch too many.

use std::collections::HashMap;

use image::RgbImage;
use serde::Deserialize;
use transforms::augment::affine::Resample;
use transforms::augment::augmix::{blend_in_turn, mix, mix_in};
use transforms::augment::canvas::Canvas;
use transforms::augment::operation::ImageOperation;
use transforms::augment::policy::{AutoAugmentTable, Dataset, Policy};
use transforms::augment::timm::{TimmName, TimmStep};
use transforms::augment::torchvision::TorchvisionName;
use transforms::augment::{timm, torchvision};
use transforms::mixup::{DrawnMix, box_about};
use transforms::random::Counter;
use transforms::resize::Interpolation;

type Steps = Vec<Vec<(String, f64, f64)>>;
type Magnitudes = Vec<(String, bool, Vec<f64>)>;

#[derive(Deserialize)]
struct Fixture {
    fill: [u8; 3],
    operations: Vec<Case>,
    torchvision_operations: Vec<Case>,
    timm_tables: HashMap<String, Steps>,
    timm_sets: HashMap<String, Vec<String>>,
    timm_weights: HashMap<String, Vec<(String, f64)>>,
    torchvision_tables: HashMap<String, Steps>,
    torchvision_sizes: [[usize; 2]; 2],
    torchvision_spaces: HashMap<String, [Magnitudes; 2]>,
    timm_levels: Vec<Level>,
    augmix: Vec<AugMixed>,
    batch: Vec<f32>,
    shape: [usize; 4],
    augmix_torchvision: Vec<Mixture>,
    mixed: Vec<MixedBatch>,
}

#[derive(Deserialize)]
struct Case {
    image: String,
    operation: String,
    value: f64,
    filter: Interpolation,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct Level {
    name: String,
    magnitude: f64,
    plus: f64,
    minus: f64,
}

#[derive(Deserialize)]
struct AugMixed {
    image: String,
    blended: bool,
    magnitude: f64,
    weights: Vec<f32>,
    share: f32,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct Mixture {
    image: String,
    /// Name, bin, and whether it is negated, of each operation of each chain.
    chains: Vec<Vec<(String, usize, u8)>>,
    shares: [f32; 2],
    weights: Vec<f32>,
    crc32: u32,
    first: Vec<u8>,
}

#[derive(Deserialize)]
struct MixedBatch {
    lambda: f64,
    centre: [usize; 2],
    #[serde(rename = "box")]
    by_box: bool,
    images: Vec<f32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/augment.json")).unwrap()
}

fn image(name: &str) -> Canvas {
    let bytes: &[u8] = match name {
        "chelsea" => include_bytes!("fixtures/augment/chelsea.png"),
        "coffee" => include_bytes!("fixtures/augment/coffee.png"),
        "whisker" => include_bytes!("fixtures/augment/whisker.png"),
        "flat" => include_bytes!("fixtures/augment/flat.png"),
        _ => panic!("no image {name}"),
    };
    let image: RgbImage = image::load_from_memory(bytes).unwrap().to_rgb8();
    let (height, width) = (image.height() as usize, image.width() as usize);
    Canvas::new(image.into_raw(), height, width)
}

fn differs(canvas: &Canvas, first: &[u8], crc32: u32) -> bool {
    canvas.pixels()[..first.len()] != *first || crc32fast::hash(canvas.pixels()) != crc32
}

/// Lists all faults at once: the set of failing cases shows what is wrong.
#[track_caller]
fn none_of(count: usize, faults: &[String]) {
    assert!(faults.is_empty(), "{} of {count} differ:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn operations_are_pillows() {
    let (fixture, mut faults) = (fixture(), Vec::new());
    assert_eq!(fixture.operations.len(), 612);
    for case in &fixture.operations {
        let value = case.value;
        let operation = match case.operation.as_str() {
            "shear_x" => ImageOperation::ShearX(value),
            "shear_y" => ImageOperation::ShearY(value),
            "translate_x" => ImageOperation::TranslateX(value),
            "translate_y" => ImageOperation::TranslateY(value),
            "rotate" => ImageOperation::Rotate(value),
            "brightness" => ImageOperation::Brightness(value),
            "color" => ImageOperation::Color(value),
            "contrast" => ImageOperation::Contrast(value),
            "sharpness" => ImageOperation::Sharpness(value),
            "posterize" => ImageOperation::Posterize(value as u32),
            "solarize" => ImageOperation::Solarize(value),
            "solarize_add" => ImageOperation::SolarizeAdd(value as u8),
            "auto_contrast" => ImageOperation::AutoContrast,
            "equalize" => ImageOperation::Equalize,
            "invert" => ImageOperation::Invert,
            "hue" => ImageOperation::Hue(value),
            "blur" => ImageOperation::Blur(value),
            other => panic!("no operation {other}"),
        };
        let mut canvas = image(&case.image);
        operation.apply(&mut canvas, Resample { filter: case.filter, fill: fixture.fill });
        if differs(&canvas, &case.first, case.crc32) {
            faults.push(format!("{}, {operation:?}, {:?}", case.image, case.filter));
        }
    }
    none_of(fixture.operations.len(), &faults);
}

const TORCHVISION_NAMES: [TorchvisionName; 15] = [
    TorchvisionName::Identity,
    TorchvisionName::ShearX,
    TorchvisionName::ShearY,
    TorchvisionName::TranslateX,
    TorchvisionName::TranslateY,
    TorchvisionName::Rotate,
    TorchvisionName::Brightness,
    TorchvisionName::Color,
    TorchvisionName::Contrast,
    TorchvisionName::Sharpness,
    TorchvisionName::Posterize,
    TorchvisionName::Solarize,
    TorchvisionName::AutoContrast,
    TorchvisionName::Equalize,
    TorchvisionName::Invert,
];

fn torchvision_name(text: &str) -> TorchvisionName {
    *TORCHVISION_NAMES.iter().find(|name| format!("{name:?}") == text).unwrap()
}

#[test]
fn operations_at_a_magnitude_are_torchvisions() {
    let (fixture, mut faults) = (fixture(), Vec::new());
    assert_eq!(fixture.torchvision_operations.len(), 120);
    for case in &fixture.torchvision_operations {
        let operation = torchvision_name(&case.operation).at(case.value);
        let mut canvas = image(&case.image);
        operation.apply(&mut canvas, Resample { filter: case.filter, fill: [0; 3] });
        if differs(&canvas, &case.first, case.crc32) {
            faults.push(format!("{}, {operation:?}, {:?}", case.image, case.filter));
        }
    }
    none_of(fixture.torchvision_operations.len(), &faults);
}

#[test]
fn magnitudes_are_torchvisions() {
    let fixture = fixture();
    let (choices, mixed) = (&torchvision::CHOICES[..], &torchvision::MIX_CHOICES[..]);
    let spaces = [
        ("auto", torchvision::AUTO, None),
        ("rand", torchvision::RAND, Some(choices)),
        ("wide", torchvision::WIDE, Some(choices)),
        ("mix", torchvision::MIX, Some(mixed)),
    ];
    for (key, space, choices) in spaces {
        for (expected, size) in
            fixture.torchvision_spaces[key].iter().zip(fixture.torchvision_sizes)
        {
            for (text, signed, values) in expected {
                let name = torchvision_name(text);
                assert_eq!(name.signed(), *signed, "{key} {text}");
                assert_eq!(name.graded(), values.len() > 1, "{key} {text}");
                let own: Vec<f64> =
                    (0..values.len()).map(|bin| name.magnitude(&space, bin, size)).collect();
                assert_eq!(own, *values, "{key} {text} at {size:?}");
            }
            if let Some(choices) = choices {
                let names: Vec<String> = choices.iter().map(|name| format!("{name:?}")).collect();
                let expected: Vec<String> = expected.iter().map(|line| line.0.clone()).collect();
                assert_eq!(names, expected, "{key}");
            }
        }
    }
}

#[test]
fn tables_are_timms_and_torchvisions() {
    let fixture = fixture();
    let words = |steps: &[TimmStep]| -> Vec<(String, f64, f64)> {
        steps.iter().map(|&(name, p, m)| (format!("{name:?}"), p, m)).collect()
    };
    let tables = [
        ("original", AutoAugmentTable::Original),
        ("originalr", AutoAugmentTable::OriginalResearch),
        ("v0", AutoAugmentTable::V0),
        ("v0r", AutoAugmentTable::V0Research),
        ("3a", AutoAugmentTable::Three),
    ];
    for (key, table) in tables {
        let own: Steps = table.lines().iter().map(|line| words(line)).collect();
        assert_eq!(own, fixture.timm_tables[key], "{key}");
    }
    for (key, dataset) in
        [("imagenet", Dataset::ImageNet), ("cifar10", Dataset::Cifar10), ("svhn", Dataset::Svhn)]
    {
        let own: Steps = dataset
            .table()
            .iter()
            .map(|line| line.iter().map(|&(n, p, m)| (format!("{n:?}"), p, m as f64)).collect())
            .collect();
        assert_eq!(own, fixture.torchvision_tables[key], "{key}");
    }
    let names = |names: &[TimmName]| -> Vec<String> {
        names.iter().map(|name| format!("{name:?}")).collect()
    };
    assert_eq!(names(&timm::RAND), fixture.timm_sets["rand"]);
    assert_eq!(names(&timm::RAND_INCREASING), fixture.timm_sets["rand-inc1"]);
    assert_eq!(names(&timm::RAND_THREE), fixture.timm_sets["rand-t3a"]);
    assert_eq!(names(&timm::AUGMIX), fixture.timm_sets["augmix"]);
    let weights = |weights: &[(TimmName, f64)]| -> Vec<(String, f64)> {
        weights.iter().map(|(name, weight)| (format!("{name:?}"), *weight)).collect()
    };
    assert_eq!(weights(&timm::RAND_WEIGHTED), fixture.timm_weights["rand-tweights"]);
    assert_eq!(weights(&timm::RAND_THREE_WEIGHTED), fixture.timm_weights["rand-t3aw"]);
}

/// The parameter of an operation; translations as shares of the image.
fn number(operation: ImageOperation, size: [usize; 2]) -> f64 {
    match operation {
        ImageOperation::TranslateX(v) => v / size[1] as f64,
        ImageOperation::TranslateY(v) => v / size[0] as f64,
        ImageOperation::ShearX(v)
        | ImageOperation::ShearY(v)
        | ImageOperation::Rotate(v)
        | ImageOperation::Brightness(v)
        | ImageOperation::Color(v)
        | ImageOperation::Contrast(v)
        | ImageOperation::Sharpness(v)
        | ImageOperation::Solarize(v)
        | ImageOperation::Blur(v) => v,
        ImageOperation::Posterize(bits) => f64::from(bits),
        ImageOperation::SolarizeAdd(add) => f64::from(add),
        other => panic!("{other:?} has no number"),
    }
}

#[test]
fn arguments_at_a_magnitude_are_timms() {
    use TimmName::{Desaturate, GaussianBlur, PosterizeOriginal, Sharpness};
    let (fixture, mut faults) = (fixture(), Vec::new());
    let mut all = vec![Desaturate, GaussianBlur, PosterizeOriginal, Sharpness];
    all.extend(timm::RAND.iter().chain(&timm::RAND_INCREASING));
    assert_eq!(fixture.timm_levels.len(), 12 * 21);
    let size = [64, 128]; // powers of two: dividing by them is exact
    for level in &fixture.timm_levels {
        let name = *all.iter().find(|name| format!("{name:?}") == level.name).unwrap();
        let mut seen: Vec<f64> = (0..40)
            .map(|index| {
                let mut random = Counter::new(1, 2, index, 3);
                let operation = name.at(level.magnitude, size, 0.45, &mut random);
                number(operation, size)
            })
            .collect();
        seen.sort_by(f64::total_cmp);
        seen.dedup();
        // Bits beyond 0 to 8 are as the nearest of them; desaturation is by the rest.
        let expected = |value: f64| match level.name.as_str() {
            "Posterize" | "PosterizeIncreasing" | "PosterizeOriginal" => value.clamp(0.0, 8.0),
            "Desaturate" => (1.0 - value).clamp(0.0, 1.0),
            _ => value,
        };
        let mut wanted = vec![expected(level.plus), expected(level.minus)];
        wanted.sort_by(f64::total_cmp);
        wanted.dedup();
        if seen.iter().map(|v| v + 0.0).ne(wanted.iter().map(|v| v + 0.0)) {
            faults.push(format!("{} at {}: {seen:?}, not {wanted:?}", level.name, level.magnitude));
        }
    }
    none_of(fixture.timm_levels.len(), &faults);
}

#[test]
fn augmix_mixes_as_timms() {
    let fixture = fixture();
    for case in &fixture.augmix {
        let original = image(&case.image);
        let size = [original.height(), original.width()];
        let resample = Resample { filter: Interpolation::Bilinear, fill: fixture.fill };
        let mut order = timm::AUGMIX.iter();
        let chains: Vec<Canvas> = (0..3)
            .map(|_| {
                let mut chain = original.clone();
                for name in order.by_ref().take(2) {
                    // A stream whose first number is below a half: the positive side.
                    let mut random = (0..100)
                        .map(|index| Counter::new(0, 0, index, 0))
                        .find(|random| random.clone().unit() < 0.5)
                        .unwrap();
                    name.at(case.magnitude, size, 0.3, &mut random).apply(&mut chain, resample);
                }
                chain
            })
            .collect();
        let mut canvas = original;
        match case.blended {
            true => blend_in_turn(&mut canvas, &chains, &case.weights, case.share),
            false => mix(&mut canvas, &chains, &case.weights, case.share),
        }
        let what = format!("{} blended {}", case.image, case.blended);
        assert!(!differs(&canvas, &case.first, case.crc32), "{what}");
    }
}

/// The operations are those on images: torchvision's AugMix converts to tensors first, whose affine
/// operations round differently.
///
/// Mutations caught: sums rounded instead of truncated; in `magnitudes_are_torchvisions`
/// AutoAugment's translations.
#[test]
fn augmix_mixes_as_torchvisions() {
    let fixture = fixture();
    assert_eq!(fixture.augmix_torchvision.len(), 2);
    for case in &fixture.augmix_torchvision {
        let mut canvas = image(&case.image);
        let size = [canvas.height(), canvas.width()];
        let resample = Resample { filter: Interpolation::Bilinear, fill: [0; 3] };
        let chains: Vec<Canvas> = case
            .chains
            .iter()
            .map(|steps| {
                let mut chain = canvas.clone();
                for (name, bin, negative) in steps {
                    let name = torchvision_name(name);
                    let magnitude = name.magnitude(&torchvision::MIX, *bin, size);
                    let sign = if *negative == 1 { -1.0 } else { 1.0 };
                    name.at(sign * magnitude).apply(&mut chain, resample);
                }
                chain
            })
            .collect();
        let [own, share] = case.shares;
        let weights: Vec<f32> = case.weights.iter().map(|weight| weight * share).collect();
        mix_in(&mut canvas, own, &chains, &weights);
        assert!(!differs(&canvas, &case.first, case.crc32), "{}", case.image);
    }
}

#[test]
fn mixup_and_cutmix_are_timms_to_the_bit() {
    let fixture = fixture();
    let [_, _, height, width] = fixture.shape;
    assert_eq!(fixture.mixed.len(), 5);
    for case in &fixture.mixed {
        let mixed = match case.by_box {
            true => DrawnMix::CutMix(box_about(case.lambda, case.centre, [height, width])),
            false => DrawnMix::Mixup(case.lambda),
        };
        let mut images = fixture.batch.clone();
        let share = mixed.apply(&mut images, fixture.shape);
        assert_eq!(images, case.images, "{mixed:?}");
        if !case.by_box {
            assert_eq!(share, case.lambda as f32);
        }
    }
    // Five images: the one in the middle is its own partner.
    let mut five: Vec<f32> = (0..5).map(|value| value as f32).collect();
    DrawnMix::Mixup(0.25).apply(&mut five, [5, 1, 1, 1]);
    assert_eq!(five, [3.0, 2.5, 2.0, 1.5, 1.0]);
}

#[test]
fn policies_are_written_as_they_are_read() {
    for (text, written) in [
        ("rand", "rand-m10-n2-p0.5"),
        ("rand-m9-mstd0.5-inc1", "rand-m9-n2-p0.5-mstd0.5-inc1"),
        ("rand-inc1-n3-m7-mstd101-mmax20", "rand-m7-n3-p0.5-mstd101-mmax20-inc1"),
        ("rand-m6-t3aw", "rand-m6-n2-p0.5-t3aw"),
        ("original-mstd0.5", "original-mstd0.5"),
        ("v0r", "v0r"),
        ("3a", "3a"),
        ("augmix", "augmix"),
        ("augmix-s3", "augmix"),
        ("augmix-s10", "augmix-s10"),
        ("augmix-m3", "augmix-m3-w3"),
        ("augmix-m5-w4-d2", "augmix-m5-w4-d2"),
        ("augmix-b1-a0.5-mstd1", "augmix-m3-w3-a0.5-b1-mstd1"),
        ("ra", "ra-m9-n2"),
        ("ta_wide", "ta_wide"),
        ("imagenet", "imagenet"),
    ] {
        let policy: Policy = text.parse().unwrap();
        assert_eq!(policy.to_string(), written);
        assert_eq!(written.parse::<Policy>().unwrap(), policy);
    }
    for (text, words) in [
        ("randaugment", ["no policy `randaugment`", "ta_wide"]),
        ("rand-m9-x3", ["`x3` means nothing", "rand-m9"]),
        ("rand-m9.5", ["`m9.5`", "whole number from 0 to 100"]),
        ("rand-p1.5", ["`p1.5`", "from 0 to 1"]),
        ("rand-m9-m8", ["twice", "`m`"]),
        ("rand-tall", ["`tall`", "tweights"]),
        ("rand-w0", ["`w` is gone", "tweights"]),
        ("augmix-s11", ["`s11`", "whole number from 1 to 10"]),
        ("augmix-s3-m3", ["`s3` means nothing", "augmix"]),
        ("augmix-n2", ["`n2` means nothing", "augmix"]),
        ("original-m3", ["`m3` means nothing", "original"]),
        ("ta_wide-m9", ["`m9` means nothing", "ta_wide"]),
        ("", ["no policy ``", "expected"]),
    ] {
        let error = text.parse::<Policy>().unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}
