//! One process at a time trains in a run folder, and what a dead one leaves is in nobody's way.
#![cfg(target_os = "linux")]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use test_folder::{SMALL, TestFolder, code, error, refused};

const LOCK: &str = "out/train/r/run.lock";

/// A run that goes on until it is told to end, after its first evaluation.
fn long_run(place: &TestFolder) -> Child {
    let words = [&SMALL[..], &["--experiment", "r", "--epochs", "4000"]].concat();
    let child = place.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    let best = place.path("out/train/r/model_best.ckpt");
    while !best.exists() && began.elapsed() < Duration::from_mins(2) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn lock(place: &TestFolder) -> Value {
    serde_json::from_str(&std::fs::read_to_string(place.path(LOCK)).unwrap()).unwrap()
}

#[test]
fn a_second_process_is_refused_by_the_name_of_the_first() {
    let place = TestFolder::new("lock-second");
    let mut child = long_run(&place);
    let pid = format!("process {} on ", child.id());
    let before = std::fs::read(place.path("out/train/r/args.toml")).unwrap();
    for words in [
        vec!["train", "--resume", "out/train/r"],
        vec!["train", "--resume", "out/train/r/model_best.ckpt"],
        vec!["train", "--resume", "--output", "out"],
    ] {
        let output = place.run(&words);
        refused(&output, 2, &["out/train/r", &pid, "has been training in it since"]);
    }
    // A run of the same name: refused by the lock or by the checkpoint.
    refused(&place.train("r", &["--seed", "7"]), 2, &["out/train/r"]);
    std::fs::remove_file(place.checkpoint("r")).unwrap();
    assert!(matches!(code(&place.train("r", &["--seed", "7"])), 2));
    assert_eq!(std::fs::read(place.path("out/train/r/args.toml")).unwrap(), before);
    // Reading is free.
    for words in [
        &["inspect", "out/train/r/model_best.ckpt"][..],
        &["eval", "--checkpoint", "out/train/r/model_best.ckpt"],
        &["predict", "--checkpoint", "out/train/r/model_best.ckpt", "data/val/bag/0000.png"],
    ] {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{words:?}: {}", error(&output));
    }
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!place.path(LOCK).exists(), "the lock goes with the run");
}

