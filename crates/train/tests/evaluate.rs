//! What `eval` can do beside an accuracy, `compare`, and `predict --cam`.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use serde_json::Value;

use test_folder::{TestFolder, code, error, refused, said};

const TRAINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/fashion-mnist-mini");

fn json(place: &TestFolder, words: &[&str]) -> Value {
    let output = place.run(words);
    assert_eq!(code(&output), 0, "{words:?}: {}", error(&output));
    serde_json::from_str(&said(&output)).unwrap_or_else(|_| panic!("{}", said(&output)))
}

/// The probabilities of a CSV of predictions, by file.
fn probabilities(place: &TestFolder, words: &[&str]) -> Vec<f64> {
    let output = place.run(&[words, &["--predictions", "p.csv"]].concat());
    assert_eq!(code(&output), 0, "{words:?}: {}", error(&output));
    let text = std::fs::read_to_string(place.path("p.csv")).unwrap();
    let column = text.lines().next().unwrap().split(',').position(|c| c == "probability").unwrap();
    text.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().parse().unwrap()).collect()
}

/// An image that is its own mirror image has the same answer from both views; a checkpoint's
/// answers move for others.
///
/// Mutations caught, each alone: the mean of the logits; the mirror image top to bottom; one corner
/// left out.
#[test]
fn views_are_averaged() {
    let place = TestFolder::new("evaluate-tta");
    let folder = place.path("even/bag");
    std::fs::create_dir_all(&folder).unwrap();
    let even = image::RgbImage::from_fn(60, 40, |x, y| {
        let x = x.min(59 - x);
        image::Rgb([(4 * x + y) as u8, (200 - 3 * x) as u8, (5 * y) as u8])
    });
    even.save(folder.join("a.png")).unwrap();
    let plain = ["eval", TRAINED, "even"];
    let one = probabilities(&place, &plain);
    let both = probabilities(&place, &[&plain[..], &["--tta", "hflip"]].concat());
    assert!((one[0] - both[0]).abs() < 1e-5, "{one:?} {both:?}");

    // The mean of two evaluations is that of both views.
    let mut flipped = place.path("flipped/bag");
    std::fs::create_dir_all(&flipped).unwrap();
    let odd = image::RgbImage::from_fn(48, 48, |x, y| {
        image::Rgb([(5 * x) as u8, (x * y) as u8, y as u8])
    });
    odd.save(folder.join("a.png")).unwrap();
    flipped.push("a.png");
    image::imageops::flip_horizontal(&odd).save(&flipped).unwrap();
    let all = |folder: &str, more: &[&str]| -> Vec<f64> {
        let path = format!("{folder}/bag/a.png");
        let words =
            [&["predict", &path, "--checkpoint", TRAINED, "-k", "10", "--format", "json"], more];
        let answer = json(&place, &words.concat());
        let mut values = vec![0.0; 10];
        for guess in answer[0]["guesses"].as_array().unwrap() {
            values[guess["index"].as_u64().unwrap() as usize] =
                guess["probability"].as_f64().unwrap();
        }
        values
    };
    let (first, second) = (all("even", &[]), all("flipped", &[]));
    let mean: Vec<f64> = first.iter().zip(&second).map(|(a, b)| (a + b) / 2.0).collect();
    let best = mean.iter().copied().fold(0.0, f64::max);
    let both = probabilities(&place, &[&plain[..], &["--tta", "hflip"]].concat());
    assert!((both[0] - best).abs() < 1e-4, "{both:?} {mean:?}");

    // Ten crops are the mean of five crops, each with its mirror image. The image is not resized.
    let bag = |words: &[&str]| -> Vec<f64> {
        assert_eq!(code(&place.run(&[words, &["--predictions", "p.csv"]].concat())), 0);
        let text = std::fs::read_to_string(place.path("p.csv")).unwrap();
        text.lines().skip(1).map(|line| line.split(',').nth(4).unwrap().parse().unwrap()).collect()
    };
    let wide = image::RgbImage::from_fn(61, 40, |x, y| {
        image::Rgb([(4 * x) as u8, (x * y) as u8, (255 - 6 * y) as u8])
    });
    wide.save(folder.join("a.png")).unwrap();
    let ten = bag(&[&plain[..], &["--crop-pct", "0.8", "--tta", "ten-crop"]].concat());
    let crops = place.path("crops/bag");
    std::fs::create_dir_all(&crops).unwrap();
    for (number, (x, y)) in [(0, 0), (29, 0), (0, 8), (29, 8), (14, 4)].into_iter().enumerate() {
        let crop = image::imageops::crop_imm(&wide, x, y, 32, 32).to_image();
        crop.save(crops.join(format!("{number}.png"))).unwrap();
    }
    let five = bag(&["eval", TRAINED, "crops", "--crop-pct", "1", "--tta", "hflip"]);
    let mean = five.iter().sum::<f64>() / 5.0;
    assert!(five.len() == 5 && (ten[0] - mean).abs() < 1e-5, "{ten:?} {five:?}");
    let on_data = |more: &[&str]| {
        let report = json(&place, &[&["eval", TRAINED, DATA, "--json"], more].concat());
        report["top1"].as_f64().unwrap()
    };
    let (plain, hflip, ten) = (
        on_data(&[]),
        on_data(&["--tta", "hflip"]),
        on_data(&["--tta", "ten-crop", "--crop-pct", "0.9"]),
    );
    assert!(hflip > plain - 3.0 && ten > plain - 8.0, "{plain} {hflip} {ten}");
}

