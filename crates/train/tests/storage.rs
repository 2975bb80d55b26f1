//! Images that vanish while a run reads them, and a storage that is gone for a moment: the run
//! waits, or ends with what it has saved, and says what is missing.
#![cfg(target_os = "linux")]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_folder::{SMALL, TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

/// For how long a run waits in the test named: milliseconds.
const WAIT: &str = "KINDLING_TEST_STORAGE_WAIT_MS";

const EPOCHS: &str = "40";

fn words<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], &["--epochs", EPOCHS, "--experiment", run, "--log-interval", "1"], more].concat()
}

fn within_minutes(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_mins(3), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A run in its second epoch.
fn running(place: &TestFolder, run: &str, wait: &str, more: &[&str]) -> Child {
    let file = std::fs::File::create(place.path(&format!("{run}.err"))).unwrap();
    let mut command = place.command(&words(run, more));
    let child = command.env(WAIT, wait).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    within_minutes("no checkpoint", || place.checkpoint(run).exists());
    child
}

fn log(place: &TestFolder, run: &str) -> String {
    std::fs::read_to_string(place.path(&format!("out/train/{run}/train.log"))).unwrap()
}

fn weights(place: &TestFolder, run: &str) -> Vec<Vec<f32>> {
    let checkpoint = Checkpoint::read(&place.checkpoint(run)).unwrap();
    checkpoint.weights.into_iter().map(|tensor| tensor.values).collect()
}

/// The whole folder, and the folder of one class, gone for a second: the run waits and gives the
/// bits of a run that saw nothing of it.
#[test]
fn a_folder_that_is_gone_for_a_moment_is_waited_for() {
    let place = TestFolder::new("moment");
    let whole = place.run(&words("whole", &[]));
    assert_eq!(code(&whole), 0, "{}", error(&whole));
    for (run, folder) in [("root", "data"), ("class", "data/train/bag")] {
        let mut child = running(&place, run, "60000", &[]);
        std::fs::rename(place.path(folder), place.path("away")).unwrap();
        within_minutes("no note", || log(&place, run).contains("waiting for it"));
        std::fs::rename(place.path("away"), place.path(folder)).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{run}: {}", log(&place, run));
        let log = log(&place, run);
        assert!(log.contains("the storage is back after") && log.contains("gone"), "{run}: {log}");
        assert!(!place.path(&format!("out/train/{run}/skipped.txt")).exists(), "{run}: {log}");
        assert!(weights(&place, "whole") == weights(&place, run), "{run}: {log}");
    }
}

/// A folder that stays away ends the run with code 3 and its newest step saved; `--resume` gives
/// the bits of a run that saw nothing of it. A signal ends the waiting.
///
/// Mutations caught: a folder that is gone taken for images that cannot be read.
#[test]
fn a_folder_that_stays_away_ends_the_run_with_its_last_step_saved() {
    let place = TestFolder::new("away");
    let whole = place.run(&words("whole", &[]));
    assert_eq!(code(&whole), 0, "{}", error(&whole));
    let mut child = running(&place, "ended", "300", &[]);
    std::fs::rename(place.path("data"), place.path("away")).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let said = std::fs::read_to_string(place.path("ended.err")).unwrap();
    for word in ["data/", "gone", "storage", "the run is saved: --resume out/train/ended goes on"] {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
    // Saved at the step where it ended, wherever in an epoch that is.
    let log = log(&place, "ended");
    let position = Checkpoint::read(&place.checkpoint("ended")).unwrap().manifest.position;
    let last = log.lines().rfind(|line| line.contains(" · batch ")).unwrap();
    let batch = format!(" · batch {}/9 · ", position.batch);
    assert!(position.batch == 0 || last.contains(&batch), "{batch}: {last}");
    let evaluated = place.run(&["eval", "--checkpoint", "out/train/ended/last.ckpt"]);
    refused(&evaluated, 3, &["data"]);
    std::fs::rename(place.path("away"), place.path("data")).unwrap();
    let resumed = place.run(&["train", "--resume", "out/train/ended"]);
    assert_eq!(code(&resumed), 0, "{}", error(&resumed));
    assert!(weights(&place, "whole") == weights(&place, "ended"));

    let mut child = running(&place, "signal", "60000", &[]);
    std::fs::rename(place.path("data"), place.path("away")).unwrap();
    within_minutes("no note", || self::log(&place, "signal").contains("waiting for it"));
    let began = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(began.elapsed() < Duration::from_secs(20));
}

/// The images of `data/train/CLASS`.
fn images(place: &TestFolder, class: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path(&format!("data/train/{class}"))).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn images_that_are_removed_are_named_and_a_class_without_any_ends_the_run() {
    let place = TestFolder::new("removed");
    let mut child = running(&place, "r", "60000", &[]);
    std::fs::remove_file(place.path("data/train/bag/0003.png")).unwrap();
    let skipped = place.path("out/train/r/skipped.txt");
    within_minutes("not skipped", || skipped.exists());
    let text = std::fs::read_to_string(&skipped).unwrap();
    assert!(text.contains("bag/0003.png: removed since the folder was listed"), "{text}");
    images(&place, "sandal").iter().for_each(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(3));
    let said = std::fs::read_to_string(place.path("r.err")).unwrap();
    for word in
        ["none of the 12 training images of class sandal could be read in epoch", "--resume"]
    {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
    let manifest = Checkpoint::read(&place.checkpoint("r")).unwrap().manifest;
    assert!(manifest.position.step > 0);
    // From the start: damaged, a folder in each place, links in a circle.
    let place = TestFolder::new("damaged");
    for (class, kind) in [("bag", 0), ("sandal", 1), ("trouser", 2)] {
        let kept =
            images(&place, class).into_iter().map(|path| (std::fs::read(&path).unwrap(), path));
        let kept: Vec<(Vec<u8>, PathBuf)> = kept.collect();
        for (_, path) in &kept {
            match kind {
                0 => std::fs::write(path, "text").unwrap(),
                1 => std::fs::write(path, "").unwrap(),
                _ => std::fs::write(path, &kept[0].0[..60]).unwrap(),
            }
        }
        let output = place.train(class, &[]);
        let none =
            format!("none of the 12 training images of class {class} could be read in epoch 1");
        refused(&output, 3, &[&none, "data check", "start again"]);
        assert!(!place.checkpoint(class).exists());
        kept.iter().for_each(|(bytes, path)| std::fs::write(path, bytes).unwrap());
    }
    // A class of the evaluation of which nothing can be read is a note: the training is not wrong.
    for name in 0..5 {
        std::fs::write(place.path(&format!("data/val/bag/{name:04}.png")), "text").unwrap();
    }
    let output = place.train("val", &["--epochs", "1"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("note: no image could be read of class bag").count(), 1, "{said}");
}

/// A file that the kernel refuses to read, to root too: the first page of a process is none.
#[test]
fn an_input_error_is_not_a_damaged_image() {
    let place = TestFolder::new("input");
    let odd = place.path("data/train/bag/0003.png");
    std::fs::remove_file(&odd).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &odd).unwrap();
    let output = place.command(&words("r", &[])).env(WAIT, "200").output().unwrap();
    refused(&output, 3, &["bag/0003.png", "os error 5", "the storage, not the image"]);
    assert!(!place.path("out/train/r/skipped.txt").exists());
    let checked = place.run(&["data", "check", "data", "--json", "-", "--write-quarantine"]);
    assert_eq!(code(&checked), 3, "{}", error(&checked));
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let kinds: Vec<&str> = findings.iter().map(|found| found["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"storage") && !kinds.contains(&"unreadable"), "{kinds:?}");
    let list = std::fs::read_to_string(place.path("data/quarantine.txt")).unwrap();
    assert_eq!(list, "", "a storage that is gone for a moment costs no image");
    std::fs::write(place.path("data/quarantine.txt"), "train/bag/0003.png\tno way\n").unwrap();
    let output = place.train("without", &["--epochs", "1"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
}
