//! Augmentation is Pillow's, timm's and torchvision's: operations in every bit, tables to the letter, random
//! draws by their statistics.
//!
//! `fixtures/make_augment.py` made the expected values from crops of scikit-image's chelsea and coffee (both
//! CC0).
//!
//! PLANTED

use std::collections::HashMap;

use image::RgbImage;
use serde::Deserialize;
use train::augment::affine::Look;
use train::augment::augmix::{blend_in_turn, mix};
use train::augment::canvas::Canvas;
use train::augment::erase::{Erase, Fill};
use train::augment::operation::Operation;
use train::augment::policy::{Choice, Dataset, Filter, Policy, Rand, Table, drawn_magnitude};
use train::augment::{timm, torchvision};
use train::mix::{Mix, Mixed, box_about};
use train::preprocess::Interpolation;
use train::random::Counter;

type Steps = Vec<Vec<(String, f64, f64)>>;
type Space = Vec<(String, bool, Vec<f64>)>;

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
    torchvision_spaces: HashMap<String, [Space; 2]>,
    timm_levels: Vec<Level>,
    augmix: Vec<AugMixed>,
    batch: Vec<f32>,
    shape: [usize; 4],
    mixed: Vec<MixedBatch>,
    statistics: Statistics,
}

#[derive(Deserialize)]
struct Case {
    picture: String,
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
    picture: String,
    blended: bool,
    magnitude: f64,
    weights: Vec<f32>,
    share: f32,
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

#[derive(Deserialize)]
struct Statistics {
    erased_1: Erased,
    erased_3: Erased,
    magnitudes: HashMap<String, [f64; 2]>,
    cutmix: [f64; 6],
    cutmix_minmax: [f64; 6],
}

#[derive(Deserialize)]
struct Erased {
    share: f64,
    area: f64,
    area_deviation: f64,
    top: f64,
    top_deviation: f64,
    log_aspect: f64,
    log_aspect_deviation: f64,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/augment.json")).unwrap()
}

fn picture(name: &str) -> Canvas {
    let bytes: &[u8] = match name {
        "chelsea" => include_bytes!("fixtures/augment/chelsea.png"),
        "coffee" => include_bytes!("fixtures/augment/coffee.png"),
        "whisker" => include_bytes!("fixtures/augment/whisker.png"),
        "flat" => include_bytes!("fixtures/augment/flat.png"),
        _ => panic!("no picture {name}"),
    };
    let picture: RgbImage = image::load_from_memory(bytes).unwrap().to_rgb8();
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    Canvas::new(picture.into_raw(), height, width)
}

fn differs(canvas: &Canvas, first: &[u8], crc32: u32) -> bool {
    canvas.pixels()[..first.len()] != *first || crc32fast::hash(canvas.pixels()) != crc32
}

/// All faults at once: which cases fail tells what is wrong.
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
            "shear_x" => Operation::ShearX(value),
            "shear_y" => Operation::ShearY(value),
            "translate_x" => Operation::TranslateX(value),
            "translate_y" => Operation::TranslateY(value),
            "rotate" => Operation::Rotate(value),
            "brightness" => Operation::Brightness(value),
            "color" => Operation::Color(value),
            "contrast" => Operation::Contrast(value),
            "sharpness" => Operation::Sharpness(value),
            "posterize" => Operation::Posterize(value as u32),
            "solarize" => Operation::Solarize(value),
            "solarize_add" => Operation::SolarizeAdd(value as u8),
            "auto_contrast" => Operation::AutoContrast,
            "equalize" => Operation::Equalize,
            "invert" => Operation::Invert,
            "hue" => Operation::Hue(value),
            "blur" => Operation::Blur(value),
            other => panic!("no operation {other}"),
        };
        let mut canvas = picture(&case.picture);
        operation.apply(&mut canvas, Look { filter: case.filter, fill: fixture.fill });
        if differs(&canvas, &case.first, case.crc32) {
            faults.push(format!("{}, {operation:?}, {:?}", case.picture, case.filter));
        }
    }
    none_of(fixture.operations.len(), &faults);
}

