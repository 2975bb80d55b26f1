//! Too little of what a system gives: memory, threads, open files. What is asked for is the result,
//! or one sentence with its exit code; never an abort, a panic or a hang.
#![cfg(target_os = "linux")]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Output;

use test_folder::{SMALL, TestFolder, code, error};

/// Runs the program under a limit of `ulimit`.
fn limited(place: &TestFolder, limit: &str, words: &[&str]) -> Output {
    std::process::Command::new("sh")
        .args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_kindling"))
        .args(words)
        .env("KINDLING_TEST_STORAGE_WAIT_MS", "100")
        .current_dir(place.path(""))
        .output()
        .unwrap()
}

/// The result, or a sentence and one of the codes.
#[track_caller]
fn told(output: &Output, what: &str, codes: &[i32]) {
    let text = error(output);
    assert!(codes.contains(&code(output)), "{what}: {:?}: {text}", output.status);
    assert!(!text.contains("panicked") && !text.contains("RUST_BACKTRACE"), "{what}: {text}");
    let sentences = text.lines().filter(|line| line.starts_with("error: ")).count();
    assert!((sentences == 1) == (code(output) != 0), "{what}: {text}");
}

/// From what is enough for nothing to what is enough for all.
///
/// Mutations caught: Rust's own message and SIGABRT instead of the sentence.
#[test]
fn too_little_memory_is_a_sentence_wherever_it_is_missing() {
    let place = TestFolder::new("limits-memory");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let eval = ["eval", "--checkpoint", "out/train/r/last.ckpt", "--batch-size", "15"];
    let predict = ["predict", "--checkpoint", "out/train/r/last.ckpt", "data/val"];
    let large =
        ["--model", "mobilenet_v1", "--width", "1.0", "--img-size", "128", "--batch-size", "36"];
    let train = [&SMALL[..], &large, &["--epochs", "1", "--experiment", "x"]].concat();
    let size = ["--batch-size", "32", "--img-size", "128"];
    let bench =
        [&["bench", "--model", "mobilenet_v2", "--batches", "1", "--warmup", "0"], &size[..]]
            .concat();
    let profile = [&["profile", "mobilenet_v1", "--repeats", "1"], &size[..]].concat();
    let mut codes = Vec::new();
    for (name, words) in [
        ("train", &train[..]),
        ("bench", &bench),
        ("profile", &profile),
        ("eval", &eval),
        ("predict", &predict),
    ] {
        for megabytes in [100, 160, 230, 320, 450, 700, 1100] {
            let _ = std::fs::remove_dir_all(place.path("out/train/x"));
            let output = limited(&place, &format!("-v {}", megabytes << 10), words);
            told(&output, &format!("{name} with {megabytes} MB"), &[0, 7]);
            codes.push((name, megabytes, code(&output)));
        }
    }
    for name in ["train", "bench", "profile"] {
        let own = |wanted| codes.iter().any(|(other, _, code)| *other == name && *code == wanted);
        assert!(own(7), "no limit is too low for {name}: {codes:?}");
    }
    assert!(codes.iter().any(|(name, _, code)| *name == "predict" && *code == 0), "{codes:?}");
}

#[test]
fn an_input_that_no_machine_holds_is_a_sentence() {
    let place = TestFolder::new("limits-input");
    for words in [
        &["bench", "--model", "mobilenet_v1", "--batch-size", "65536", "--img-size", "4096"][..],
        &["profile", "mobilenet_v1", "--batch-size", "4096", "--img-size", "16384"],
        &[
            "bench",
            "--model",
            "xception",
            "--mode",
            "infer",
            "--batch-size",
            "65536",
            "--img-size",
            "4096",
        ],
    ] {
        let output = place.run(words);
        told(&output, words[0], &[7]);
        assert!(error(&output).contains("out of memory: no"), "{}", error(&output));
    }
}

/// A limit on processes binds everybody but root, who becomes somebody else here.
#[test]
fn no_thread_is_a_sentence() {
    let place = TestFolder::new("limits-threads");
    let program = place.path("kindling");
    std::fs::copy(env!("CARGO_BIN_EXE_kindling"), &program).unwrap();
    let root = std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let user = if root { &user[..] } else { &[] };
    for words in [&["models"][..], &["models", "--threads", "3"]] {
        let limit = ["prlimit", "--nproc=1", "./kindling"];
        let all: Vec<&str> = user.iter().chain(&limit).copied().collect();
        let output = std::process::Command::new(all[0])
            .args(&all[1..])
            .args(words)
            .current_dir(place.path(""))
            .output()
            .unwrap();
        told(&output, "no thread", &[7]);
        assert!(error(&output).contains("starts no more threads"), "{}", error(&output));
    }
}

#[test]
fn few_open_files_are_enough_or_a_sentence() {
    let place = TestFolder::new("limits-files");
    let shard =
        place.run(&["data", "shard", "data", "--output", "shards", "--shard-size", "0.001"]);
    assert_eq!(code(&shard), 0, "{}", error(&shard));
    for files in [4, 5, 6, 7, 8, 10, 12, 16, 24] {
        for data in ["data", "shards"] {
            let _ = std::fs::remove_dir_all(place.path("out"));
            let words =
                [&["train", data], &SMALL[2..], &["--epochs", "1", "--experiment", "r"]].concat();
            let output = limited(&place, &format!("-n {files}"), &words);
            told(&output, &format!("{data} with {files} files"), &[0, 2, 3, 6, 7, 8]);
            assert!(!place.path("out/train/r/skipped.txt").exists(), "{data} with {files} files");
            // Two workers, a log, tar files, and what the program begins with.
            assert!(files < 24 || code(&output) == 0, "{data} with {files}: {}", error(&output));
        }
    }
}
