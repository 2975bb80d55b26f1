//! `kindling predict` gives what a program that links `deploy` gets.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use burn::tensor::Device;
use deploy::classifier::Classifier;
use deploy::manifest::WeightsKind;
use test_folder::{TestFolder, code, error, refused};

/// Mutations caught: exit code 0 with an image that cannot be read.
#[test]
fn the_program_and_the_library_agree() {
    let place = TestFolder::new("predict");
    let output = place.train("r", &["--epochs", "3", "--model-ema", "--model-ema-decay", "0.9"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    std::fs::write(place.path("data/val/bag/0001.png"), b"no image").unwrap();
    let checkpoint = place.checkpoint("r");
    let mut differ = 0;
    for (flags, weights) in [
        (&[][..], WeightsKind::Best),
        (&["--raw"][..], WeightsKind::Raw),
        (&["--use-ema"][..], WeightsKind::Ema),
    ] {
        let words = ["predict", "--checkpoint", "out/train/r/last.ckpt", "data/val", "--topk", "2"];
        let more = ["--backend", "flex", "--format", "json", "--batch-size", "4"];
        let output = place.run(&[&words[..], &more, flags].concat());
        assert_eq!(code(&output), 3, "{}", error(&output));
        assert!(error(&output).contains("bag/0001.png: not an image"), "{}", error(&output));
        let predicted: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let classifier = Classifier::load_weights(&checkpoint, weights, &Device::flex()).unwrap();
        let predicted = predicted.as_array().unwrap();
        assert_eq!(predicted.len(), 15);
        for one in predicted {
            let file = place.path(one["file"].as_str().unwrap());
            match classifier.classify(&file) {
                Ok(prediction) => {
                    // By way of text, as the program writes the numbers.
                    let text = serde_json::to_string(&prediction.top(2)).unwrap();
                    let guesses: serde_json::Value = serde_json::from_str(&text).unwrap();
                    let pairs =
                        one["guesses"].as_array().unwrap().iter().zip(guesses.as_array().unwrap());
                    for (program, library) in pairs {
                        assert_eq!(program["class"], library["class"], "{}", file.display());
                        let share =
                            |guess: &serde_json::Value| guess["probability"].as_f64().unwrap();
                        // A batch of another size sums in another order.
                        let off = (share(program) - share(library)).abs();
                        assert!(off < 1e-6, "{}: {off}", file.display());
                    }
                }
                Err(error) => {
                    let why = one["error"].as_str().unwrap();
                    assert!(error.to_string().ends_with(why), "{error}, {why}");
                    differ += 1;
                }
            }
        }
    }
    assert_eq!(differ, 3, "one unreadable file each time");
}

/// Mutations caught: any .ckpt of the folder called one of the run.
#[test]
fn faults_of_the_checkpoint_are_told() {
    let place = TestFolder::new("predict-faults");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let good = place.checkpoint("r");
    let predict = |file: &str, more: &[&str]| {
        let words = ["predict", "data/val", "--backend", "flex", "--checkpoint", file];
        place.run(&[&words[..], more].concat())
    };
    let bytes = std::fs::read(&good).unwrap();
    std::fs::write(place.path("out/train/r/bad.ckpt"), &bytes[..bytes.len() / 2]).unwrap();
    let other = "another one of this run: out/train/r/";
    refused(&predict("out/train/r/bad.ckpt", &[]), 6, &["bad.ckpt", "truncated", other]);
    // Checkpoints of anybody, and what is newer in the folder of the run under another name.
    std::fs::create_dir(place.path("weights")).unwrap();
    for name in
        ["weights/bad.ckpt", "weights/last.ckpt", "weights/mine.ckpt", "out/train/r/new.ckpt"]
    {
        std::fs::write(place.path(name), &bytes[..bytes.len() / 2]).unwrap();
    }
    let output = predict("weights/bad.ckpt", &[]);
    assert!(!error(&output).contains("another one"), "{}", error(&output));
    let output = predict("out/train/r/bad.ckpt", &[]);
    assert!(!error(&output).contains("new.ckpt"), "{}", error(&output));
    refused(&predict("missing.ckpt", &[]), 6, &["missing.ckpt: cannot read it"]);
    refused(&predict("out/train/r/last.ckpt", &["--use-ema"]), 2, &["--use-ema", "--model-ema"]);
}
