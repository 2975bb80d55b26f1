//! Averages of weights: trained, evaluated, chosen by `eval`, merged from files; and a teacher.

#[path = "place/place.rs"]
mod place;

use place::{Place, code, error, refused};
use train::checkpoint::Checkpoint;

#[test]
fn averages_are_kept_evaluated_and_chosen() {
    let place = Place::new("averages");
    let flags = ["--model-ema", "--swa-start", "1", "--epochs", "3"];
    let output = place.train("r", &flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert!(csv.lines().all(|row| row.split(',').count() == 11), "{csv}");
    assert!(csv.lines().skip(1).all(|row| !row.ends_with(',')), "{csv}");
    let run = place.path("out/train/r");
    let last = Checkpoint::read(&run.join("last.ckpt")).unwrap();
    assert_eq!(last.manifest.ema_updates, Some(27));
    assert_eq!(last.manifest.swa_epochs, Some(2));
    assert!(run.join("model_swa.ckpt").exists());
    let file = "out/train/r/last.ckpt";
    for more in ["--raw", "--use-ema"] {
        let output = place.run(&["eval", "--checkpoint", file, "--json", more]);
        assert_eq!(code(&output), 0, "{}", error(&output));
    }
    let plain = place.run(&["average", file, file, "--output", "mean.ckpt"]);
    assert_eq!(code(&plain), 0, "{}", error(&plain));
    refused(&place.run(&["eval", "--checkpoint", "mean.ckpt", "--use-ema"]), 2, &["--model-ema"]);
    // Twice the same is the same.
    let mean = Checkpoint::read(&place.path("mean.ckpt")).unwrap();
    let mut own = last;
    let own = own.take(train::checkpoint::Which::Best).unwrap();
    for (a, b) in mean.weights.iter().zip(&own) {
        assert_eq!(a, b);
    }
    let words = ["bn-reestimate", file, "--output", "bn.ckpt", "--batches", "3"];
    assert_eq!(code(&place.run(&words)), 0);
}

#[test]
fn a_student_learns_from_a_teacher_of_the_same_classes_only() {
    let place = Place::new("teacher");
    assert_eq!(code(&place.train("t", &["--epochs", "1"])), 0);
    let teacher = ["--teacher", "out/train/t/last.ckpt", "--epochs", "1"];
    let constants = ["--mean", "0.5", "0.5", "0.5"];
    let output = place.train("s", &[&teacher[..], &constants].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("renormalised"));
    std::fs::remove_dir_all(place.path("data/train/sandal")).unwrap();
    std::fs::remove_dir_all(place.path("data/val/sandal")).unwrap();
    refused(&place.train("x", &teacher), 2, &["--teacher", "3 classes", "2"]);
}
