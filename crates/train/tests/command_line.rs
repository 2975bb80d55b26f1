//! What the command line says of itself: help, completion scripts, man pages.
//!
//! Mutations caught: `-h` with headings (longer than a screen), an option shown by `-h` that is not
//! important, a theme without its heading, a help text longer than a line, a completion script of
//! another program name or without the names of models, no page for a nested subcommand.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::{Command, Output};

use test_folder::{TestFolder, code, error, refused, unlike};

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

/// The whole tree of commands, with the words that lead to each.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    let mut root = train::cli::command();
    root.build();
    let (mut found, mut open) = (Vec::new(), vec![(Vec::new(), root)]);
    while let Some((path, command)) = open.pop() {
        for next in command.get_subcommands().filter(|next| next.get_name() != "help") {
            let path = [&path[..], &[next.get_name().to_owned()]].concat();
            open.push((path, next.clone()));
        }
        found.push((path, command));
    }
    found
}

#[test]
fn the_short_help_of_every_command_is_one_screen() {
    let place = TestFolder::new("short-help");
    let commands = commands();
    assert!(commands.len() > 25, "{}", commands.len());
    for (path, command) in &commands {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["-h"]).collect();
        let help = help(&place, "80", &words);
        fits(&help, 80);
        // The list of all commands is longer.
        let screen = if path.is_empty() { 32 } else { 30 };
        assert!(help.lines().count() <= screen, "{} lines:\n{help}", help.lines().count());
        let hint = if command.has_subcommands() { "COMMAND --help" } else { "--help lists all" };
        assert!(help.contains(hint), "{help}");
        for argument in command.get_arguments().filter(|arg| !arg.is_hide_short_help_set()) {
            let name = match argument.get_long() {
                Some(name) => format!("--{name}"),
                None => argument.get_value_names().unwrap()[0].to_string(),
            };
            let shown = help.contains(&name) || name == "--version" || command.has_subcommands();
            assert!(shown, "{name} in:\n{help}");
        }
    }
    let run = ["DIR", "--model", "--epochs", "--batch-size", "--lr", "--img-size"];
    let more = ["--pretrained-path", "--resume", "--backend", "--output", "--config", "--recipe"];
    for (words, flags) in [
        (&["train", "-h"][..], &[&run[..], &more[..]].concat()[..]),
        (&["lr-find", "-h"][..], &run[..]),
        (&["data", "preview", "-h"][..], &run[..]),
    ] {
        let help = help(&place, "80", words);
        for flag in flags {
            assert!(help.contains(flag), "{flag} in:\n{help}");
        }
    }
}

/// What the help of an argument lacks, if anything.
fn lacks(command: &clap::Command, argument: &clap::Arg) -> Option<String> {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let sentence = help.split(" [").next().unwrap_or_default();
    let decided = argument.is_required_set()
        || !argument.get_default_values().is_empty()
        || help.contains("[default: ");
    let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
    let named = help.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
    let unknown = named
        .filter_map(|word| word.strip_prefix("--"))
        .find(|word| !word.is_empty() && !flags.contains(word));
    let hidden = argument.get_all_aliases().unwrap_or_default().len()
        - argument.get_visible_aliases().unwrap_or_default().len();
    if !sentence.starts_with(|first: char| first.is_uppercase() || first == '.') {
        return Some("a sentence that begins with a capital letter".to_owned());
    }
    if sentence.ends_with('.') {
        return Some("an end without a full stop".to_owned());
    }
    if let Some(word) = unknown {
        return Some(format!("the flag --{word} that it names"));
    }
    match (decided, hidden) {
        (false, _) => Some("its default".to_owned()),
        (_, 1..) => Some("an alias".to_owned()),
        _ => None,
    }
}

