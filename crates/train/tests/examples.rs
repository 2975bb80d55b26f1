//! The examples for programs that use Kindling as a library run, and the guide shows them as they
//! are.
//!
//! Mutations caught: a line of the guide that the example does not have; features that are not
//! those of the image.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;
use std::process::Command;

use test_folder::{TestFolder, code, error, said};

const TRAINED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");

/// What an example prints in the folder of a test.
fn run(place: &TestFolder, name: &str, words: &[&str]) -> String {
    let example = Path::new(env!("CARGO_BIN_EXE_kindling")).with_file_name("examples").join(name);
    let output = Command::new(&example).args(words).current_dir(place.path("")).output();
    let output = output.unwrap_or_else(|why| {
        panic!("{}: {why}; `cargo test --workspace` builds it", example.display())
    });
    assert_eq!(code(&output), 0, "{name}: {}", error(&output));
    said(&output)
}

#[test]
fn an_image_is_named_from_its_file_and_from_its_bytes() {
    let place = TestFolder::new("example-classify");
    let text =
        run(&place, "classify", &[TRAINED, "data/val/bag/0001.png", "data/val/trouser/0001.png"]);
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!((words[1], words[4]), ("bag", "trouser"), "{text}");
    assert!(text.ends_with("the first by its bytes: bag\n"), "{text}");
}

#[test]
fn the_same_image_is_found_first_and_its_own_class_before_others() {
    let place = TestFolder::new("example-retrieve");
    let others =
        ["data/val/bag/0003.png", "data/val/trouser/0004.png", "data/val/trouser/0001.png"];
    let text =
        run(&place, "retrieve", &[&[TRAINED, "data/val/trouser/0001.png"], &others[..]].concat());
    let found: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(found, [others[2], others[1], others[0]], "{text}");
    assert!(text.starts_with("1.000 "), "{text}");
}

#[test]
fn a_program_trains_hears_of_every_epoch_and_uses_the_result() {
    let place = TestFolder::new("example-train");
    let text = run(&place, "train_in_rust", &["data", "data/val/bag/0001.png"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("epoch 1: top-1 ") && lines[1].starts_with("epoch 2: "), "{text}");
    assert!(lines[2].starts_with("data/val/bag/0001.png: "), "{text}");
    let runs = std::fs::read_dir(place.path("checkpoints/train")).unwrap();
    assert!(runs.map(|run| run.unwrap().path()).all(|run| run.join("model_best.ckpt").is_file()));
}

#[test]
fn the_guide_shows_the_examples_as_they_are() {
    let guide = include_str!("../../../docs/guide.md");
    let examples = [
        include_str!("../../deploy/examples/classify.rs"),
        include_str!("../examples/train_in_rust.rs"),
    ];
    let blocks: Vec<&str> =
        guide.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), examples.len());
    for (block, example) in blocks.iter().zip(examples) {
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            assert!(example.lines().any(|own| own == line), "no `{line}` in\n{example}");
        }
    }
}