/// Mutations caught, each alone: lists by the order of the folder's classes; classes that may not
/// be answered in the mean.
#[test]
fn real_labels_and_valid_labels_count_as_in_timm() {
    let place = TestFolder::new("evaluate-real");
    let plain = json(&place, &["eval", TRAINED, DATA, "--json"]);
    assert!(plain["ece"].as_f64().unwrap() < 0.5 && plain["real"].is_null());
    // The same labels as lists give the same accuracy. Names repeat in the classes, so that the
    // order is by name and class.
    let classes = std::fs::read_dir(format!("{DATA}/val")).unwrap().count();
    let lists: Vec<Vec<usize>> = (0..500).map(|i| vec![i % classes]).collect();
    std::fs::write(place.path("real.json"), serde_json::to_string(&lists).unwrap()).unwrap();
    let words = ["eval", TRAINED, DATA, "--json", "--real-labels", "real.json"];
    let real = json(&place, &words);
    assert_eq!(real["real"]["top1"], plain["top1"], "{}", real["real"]);
    let all: Vec<Vec<usize>> =
        (0..500).map(|i| if i < 50 { vec![] } else { (0..10).collect() }).collect();
    std::fs::write(place.path("real.json"), serde_json::to_string(&all).unwrap()).unwrap();
    let real = json(&place, &words);
    assert_eq!((&real["real"]["pictures"], &real["real"]["top1"]), (&450.into(), &100.0.into()));
    std::fs::write(place.path("real.json"), "[[1]]").unwrap();
    refused(&place.run(&words), 3, &["real.json", "1 lists for 500 images"]);

    std::fs::write(place.path("valid.txt"), "bag\nsandal\ntrouser\n").unwrap();
    let words = ["eval", TRAINED, "data", "--json", "--valid-labels", "valid.txt"];
    let report = json(&place, &words);
    let predicted: u64 = report["classes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| ["bag", "sandal", "trouser"].contains(&row["class"].as_str().unwrap()))
        .map(|row| row["predicted"].as_u64().unwrap())
        .sum();
    assert_eq!(predicted, 15);
    refused(
        &place.run(&["eval", TRAINED, DATA, "--valid-labels", "valid.txt"]),
        2,
        &["valid.txt", "which is not among them"],
    );
    std::fs::write(place.path("valid.txt"), "bag\nbike\n").unwrap();
    refused(&place.run(&words), 2, &["valid.txt:2", "`bike`"]);
    let output = place.run(&["eval", TRAINED, DATA, "--thresholds"]);
    let text = said(&output);
    assert!(text.contains("expected calibration error") && text.contains("0.95"), "{text}");
}

/// Mutations caught, each alone: the two counts exchanged; an image that both have right listed.
#[test]
fn two_checkpoints_are_compared_image_by_image() {
    let place = TestFolder::new("evaluate-compare");
    let run = place.train("a", &["--epochs", "1"]);
    assert_eq!(code(&run), 0, "{}", error(&run));
    let words = ["compare", TRAINED, TRAINED, DATA, "--json"];
    let same = json(&place, &words);
    assert_eq!(
        (&same["a_alone"], &same["b_alone"], &same["other_class"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert_eq!(same["mcnemar_p"], Value::from(1.0));
    // Another network on the three classes of the folder.
    let better =
        json(&place, &["compare", TRAINED, "out/train/a", "data", "--json", "-o", "apart.csv"]);
    let count = |key: &str| better[key].as_u64().unwrap();
    let [both, a, b, neither] = ["both_right", "a_alone", "b_alone", "both_wrong"].map(count);
    assert_eq!(both + a + b + neither, 15);
    let top1 = |side: &str| better[side]["top1"].as_f64().unwrap();
    assert!((top1("a") - 100.0 * (both + a) as f64 / 15.0).abs() < 1e-9);
    assert!((top1("b") - 100.0 * (both + b) as f64 / 15.0).abs() < 1e-9);
    assert!(a > b, "a network after one epoch: {better}");
    let csv = std::fs::read_to_string(place.path("apart.csv")).unwrap();
    assert_eq!(csv.lines().count() as u64, 1 + count("other_class"), "{csv}");
    assert!(count("other_class") >= a + b);
    let text = said(&place.run(&["compare", TRAINED, "out/train/a", "data"]));
    assert!(text.contains("A alone") && text.contains("McNemar"), "{text}");
    // Whoever was trained on these images is named.
    let seen = place.run(&["compare", TRAINED, "out/train/a", "data/train"]);
    assert!(error(&seen).contains("of these 36 images were trained on"), "{}", error(&seen));
    // The images of A's own evaluation.
    let own = json(&place, &["compare", "out/train/a", TRAINED, "--json"]);
    assert_eq!(own["images"], Value::from(15));
    refused(&place.run(&["compare", TRAINED, "absent.ckpt", DATA]), 6, &["absent.ckpt"]);
}

/// Mutations caught: a file that is there already overwritten.
#[test]
fn what_spoke_for_a_class_is_drawn() {
    let place = TestFolder::new("evaluate-cam");
    let words =
        ["predict", "data/val/bag/0001.png", "--checkpoint", TRAINED, "-k", "1", "--cam", "maps"];
    for _ in 0..2 {
        assert_eq!(code(&place.run(&words)), 0);
    }
    let mut names: Vec<_> = std::fs::read_dir(place.path("maps"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["0001.bag-2.png", "0001.bag.png"]);
    let drawn = image::open(place.path("maps/0001.bag.png")).unwrap().to_rgb8();
    assert!(
        drawn.height() >= 224 && drawn.width() > 2 * drawn.height(),
        "{:?}",
        drawn.dimensions()
    );
}
