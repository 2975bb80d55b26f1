//! A run that ends between any two of its changes of files, or within an evaluation, resumes to
//! what the uninterrupted run makes: every checkpoint in every bit, every row, every file.
//!
//! `KINDLING_TEST_CRASH=kill@7` ends the program at its seventh point as SIGKILL does, `term@7`
//! sends SIGTERM there. A point is a change of a file, or a batch of an evaluation.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use test_folder::{SMALL, TestFolder, code, error};
use train::run::checkpoint::Checkpoint;
use train::run::progress::EpochStats;

/// A checkpoint without what may differ: times and the name of the run.
fn checkpoint(path: &Path) -> String {
    let Checkpoint { mut manifest, weights, optimizer, averages } = Checkpoint::read(path).unwrap();
    manifest.epoch_stats = EpochStats { seconds: 0.0, waited: 0.0, ..manifest.epoch_stats };
    manifest.plan.logging.experiment = None;
    let mut hasher = DefaultHasher::new();
    let mut add = |name: &str, values: &[f32]| {
        name.hash(&mut hasher);
        values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
    };
    weights.iter().chain(&averages).for_each(|tensor| add(&tensor.name, &tensor.values));
    optimizer.iter().for_each(|state| add(&state.name, &state.values));
    format!("{:016x} {}", hasher.finish(), serde_json::to_string(&manifest).unwrap())
}

/// Every file of a run, without what may differ.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = || std::fs::read_to_string(&path).unwrap();
        let content = match name.as_str() {
            "eval" => ["per_class.csv", "confusion.csv"]
                .map(|table| std::fs::read_to_string(path.join(table)).unwrap())
                .concat(),
            // Images per second, share of waiting and seconds stand in columns 6 to 8.
            "summary.csv" => text()
                .lines()
                .map(|row| {
                    let columns = row.split(',').enumerate().filter(|(i, _)| !(6..=8).contains(i));
                    columns.map(|(_, value)| format!("{value},")).collect::<String>() + "\n"
                })
                .collect(),
            "steps.jsonl" => text()
                .lines()
                .map(|line| {
                    let mut step: serde_json::Value = serde_json::from_str(line).unwrap();
                    (step["img_per_s"], step["data_wait_pct"]) = (0.into(), 0.into());
                    format!("{step}\n")
                })
                .collect(),
            "classes.txt" => text(),
            "args.toml" | "run.json" | "train.log" => String::new(),
            _ => checkpoint(&path),
        };
        files.insert(name, content);
    }
    files
}

/// What is different, in a line for each file.
fn differences(now: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = now.keys().chain(wanted.keys()).collect();
    let differs = |name: &&String| now.get(*name) != wanted.get(*name);
    let short = |text: Option<&String>| {
        text.map_or("missing".into(), |t| t.chars().take(400).collect::<String>())
    };
    names
        .into_iter()
        .filter(differs)
        .map(|name| format!("{name}: {}\n   for {}", short(now.get(name)), short(wanted.get(name))))
        .collect()
}

/// What is compared at each point.
struct Sweep<'a> {
    place: TestFolder,
    /// `kill` or `term`.
    signal: &'a str,
    flags: &'a [&'a str],
    /// The files of the run that nothing ended.
    wanted: BTreeMap<String, String>,
}