const TORCHVISION_NAMES: [torchvision::Name; 15] = [
    torchvision::Name::Identity,
    torchvision::Name::ShearX,
    torchvision::Name::ShearY,
    torchvision::Name::TranslateX,
    torchvision::Name::TranslateY,
    torchvision::Name::Rotate,
    torchvision::Name::Brightness,
    torchvision::Name::Color,
    torchvision::Name::Contrast,
    torchvision::Name::Sharpness,
    torchvision::Name::Posterize,
    torchvision::Name::Solarize,
    torchvision::Name::AutoContrast,
    torchvision::Name::Equalize,
    torchvision::Name::Invert,
];

fn torchvision_name(text: &str) -> torchvision::Name {
    *TORCHVISION_NAMES.iter().find(|name| format!("{name:?}") == text).unwrap()
}

#[test]
fn operations_at_a_magnitude_are_torchvisions() {
    let (fixture, mut faults) = (fixture(), Vec::new());
    assert_eq!(fixture.torchvision_operations.len(), 120);
    for case in &fixture.torchvision_operations {
        let operation = torchvision_name(&case.operation).at(case.value);
        let mut canvas = picture(&case.picture);
        operation.apply(&mut canvas, Look { filter: case.filter, fill: [0; 3] });
        if differs(&canvas, &case.first, case.crc32) {
            faults.push(format!("{}, {operation:?}, {:?}", case.picture, case.filter));
        }
    }
    none_of(fixture.torchvision_operations.len(), &faults);
}

#[test]
fn magnitudes_are_torchvisions() {
    let fixture = fixture();
    let spaces =
        [("auto", torchvision::AUTO), ("rand", torchvision::RAND), ("wide", torchvision::WIDE)];
    for (key, space) in spaces {
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
            if key != "auto" {
                let names: Vec<String> =
                    torchvision::CHOICES.iter().map(|name| format!("{name:?}")).collect();
                let expected: Vec<String> = expected.iter().map(|line| line.0.clone()).collect();
                assert_eq!(names, expected, "{key}");
            }
        }
    }
}

#[test]
fn tables_are_timms_and_torchvisions() {
    let fixture = fixture();
    let words = |steps: &[timm::Step]| -> Vec<(String, f64, f64)> {
        steps.iter().map(|&(name, p, m)| (format!("{name:?}"), p, m)).collect()
    };
    let tables = [
        ("original", Table::Original),
        ("originalr", Table::OriginalResearch),
        ("v0", Table::V0),
        ("v0r", Table::V0Research),
        ("3a", Table::Three),
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
    let names = |names: &[timm::Name]| -> Vec<String> {
        names.iter().map(|name| format!("{name:?}")).collect()
    };
    assert_eq!(names(&timm::RAND), fixture.timm_sets["rand"]);
    assert_eq!(names(&timm::RAND_INCREASING), fixture.timm_sets["rand-inc1"]);
    assert_eq!(names(&timm::RAND_THREE), fixture.timm_sets["rand-t3a"]);
    assert_eq!(names(&timm::AUGMIX), fixture.timm_sets["augmix"]);
    let weights = |weights: &[(timm::Name, f64)]| -> Vec<(String, f64)> {
        weights.iter().map(|(name, weight)| (format!("{name:?}"), *weight)).collect()
    };
    assert_eq!(weights(&timm::RAND_WEIGHTED), fixture.timm_weights["rand-tweights"]);
    assert_eq!(weights(&timm::RAND_THREE_WEIGHTED), fixture.timm_weights["rand-t3aw"]);
}

/// The number of an operation.
fn number(operation: Operation, size: [usize; 2]) -> f64 {
    match operation {
        Operation::ShearX(v) | Operation::ShearY(v) | Operation::Rotate(v) => v,
        Operation::TranslateX(v) => v / size[1] as f64,
        Operation::TranslateY(v) => v / size[0] as f64,
        Operation::Brightness(v) | Operation::Color(v) => v,
        Operation::Contrast(v) | Operation::Sharpness(v) => v,
        Operation::Solarize(v) | Operation::Blur(v) => v,
        Operation::Posterize(bits) => f64::from(bits),
        Operation::SolarizeAdd(add) => f64::from(add),
        other => panic!("{other:?} has no number"),
    }
}

#[test]
fn arguments_at_a_magnitude_are_timms() {
    use timm::Name::{Desaturate, GaussianBlur, PosterizeOriginal, Sharpness};
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
        let original = picture(&case.picture);
        let size = [original.height(), original.width()];
        let look = Look { filter: Interpolation::Bilinear, fill: fixture.fill };
        let mut order = timm::AUGMIX.iter();
        let chains: Vec<Canvas> = (0..3)
            .map(|_| {
                let mut chain = original.clone();
                for name in order.by_ref().take(2) {
                    // A stream whose first number is below a half: the positive side.
                    let mut random = (0..)
                        .map(|index| Counter::new(0, 0, index, 0))
                        .find(|random| random.clone().unit() < 0.5)
                        .unwrap();
                    name.at(case.magnitude, size, 0.3, &mut random).apply(&mut chain, look);
                }
                chain
            })
            .collect();
        let mut canvas = original;
        match case.blended {
            true => blend_in_turn(&mut canvas, &chains, &case.weights, case.share),
            false => mix(&mut canvas, &chains, &case.weights, case.share),
        }
        let what = format!("{} blended {}", case.picture, case.blended);
        assert!(!differs(&canvas, &case.first, case.crc32), "{what}");
    }
}

