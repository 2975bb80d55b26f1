//! Averages of weights: trained, evaluated, chosen by `eval`, averaged from files; and a teacher.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

/// Mutations caught: the averages of SWA beginning an epoch late.
#[test]
fn averages_are_kept_evaluated_and_chosen() {
    let place = TestFolder::new("averages");
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
    // The average of a checkpoint with itself is the checkpoint.
    let mean = Checkpoint::read(&place.path("mean.ckpt")).unwrap();
    let mut own = last;
    let own = own.take(train::run::checkpoint::WeightsKind::Best).unwrap();
    for (a, b) in mean.weights.iter().zip(&own) {
        assert_eq!(a, b);
    }
    let words = ["bn-reestimate", file, "--output", "bn.ckpt", "--batches", "3"];
    assert_eq!(code(&place.run(&words)), 0);
}

#[test]
fn a_student_learns_from_a_teacher_of_the_same_classes_only() {
    let place = TestFolder::new("teacher");
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

/// One step gives the average `w0 + (1 - decay) (w1 - w0)`, which shows the first decay. timm's is
/// 0, TensorFlow's is a tenth, and without a warm-up it is the decay itself.
///
/// Mutations caught: the decays counted from 1 instead of 0; the option not passed on to the
/// average.
#[test]
fn the_first_update_of_an_average_is_as_its_warm_up_says() {
    let place = TestFolder::new("warm-up");
    let apart = |name: &str, warmup: &[&str]| -> f64 {
        let flags = ["--model-ema", "--epochs", "1", "--batch-size", "36", "--warmup-epochs", "0"];
        let output = place.train(name, &[&flags[..], warmup].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        let read = Checkpoint::read(&place.checkpoint(name)).unwrap();
        assert_eq!(read.manifest.ema_updates, Some(1));
        let of = |name: &str| {
            let mut all = read.weights.iter().chain(&read.averages);
            all.find(|tensor| tensor.name == name).unwrap().values.clone()
        };
        let (own, average) = (of("features.0.0.weight"), of("ema.features.0.0.weight"));
        own.iter().zip(average).map(|(a, b)| f64::from((a - b).abs())).sum()
    };
    let none = apart("none", &["--model-ema-warmup", "none"]);
    assert!(none > 1e-3, "the step moved the weights by {none}");
    assert_eq!(apart("timm", &["--model-ema-warmup"]), 0.0);
    let ratio = apart("usual", &[]) / none;
    assert!((ratio - 0.1 / 0.9998).abs() < 1e-3, "{ratio}");
    let yes = apart("yes", &["--model-ema-warmup", "true"]) / none;
    assert!((yes - ratio).abs() < 1e-9, "{yes}: as it was before there was a choice");
}