impl Sweep<'_> {
    fn run(&self, run: &str, point: Option<u64>) -> Output {
        let fixed = ["--threads", "1", "--workers", "1", "--batch-size", "18", "--experiment", run];
        let mut command = self.place.command(&[&SMALL[..], &fixed, self.flags].concat());
        if let Some(point) = point {
            command.env("KINDLING_TEST_CRASH", format!("{}@{point}", self.signal));
        }
        command.output().unwrap()
    }

    /// Ends a run at a point and resumes it: what is wrong then; none where the run has no such
    /// point.
    fn at(&self, point: u64) -> Option<Vec<String>> {
        let run = format!("at{point}");
        let folder = format!("out/train/{run}");
        let mut output = self.run(&run, Some(point));
        if self.signal == "kill" && code(&output) == 0 {
            return None;
        }
        if code(&output) != 0 {
            output =
                self.place.run(&["train", "--resume", &folder, "--threads", "1", "--no-report"]);
            if code(&output) == 6 && !self.place.path(&folder).join("args.toml").exists() {
                // Nothing of the run is there yet.
                output = self.run(&run, None);
            }
        }
        let wrong = match code(&output) {
            0 => differences(&files(&self.place.path(&folder)), &self.wanted),
            other => vec![format!("exit {other}: {}", error(&output))],
        };
        let _ = std::fs::remove_dir_all(self.place.path(&folder));
        Some(wrong)
    }
}

/// Ends a run at each of its points, or at some of them, resumes it, and compares it with the run
/// that nothing ended. Returns the number of points.
#[track_caller]
fn sweep(name: &str, signal: &str, flags: &[&str], points: Option<&[u64]>) -> u64 {
    let place = TestFolder::new(&format!("crash-{name}-{signal}"));
    let mut sweep = Sweep { place, signal, flags, wanted: BTreeMap::new() };
    let whole = sweep.run("whole", None);
    assert_eq!(code(&whole), 0, "{}", error(&whole));
    sweep.wanted = files(&sweep.place.path("out/train/whole"));
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let faults = Mutex::new(Vec::new());
    let work = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let point = points.map_or(Some(number + 1), |some| some.get(number as usize).copied());
        assert!(number < 1000, "the run does not end");
        let Some((point, wrong)) = point.and_then(|point| Some((point, sweep.at(point)?))) else {
            break;
        };
        done.fetch_add(1, Ordering::Relaxed);
        if !wrong.is_empty() {
            faults.lock().unwrap().push(format!("{signal}@{point}: {}", wrong.join("\n  ")));
        }
    };
    // More than cores: the processes wait for the disk most of the time.
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    let (faults, done) = (faults.into_inner().unwrap(), done.into_inner());
    assert!(faults.is_empty(), "{} of {done} points\n{}", faults.len(), faults.join("\n"));
    done
}

/// Every epoch is better than the one before; averages of both kinds; checkpoints that go.
const LEARNS: [&str; 15] = [
    "--val-batch-size",
    "5",
    "--epochs",
    "3",
    "--eval-metric",
    "loss",
    "--model-ema",
    "--swa-start",
    "1",
    "--checkpoint-interval-steps",
    "1",
    "--checkpoint-hist",
    "2",
    "--bn-reestimate",
    "1",
];

/// No epoch is better than the first one: `--patience` ends the run after an epoch that is not its
/// last, and the equal average is made then.
const WAITS: [&str; 14] = [
    "--epochs",
    "9",
    "--opt",
    "sgd",
    "--lr",
    "0",
    "--bn-momentum",
    "0.000001",
    "--patience",
    "1",
    "--swa-start",
    "0",
    "--checkpoint-hist",
    "1",
];

/// Mutations caught: the last checkpoint published before the best one and the epoch's own (7 of 83
/// points: `model_best` or the epoch's checkpoint missing).
#[test]
fn a_run_killed_at_any_point_resumes_to_the_same_files() {
    let points = sweep("learns", "kill", &LEARNS, None);
    assert!(points > 60, "{points}");
}

/// Mutations caught: the same (4 of 58 points).
#[test]
fn a_run_that_patience_ends_is_killed_at_any_point_and_resumes_to_the_same_files() {
    let points = sweep("waits", "kill", &WAITS, None);
    assert!(points > 30, "{points}");
}

/// A signal counts when it is looked for the next time, so that a third of the points is enough: it
/// comes within an epoch, in its evaluation, and in the two parts of the equal average's.
#[test]
fn a_run_stopped_at_any_point_resumes_to_the_same_files() {
    let points: Vec<u64> = (1..150).step_by(3).collect();
    sweep("learns", "term", &LEARNS, Some(&points));
}