#[test]
fn mixup_and_cutmix_are_timms_to_the_bit() {
    let fixture = fixture();
    let [_, _, height, width] = fixture.shape;
    assert_eq!(fixture.mixed.len(), 5);
    for case in &fixture.mixed {
        let mixed = match case.by_box {
            true => Mixed::CutMix(box_about(case.lambda, case.centre, [height, width])),
            false => Mixed::Mixup(case.lambda),
        };
        let mut images = fixture.batch.clone();
        let share = mixed.apply(&mut images, fixture.shape);
        assert_eq!(images, case.images, "{mixed:?}");
        if !case.by_box {
            assert_eq!(share, case.lambda as f32);
        }
    }
    // Five pictures: the one in the middle is its own partner.
    let mut five: Vec<f32> = (0..5).map(|value| value as f32).collect();
    Mixed::Mixup(0.25).apply(&mut five, [5, 1, 1, 1]);
    assert_eq!(five, [3.0, 2.5, 2.0, 1.5, 1.0]);
}

/// How far a mean may be off: five of its own deviations, and as much again for the reference's.
fn slack(deviation: f64, draws: f64) -> f64 {
    5.0 * deviation * (2.0 / draws).sqrt()
}

#[test]
fn erased_rectangles_are_distributed_as_timms() {
    let statistics = fixture().statistics;
    let size = [41, 60];
    for (count, expected) in [(1, &statistics.erased_1), (3, &statistics.erased_3)] {
        let erase = Erase { probability: 0.3, fill: Fill::Const, count };
        let mut rows = Vec::new();
        for index in 0..20_000 {
            let mut values = vec![1.0_f32; 3 * size[0] * size[1]];
            erase.apply(&mut values, size, &mut Counter::new(9, 0, index, 1));
            let plane = &values[..size[0] * size[1]];
            assert!(values.chunks_exact(plane.len()).all(|other| other == plane));
            let area = plane.iter().filter(|value| **value == 0.0).count();
            if area == 0 {
                continue;
            }
            let lines: Vec<usize> =
                (0..size[0]).filter(|y| plane[y * 60..][..60].contains(&0.0)).collect();
            let columns: Vec<usize> = (0..size[1])
                .filter(|x| plane.iter().skip(*x).step_by(60).any(|value| *value == 0.0))
                .collect();
            let span = |at: &[usize]| (at[at.len() - 1] - at[0] + 1) as f64;
            rows.push([
                area as f64 / plane.len() as f64,
                lines[0] as f64,
                (span(&lines) / span(&columns)).ln(),
            ]);
        }
        let draws = rows.len() as f64;
        assert!((draws / 20_000.0 - expected.share).abs() < slack(0.46, 20_000.0), "{draws}");
        let close = |column: usize, mean: f64, deviation: f64, what: &str| {
            let own = rows.iter().map(|row| row[column]).sum::<f64>() / draws;
            assert!(
                (own - mean).abs() < slack(deviation, draws),
                "{what} of {count}: {own} {mean}"
            );
            let spread =
                (rows.iter().map(|row| (row[column] - own).powi(2)).sum::<f64>() / draws).sqrt();
            assert!((spread / deviation - 1.0).abs() < 0.08, "{what}: {spread} {deviation}");
        };
        close(0, expected.area, expected.area_deviation, "area");
        close(1, expected.top, expected.top_deviation, "top");
        close(2, expected.log_aspect, expected.log_aspect_deviation, "aspect");
    }
}

