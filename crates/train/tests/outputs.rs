//! What `predict` and `eval` write for other programs, and where they look for a checkpoint.
//!
//! Mutations caught, each alone: the threshold compared the wrong way; right answers among the
//! wrong ones.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::io::Write as _;
use std::process::Stdio;

use test_folder::{TestFolder, code, error, refused, said};

#[test]
fn predict_takes_patterns_and_lists_and_sorts_images() {
    let place = TestFolder::new("predict-outputs");
    assert_eq!(code(&place.run(&["predict", "data"])), 6, "no run yet");
    let output = place
        .command(&["train", "data", "--model", "mobilenet_v3_small", "--width", "0.35"])
        .args(["--img-size", "32", "--epochs", "1", "--no-report", "--backend", "flex"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", error(&output));

    // The newest run, a pattern, CSV by the file's name.
    let words = ["predict", "data/val/*/000[01].png", "-k", "2", "--output", "guesses.csv"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("the newest run: checkpoints/train/"), "{}", error(&output));
    let csv = std::fs::read_to_string(place.path("guesses.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 6 * 2, "{csv}");
    refused(&place.run(&["predict", "data/none*"]), 3, &["data/none*: no file matches"]);
    refused(
        &place.run(&["predict", "data", "--output", "x.txt"]),
        2,
        &["--output: x.txt", ".csv or .json"],
    );

    // A list; everything below the threshold is unknown.
    let mut child = place
        .command(&["predict", "-", "--threshold", "1", "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"data/val/bag/0000.png\n\n data/val/sandal/0001.png\n")
        .unwrap();
    let listed: serde_json::Value =
        serde_json::from_str(&said(&child.wait_with_output().unwrap())).unwrap();
    let predictions: Vec<&str> =
        listed.as_array().unwrap().iter().map(|one| one["prediction"].as_str().unwrap()).collect();
    assert_eq!(predictions, ["unknown", "unknown"]);

    // Files of one name from three folders, twice: none is written over.
    for _ in 0..2 {
        let output = place.run(&["predict", "data/val", "--copy-to", "sorted", "--threshold", "0"]);
        assert_eq!(code(&output), 0, "{}", error(&output));
    }
    let sorted: usize = std::fs::read_dir(place.path("sorted"))
        .unwrap()
        .map(|class| std::fs::read_dir(class.unwrap().path()).unwrap().count())
        .sum();
    assert_eq!(sorted, 30);
    // A summary follows where there are many.
    let output = place.run(&["predict", "data", "--output", "all.json"]);
    assert!(error(&output).contains("51 images\n"), "{}", error(&output));
    refused(&place.run(&["predict", "data", "--threshold", "1.5"]), 2, &["expected 0 to 1"]);
}

#[test]
fn eval_writes_its_answers_and_timms_columns() {
    let place = TestFolder::new("eval-outputs");
    for run in ["old", "new"] {
        let output = place
            .command(&[
                "train",
                "data",
                "--model",
                "mobilenet_v3_small",
                "--width",
                "0.35",
                "--experiment",
                run,
            ])
            .args(["--img-size", "32", "--epochs", "1", "--no-report", "--backend", "flex"])
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{}", error(&output));
    }
    let words =
        ["eval", "--json", "--predictions", "wrong.csv", "--wrong", "--results-file", "r.csv"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("checkpoints/train/new/model_best.ckpt"), "{}", error(&output));
    let report: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    let top1 = report["top1"].as_f64().unwrap();
    let wrong = std::fs::read_to_string(place.path("wrong.csv")).unwrap();
    assert_eq!(
        wrong.lines().count() - 1,
        (15.0 * (1.0 - top1 / 100.0)).round() as usize,
        "{wrong}"
    );
    assert!(wrong.lines().skip(1).all(|line| line.ends_with(",0")), "{wrong}");
    let results = std::fs::read_to_string(place.path("r.csv")).unwrap();
    let mut lines = results.lines();
    let columns = "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation";
    assert_eq!(lines.next(), Some(columns));
    let row: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(row[0], "mobilenet_v3_small");
    assert!((row[1].parse::<f64>().unwrap() - top1).abs() < 1e-3, "{results}");
    assert_eq!(row[6], "32");

    // A run folder and a data folder, in this order; a run folder as a flag; all images.
    let old = "checkpoints/train/old";
    let output = place.run(&["eval", old, "data", "--predictions", "all.csv"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(std::fs::read_to_string(place.path("all.csv")).unwrap().lines().count(), 16);
    assert_eq!(code(&place.run(&["eval", "--checkpoint", old, "data"])), 0);
    assert_eq!(code(&place.run(&["eval", "data"])), 0, "the newest run");
    refused(&place.run(&["eval", "data/train"]), 0, &["the newest run"]);
    refused(
        &place.run(&["eval", "--results-file", "r.txt"]),
        2,
        &["--results-file: r.txt", ".csv or .json"],
    );
    refused(
        &place.run(&["eval", "--checkpoint", old, old, "data"]),
        2,
        &["given beside another checkpoint"],
    );
}

#[test]
fn a_misspelt_folder_is_answered_with_the_near_one() {
    let place = TestFolder::new("near-folder");
    refused(&place.run(&["train", "date"]), 3, &["date: no such folder", "did you mean `data`"]);
}

/// Mutations caught, each alone: the list of classes not used; the size not used.
#[test]
fn eval_takes_weights_of_others_and_another_size() {
    let place = TestFolder::new("eval-weights");
    let words = ["train", "data", "--model", "mobilenet_v3_small", "--img-size", "32"];
    let output = place
        .command(&words)
        .args(["--epochs", "1", "--no-report", "--backend", "flex", "--experiment", "run"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", error(&output));
    let checkpoint = "checkpoints/train/run/model_best.ckpt";
    let output = place.run(&["convert", checkpoint, "w.safetensors"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let top = |words: &[&str]| -> (f64, f64) {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        let report: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
        (report["top1"].as_f64().unwrap(), report["loss"].as_f64().unwrap())
    };
    // The size and the crop of the run's own rule, 32 of 36 pixels.
    let size = ["--img-size", "32", "--crop-pct", "0.875", "--json"];
    let own = top(&[&["eval", checkpoint, "data"], &size[..]].concat());
    let others = ["eval", "w.safetensors", "data", "--model", "mobilenet_v3_small"];
    let same = top(&[&others[..], &size[..]].concat());
    assert!((own.1 - same.1).abs() < 1e-5, "{own:?} {same:?}");
    let larger = top(&["eval", checkpoint, "data", "--img-size", "48", "--json"]);
    assert!((larger.1 - own.1).abs() > 1e-4, "{own:?} {larger:?}");
    // The classes in another order are other answers.
    std::fs::write(place.path("classes.txt"), "sandal\nbag\ntrouser\n").unwrap();
    let turned = top(&[&others[..], &size[..], &["--classes", "classes.txt"]].concat());
    assert!((turned.1 - own.1).abs() > 1e-4, "{own:?} {turned:?}");

    refused(&place.run(&["eval", "w.safetensors", "data"]), 2, &["add --model NAME"]);
    refused(
        &place.run(&["eval", "w.safetensors", "--model", "mobilenet_v3_small"]),
        2,
        &["add a folder"],
    );
    refused(&place.run(&["eval", checkpoint, "--model", "xception"]), 2, &["omit --model"]);
    refused(&place.run(&["eval", checkpoint, "--classes", "classes.txt"]), 2, &["--classes"]);
    refused(
        &place.run(&["eval", "w.safetensors", "data", "--model", "mobilenet_v3_large"]),
        6,
        &["mobilenet_v3_small"],
    );
}

/// Mutations caught, each alone: labels in another order; an index from 1.
#[test]
fn a_flat_folder_is_evaluated_with_a_list_of_labels() {
    let place = TestFolder::new("eval-labels");
    assert_eq!(code(&place.train("run", &["--no-report"])), 0);
    let checkpoint = place.checkpoint("run");
    let checkpoint = checkpoint.to_str().unwrap();
    std::fs::create_dir(place.path("flat")).unwrap();
    let (mut names, mut words, mut numbers) = (String::new(), String::new(), String::new());
    for (index, class) in ["bag", "sandal", "trouser"].iter().enumerate() {
        for image in std::fs::read_dir(place.path(&format!("data/val/{class}"))).unwrap() {
            let image = image.unwrap().path();
            let name = format!("{index}-{}", image.file_name().unwrap().to_str().unwrap());
            std::fs::copy(&image, place.path(&format!("flat/{name}"))).unwrap();
            // The order of a list with names is free.
            names = format!("val/{name} {class}\n{names}");
            words += &format!("{class}\n");
            numbers += &format!("{name},{index}\n");
        }
    }
    let json = |words: &[&str]| -> serde_json::Value {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        serde_json::from_str(&said(&output)).unwrap()
    };
    let own = json(&["eval", checkpoint, "data", "--json"]);
    for (file, text) in [("names", &names), ("words", &words), ("numbers", &numbers)] {
        std::fs::write(place.path(file), text).unwrap();
        let same = json(&["eval", checkpoint, "flat", "--labels", file, "--json"]);
        assert_eq!((&own["top1"], &own["images"]), (&same["top1"], &same["images"]), "{file}");
        assert_eq!(own["classes"][2]["correct"], same["classes"][2]["correct"], "{file}");
    }
    let refuses = |text: &str, why: &str| {
        std::fs::write(place.path("wrong"), text).unwrap();
        let output = place.run(&["eval", checkpoint, "flat", "--labels", "wrong"]);
        refused(&output, 3, &["wrong", why]);
    };
    refuses(&format!("{words}bag\n"), "16 labels for 15 images");
    refuses(&words.replace("sandal", "boot"), "line 6: `boot`");
    refuses(&format!("{names}other.png bag\n"), "other.png: no such image");
    refuses(names.split_once('\n').unwrap().1, "no label for");
    refuses("3\n", "`3`: neither a class nor an index from 0 to 2");
    refused(&place.run(&["eval", checkpoint, "--labels", "names"]), 2, &["--labels"]);
}
