//! `train --dry-run` and recipes, as users run them.
//!
//! Mutations caught: a scratch folder that stays; steps counted per batch instead of per
//! accumulated step; a recipe that is not applied; a message without its key; frozen parameters
//! counted as trained.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use serde_json::Value;
use test_folder::{SMALL, TestFolder, code, error, refused};

#[test]
fn a_dry_run_tells_the_cost_and_leaves_nothing() {
    let place = TestFolder::new("dry");
    let scratch = place.path("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let run = |more: &[&str]| {
        let words = [&SMALL[..], &["--dry-run"], more].concat();
        place.command(&words).env("TMPDIR", &scratch).output().unwrap()
    };
    let output =
        run(&["--json", "--grad-accum-steps", "2", "--epochs", "7", "--val-interval", "3"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    // 36 images in batches of 4, two batches a step; evaluations after epochs 3, 6 and 7.
    for (key, value) in
        [("batches_per_epoch", 9), ("steps_per_epoch", 5), ("total_steps", 35), ("evaluations", 3)]
    {
        assert_eq!(told[key], value, "{key} in {told:#}");
    }
    for key in ["parameters", "seconds_per_batch", "eta_s", "peak_memory_mb", "checkpoint_bytes"] {
        assert!(told[key].as_f64().unwrap() > 0.0, "{key} in {told:#}");
    }
    let rates = told["learning_rate"].as_array().unwrap();
    assert_eq!((&rates[0][0], &rates[rates.len() - 1][0]), (&Value::from(0), &Value::from(34)));
    assert_eq!(told["trainable_parameters"], told["parameters"]);
    assert_eq!(told["frozen_parameters"], 0);
    let probe = run(&["--json", "--freeze", "features.0"]);
    assert_eq!(code(&probe), 0, "{}", error(&probe));
    let frozen: Value = serde_json::from_slice(&probe.stdout).unwrap();
    assert_eq!(frozen["parameters"], told["parameters"]);
    // Eight filters of 3x3x3 and their norm.
    assert_eq!(frozen["frozen_parameters"], 8 * 27 + 2 * 8);
    assert_eq!(
        frozen["trainable_parameters"].as_u64().unwrap() + 232,
        told["parameters"].as_u64().unwrap()
    );
    let text = run(&["--dry-run-plot", "lr.svg"]);
    assert_eq!(code(&text), 0, "{}", error(&text));
    let words = String::from_utf8(text.stdout).unwrap();
    for word in ["M parameters (all trained)", "learning rate", "measured", "images/s", "at most"] {
        assert!(words.contains(word), "`{word}` in:\n{words}");
    }
    assert!(std::fs::read_to_string(place.path("lr.svg")).unwrap().contains("<polyline"));
    assert!(!place.path("out").exists(), "nothing below --output");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "the scratch folder is gone");
    refused(&place.train("x", &["--dry-run", "--resume"]), 2, &["--dry-run", "--resume"]);
    refused(&place.train("x", &["--json"]), 2, &["--dry-run"]);
}

#[test]
fn a_recipe_lies_under_file_and_flags_and_the_resolved_run_can_be_repeated() {
    let place = TestFolder::new("recipe");
    let small = ["--model", "mobilenet_v3_small", "--img-size", "32", "--backend", "flex"];
    let base = [&["train", "data", "--recipe", "mobilenet_v3_small/smoke"][..], &small].concat();
    std::fs::write(place.path("c.toml"), "lr = 0.002\nseed = 7\nbatch_size = 4\n").unwrap();
    let more = ["--config", "c.toml", "--seed", "9", "--output", "out", "--experiment", "r"];
    let output = place.run(&[&base[..], &more].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let args = std::fs::read_to_string(place.path("out/train/r/args.toml")).unwrap();
    // Recipe; file; flag.
    for line in ["width = 0.35", "epochs = 2", "lr = 0.002", "batch_size = 4", "seed = 9"] {
        assert!(args.lines().any(|l| l == line), "`{line}` in:\n{args}");
    }
    let again =
        ["train", "--config", "out/train/r/args.toml", "--output", "out", "--experiment", "s"];
    let output = place.run(&again);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let same = std::fs::read_to_string(place.path("out/train/s/args.toml")).unwrap();
    assert_eq!(same, args.replace("experiment = \"r\"", "experiment = \"s\""));
    let wrong = place.run(&["train", "data", "--recipe", "mobilenet_v3_small/smok"]);
    refused(&wrong, 2, &["did you mean `mobilenet_v3_small/smoke`"]);
    let list = place.run(&["recipes", "--json"]);
    let cards: Value = serde_json::from_slice(&list.stdout).unwrap();
    assert!(
        cards.as_array().unwrap().iter().any(|card| card["name"] == "mobilenet_v2/torchvision")
    );
}

#[test]
fn wrong_types_and_words_in_a_file_name_line_and_key() {
    let place = TestFolder::new("types");
    let check = |text: &str, words: &[&str]| {
        std::fs::write(place.path("c.toml"), text).unwrap();
        refused(&place.run(&["train", "data", "--config", "c.toml"]), 2, words);
    };
    check("seed = 1\nlr = \"fast\"\n", &["c.toml: line 2: lr: ", "fast"]);
    check("epochs = 1.5\n", &["line 1: epochs: "]);
    check("opt = \"adamww\"\n", &["line 1: opt: ", "did you mean `adamw`"]);
    check("scale = [\"a\", 1.0]\n", &["line 1: scale: "]);
    check("recipe = \"mobilenet_v2/torchvisoin\"\n", &["did you mean `mobilenet_v2/torchvision`"]);
}

/// Every card on the carried images, made small: its options go through the loader, the loss, the
/// optimizer, the schedule and the averages for real.
///
/// Mutations caught: an optimizer (LAMB) that panics.
#[test]
fn every_recipe_is_rehearsed() {
    let place = TestFolder::new("recipes");
    let cards = place.run(&["recipes", "--json"]);
    let cards: Value = serde_json::from_slice(&cards.stdout).unwrap();
    let cards = cards.as_array().unwrap();
    assert!(cards.len() > 20);
    let small = ["--batch-size", "2", "--val-batch-size", "5", "--grad-accum-steps", "2"];
    let size = ["--img-size", "80", "--aux", "false", "--backend", "flex", "--workers", "2"];
    let mut wrong = Vec::new();
    for card in cards {
        let name = card["name"].as_str().unwrap();
        let words = ["train", "data", "--dry-run", "--json", "--recipe", name];
        let output = place.run(&[&words[..], &small, &size].concat());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if code(&output) != 0 || told["total_steps"].as_u64().is_none_or(|steps| steps == 0) {
            wrong.push(format!("{name}: exit {}: {}", code(&output), error(&output)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
