//! What the program's tests share: a folder with a small data set, the program, and how it answers.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for a test, with a small data set of three classes in `data`.
pub struct TestFolder(PathBuf);

impl TestFolder {
    pub fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kindling-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/fashion-mnist-mini");
        for (split, count) in [("train", 12), ("val", 5)] {
            for class in ["bag", "sandal", "trouser"] {
                let to = root.join("data").join(split).join(class);
                std::fs::create_dir_all(&to).unwrap();
                for i in 0..count {
                    let name = format!("{i:04}.png");
                    std::fs::copy(from.join(split).join(class).join(&name), to.join(name)).unwrap();
                }
            }
        }
        Self(root)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kindling"));
        command.args(words).current_dir(&self.0);
        command
    }

    pub fn train(&self, run: &str, more: &[&str]) -> Output {
        self.run(&[&SMALL[..], &["--experiment", run], more].concat())
    }

    pub fn checkpoint(&self, run: &str) -> PathBuf {
        self.path(&format!("out/train/{run}/last.ckpt"))
    }
}

impl Drop for TestFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub const SMALL: [&str; 21] = [
    "train",
    "data",
    "--model",
    "mobilenet_v3_small",
    "--width",
    "0.35",
    "--img-size",
    "32",
    "--batch-size",
    "4",
    "--epochs",
    "2",
    "--backend",
    "flex",
    "--output",
    "out",
    "--workers",
    "2",
    "--warmup-epochs",
    "0.5",
    "--no-report",
];

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The exit code, and every word in the one line of the error.
#[track_caller]
pub fn refused(output: &Output, exit: i32, words: &[&str]) {
    let text = error(output);
    assert_eq!(code(output), exit, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` in: {text}");
    }
}

/// What is wrong with a refusal, if anything: for tests that show all faults at once.
pub fn unlike(output: &Output, exit: i32, words: &[&str]) -> Option<String> {
    let text = error(output);
    let told = !text.contains("panicked") && words.iter().all(|word| text.contains(word));
    (code(output) != exit || !told)
        .then(|| format!("exit {} for {exit}, {words:?} in: {text}", code(output)))
}
