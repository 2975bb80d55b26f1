//! The files in a run's folder, and the options that end a run early.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused};

#[test]
fn a_run_leaves_its_facts_steps_log_and_tables() {
    let place = TestFolder::new("folder");
    let output = place.train("r", &["--log-interval", "3"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let read = |name: &str| std::fs::read_to_string(place.path(&format!("out/train/r/{name}")));
    let facts: serde_json::Value = serde_json::from_str(&read("run.json").unwrap()).unwrap();
    assert_eq!(facts["data"]["pictures"], 36);
    assert_eq!(facts["backend"], "flex (cpu)");
    let steps = read("steps.jsonl").unwrap();
    let at: Vec<(u64, u64)> = steps
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|v| (v["epoch"].as_u64().unwrap(), v["batch"].as_u64().unwrap()))
        .collect();
    assert_eq!(at, [(0, 3), (0, 6), (0, 9), (1, 3), (1, 6), (1, 9)]);
    assert!(read("train.log").unwrap().contains("top-1 "));
    assert_eq!(read("classes.txt").unwrap(), "bag\nsandal\ntrouser\n");
    let per_class = read("eval/per_class.csv").unwrap();
    assert_eq!(per_class.lines().count(), 1 + 3);
    let confusion = read("eval/confusion.csv").unwrap();
    let counts: u64 = confusion
        .lines()
        .skip(1)
        .flat_map(|row| row.split(',').skip(1).map(|n| n.parse::<u64>().unwrap()))
        .sum();
    assert_eq!(counts, 15);
    // The resolved configuration begins the same run again.
    let words = ["train", "--config", "out/train/r/args.toml", "--experiment", "again"];
    let again = place.run(&words);
    assert_eq!(code(&again), 0, "{}", error(&again));
    let csv = |run: &str| {
        let text = std::fs::read_to_string(place.path(&format!("out/train/{run}/summary.csv")));
        let text = text.unwrap();
        let row = text.lines().last().unwrap().to_owned();
        row.split(',').take(5).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(csv("r"), csv("again"));
    // The same tables from the checkpoint.
    let words = ["eval", "--checkpoint", "out/train/r/last.ckpt", "--output", "tables"];
    assert_eq!(code(&place.run(&words)), 0);
    let table = std::fs::read_to_string(place.path("tables/confusion.csv")).unwrap();
    assert_eq!(table, confusion);
}

/// Mutations caught: an evaluation every epoch.
#[test]
fn evaluations_can_be_rare_and_the_last_epoch_is_always_evaluated() {
    let place = TestFolder::new("rare");
    let output = place.train("r", &["--epochs", "3", "--val-interval", "2"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    let epochs: Vec<&str> = csv.lines().skip(1).map(|r| r.split(',').next().unwrap()).collect();
    assert_eq!(epochs, ["1", "2"]);
}

/// Mutations caught: patience without effect.
#[test]
fn patience_ends_a_run_that_gets_no_better() {
    let place = TestFolder::new("patience");
    // With a learning rate of 0 no epoch is better than the first.
    let flags = ["--epochs", "9", "--patience", "2", "--lr", "0", "--opt", "sgd"];
    let output = place.train("r", &flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ended early"));
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert!((4..=7).contains(&csv.lines().count()), "{csv}");
}

#[test]
fn console_lines_can_be_json() {
    let place = TestFolder::new("json");
    let output = place.train("r", &["--epochs", "1", "--log-format", "json"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines();
    let parsed: Vec<serde_json::Value> =
        lines.map(|line| serde_json::from_str(line).expect("a JSON object a line")).collect();
    assert!(parsed.len() > 3, "{text}");
}

#[test]
fn wrong_values_of_these_options_are_told() {
    let place = TestFolder::new("options");
    let check = |more: &[&str], words: &[&str]| refused(&place.train("x", more), 2, words);
    check(&["--val-interval", "0"], &["--val-interval", "at least 1"]);
    check(&["--max-hours", "-1"], &["--max-hours"]);
    check(&["--val-fraction", "1.5"], &["--val-fraction", "0.9"]);
    check(&["--log-format", "xml"], &["json"]);
    check(&["--patience", "some"], &["--patience"]);
}
