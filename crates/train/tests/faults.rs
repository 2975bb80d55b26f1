//! Faults of the world around a run: a console that ends early, images that vanish, names and
//! links that nobody expects. What is asked for is the result or one sentence with its exit code.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_folder::{SMALL, TestFolder, code, error, refused};

/// The words of a run with a line for every batch.
fn words<'a>(run: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], &["--experiment", run, "--log-interval", "1"], more].concat()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Mutations caught: the console's lines printed as a report's (`print_line`), which ends the
/// program.
#[test]
fn a_run_outlives_its_console() {
    let place = TestFolder::new("console");
    // A reader that ends at once, a full disk, no reader at all.
    for (run, redirect) in [("head", "| head -1"), ("full", "> /dev/full"), ("shut", ">&- 2>&-")] {
        let exe = env!("CARGO_BIN_EXE_kindling");
        let line = words(run, &[]).join(" ");
        let script = format!("({exe} {line}; echo $? > {run}.code) {redirect}");
        let status =
            Command::new("sh").args(["-c", &script]).current_dir(place.path("")).output().unwrap();
        let text = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(!text.contains("panicked"), "{run}: {text}");
        let ended = std::fs::read_to_string(place.path(&format!("{run}.code"))).unwrap();
        assert_eq!(ended.trim(), "0", "{run}: {text}");
        assert!(place.checkpoint(run).exists(), "{run}");
        let log =
            std::fs::read_to_string(place.path(&format!("out/train/{run}/train.log"))).unwrap();
        assert!(log.contains("epoch 2/2 · train ") && log.contains("top-1"), "{run}: {log}");
        if run != "shut" {
            assert!(log.contains("standard output: cannot write"), "{run}: {log}");
        }
    }
}

/// Mutations caught: code 0 for a full disk.
#[test]
fn a_report_that_cannot_be_written_is_no_success() {
    let place = TestFolder::new("report");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = place.command(&["models"]).stdout(full).output().unwrap();
    refused(&output, 8, &["standard output: cannot write", "make room"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = place.command(&["models"]).stdout(writer).output().unwrap();
    assert_eq!((code(&output), error(&output)), (141, String::new()));
}

/// A run that goes on until it is told to end, begun with SIGHUP at its default or ignored.
fn long_run(place: &TestFolder, run: &str, hangup: &str) -> Child {
    let child = Command::new("env")
        .args([hangup, "--default-signal=QUIT", env!("CARGO_BIN_EXE_kindling")])
        .args(words(run, &["--epochs", "4000"]))
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !place.checkpoint(run).exists() && began.elapsed() < Duration::from_mins(2) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([format!("-{signal}"), pid]).status().unwrap().success());
}

fn log_of(place: &TestFolder, run: &str) -> String {
    std::fs::read_to_string(place.path(&format!("out/train/{run}/train.log"))).unwrap()
}

/// SIGHUP comes twice when a terminal is lost: from the kernel, and from the shell.
///
/// Mutations caught, each alone: SIGHUP, SIGQUIT or SIGUSR1 not listened to.
#[test]
fn every_signal_that_means_the_end_saves_the_run() {
    let place = TestFolder::new("signals");
    for (signal, name, times) in [(1, "HUP", 3), (3, "QUIT", 1), (10, "USR1", 3), (15, "TERM", 1)] {
        let mut child = long_run(&place, name, "--default-signal=HUP");
        (0..times).for_each(|_| send(&child, name));
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal), "{name}");
        let log = log_of(&place, name);
        assert!(log.contains("interrupted and saved"), "{name}: {log}");
    }
}