/// The killed process stays a zombie here, because nobody waits for it.
///
/// Mutations caught: a zombie taken for a process that runs; the name of the dead holder told,
/// because the new one has not written its own yet.
#[test]
fn a_killed_run_holds_nothing_and_of_many_successors_one_gets_the_lock() {
    let place = TestFolder::new("lock-killed");
    let mut child = long_run(&place);
    let mut dead = child.id();
    for _ in 0..3 {
        child.kill().unwrap();
        let began = Instant::now();
        while lock(&place)["pid"] != dead && began.elapsed() < Duration::from_secs(5) {}
        let words = ["train", "--resume", "out/train/r"];
        let mut rivals: Vec<Child> = (0..5)
            .map(|_| {
                let mut command = place.command(&words);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let began = Instant::now();
        let mut ended = Vec::new();
        while ended.len() < 4 && began.elapsed() < Duration::from_mins(1) {
            for (index, rival) in rivals.iter_mut().enumerate() {
                if !ended.contains(&index) && rival.try_wait().unwrap().is_some() {
                    ended.push(index);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ended.len(), 4, "one of five goes on");
        let winner = (0..5).find(|index| !ended.contains(index)).unwrap();
        let heir = rivals.swap_remove(winner);
        for rival in rivals {
            let pid = format!("process {} on ", heir.id());
            refused(&rival.wait_with_output().unwrap(), 2, &[&pid]);
        }
        assert_eq!(lock(&place)["pid"], heir.id());
        // Not waited for: a zombie until the test ends.
        dead = heir.id();
        child = heir;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(code(&place.run(&["train", "--resume", "out/train/r", "--epochs", "1"])), 0);
    assert!(!place.path(LOCK).exists());
}

/// A lock as another process would have written it.
fn written(place: &TestFolder, change: impl Fn(&mut Value), age: u64) {
    let read = |file: &str| std::fs::read_to_string(file).unwrap().trim().to_owned();
    let stat = read(&format!("/proc/{}/stat", std::process::id()));
    let begin: u64 =
        stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap().parse().unwrap();
    let mut holder = json!({
        "pid": std::process::id(),
        "host": read("/proc/sys/kernel/hostname"),
        "started": begin,
        "boot": read("/proc/sys/kernel/random/boot_id"),
        "since": "2026-11-25 12:00:00",
    });
    change(&mut holder);
    std::fs::write(place.path(LOCK), holder.to_string()).unwrap();
    let file = File::options().write(true).open(place.path(LOCK)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
}

/// Here nobody holds the operating system's lock: the content alone decides, as where a file system
/// has no such locks.
///
/// Mutations caught: another machine's lock taken over at once.
#[test]
fn a_lock_without_a_process_is_taken_over_and_another_machine_is_given_time() {
    let place = TestFolder::new("lock-stale");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let again = |epochs: u64| {
        let epochs = epochs.to_string();
        place.run(&["train", "--resume", "out/train/r", "--epochs", &epochs])
    };
    let mut epochs = 1;
    let mut taken_over = |what: &str| {
        epochs += 1;
        let output = again(epochs);
        assert_eq!(code(&output), 0, "{what}: {}", error(&output));
        assert!(!place.path(LOCK).exists(), "{what}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // This very process, which lives.
    written(&place, |_| {}, 0);
    refused(&again(9), 2, &[&format!("process {} on ", std::process::id()), "12:00:00"]);
    assert!(place.path(LOCK).exists());
    // Its number was given to another process; the machine was started anew; the process is gone.
    written(&place, |holder| holder["started"] = 1.into(), 0);
    taken_over("a number in use again");
    written(&place, |holder| holder["boot"] = "another".into(), 0);
    taken_over("a reboot");
    written(&place, |holder| holder["pid"] = 99_999_999.into(), 0);
    taken_over("no such process");
    // Half a file, none of its own, bytes.
    for bytes in [&b""[..], b"{\"pid\":", b"\xff\xfe\x00", b"1234\n"] {
        std::fs::write(place.path(LOCK), bytes).unwrap();
        taken_over("no holder in it");
    }
    // Another machine, which gave a sign of life a minute ago, and long ago.
    written(&place, |holder| holder["host"] = "elsewhere".into(), 60);
    refused(&again(99), 2, &[" on elsewhere ", "sign of life ", "remove out/train/r/run.lock"]);
    written(&place, |holder| holder["host"] = "elsewhere".into(), 610);
    let said = taken_over("silent for long");
    assert!(said.contains("on elsewhere has given no sign of life for 6"), "{said}");
}

#[test]
fn the_lock_goes_at_every_ending() {
    let place = TestFolder::new("lock-ends");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    assert!(!place.path(LOCK).exists());
    // Finished, refused options, faulty data, a faulty checkpoint.
    assert_eq!(code(&place.run(&["train", "--resume", "out/train/r"])), 0);
    assert!(!place.path(LOCK).exists());
    refused(&place.run(&["train", "--resume", "out/train/r", "--lr", "1"]), 2, &["--lr"]);
    assert!(!place.path(LOCK).exists());
    std::fs::rename(place.path("data"), place.path("away")).unwrap();
    let more = ["train", "--resume", "out/train/r", "--epochs", "2"];
    refused(&place.run(&more), 3, &["data"]);
    assert!(!place.path(LOCK).exists());
    std::fs::rename(place.path("away"), place.path("data")).unwrap();
    std::fs::write(place.checkpoint("r"), b"no checkpoint").unwrap();
    refused(&place.run(&more), 6, &["last.ckpt"]);
    assert!(!place.path(LOCK).exists());
}
