//! `kindling export --int8`: a file that ONNX Runtime runs in integers, under its default
//! optimisations, and a refusal where too much is lost.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was measured, and what was not"
)]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Command;

use test_folder::{TestFolder, code, error, refused, said};

const TRAINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/fashion-mnist-mini");

/// The share of the line `top-1 A % in floats, B % in int8; the same class for C %`.
fn shares(text: &str) -> Vec<f64> {
    let line = text.lines().find(|line| line.contains("in int8")).expect("a line of shares");
    let words: Vec<&str> = line.split_whitespace().collect();
    let before =
        |(at, word): (usize, &&str)| (*word == "%").then(|| words[at - 1].parse().unwrap());
    words.iter().enumerate().filter_map(before).collect()
}

#[test]
fn a_trained_network_keeps_its_accuracy_in_integers() {
    let place = TestFolder::new("int8");
    std::fs::copy(TRAINED, place.path("f.ckpt")).unwrap();
    let train = format!("{DATA}/train");
    let words = ["export", "f.ckpt", "--int8", "--calibrate", &train, "--eval", DATA];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    println!("{text}");
    assert!(text.contains("calibrated on 128 images") && text.contains("of 500 images"), "{text}");
    let shares = shares(&text);
    assert!(shares[0] - shares[1] <= 1.0 && shares[2] > 97.0, "{text}");
    assert_eq!(code(&place.run(&["export", "f.ckpt"])), 0);
    let Ok(python) = std::env::var("KINDLING_PYTHON") else {
        eprintln!("KINDLING_PYTHON is not set: the file was not run in ONNX Runtime");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/int8.py");
    let compared = Command::new(python)
        .arg(script)
        .args([place.path("f.onnx"), place.path("f.int8.onnx")])
        .arg(format!("{DATA}/val"))
        .output()
        .unwrap();
    let both = format!("{}{}", said(&compared), error(&compared));
    println!("{both}");
    assert!(compared.status.success(), "{both}");
}

/// Mutations caught, each alone: the file written in spite of the loss; `--force` without effect.
#[test]
fn a_loss_of_more_than_two_points_is_refused_with_its_numbers() {
    let place = TestFolder::new("int8-refused");
    std::fs::copy(TRAINED, place.path("f.ckpt")).unwrap();
    // The ranges of a gray image, which is nearly zero when it is prepared, are too small for every
    // other.
    std::fs::create_dir(place.path("gray")).unwrap();
    let gray = image::RgbImage::from_pixel(40, 40, image::Rgb([124, 116, 104]));
    gray.save(place.path("gray/a.png")).unwrap();
    let words = ["export", "f.ckpt", "--int8", "--calibrate", "gray", "--eval", DATA];
    refused(&place.run(&words), 6, &["int8 loses", "points", "no file was written", "--force"]);
    assert!(!place.path("f.int8.onnx").exists());
    let output = place.run(&[&words[..], &["--force"]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(place.path("f.int8.onnx").is_file());
}

#[test]
fn a_run_knows_its_images_and_what_is_missing_is_said() {
    let place = TestFolder::new("int8-run");
    let run = place.train("a", &[]);
    assert_eq!(code(&run), 0, "{}", error(&run));
    let output = place.run(&["export", "out/train/a", "--int8", "--force"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    assert!(text.contains("calibrated on 36 images of data, those of the training"), "{text}");
    assert!(text.contains("of 15 images of data, those of the evaluation"), "{text}");
    assert!(place.path("out/train/a/model_best.int8.onnx").is_file());

    std::fs::rename(place.path("data"), place.path("gone")).unwrap();
    let words = ["export", "out/train/a", "--int8"];
    refused(
        &place.run(&words),
        2,
        &["data: the images of the training are not there", "--calibrate"],
    );
    let output = place.run(&[&words[..], &["--calibrate", "gone/train"]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("was not measured"), "{}", error(&output));
    refused(
        &place.run(&["export", "out/train/a", "--int8", "-o", "p.html", "--calibrate", "gone"]),
        2,
        &["--int8", "ONNX alone"],
    );
    refused(&place.run(&["export", "out/train/a", "--calibrate", "gone"]), 2, &["--int8"]);
}