/// Mutations caught: SIGHUP listened to where `nohup` ignores it.
#[cfg(target_os = "linux")]
#[test]
fn nohup_keeps_a_run_going() {
    let place = TestFolder::new("nohup");
    let mut child = long_run(&place, "r", "--ignore-signal=HUP");
    let epochs = || log_of(&place, "r").matches(" · val ").count();
    let before = epochs();
    send(&child, "HUP");
    let began = Instant::now();
    while epochs() < before + 5 && began.elapsed() < Duration::from_mins(2) {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(epochs() >= before + 5);
    send(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

/// Mutations caught: no check, where the run ended with 0 and a loss of 0.0000.
#[test]
fn an_epoch_of_which_nothing_can_be_read_ends_the_run() {
    let place = TestFolder::new("unreadable");
    for class in ["bag", "sandal", "trouser"] {
        for file in names(&place.path(&format!("data/train/{class}"))) {
            std::fs::write(place.path(&format!("data/train/{class}/{file}")), "text").unwrap();
        }
    }
    let output = place.train("r", &[]);
    refused(&output, 3, &["none of the 36 training images could be read", "data check"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("top-1") && !said.contains("0.000"), "{said}");
}

/// Mutations caught: the folder made without claiming it (`create_dir_all`).
#[test]
fn runs_begun_in_the_same_second_have_a_folder_each() {
    let place = TestFolder::new("second");
    let children: Vec<_> = (0..3)
        .map(|_| place.command(&SMALL).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let runs = names(&place.path("out/train"));
    assert_eq!(runs.len(), 3, "{runs:?}");
    for run in runs {
        let table = std::fs::read_to_string(place.path(&format!("out/train/{run}/summary.csv")));
        assert_eq!(table.unwrap().lines().count(), 3, "{run}");
    }
}

/// Mutations caught: options not checked, where the plan was written with `expect`.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_told_or_taken() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = TestFolder::new("latin1");
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9");
    std::fs::rename(place.path("data"), place.path("").join(odd)).unwrap();
    let run = |folder: &str| {
        let mut command = place.command(&["train"]);
        command.arg(odd).args(&SMALL[2..18]).args(["--output", folder]);
        command.output().unwrap()
    };
    refused(&run("out"), 2, &["--data-dir", "not UTF-8", "rename"]);
    assert!(!place.path("out").exists());
    std::os::unix::fs::symlink(odd, place.path("data")).unwrap();
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let checkpoint = "out/train/r/last.ckpt";
    let mut command = place.command(&["predict", "--checkpoint", checkpoint, "--format", "json"]);
    let output = command.arg(place.path("").join(odd).join("val/bag")).output().unwrap();
    assert_eq!(code(&output), 0, "{}", error(&output));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows.len(), 5);
}

/// Mutations caught: folders remembered by the path that led there (no end).
#[test]
fn predict_takes_each_image_once_and_passes_pipes_over() {
    let place = TestFolder::new("links");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    std::fs::create_dir_all(place.path("q/a")).unwrap();
    std::fs::copy(place.path("data/val/bag/0000.png"), place.path("q/a/x.png")).unwrap();
    let links = [("..", "one"), ("..", "two"), (".", "self"), ("../a", "again")];
    for (target, name) in links {
        std::os::unix::fs::symlink(target, place.path(&format!("q/a/{name}"))).unwrap();
    }
    let pipe = Command::new("mkfifo").arg(place.path("q/a/pipe.png")).status().unwrap();
    assert!(pipe.success());
    let flags = ["predict", "--checkpoint", "out/train/r/last.ckpt", "q", "--topk", "1"];
    let output = place.run(&flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
}

/// Mutations caught: the new class not named.
#[test]
fn a_class_renamed_before_a_resume_is_named() {
    let place = TestFolder::new("renamed");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    for split in ["train", "val"] {
        let (from, to) = (format!("data/{split}/bag"), format!("data/{split}/zebra"));
        std::fs::rename(place.path(&from), place.path(&to)).unwrap();
    }
    let output = place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]);
    refused(&output, 3, &["`bag` is missing", "`zebra` is new"]);
}

/// Mutations caught: `with_extension("tmp")` as temporary name (no end); a link replaced by a file.
#[test]
fn outputs_replace_nothing_but_what_was_named() {
    let place = TestFolder::new("outputs");
    std::fs::write(place.path("o.tmp"), "mine").unwrap();
    std::fs::write(place.path("real.safetensors"), "data").unwrap();
    std::os::unix::fs::symlink("real.safetensors", place.path("link.safetensors")).unwrap();
    std::os::unix::fs::symlink("later.safetensors", place.path("ahead.safetensors")).unwrap();
    for name in ["o", "link", "ahead"] {
        let to = format!("{name}.safetensors");
        let output = place.run(&["preprocess", "data/val/bag/0000.png", "--output", &to]);
        assert_eq!(code(&output), 0, "{name}: {}", error(&output));
    }
    assert_eq!(std::fs::read_to_string(place.path("o.tmp")).unwrap(), "mine");
    // The header's metadata have no order, so the tensor alone is compared.
    let tensor = |name: &str| {
        let bytes = std::fs::read(place.path(&format!("{name}.safetensors"))).unwrap();
        bytes[bytes.len() - 4 * 3 * 224 * 224..].to_vec()
    };
    let wanted = tensor("o");
    for (link, target) in [("link", "real"), ("ahead", "later")] {
        assert!(place.path(&format!("{link}.safetensors")).is_symlink(), "{link}");
        assert!(!place.path(&format!("{target}.safetensors")).is_symlink(), "{link}");
        assert!(tensor(target) == wanted, "{link}");
    }
    assert_eq!(names(&place.path("")).iter().filter(|n| n.contains(".tmp")).count(), 1);
}

/// Mutations caught: the temporary file of a killed writer left for ever.
#[test]
fn a_run_removes_what_its_killed_predecessor_left() {
    let place = TestFolder::new("leftovers");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let left = |name: &str| place.path(&format!("out/train/r/{name}"));
    // No process has a number above 2^22.
    for name in [".kindling.99999999-3.tmp", ".kindling.mine.tmp", "mine.1-1.tmp"] {
        std::fs::write(left(name), "half").unwrap();
    }
    assert_eq!(code(&place.run(&["train", "--resume", "out/train/r", "--epochs", "2"])), 0);
    assert!(!left(".kindling.99999999-3.tmp").exists());
    assert!(left(".kindling.mine.tmp").exists() && left("mine.1-1.tmp").exists());
}

/// Rewrites the header of a safetensors file, and lets `change` have the tensors' bytes.
fn rewritten(from: &Path, to: &Path, prefix: &str, change: impl Fn(&serde_json::Value, &mut [u8])) {
    let mut bytes = std::fs::read(from).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut data = bytes.split_off(8 + length);
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..]).unwrap();
    change(&header, &mut data);
    let tensors = header.as_object().unwrap().iter();
    let named: serde_json::Map<String, serde_json::Value> = tensors
        .map(|(name, entry)| match name.as_str() {
            "__metadata__" => (name.clone(), entry.clone()),
            _ => (format!("{prefix}{name}"), entry.clone()),
        })
        .collect();
    let header = serde_json::to_vec(&named).unwrap();
    let head = (header.len() as u64).to_le_bytes();
    std::fs::write(to, [&head[..], &header, &data].concat()).unwrap();
}

