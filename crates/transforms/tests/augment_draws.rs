//! The random draws of augmentation have timm's and torchvision's distributions, and the asked
//! frequencies and fillings.
//!
//! `fixtures/make_augment.py` made the statistics. The mutations caught are listed in `augment.rs`.

use std::collections::HashMap;

use serde::Deserialize;
use transforms::augment::canvas::Canvas;
use transforms::augment::erase::{Erase, EraseFill};
use transforms::augment::magnitude::{Filter, drawn_magnitude};
use transforms::augment::policy::{Choice, Policy, Rand};
use transforms::augment::timm;
use transforms::augment::timm::TimmName;
use transforms::mixup::{DrawnMix, Mix};
use transforms::random::Counter;
use transforms::resize::Interpolation;

#[derive(Deserialize)]
struct Fixture {
    statistics: Statistics,
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

/// An image of 9 by 7 pixels.
fn whisker() -> Canvas {
    let bytes = include_bytes!("fixtures/augment/whisker.png");
    let image = image::load_from_memory(bytes).unwrap().to_rgb8();
    let (height, width) = (image.height() as usize, image.width() as usize);
    Canvas::new(image.into_raw(), height, width)
}

/// The tolerance of a mean: five of its standard deviations, and as much again for the reference.
fn slack(deviation: f64, draws: f64) -> f64 {
    5.0 * deviation * (2.0 / draws).sqrt()
}

#[test]
fn erased_rectangles_are_distributed_as_timms() {
    let statistics = fixture().statistics;
    let size = [41, 60];
    for (count, expected) in [(1, &statistics.erased_1), (3, &statistics.erased_3)] {
        let erase = Erase { probability: 0.3, fill: EraseFill::Const, count };
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
    let erased = |fill: EraseFill| {
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
    assert!(erased(EraseFill::Const).concat().iter().all(|value| *value == 0.0));
    let colours = erased(EraseFill::Rand);
    assert!(colours.iter().all(|plane| plane.iter().all(|value| *value == plane[0])));
    assert!(colours[0][0] != colours[1][0] && colours[1][0] != colours[2][0]);
    let noise = erased(EraseFill::Pixel).concat();
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
                let max = f64::from(rand.max);
                drawn_magnitude(f64::from(rand.magnitude), rand.deviation, max, &mut random)
            })
            .collect();
        assert!(drawn.iter().all(|m| (0.0..=f64::from(rand.max)).contains(m)), "{text}");
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
                let Some(DrawnMix::CutMix([top, bottom, left, right])) =
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
                Some(DrawnMix::Mixup(lambda)) => {
                    assert!((0.0..=1.0).contains(&lambda));
                    counts[0] += 1;
                }
                Some(DrawnMix::CutMix(_)) => counts[1] += 1,
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
        let mut counts: HashMap<TimmName, u32> = HashMap::new();
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

/// A step of probability p changes an image in that share of the cases.
#[test]
fn steps_are_done_with_their_probability() {
    let changed = |text: &str| {
        let policy: Policy = text.parse().unwrap();
        (0..2000)
            .filter(|&index| {
                let mut canvas = whisker();
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
    // Two operations of 15 each, of which autocontrast, equalize and others may leave so small an
    // image alone.
    assert_eq!(changed("rand-p0"), 0);
    let [half, full] = ["rand-m9-n1-p0.5", "rand-m9-n1-p1"].map(changed);
    assert!((half as f64 / full as f64 - 0.5).abs() < 0.05, "{half} {full}");
    // The identity is one of 14.
    assert!((1500..1900).contains(&changed("ta_wide")), "{}", changed("ta_wide"));
    for text in [
        "original",
        "v0r-mstd0.5",
        "3a",
        "imagenet",
        "cifar10",
        "svhn",
        "ra",
        "augmix",
        "augmix-m5-w4-d2",
    ] {
        assert!(changed(text) > 1000, "{text}: {}", changed(text));
    }
}
