//! Every `sh` block of README.md and docs/guide.md is run, in order, in one folder for each
//! document: a command that a reader copies works.
//!
//! A block that cannot run says why: ```` ```sh not-run: REASON ````. `<!-- test: WORDS -->` before
//! a block appends the words to its training and exporting commands, so that the test stays short.
//!
//! Mutations caught: a misspelt command in a block.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;
use std::process::Command;

use test_folder::TestFolder;

struct Block {
    line: usize,
    commands: String,
}

/// The blocks of a document that run.
fn blocks(name: &str, text: &str) -> Vec<Block> {
    let (mut found, mut appended) = (Vec::new(), String::new());
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let words = line.strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->"));
        if let Some(words) = words {
            appended = format!(" {words}");
            continue;
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.starts_with("```"))
            .collect();
        let appended = std::mem::take(&mut appended);
        match info.split_once(' ') {
            None if info == "sh" => {
                let with = |line: &&str| {
                    let command = line.split(" #").next().unwrap().trim_end();
                    let long = ["kindling train", "kindling export"];
                    match long.iter().any(|start| command.starts_with(start)) {
                        true => format!("{command}{appended}\n"),
                        false => format!("{command}\n"),
                    }
                };
                found.push(Block { line: number + 1, commands: body.iter().map(with).collect() });
            }
            // `tests/export.rs` runs the Python.
            None => assert!(
                ["python", "text", "toml", "rust", "json"].contains(&info),
                "{name}: line {}: `{info}`",
                number + 1
            ),
            Some(("sh", why)) => {
                let reason = why.strip_prefix("not-run: ").unwrap_or_default();
                assert!(reason.len() > 8, "{name}: line {}: not run, and no reason", number + 1);
            }
            Some(_) => panic!("{name}: line {}: `{info}`", number + 1),
        }
    }
    found
}

fn run(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(name)).unwrap();
    let place = TestFolder::new(&format!("docs-{}", name.replace('/', "-")));
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, place.path(to)).unwrap();
    std::fs::create_dir(place.path("bin")).unwrap();
    link(Path::new(env!("CARGO_BIN_EXE_kindling")), "bin/kindling");
    link(&root.join("datasets").canonicalize().unwrap(), "datasets");
    std::fs::rename(place.path("data/train"), place.path("photos")).unwrap();
    let blocks = blocks(name, &text);
    assert!(!blocks.is_empty(), "{name}: no block");
    for Block { line, commands } in blocks {
        let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .args(["-e", "-c", &commands])
            .current_dir(place.path(""))
            .env("PATH", path)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: line {line}:\n{commands}{error}");
        assert!(!error.contains("panicked"), "{name}: line {line}:\n{error}");
    }
}

#[test]
fn every_command_of_the_guide_runs() {
    run("docs/guide.md");
}

#[test]
fn every_command_of_the_readme_runs() {
    run("README.md");
}