#[test]
fn what_is_erased_is_filled_as_asked() {
    let size = [50, 40];
    let erased = |fill: Fill| {
        let erase = Erase { probability: 1.0, fill, count: 1 };
        let mut values = vec![99.0_f32; 3 * 2000];
        erase.apply(&mut values, size, &mut Counter::new(4, 0, 7, 1));
        let planes: Vec<Vec<f32>> = values
            .chunks_exact(2000)
            .map(|plane| plane.iter().copied().filter(|value| *value != 99.0).collect())
            .collect();
        assert!(!planes[0].is_empty() && planes.iter().all(|p| p.len() == planes[0].len()));
        planes
    };
    assert!(erased(Fill::Const).concat().iter().all(|value| *value == 0.0));
    let colours = erased(Fill::Rand);
    assert!(colours.iter().all(|plane| plane.iter().all(|value| *value == plane[0])));
    assert!(colours[0][0] != colours[1][0] && colours[1][0] != colours[2][0]);
    let noise = erased(Fill::Pixel).concat();
    let mean = f64::from(noise.iter().sum::<f32>()) / noise.len() as f64;
    let variance = noise.iter().map(|v| f64::from(v * v)).sum::<f64>() / noise.len() as f64;
    let slack = 5.0 / (noise.len() as f64).sqrt();
    assert!(mean.abs() < slack && (variance - 1.0).abs() < 1.5 * slack, "{mean} {variance}");
}

