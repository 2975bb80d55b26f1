//! What a resumed run keeps: its output options, its end, its tables, its images.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Output;

use test_folder::{TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn resume(place: &TestFolder, more: &[&str]) -> Output {
    place.run(&[&["train", "--resume", "out/train/r"], more].concat())
}

/// Epoch and batch of every line of `steps.jsonl`.
fn steps(place: &TestFolder) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(place.path("out/train/r/steps.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|step| (step["epoch"].as_u64().unwrap(), step["batch"].as_u64().unwrap()))
        .collect()
}

/// First column of every row of `summary.csv`.
fn rows(place: &TestFolder) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert!(text.starts_with("epoch,train_loss,"), "{text}");
    text.lines().skip(1).map(|row| row.split(',').next().unwrap().to_owned()).collect()
}

/// Mutations caught: a logger with the defaults.
#[test]
fn interval_and_format_of_the_lines_stay() {
    let place = TestFolder::new("keeps-log");
    let flags = ["--epochs", "1", "--log-interval", "3", "--log-format", "json"];
    assert_eq!(code(&place.train("r", &flags)), 0);
    let output = resume(&place, &["--epochs", "2"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 4, "{text}");
    for line in lines {
        serde_json::from_str::<serde_json::Value>(line).expect("a JSON object a line");
    }
    assert_eq!(steps(&place), [(0, 3), (0, 6), (0, 9), (1, 3), (1, 6), (1, 9)]);
    // They may be changed, and the changed ones stay, too.
    let changes = ["--epochs", "3", "--log-interval", "4", "--log-format", "text"];
    let output = resume(&place, &changes);
    assert!(said(&output).contains("changed on resume: log-interval 3 -> 4"), "{}", said(&output));
    let output = resume(&place, &["--epochs", "4"]);
    assert!(said(&output).contains("epoch 4/4 · batch 4/9"), "{}", said(&output));
    assert_eq!(steps(&place)[6..], [(2, 4), (2, 8), (2, 9), (3, 4), (3, 8), (3, 9)]);
}

/// With a learning rate of 0 no epoch is better than the first.
///
/// Mutations caught: the equal average as the best epoch not seen as the end.
#[test]
fn a_run_that_patience_ended_has_ended() {
    let place = TestFolder::new("keeps-end");
    let flags = ["--epochs", "9", "--lr", "0", "--opt", "sgd", "--bn-momentum", "0.000001"];
    for (run, more) in [("r", &["--val-interval", "2"][..]), ("swa", &["--swa-start", "0"])] {
        let patience = ["--patience", "2"];
        let output = place.train(run, &[&flags[..], &patience, more].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(said(&output).contains("ended early"), "{}", said(&output));
        let before = std::fs::read(place.checkpoint(run)).unwrap();
        let folder = format!("out/train/{run}");
        for more in [&[][..], &["--patience", "1"], &["--epochs", "20"]] {
            let output = place.run(&[&["train", "--resume", &folder], more].concat());
            assert_eq!(code(&output), 0, "{}", error(&output));
            let text = said(&output);
            assert!(
                text.contains("the run has ended early") && !text.contains(" · train "),
                "{text}"
            );
            assert_eq!(std::fs::read(place.checkpoint(run)).unwrap(), before, "{run} {more:?}");
        }
        let on = ["--patience", "0", "--epochs", "12"];
        let output = place.run(&[&["train", "--resume", &folder][..], &on].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(said(&output).contains("epoch 12/12"), "{}", said(&output));
    }
}

/// An epoch that is not evaluated does not end the run, however long it has waited.
#[test]
fn an_epoch_between_two_evaluations_is_no_end() {
    let place = TestFolder::new("keeps-between");
    let flags = ["--epochs", "6", "--lr", "0", "--opt", "sgd", "--bn-momentum", "0.000001"];
    let more = ["--val-interval", "3", "--patience", "2", "--max-hours", "0.0000000001"];
    let mut last = place.train("r", &[&flags[..], &more].concat());
    let mut positions = 0;
    while code(&last) == 4 && positions < 200 {
        last = resume(&place, &[]);
        positions += 1;
    }
    assert_eq!(code(&last), 0, "{}", error(&last));
    assert_eq!(rows(&place), ["2", "5"]);
}

/// A run that was killed before its first checkpoint begins again.
#[test]
fn a_run_without_a_checkpoint_begins_again() {
    let place = TestFolder::new("keeps-begun");
    assert_eq!(code(&place.train("r", &["--epochs", "1", "--seed", "7"])), 0);
    let wanted = Checkpoint::read(&place.checkpoint("r")).unwrap();
    for file in ["last.ckpt", "model_best.ckpt", "checkpoint-0.ckpt"] {
        std::fs::remove_file(place.path(&format!("out/train/r/{file}"))).unwrap();
    }
    let output = resume(&place, &[]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains("before its first checkpoint"), "{}", said(&output));
    let again = Checkpoint::read(&place.checkpoint("r")).unwrap();
    assert_eq!(again.weights, wanted.weights);
    assert_eq!((steps(&place), rows(&place)), (vec![(0, 9)], vec!["0".to_owned()]));
    std::fs::create_dir_all(place.path("out/train/empty")).unwrap();
    refused(&place.run(&["train", "--resume", "out/train/empty"]), 6, &["no checkpoint there"]);
}

/// Stray bytes before, in and behind the lines: an editor, a half line of a killed run, a disk.
///
/// Mutations caught: bytes in front of a row not passed over.
#[test]
fn tables_lose_no_row_to_stray_bytes() {
    let place = TestFolder::new("keeps-rows");
    assert_eq!(code(&place.train("r", &["--epochs", "3", "--log-interval", "9"])), 0);
    let (table, log) =
        (place.path("out/train/r/summary.csv"), place.path("out/train/r/steps.jsonl"));
    let (rows_whole, lines_whole) = (std::fs::read(&table).unwrap(), std::fs::read(&log).unwrap());
    let half = |bytes: &[u8]| bytes[..bytes.len() - 20].to_vec();
    let prefixed = |prefix: &[u8], bytes: &[u8]| [prefix, bytes].concat();
    let at_row = |bytes: &[u8]| {
        let at = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        [&bytes[..at], b"\xff\xfe", &bytes[at..]].concat()
    };
    let cases: [(&str, Vec<u8>, Vec<u8>); 5] = [
        ("behind", prefixed(&rows_whole, b"\xff\xfe\x00\n"), prefixed(&lines_whole, b"\xff\x80\n")),
        (
            "byte order mark",
            prefixed(b"\xef\xbb\xbf", &rows_whole),
            prefixed(b"\xef\xbb\xbf", &lines_whole),
        ),
        ("in a row", at_row(&rows_whole), at_row(&lines_whole)),
        ("half a line", half(&rows_whole), prefixed(&lines_whole, b"{\"epoch\":3,\"ba")),
        (
            "Windows",
            String::from_utf8(rows_whole.clone()).unwrap().replace('\n', "\r\n").into_bytes(),
            String::from_utf8(lines_whole.clone()).unwrap().replace('\n', "\r\n").into_bytes(),
        ),
    ];
    let mut epochs = 3;
    for (what, rows_now, lines_now) in cases {
        std::fs::write(&table, rows_now).unwrap();
        std::fs::write(&log, lines_now).unwrap();
        epochs += 1;
        let output = resume(&place, &["--epochs", &epochs.to_string()]);
        assert_eq!(code(&output), 0, "{what}: {}", error(&output));
        let last = (epochs - 1).to_string();
        assert_eq!(rows(&place), ["0", "1", "2", &last], "{what}");
        assert_eq!(steps(&place), [(0, 9), (1, 9), (2, 9), (epochs - 1, 9)], "{what}");
        let text = std::fs::read_to_string(&table).unwrap();
        let columns: Vec<usize> = text.lines().map(|row| row.matches(',').count()).collect();
        assert!(columns.iter().all(|count| *count == columns[0]), "{what}: {text}");
    }
    // A table that cannot be read is told, and not replaced.
    std::fs::remove_file(&table).unwrap();
    std::fs::create_dir(&table).unwrap();
    refused(&resume(&place, &["--epochs", "20"]), 8, &["summary.csv"]);
}

/// Unreadable images are passed over anyway: with them on the list, every bit stays.
///
/// Mutations caught: images read although they were left out.
#[test]
fn images_that_came_on_the_quarantine_list_are_left_out() {
    let place = TestFolder::new("keeps-quarantine");
    for image in ["bag/0003.png", "sandal/0005.png"] {
        std::fs::write(place.path(&format!("data/train/{image}")), b"no image").unwrap();
    }
    let flags = ["--epochs", "3", "--opt", "sgd"];
    assert_eq!(code(&place.train("whole", &flags)), 0);
    let wanted = Checkpoint::read(&place.checkpoint("whole")).unwrap();
    let cut = |run: &str| {
        let output = place.train(run, &[&flags[..], &["--max-hours", "0.0000000001"]].concat());
        assert_eq!(code(&output), 4, "{}", error(&output));
    };
    cut("r");
    // What the program advises.
    let output = place.run(&["data", "check", "data", "--write-quarantine"]);
    assert!([0, 3].contains(&code(&output)), "{}", error(&output));
    let list = std::fs::read_to_string(place.path("data/quarantine.txt")).unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");
    let output = resume(&place, &["--max-hours", "0", "--strict-data"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    assert!(text.contains("2 images left out, as data/quarantine.txt says"), "{text}");
    assert!(text.contains("2 of the training images came on the quarantine list"), "{text}");
    assert!(!text.contains("skipped:"), "{text}");
    let now = Checkpoint::read(&place.checkpoint("r")).unwrap();
    assert!(now.weights == wanted.weights, "every bit stays");
    assert_eq!(now.manifest.data, wanted.manifest.data);
    // A run that began with the list goes on with a longer one, and with none.
    std::fs::remove_dir_all(place.path("out/train/r")).unwrap();
    cut("r");
    let longer = format!("{list}train/trouser/0000.png\tby hand\n");
    std::fs::write(place.path("data/quarantine.txt"), longer).unwrap();
    let output = resume(&place, &[]);
    assert_eq!(code(&output), 4, "{}", error(&output));
    assert!(said(&output).contains("1 of the training images came on"), "{}", said(&output));
    std::fs::remove_file(place.path("data/quarantine.txt")).unwrap();
    let output = resume(&place, &["--max-hours", "0"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    // An image that is gone is another matter.
    std::fs::remove_file(place.path("data/train/bag/0001.png")).unwrap();
    let output = resume(&place, &["--epochs", "4"]);
    refused(&output, 3, &["changed since the run began", "34 then, 35 now"]);
}

/// Mutations caught, each alone: changed without a fresh optimizer; the step of the schedule not
/// counted anew.
#[test]
fn rate_and_batch_size_may_change_with_a_fresh_optimizer() {
    let place = TestFolder::new("keeps-rate");
    assert_eq!(code(&place.train("r", &["--lr", "0.01"])), 0);
    let run = |words: &[&str]| {
        place.run(
            &[&["train", "--resume", "out/train/r", "--epochs", "4", "--no-report"], words]
                .concat(),
        )
    };
    test_folder::refused(
        &run(&["--lr", "0.001"]),
        2,
        &["--lr 0.001", "has 0.01", "add --no-resume-opt"],
    );
    test_folder::refused(
        &run(&["--width", "0.5", "--no-resume-opt"]),
        2,
        &["--width", "omit the flag"],
    );
    let output = run(&["--lr", "0.001", "--batch-size", "9", "--sched", "step", "--no-resume-opt"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    for words in ["changed on resume: lr 0.01 -> 0.001", "batch-size 4 -> 9", "epoch 4/4 · "] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Two epochs of nine steps each, as if there had been four to an epoch from the beginning.
    let manifest = Checkpoint::read(&place.checkpoint("r")).unwrap().manifest;
    assert_eq!((manifest.position.epoch, manifest.position.step), (4, 16));
    let args = std::fs::read_to_string(place.path("out/train/r/args.toml")).unwrap();
    assert!(args.contains("lr = 0.001") && args.contains("batch_size = 9"), "{args}");
}
