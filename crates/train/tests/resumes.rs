//! A run that is killed resumes to the same bits. A run that is asked to stop saves first. A run
//! that cannot write says so and leaves the old files untouched.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::{Command, Stdio};
use std::time::Duration;

use nn::weights::NamedTensor;
use test_folder::{SMALL, TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

/// Compares a run that is killed at any step and resumed with an uninterrupted one: weights,
/// running statistics, averages and the optimizer's state.
///
/// Mutations caught: the optimizer's steps not read (adam, adamw, lamb, muon), its buffers not read
/// (sgd, momentum, lion), the plateau not read (rmsprop), the average's count not read (adamw,
/// rmsproptf).
fn killed_and_resumed(opt: &str, flags: &[&str]) {
    let place = TestFolder::new(&format!("resume-{opt}{}", flags[0]));
    let flags = [&["--opt", opt, "--checkpoint-interval-steps", "1"], flags].concat();
    let output = place.train("whole", &flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let name = ["--experiment", "cut"];
    let mut child =
        place.command(&[&SMALL[..], &name, &flags].concat()).stdout(Stdio::null()).spawn().unwrap();
    // SIGKILL at any step after the first checkpoint.
    while !place.checkpoint("cut").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(u64::from(child.id()) % 150));
    child.kill().unwrap();
    child.wait().unwrap();
    let output = place.run(&["train", "--resume", "out/train/cut"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let a = Checkpoint::read(&place.checkpoint("whole")).unwrap();
    let b = Checkpoint::read(&place.checkpoint("cut")).unwrap();
    let averaged = flags.iter().any(|flag| ["--model-ema", "--swa-start"].contains(flag));
    assert_eq!(a.averages.is_empty(), !averaged, "{opt}");
    same_bits(&a, &b, opt);
}

#[test]
fn adamw_with_an_average_resumes() {
    killed_and_resumed("adamw", &["--model-ema", "--model-ema-decay", "0.9"]);
}

#[test]
fn sgd_with_accumulation_resumes() {
    killed_and_resumed("sgd", &["--grad-accum-steps", "2"]);
}

/// Mutations caught: the momentum computed from the steps since the resume.
#[test]
fn adam_with_a_momentum_that_cycles_resumes() {
    killed_and_resumed("adam", &["--sched", "onecycle", "--epochs", "3"]);
}

#[test]
fn rmsprop_on_a_plateau_resumes() {
    let rate = ["--sched", "plateau", "--patience-epochs", "0", "--decay-rate", "0.5"];
    killed_and_resumed("rmsprop", &[&rate[..], &["--epochs", "4"]].concat());
}

#[test]
fn rmsproptf_with_a_warmed_average_resumes() {
    let average = ["--model-ema", "--model-ema-warmup", "timm"];
    killed_and_resumed("rmsproptf", &[&average[..], &["--grad-accum-steps", "2"]].concat());
}

#[test]
fn lamb_with_noise_resumes() {
    killed_and_resumed(
        "lamb",
        &["--lr-noise", "0", "1", "--clip-grad", "0.5", "--balanced-sampling"],
    );
}

#[test]
fn lion_with_equal_averages_resumes() {
    let swa = ["--swa-start", "1", "--swa-lr", "0.001", "--swa-anneal-epochs", "2"];
    killed_and_resumed("lion", &[&swa[..], &["--epochs", "4"]].concat());
}

#[test]
fn muon_with_frozen_layers_resumes() {
    killed_and_resumed("muon", &["--freeze", "features.0", "features.1"]);
}

/// The trunk keeps its weights until it is unfrozen, and the run resumes on either side of it.
///
/// Mutations caught: never unfrozen; the classifier's optimizer state kept for other weights.
#[test]
fn adamw_with_a_trunk_that_is_unfrozen_resumes() {
    let place = TestFolder::new("unfreeze");
    assert_eq!(code(&place.train("first", &[])), 0);
    let first = place.checkpoint("first");
    let first = ["--pretrained-path", first.to_str().unwrap()];
    let freed = ["--unfreeze-epoch", "1", "--layer-decay", "0.75"];
    killed_and_resumed("adamw", &[&freed[..], &first].concat());
    let train = |run: &str, more: &[&str]| {
        let output = place.train(run, &[&first[..], &["--checkpoint-hist", "2"], more].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
    };
    train("held", &["--freeze", "trunk"]);
    train("freed", &["--unfreeze-epoch", "1"]);
    let weights = |name: &str| {
        let checkpoint = Checkpoint::read(&place.path(&format!("out/train/{name}"))).unwrap();
        let stem = |tensor: &NamedTensor| tensor.name == "features.0.0.weight";
        checkpoint.weights.into_iter().find(stem).unwrap().values
    };
    let held = weights("held/last.ckpt");
    let begun = Checkpoint::read(&place.path("out/train/freed/checkpoint-0.ckpt")).unwrap();
    assert!(begun.optimizer.is_empty(), "an optimizer that begins anew");
    assert!(weights("freed/checkpoint-0.ckpt") == held, "frozen in the first epoch");
    assert!(weights("freed/last.ckpt") != held, "trained in the second epoch");
    let both = ["--unfreeze-epoch", "1", "--linear-probe"];
    refused(&place.train("x", &both), 2, &["--unfreeze-epoch", "omit one of them"]);
}

/// The last block is trained before the stem, and the run resumes between the two.
///
/// Mutations caught, each alone: the stem first; all blocks unfrozen with the first of them.
#[test]
fn adamw_with_blocks_that_are_unfrozen_in_turn_resumes() {
    let place = TestFolder::new("in-turn");
    assert_eq!(code(&place.train("first", &[])), 0);
    let first = place.checkpoint("first");
    let turns = ["--unfreeze-over", "3", "--unfreeze-epoch", "1", "--epochs", "4"];
    let first = ["--pretrained-path", first.to_str().unwrap()];
    killed_and_resumed("adamw", &[&turns[..], &first].concat());
    let more = ["--checkpoint-hist", "4"];
    let output = place.train("turns", &[&turns[..], &first, &more].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let weights = |epoch: usize, name: &str| {
        let path = place.path(&format!("out/train/turns/checkpoint-{epoch}.ckpt"));
        let checkpoint = Checkpoint::read(&path).unwrap();
        checkpoint.weights.into_iter().find(|tensor| tensor.name == name).unwrap().values
    };
    // V3-Small has 14 groups of layers: stem, twelve blocks, and what follows them.
    let epochs = |name: &str| -> Vec<bool> {
        (1..4).map(|epoch| weights(epoch - 1, name) != weights(epoch, name)).collect()
    };
    assert_eq!(epochs("features.11.block.0.0.weight"), [true, true, true]);
    assert_eq!(epochs("features.7.block.0.0.weight"), [false, true, true]);
    assert_eq!(epochs("features.0.0.weight"), [false, false, true]);
    let alone = ["--unfreeze-over", "3"];
    refused(&place.train("x", &alone), 2, &["--unfreeze-over", "--unfreeze-epoch"]);
}

#[test]
fn momentum_with_adaptive_clipping_resumes() {
    let clip = ["--clip-grad", "0.1", "--clip-mode", "agc"];
    killed_and_resumed("momentum", &[&["--layer-decay", "0.8"], &clip[..]].concat());
}

/// Weights, running statistics and optimizer state.
#[track_caller]
fn same_bits(a: &Checkpoint, b: &Checkpoint, what: &str) {
    assert_eq!(a.manifest.position, b.manifest.position, "{what}");
    assert_eq!(a.manifest.best, b.manifest.best, "{what}");
    assert_eq!(a.weights.len(), b.weights.len(), "{what}");
    let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
    for (x, y) in a.weights.iter().zip(&b.weights) {
        assert_eq!(bits(&x.values), bits(&y.values), "{what}: {}", x.name);
    }
    assert_eq!(a.averages.len(), b.averages.len(), "{what}");
    for (x, y) in a.averages.iter().zip(&b.averages) {
        assert_eq!((&x.name, bits(&x.values)), (&y.name, bits(&y.values)), "{what}");
    }
    let counts = |c: &Checkpoint| (c.manifest.ema_updates, c.manifest.swa_epochs);
    assert_eq!(counts(a), counts(b), "{what}");
    assert_eq!(a.manifest.plateau, b.manifest.plateau, "{what}");
    assert_eq!(a.manifest.nan_guard, b.manifest.nan_guard, "{what}");
    assert_eq!(a.optimizer.len(), b.optimizer.len(), "{what}");
    for (x, y) in a.optimizer.iter().zip(&b.optimizer) {
        assert_eq!((&x.name, bits(&x.values)), (&y.name, bits(&y.values)), "{what}");
    }
}

#[test]
fn sigterm_saves_and_says_so_with_its_own_code() {
    let place = TestFolder::new("signal");
    let mut child = place
        .command(&[&SMALL[..], &["--experiment", "s", "--epochs", "500"]].concat())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !place.checkpoint("s").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    Checkpoint::read(&place.checkpoint("s")).unwrap();
}

/// The run is cut after every step, on both CPU backends: it ends by itself after each step
/// (`--max-hours` of nearly nothing) and is resumed until it is done.
#[test]
fn a_run_cut_at_every_step_ends_in_the_same_bits() {
    let place = TestFolder::new("cut");
    for backend in ["flex", "ndarray"] {
        let flags = ["--backend", backend, "--epochs", "1", "--model-ema", "--opt", "rmsproptf"];
        let (whole, cut) = (format!("whole-{backend}"), format!("cut-{backend}"));
        assert_eq!(code(&place.train(&whole, &flags)), 0);
        let out_of_time = ["--max-hours", "0.0000000001"];
        let output = place.train(&cut, &[&flags[..], &out_of_time].concat());
        assert_eq!(code(&output), 4, "{}", error(&output));
        let folder = format!("out/train/{cut}");
        let mut cuts = 1;
        loop {
            let output = place.run(&["train", "--resume", &folder]);
            match code(&output) {
                0 => break,
                4 => cuts += 1,
                other => panic!("exit {other}: {}", error(&output)),
            }
            assert!(cuts < 50, "the run does not get on");
        }
        assert!(cuts >= 8, "{cuts} cuts for 9 steps");
        let a = Checkpoint::read(&place.checkpoint(&whole)).unwrap();
        let b = Checkpoint::read(&place.checkpoint(&cut)).unwrap();
        same_bits(&a, &b, backend);
        // No step is written twice, wherever the run was cut.
        let steps = std::fs::read_to_string(place.path(&format!("{folder}/steps.jsonl"))).unwrap();
        let mut lines: Vec<&str> = steps.lines().collect();
        let count = lines.len();
        lines.dedup();
        assert_eq!(lines.len(), count);
        let facts = std::fs::read_to_string(place.path(&format!("{folder}/run.json"))).unwrap();
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        assert_eq!(facts["resumes"].as_array().unwrap().len(), cuts);
    }
}

/// The run is resumed at every step, also after epochs that are averaged.
///
/// Mutations caught: the count of averaged epochs not read.
#[test]
fn equal_averages_resume_at_every_step() {
    let place = TestFolder::new("equal");
    let flags = ["--opt", "lion", "--swa-start", "0", "--swa-lr", "0.001", "--epochs", "3"];
    let flags = [&flags[..], &["--batch-size", "12"]].concat();
    assert_eq!(code(&place.train("whole", &flags)), 0);
    let mut last = place.train("cut", &[&flags[..], &["--max-hours", "0.0000000001"]].concat());
    for _ in 0..20 {
        if code(&last) != 4 {
            break;
        }
        last = place.run(&["train", "--resume", "out/train/cut"]);
    }
    assert_eq!(code(&last), 0, "{}", error(&last));
    let read = |run: &str| Checkpoint::read(&place.checkpoint(run)).unwrap();
    let (a, b) = (read("whole"), read("cut"));
    assert!(a.manifest.position.epoch == 3 && !b.weights.is_empty());
    let swa = |run: &str| {
        let file = place.path(&format!("out/train/{run}/model_swa.ckpt"));
        Checkpoint::read(&file).unwrap()
    };
    same_bits(&swa("whole"), &swa("cut"), "swa");
    same_bits(&a, &b, "lion");
}

/// A limit on file sizes simulates a full disk: writing fails in the middle of a checkpoint.
///
/// Mutations caught: SIGXFSZ left to its default, which ends the process.
#[test]
fn a_full_disk_is_told_and_the_checkpoint_before_it_stays_whole() {
    let place = TestFolder::new("full");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let before = std::fs::read(place.checkpoint("r")).unwrap();
    // With the signal ignored, and with the signal's default, which ends a process.
    for script in ["trap '' XFSZ; ulimit -f 200; exec \"$@\"", "ulimit -f 200; exec \"$@\""] {
        let output = Command::new("sh")
            .args(["-c", script, "sh", env!("CARGO_BIN_EXE_kindling")])
            .args(["train", "--resume", "out/train/r", "--epochs", "2"])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        refused(&output, 8, &["last.ckpt", "cannot write", "make room"]);
    }
    assert_eq!(std::fs::read(place.checkpoint("r")).unwrap(), before);
    let left = std::fs::read_dir(place.path("out/train/r")).unwrap();
    for entry in left {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().ends_with(".tmp"), "{name:?} was left behind");
    }
}

#[test]
fn a_resumed_run_may_leave_its_optimizer_behind() {
    let place = TestFolder::new("fresh");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let again = ["train", "--resume", "out/train/r", "--epochs", "2", "--no-resume-opt"];
    let output = place.run(&again);
    assert_eq!(code(&output), 0, "{}", error(&output));
    refused(&place.train("x", &["--no-resume-opt"]), 2, &["--resume"]);
}
