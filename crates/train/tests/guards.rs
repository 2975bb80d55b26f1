//! Losses that are not finite: skipped, written down, replayed; and a run that cannot be saved ends with its code.

#[path = "place/place.rs"]
mod place;

use place::{Place, code, error, refused};
use train::checkpoint::Checkpoint;

/// One white picture among black ones: with so small a deviation it overflows the first convolution, and no
/// other batch does. `--scale 1 1` keeps every picture whole.
fn one_white_picture(place: &Place) -> [&'static str; 14] {
    for split in ["train", "val"] {
        for class in ["bag", "sandal", "trouser"] {
            let folder = place.path(&format!("data/{split}/{class}"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                image::GrayImage::new(28, 28).save(path).unwrap();
            }
        }
    }
    let white = image::GrayImage::from_pixel(28, 28, image::Luma([255]));
    white.save(place.path("data/train/sandal/0003.png")).unwrap();
    [
        "--mean",
        "0",
        "0",
        "0",
        "--std",
        "3e-39",
        "3e-39",
        "3e-39",
        "--scale",
        "1",
        "1",
        "--epochs",
        "3",
        "--model-ema",
    ]
}

/// Seen to fail where the statistics were taken back for a loss that is not finite only: here the loss is finite and
/// the gradient is not, and statistics, average and evaluation were NaN from then on.
#[test]
fn a_batch_that_overflows_is_skipped_written_down_and_replayed() {
    let place = Place::new("overflow");
    let flags = one_white_picture(&place);
    let output = place.train("r", &flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("step skipped").count(), 3, "{said}");
    let checkpoint = Checkpoint::read(&place.checkpoint("r")).unwrap();
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    for tensor in checkpoint.weights.iter().chain(&checkpoint.averages) {
        assert!(finite(&tensor.values), "{}: {said}", tensor.name);
    }
    assert!(checkpoint.optimizer.iter().all(|t| finite(&t.values)));
    let manifest = &checkpoint.manifest;
    assert_eq!((manifest.position.step, manifest.optimizer_steps), (27, Some(24)));
    assert_eq!((manifest.ema_updates, manifest.strain.factor), (Some(24), 1.0));
    let steps = std::fs::read_to_string(place.path("out/train/r/steps.jsonl")).unwrap();
    assert!(steps.lines().any(|line| line.contains("\"skipped_steps\":1")), "{steps}");
    let record = std::fs::read_dir(place.path("out/train/r/nan"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|x| x == "json"))
        .unwrap();
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains("sandal/0003.png"), "{text}");
    let output = place.run(&["replay", record.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("gradient    NaN") && said.contains("features.0.0.weight"), "{said}");
    // The same run cut short and resumed has the same numbers, those of the guard too.
    let hurry = ["--max-hours", "0.0000000001"];
    assert_eq!(code(&place.train("cut", &[&flags[..], &hurry].concat())), 4);
    let mut cuts = 0;
    while code(&place.run(&["train", "--resume", "out/train/cut"])) == 4 {
        cuts += 1;
        assert!(cuts < 100, "the run does not get on");
    }
    let other = Checkpoint::read(&place.checkpoint("cut")).unwrap();
    assert_eq!(other.manifest.strain, manifest.strain);
    for (a, b) in other.weights.iter().zip(&checkpoint.weights) {
        assert_eq!(a.values, b.values, "{}", a.name);
    }
}

#[test]
fn a_run_may_stop_at_the_first_batch_that_overflows() {
    let place = Place::new("stop");
    let flags = one_white_picture(&place);
    let output = place.train("r", &[&flags[..], &["--nan-action", "stop"]].concat());
    refused(&output, 5, &["not finite", "--lr"]);
}

/// Every batch overflows: the run goes back to its checkpoint at lower rates and then gives up.
#[test]
fn a_run_that_stays_not_finite_goes_back_and_then_gives_up() {
    let place = Place::new("givesup");
    assert_eq!(code(&place.train("r", &["--epochs", "1", "--nan-patience", "2"])), 0);
    let path = place.checkpoint("r");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    checkpoint.weights[0].values.fill(f32::NAN);
    checkpoint.write(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let words = ["train", "--resume", "out/train/r", "--epochs", "9"];
    let output = place.run(&words);
    refused(&output, 5, &["not finite", "3 times at a lower rate", "is intact"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("back to the last checkpoint").count(), 3, "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
