//! What the command line says of itself: help, completion scripts, manual pages.
//!
//! Mutations caught: `-h` with headings (longer than a screen), an option shown by `-h` that is not important, a theme
//! without its heading, a help text longer than a line, a completion script of another program name, no page for a
//! nested subcommand.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::{Command, Output};

use test_folder::{TestFolder, code, error};

fn help(place: &TestFolder, columns: &str, words: &[&str]) -> String {
    let output = place.command(words).env("COLUMNS", columns).output().unwrap();
    text(&output)
}

fn text(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", error(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Asserts that no line is wider than the terminal.
fn fits(help: &str, columns: usize) {
    let wide: Vec<&str> = help.lines().filter(|line| line.chars().count() > columns).collect();
    assert!(wide.is_empty(), "wider than {columns}:\n{}", wide.join("\n"));
}

#[test]
fn the_short_help_of_train_is_one_screen() {
    let place = TestFolder::new("short-help");
    for program in [&["train", "-h"][..], &["lr-find", "-h"], &["data", "preview", "-h"]] {
        let help = help(&place, "80", program);
        fits(&help, 80);
        for flag in ["DIR", "--model", "--epochs", "--batch-size", "--lr", "--img-size"] {
            assert!(help.contains(flag), "{flag} in:\n{help}");
        }
        assert!(help.contains("--help lists all"), "{help}");
    }
    let help = help(&place, "80", &["train", "-h"]);
    assert!(help.lines().count() <= 24, "{} lines:\n{help}", help.lines().count());
    for flag in ["--pretrained-path", "--resume", "--backend", "--output", "--config", "--recipe"] {
        assert!(help.contains(flag), "{flag} in:\n{help}");
    }
}

#[test]
fn the_long_help_of_train_has_every_option_under_its_heading() {
    let place = TestFolder::new("long-help");
    let help = help(&place, "100", &["train", "--help"]);
    fits(&help, 100);
    let mut rest = help.as_str();
    for (heading, flags) in [
        ("Data", &["--data-dir", "--quarantine", "[aliases: --imgsz, --image-size]"][..]),
        ("Model", &["--width", "--bn-eps"]),
        ("Training", &["--epochs", "--teacher", "--config"]),
        ("Optimizer", &["--lr ", "--lr-base-scale", "[range: 0 to 100]"]),
        ("Schedule", &["--sched", "--lr-noise-pct", "[range: 0 to --lr]"]),
        ("Augmentation", &["--aa", "--progressive-epochs"]),
        ("Regularisation", &["--drop", "--mixup-off-epoch", "[range: 0 or 0.01 to 100]"]),
        ("Averaging", &["--model-ema ", "--bn-reestimate"]),
        ("Checkpoints", &["--checkpoint-hist", "--resume"]),
        ("Output", &["--experiment", "--dry-run", "[default: checkpoints]"]),
        ("Machine", &["--backend", "--threads", "--isa"]),
    ] {
        let start = rest.find(&format!("\n{heading}:\n"));
        let start = start.unwrap_or_else(|| panic!("{heading} after the headings before it"));
        rest = &rest[start + 1..];
        let end = rest.find("\n\n\n").unwrap_or(rest.len());
        let next = rest.lines().skip(1).find(|line| line.ends_with(':') && !line.starts_with(' '));
        let section = next.map_or(&rest[..end], |next| &rest[..rest.find(next).unwrap()]);
        for flag in flags {
            assert!(section.contains(flag), "`{flag}` under {heading}:\n{section}");
        }
    }
}

#[test]
fn completion_scripts_complete() {
    let place = TestFolder::new("completions");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&place.run(&["completions", shell]));
        assert!(script.contains("checkpoint-hist"), "{shell}");
        std::fs::write(place.path(shell), script).unwrap();
    }
    let complete = |words: &str, word: &str| {
        let script = format!(
            "source ./bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _kindling kindling '{word}' \"${{COMP_WORDS[COMP_CWORD-1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", &script]).current_dir(place.path("."));
        text(&bash.output().unwrap())
    };
    if Command::new("bash").arg("--version").output().is_err() {
        return;
    }
    assert_eq!(complete("kindling tr", "tr"), "train\n");
    assert_eq!(complete("kindling train --checkpoint-h", "--checkpoint-h"), "--checkpoint-hist\n");
    assert_eq!(complete("kindling train --opt adam", "adam"), "adam\nadamw\n");
}

#[test]
fn every_subcommand_has_a_manual_page() {
    let place = TestFolder::new("man");
    text(&place.run(&["man", "pages"]));
    let page =
        |name: &str| std::fs::read_to_string(place.path(&format!("pages/{name}.1"))).unwrap();
    for name in ["kindling", "kindling-eval", "kindling-lr-find", "kindling-data-check"] {
        assert!(page(name).contains(".SH SYNOPSIS"), "{name}");
    }
    let train = page("kindling-train");
    for word in ["\\-\\-lr\\-noise\\-pct", "\\-\\-threads", "range: 0 to 1"] {
        assert!(train.contains(word), "{word}");
    }
    std::fs::write(place.path("file"), b"").unwrap();
    assert_eq!(code(&place.run(&["man", "file"])), 8);
}