#[test]
fn every_option_of_every_command_tells_its_default_and_its_aliases() {
    let mut wrong = Vec::new();
    for (path, command) in commands() {
        for argument in command.get_arguments() {
            if ["help", "version"].contains(&argument.get_id().as_str()) {
                continue;
            }
            if let Some(what) = lacks(&command, argument) {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                wrong.push(format!("{} {}: no {what}: {help}", path.join(" "), argument.get_id()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_long_help_of_every_command_fits_the_terminal() {
    let place = TestFolder::new("widths");
    for (path, _) in commands() {
        let words: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        for columns in ["80", "120"] {
            fits(&help(&place, columns, &words), columns.parse().unwrap());
        }
    }
}

#[test]
fn an_unknown_word_is_answered_with_the_nearest_known_one() {
    let place = TestFolder::new("nearest");
    let mut faults = Vec::new();
    for (words, near) in [
        ("tran", "train"),
        ("data chek", "check"),
        ("explain convolutions", "convolution"),
        ("completions bsh", "bash"),
        ("models --isa avx51", "avx512"),
        ("recipes mobilenet_v2/torchvison", "mobilenet_v2/torchvision"),
        ("summary mobilenet_v2_x", "mobilenet_v2"),
        ("bench --model mobilnet_v2", "mobilenet_v2"),
        ("bench --model mobilenet_v2 --padding sam", "same"),
        ("bench --model mobilenet_v2 --scaling papr", "paper"),
        ("bench --model mobilenet_v2 --mode trian", "train"),
        ("bench --model mobilenet_v2 --backend flexx", "flex"),
        ("explain multipliers --model mobilenetv1", "mobilenet_v1"),
        ("forward --input a --output b --optimizer momentun", "momentum"),
        ("convert a.pth out.safetensor", "safetensors"),
        ("convert a.pth out.cpkt", "ckpt"),
        ("convert a.pth out.ckpt --names tim", "timm"),
        ("predict --checkpoint a data --format jsn", "json"),
        ("preprocess a --output b --interpolation bilinar", "bilinear"),
        ("train data --opt adamx", "adam"),
        ("train data --sched cosin", "cosine"),
        ("train data --padding symetric", "symmetric"),
        ("train data --aa imagnet", "imagenet"),
        ("train data --aa rnd-m9", "rand"),
        ("train data --class-weights balancd", "balanced"),
        ("train data --eval-metric top-1", "top1"),
        ("train data --cache dsk", "disk"),
        ("train data --nan-action stopp", "stop"),
        ("train data --log-format jsno", "json"),
        ("train data --recipe mobilenet_v2/papr", "mobilenet_v2/paper"),
        ("train data --freeze classifer", "classifier"),
        ("data check data --val-split vall", "val"),
        ("data check data --write-quarantine --quarantine leeks", "leaks"),
    ] {
        let output = place.run(&words.split(' ').collect::<Vec<_>>());
        let fault = unlike(&output, 2, &[&format!("{near}`?")])
            .and(unlike(&output, 2, &[&format!("'{near}'")]))
            .and(unlike(&output, 3, &[&format!("{near}`?")]));
        faults.extend(fault.map(|fault| format!("{words}: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(!place.path("checkpoints").exists());
}

/// A name that promises another format, a device where a file is read, a number that is negative.
#[test]
fn files_of_other_kinds_are_refused_before_any_work() {
    let place = TestFolder::new("kinds");
    let checkpoint = ["predict", "data", "--checkpoint", "/dev/zero"];
    for (words, exit, message) in [
        (
            &["data", "preview", "data", "--output", "a.jpg"][..],
            2,
            "a.jpg: expected a name ending in .png",
        ),
        (
            &["train", "data", "--dry-run", "--dry-run-plot", "a.png"],
            2,
            "a.png: expected a name ending in .svg",
        ),
        (
            &["profile", "mobilenet_v2", "--svg", "a.csv"],
            2,
            "a.csv: expected a name ending in .svg",
        ),
        (&["lr-find", "data", "--csv", "a.svg"], 2, "a.svg"),
        (
            &["train", "data", "--config", "/dev/zero"],
            2,
            "/dev/zero: the configuration: cannot read it: a device",
        ),
        (
            &["train", "data", "--config", "data"],
            2,
            "data: the configuration: cannot read it: a folder",
        ),
        (
            &["train", "data", "--pretrained-path", "/dev/zero"],
            6,
            "/dev/zero: a device, not a file",
        ),
        (&["inspect", "/dev/zero"], 6, "/dev/zero: cannot read it: a device, not a file"),
        (&checkpoint, 6, "/dev/zero: cannot read it: a device, not a file"),
        (&["replay", "/dev/zero"], 8, "a device, not a file"),
        (
            &["forward", "--model", "mobilenet_v2", "--input", "/dev/zero", "--output", "b"],
            3,
            "a device, not a file",
        ),
        (&["convert", "/dev/zero", "a.ckpt", "--model", "mobilenet_v2"], 6, "a device, not a file"),
        (&["preprocess", "/dev/zero", "--output", "b"], 3, "a device, not a file"),
        (&["explain", "convolution", "--kernel", "-1"], 2, "-1"),
        (
            &["preprocess", "data/val/bag/0000.png", "--output", "b", "--std", "1", "-1", "1"],
            2,
            "preprocess.std: -1",
        ),
    ] {
        refused(&place.run(words), exit, &[message]);
    }
    let mut names: Vec<_> =
        std::fs::read_dir(place.path(".")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data"], "nothing is left behind");
    let words = ["preprocess", "data/val/bag/0000.png", "--mean", "-0.5", "0", "0", "--output"];
    for name in ["a.safetensors", "b.safetensors"] {
        assert_eq!(code(&place.run(&[&words[..], &[name]].concat())), 0);
    }
    let bytes = |name: &str| std::fs::read(place.path(name)).unwrap();
    assert!(bytes("a.safetensors") == bytes("b.safetensors"), "the same file each time");
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
    // Names that the help does not list, because they are many.
    let large = complete("kindling train --model mobilenet_v3_l", "mobilenet_v3_l");
    assert!(large.starts_with("mobilenet_v3_large\n"), "{large}");
    assert_eq!(complete("kindling summary xception4", "xception4"), "xception41\n");
    let recipe = complete("kindling train --recipe googl", "googl");
    assert_eq!(recipe, "googlenet/paper\n");
    let help = text(&place.run(&["train", "--help"]));
    assert!(!help.contains("mobilenet_v3_large_reduced_tail"), "the help stays short");
}

/// Mutations caught: options of the long help alone without their text.
#[test]
fn every_subcommand_has_a_manual_page() {
    let place = TestFolder::new("man");
    text(&place.run(&["man", "pages"]));
    let page =
        |name: &str| std::fs::read_to_string(place.path(&format!("pages/{name}.1"))).unwrap();
    for name in ["kindling", "kindling-eval", "kindling-lr-find", "kindling-data-check"] {
        assert!(page(name).contains(".SH SYNOPSIS"), "{name}");
    }
    // Every option has its text, those too that the short help hides.
    for (path, command) in commands() {
        let text = page(&[&["kindling".to_owned()], &path[..]].concat().join("-"));
        let text = text.replace("\\-", "-");
        for argument in command.get_arguments() {
            let Some(help) = argument.get_help().map(ToString::to_string) else { continue };
            let first = help
                .split(|c: char| !c.is_alphanumeric())
                .find(|word| word.len() > 3)
                .unwrap_or_default();
            let after = argument.get_long().and_then(|name| {
                let flag = format!("\\fB--{name}\\fR");
                text.split(&flag).last().map(|rest| rest.lines().take(3).collect::<String>())
            });
            assert!(after.is_none_or(|rest| rest.contains(first)), "{path:?}: no text: {help}");
        }
    }
    let train = page("kindling-train");
    for word in ["\\-\\-lr\\-noise\\-pct", "\\-\\-threads", "range: 0 to 1"] {
        assert!(train.contains(word), "{word}");
    }
    std::fs::write(place.path("file"), b"").unwrap();
    assert_eq!(code(&place.run(&["man", "file"])), 8);
}

/// Every flag that people know from timm, torchvision and Ultralytics, typed as they type it.
///
/// Mutations caught, each alone: a renamed flag whose name does not exist; the value of a flag
/// without meaning kept.
#[test]
fn a_hundred_flags_of_other_trainers_are_answered() {
    use std::ffi::OsString;
    use train::foreign_flags::{Answer, FLAGS, translate};

    let mut wrong = Vec::new();
    for flag in FLAGS {
        // What another flag has to stand beside.
        let before: &[&str] = match flag.name {
            "--data-dir" | "--data-path" | "--data" => &[],
            "--no-resume-opt" => &["data", "--resume"],
            _ => &["data"],
        };
        let words: Vec<OsString> = before
            .iter()
            .copied()
            .chain(std::iter::once(flag.name))
            .chain(flag.value.split(' ').filter(|word| !word.is_empty()))
            .map(OsString::from)
            .collect();
        let parses = |words: &[OsString]| {
            let words =
                ["kindling", "train"].iter().map(OsString::from).chain(words.iter().cloned());
            train::cli::command().try_get_matches_from(words).err().map(|error| error.to_string())
        };
        let translated = translate(&words);
        let fault = match (flag.answer, &translated) {
            (Answer::Taken | Answer::Renamed(_), Ok(translated)) => {
                let silent = translated.notes.is_empty();
                if silent { parses(&translated.words) } else { Some("a note".to_owned()) }
            }
            (Answer::Nothing(_), Ok(translated)) => match translated.notes.len() {
                1 => parses(&translated.words),
                _ => Some("no note".to_owned()),
            },
            (Answer::Refused(why), Err(said)) => {
                let unknown = parses(&words).is_some();
                let told = said.contains(flag.name) && said.len() > flag.name.len() + 12;
                (!unknown || !told || why.ends_with('.'))
                    .then(|| format!("{said}, known: {}", !unknown))
            }
            other => Some(format!("{other:?}")),
        };
        wrong.extend(fault.map(|fault| format!("{}: {fault}", flag.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn flags_of_other_trainers_reach_the_program() {
    let place = TestFolder::new("foreign");
    refused(
        &place.run(&["train", "data", "--device", "cuda"]),
        2,
        &["--device: --backend ndarray, flex or wgpu"],
    );
    refused(
        &place.run(&["train", "data=data", "epochs=10", "imgsz=96"]),
        2,
        &["kindling train data --epochs 10 --imgsz 96"],
    );
    let words = ["--pin-mem", "--batch", "4", "--dry-run", "--img-size", "32"];
    let output = place.run(&[&["--threads", "1", "train", "data"], &words[..]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(error(&output).contains("note: --pin-mem: there is no copy"), "{}", error(&output));
}