#[test]
fn noise_on_magnitudes_is_distributed_as_timms() {
    for (text, [mean, deviation]) in fixture().statistics.magnitudes {
        let Ok(Policy::Rand(rand)) = text.parse::<Policy>() else { panic!("{text}") };
        let mut random = Counter::new(1, 1, 1, 1);
        let drawn: Vec<f64> = (0..20_000)
            .map(|_| {
                let most = f64::from(rand.most);
                drawn_magnitude(f64::from(rand.magnitude), rand.deviation, most, &mut random)
            })
            .collect();
        let own = drawn.iter().sum::<f64>() / 20_000.0;
        let spread = (drawn.iter().map(|m| (m - own).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((own - mean).abs() <= slack(deviation, 20_000.0), "{text}: {own} {mean}");
        assert!((spread - deviation).abs() <= 0.05 * deviation, "{text}: {spread} {deviation}");
    }
}

#[test]
fn boxes_of_cutmix_are_distributed_as_timms() {
    let statistics = fixture().statistics;
    let size = [41, 60];
    let mix = Mix { mixup: 0.0, cutmix: 1.0, ..Mix::default() };
    for (minmax, expected) in
        [(None, statistics.cutmix), (Some([0.2, 0.8]), statistics.cutmix_minmax)]
    {
        let mix = Mix { minmax, ..mix };
        let mut random = Counter::new(2, 2, 2, 2);
        let rows: Vec<[f64; 3]> = (0..20_000)
            .map(|_| {
                let Some(Mixed::CutMix([top, bottom, left, right])) =
                    mix.draw(0, size, &mut random)
                else {
                    panic!("CutMix alone, always")
                };
                assert!(top <= bottom && bottom <= 41 && left <= right && right <= 60);
                let area = ((bottom - top) * (right - left)) as f64 / 2460.0;
                [1.0 - area, top as f64, left as f64]
            })
            .collect();
        for column in 0..3 {
            let own = rows.iter().map(|row| row[column]).sum::<f64>() / 20_000.0;
            let spread =
                (rows.iter().map(|r| (r[column] - own).powi(2)).sum::<f64>() / 20_000.0).sqrt();
            let (mean, deviation) = (expected[column], expected[column + 3]);
            let what = format!("{minmax:?} {column}: {own} {spread}, not {mean} {deviation}");
            assert!((own - mean).abs() < slack(deviation, 20_000.0), "{what}");
            assert!((spread / deviation - 1.0).abs() < 0.05, "{what}");
        }
    }
}

#[test]
fn batches_are_mixed_as_often_as_asked() {
    let both = Mix { mixup: 0.2, cutmix: 1.0, probability: 0.8, switch: 0.3, ..Mix::default() };
    let count = |mix: Mix, epoch: u64| {
        let mut counts = [0; 2];
        for number in 0..10_000 {
            match mix.draw(epoch, [8, 8], &mut Counter::new(1, epoch, number, 5)) {
                Some(Mixed::Mixup(lambda)) => {
                    assert!((0.0..=1.0).contains(&lambda));
                    counts[0] += 1;
                }
                Some(Mixed::CutMix(_)) => counts[1] += 1,
                None => {}
            }
        }
        counts
    };
    let near = |[a, b]: [i32; 2], x: i32, y: i32| (a - x).abs() < 250 && (b - y).abs() < 250;
    assert!(near(count(both, 0), 5600, 2400), "{:?}", count(both, 0));
    assert_eq!(count(Mix { cutmix: 0.0, probability: 1.0, ..both }, 0), [10_000, 0]);
    assert_eq!(count(Mix { mixup: 0.0, probability: 1.0, ..both }, 0), [0, 10_000]);
    let off = Mix { off_epoch: 3, probability: 1.0, ..both };
    assert_eq!(count(off, 2).iter().sum::<i32>(), 10_000);
    assert_eq!(count(off, 3), [0, 0]);
}

#[test]
fn rand_augment_chooses_evenly_or_by_weight() {
    let rand = |text: &str| match text.parse::<Policy>() {
        Ok(Policy::Rand(rand)) => rand,
        other => panic!("{text}: {other:?}"),
    };
    let counts = |rand: Rand| {
        let mut counts: HashMap<timm::Name, u32> = HashMap::new();
        for index in 0..15_000 {
            let names = rand.draw(&mut Counter::new(8, 0, index, 2));
            assert_eq!(names.len(), rand.count);
            if rand.choice == Choice::Weighted {
                assert!(names[0] != names[1], "without repetition");
            }
            *counts.entry(names[0]).or_default() += 1;
        }
        counts
    };
    let even = counts(rand("rand-n2"));
    assert_eq!(even.len(), 15);
    // 1000 expected each, deviation 31.
    assert!(even.values().all(|count| count.abs_diff(1000) < 150), "{even:?}");
    let weighted = counts(rand("rand-n2-tweights"));
    let total: f64 = timm::RAND_WEIGHTED.iter().map(|(_, weight)| weight).sum();
    for (name, weight) in timm::RAND_WEIGHTED {
        let expected = 15_000.0 * weight / total;
        let own = f64::from(*weighted.get(&name).unwrap_or(&0));
        assert!((own - expected).abs() < 5.0 * expected.sqrt() + 1.0, "{name:?} {own} {expected}");
    }
}

/// A step of probability p changes a picture in so many of the cases.
#[test]
fn steps_are_done_with_their_probability() {
    let changed = |text: &str| {
        let policy: Policy = text.parse().unwrap();
        (0..2000)
            .filter(|&index| {
                let mut canvas = picture("whisker");
                let before = canvas.pixels().to_vec();
                let mut random = Counter::new(3, 0, index, 1);
                policy.apply(
                    &mut canvas,
                    Filter::Fixed(Interpolation::Bilinear),
                    [0; 3],
                    &mut random,
                );
                canvas.pixels() != before
            })
            .count()
    };
    // Two operations of 15 each, of which autocontrast, equalize and others may leave so small a picture alone.
    assert_eq!(changed("rand-p0"), 0);
    let [half, full] = ["rand-m9-n1-p0.5", "rand-m9-n1-p1"].map(changed);
    assert!((half as f64 / full as f64 - 0.5).abs() < 0.05, "{half} {full}");
    // The identity is one of 14.
    assert!((1500..1900).contains(&changed("ta_wide")), "{}", changed("ta_wide"));
    for text in
        ["original", "v0r-mstd0.5", "3a", "imagenet", "cifar10", "svhn", "ra", "augmix-m5-w4-d2"]
    {
        assert!(changed(text) > 1000, "{text}: {}", changed(text));
    }
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
        ("augmix", "augmix-m3-w3"),
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