/// Mutations caught, each alone: one level of prefixes alone removed; values not looked at.
#[test]
fn weights_behind_prefixes_load_and_weights_that_are_no_numbers_do_not() {
    let place = TestFolder::new("weights");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    assert_eq!(code(&place.run(&["convert", "out/train/r/last.ckpt", "w.safetensors"])), 0);
    let model = ["--model", "mobilenet_v3_small", "--width", "0.35"];
    let (from, to) = (place.path("w.safetensors"), place.path("p.safetensors"));
    let convert = |from: &str, to: &str| place.run(&[&["convert", from, to][..], &model].concat());
    for prefix in ["_orig_mod.", "module.", "model.", "model.module._orig_mod."] {
        rewritten(&from, &to, prefix, |_, _| {});
        let output = convert("p.safetensors", "again.safetensors");
        assert_eq!(code(&output), 0, "{prefix}: {}", error(&output));
        assert_eq!(
            std::fs::read(place.path("again.safetensors")).unwrap(),
            std::fs::read(&from).unwrap(),
            "{prefix}"
        );
    }
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        rewritten(&from, &to, "", |header, data| {
            let at = header["features.0.0.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
            data[at..at + 4].copy_from_slice(&odd.to_le_bytes());
        });
        let output = convert("p.safetensors", "n.safetensors");
        refused(&output, 6, &["features.0.0.weight", "not all values are finite"]);
        assert!(!place.path("n.safetensors").exists());
    }
}
