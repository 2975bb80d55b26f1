//! The program as its users run it: it learns, resumes to the bit after SIGKILL, evaluates,
//! predicts, and meets every mistake with one sentence and an exit code.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Output;

use test_folder::{TestFolder, code, error, refused, unlike};
use train::run::checkpoint::Checkpoint;

#[test]
fn it_learns_and_the_checkpoint_alone_evaluates_and_predicts() {
    let place = TestFolder::new("learns");
    let output = place.train(
        "r",
        &["--epochs", "12", "--bn-momentum", "0.1", "--lr", "0.005", "--scale", "0.9", "1"],
    );
    assert_eq!(code(&output), 0, "{}", error(&output));
    for backend in ["flex", "ndarray"] {
        let words =
            ["eval", "--checkpoint", "out/train/r/last.ckpt", "--json", "--backend", backend];
        let output = place.run(&words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["pictures"], 15);
        assert!(report["top1"].as_f64().unwrap() > 60.0, "chance is 1/3: {report:#}");
    }
    let words = [
        "predict",
        "--checkpoint",
        "out/train/r/last.ckpt",
        "data/val",
        "--format",
        "csv",
        "--topk",
        "2",
        "--backend",
        "flex",
    ];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1 + 2 * 15);
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 12);
}

/// Mutations caught: each of: numbers of at least 1 not checked, ranges not checked, NaN taken for
/// a number, words without the word they need let through, no near name told, a frozen trunk of
/// random weights let through.
#[test]
fn mistakes_on_the_command_line_are_told() {
    let place = TestFolder::new("flags");
    let mut faults = Vec::new();
    let mut check = |more: &[&str], words: &[&str]| {
        let fault = unlike(&place.train("x", more), 2, words);
        faults.extend(fault.map(|fault| format!("{more:?}: {fault}")));
    };
    check(&["--lrr", "1"], &["--lrr", "--lr"]);
    check(&["--batch-size", "0"], &["--batch-size", "1 to 1048576"]);
    check(&["--val-batch-size", "0"], &["--val-batch-size"]);
    check(&["--epochs", "0"], &["--epochs"]);
    check(&["--workers", "0"], &["--workers"]);
    check(&["--grad-accum-steps", "0"], &["--grad-accum-steps"]);
    check(&["--lr", "nan"], &["--lr"]);
    check(&["--lr", "fast"], &["fast"]);
    check(&["--drop", "1.5"], &["--drop", "0.999"]);
    check(&["--img-size", "8"], &["--img-size", "16"]);
    check(&["--width", "0"], &["--width"]);
    check(&["--std", "0", "1", "1"], &["std"]);
    check(&["--model", "mobilenet_v3_larg"], &["did you mean `mobilenet_v3_large`"]);
    check(&["--opt", "adamx"], &["adamw"]);
    check(&["--backend", "cuda"], &["flex"]);
    check(&["--freeze", "feature"], &["matches no weight", "`features`"]);
    for random in [&["--freeze", "trunk"][..], &["--linear-probe"], &["--unfreeze-epoch", "1"]] {
        check(random, &[random[0], "no trained weights", "--pretrained"]);
    }
    check(&["--class-weights", "nofile"], &["--class-weights", "nofile", "balanced"]);
    check(&["--bce-sum"], &["--bce-loss"]);
    check(&["--sched", "multistep"], &["--decay-milestones"]);
    check(&["--swa-lr", "0.1"], &["--swa-start"]);
    check(&["--swa-start", "1", "--swa-anneal-epochs", "2"], &["--swa-lr"]);
    check(&["--cycle-momentum"], &["--sched onecycle"]);
    check(&["--model-ema-warmup", "tim"], &["timm", "tensorflow"]);
    check(&["--aa", "augmix-s11"], &["s11", "1 to 10"]);
    check(&["--clip-mode", "l2"], &["agc"]);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(!place.path("out").exists(), "a refused run leaves nothing behind");
}

/// Mutations caught: no near name told, and with an unknown word taken for none.
#[test]
fn mistakes_in_a_configuration_are_told_with_a_suggestion() {
    let place = TestFolder::new("config");
    let mut faults = Vec::new();
    let mut check = |text: &str, words: &[&str]| {
        std::fs::write(place.path("c.toml"), text).unwrap();
        // What is not refused after all ends soon.
        let soon = ["--img-size", "32", "--max-hours", "0.0001", "--backend", "flex"];
        let given = ["train", "data", "--config", "c.toml"];
        let fault = unlike(&place.run(&[&given[..], &soon].concat()), 2, words);
        faults.extend(fault.map(|fault| format!("{text}: {fault}")));
    };
    check("epochs = 3\nbatch_sise = 4\n", &["c.toml", "line 2", "did you mean `batch_size`"]);
    check("epochs = \"three\"\n", &["c.toml", "line 1"]);
    check("lr = nan\n", &["c.toml", "lr"]);
    check("epochs = = 3\n", &["c.toml", "line 1"]);
    check("model = \"resnet50\"\n", &["resnet50"]);
    check("model_ema_warmup = \"tim\"\n", &["c.toml", "line 1", "timm, tensorflow or none"]);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let output = place.run(&["train", "data", "--config", "none.toml"]);
    refused(&output, 2, &["none.toml"]);
}

#[test]
fn faults_of_the_data_are_told() {
    let place = TestFolder::new("data");
    let run = |words: &[&str]| refused(&place.train("x", &[]), 3, words);
    let val = place.path("data/val");
    std::fs::rename(&val, place.path("away")).unwrap();
    std::fs::create_dir_all(place.path("data/val/hat")).unwrap();
    std::fs::copy(place.path("away/bag/0000.png"), place.path("data/val/hat/0.png")).unwrap();
    run(&["hat", "class"]);
    std::fs::remove_dir_all(&val).unwrap();
    std::fs::create_dir_all(&val).unwrap();
    std::fs::copy(place.path("away/bag/0000.png"), val.join("ILSVRC2012_val_1.png")).unwrap();
    run(&["ILSVRC", "class folders"]);
    std::fs::remove_dir_all(&val).unwrap();
    std::fs::rename(place.path("away"), &val).unwrap();
    std::fs::create_dir_all(place.path("data/train/hat")).unwrap();
    run(&["hat", "no image"]);
    std::fs::remove_dir_all(place.path("data/train")).unwrap();
    run(&["it has a folder `val` and no `train`"]);
    refused(&place.run(&["train", "nowhere"]), 3, &["nowhere", "no such folder"]);
}

#[test]
fn an_unreadable_image_is_named_and_skipped_or_fatal() {
    let place = TestFolder::new("image");
    std::fs::write(place.path("data/train/bag/0003.png"), b"no image").unwrap();
    std::fs::write(place.path("data/train/bag/0004.png"), b"").unwrap();
    let output = place.train("lenient", &["--drop", "0"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let skipped = std::fs::read_to_string(place.path("out/train/lenient/skipped.txt")).unwrap();
    assert!(skipped.contains("0003.png") && skipped.contains("0004.png"), "{skipped}");
    refused(&place.train("strict", &["--strict-data"]), 3, &["bag", ".png"]);
}

#[test]
fn a_broken_checkpoint_is_refused_in_words() {
    let place = TestFolder::new("checkpoint");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let good = std::fs::read(place.checkpoint("r")).unwrap();
    let check = |bytes: &[u8], words: &[&str]| {
        std::fs::write(place.path("bad.ckpt"), bytes).unwrap();
        refused(&place.run(&["inspect", "bad.ckpt"]), 6, words);
        refused(&place.run(&["train", "--resume", "bad.ckpt"]), 6, words);
    };
    check(&good[..good.len() / 2], &["bad.ckpt", "truncated"]);
    check(&good[..100], &["bad.ckpt", "truncated"]);
    check(b"", &["bad.ckpt"]);
    check(b"PK\x03\x04 something else", &["bad.ckpt", "not a Kindling checkpoint"]);
    let mut flipped = good.clone();
    let last = flipped.len() - 1000;
    flipped[last] ^= 4;
    check(&flipped, &["tensors were altered"]);
    let manifest = good.windows(8).position(|w| w == b"manifest").unwrap();
    let mut flipped = good.clone();
    let digit = good[manifest..].iter().position(|b| *b == b'4').unwrap() + manifest;
    flipped[digit] = b'5';
    check(&flipped, &["bad.ckpt"]);
    refused(&place.run(&["train", "--resume", "nowhere"]), 6, &["nowhere", "no checkpoint"]);
    refused(&place.run(&["train", "--resume", "--output", "empty"]), 6, &["no run to resume"]);
    let again = place.run(&["train", "--resume", "out/train/r", "--lr", "0.5"]);
    refused(&again, 2, &["--lr", "--pretrained-path"]);
    std::fs::remove_file(place.path("data/train/bag/0001.png")).unwrap();
    let again = place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]);
    refused(&again, 3, &["changed since the run began", "36", "35"]);
    // Other classes: exact loading is refused, fine-tuning keeps the trunk and says so.
    std::fs::remove_dir_all(place.path("data/train/sandal")).unwrap();
    std::fs::remove_dir_all(place.path("data/val/sandal")).unwrap();
    let again = place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]);
    refused(&again, 3, &["2 classes", "3", "`sandal` is missing"]);
    let tuned = place.train("t", &["--epochs", "1", "--pretrained-path", "out/train/r/last.ckpt"]);
    assert_eq!(code(&tuned), 0, "{}", error(&tuned));
    assert!(String::from_utf8_lossy(&tuned.stdout).contains("classifier.3.weight"));
}

#[test]
fn a_diverging_run_stops_before_the_weights_are_spoilt() {
    let place = TestFolder::new("diverges");
    let words = ["--opt", "sgd", "--lr", "100", "--warmup-epochs", "0", "--epochs", "40"];
    // A run that went on for ever would end by its time.
    let output = place.train("d", &[&words[..], &["--max-hours", "0.01"]].concat());
    refused(&output, 5, &["not finite", "--lr"]);
    if let Ok(checkpoint) = Checkpoint::read(&place.checkpoint("d")) {
        assert!(checkpoint.weights.iter().all(|t| t.values.iter().all(|v| v.is_finite())));
    }
}

#[test]
fn an_output_that_cannot_be_written_is_told() {
    let place = TestFolder::new("output");
    std::fs::write(place.path("file"), b"").unwrap();
    refused(&place.train("x", &["--output", "file"]), 8, &["file", "cannot make the folder"]);
}

/// wgpu on whatever adapter there is (lavapipe in CI) against flex: the same evaluation.
#[test]
fn wgpu_evaluates_like_flex_or_says_that_there_is_no_adapter() {
    let place = TestFolder::new("wgpu");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let eval = |backend: &str| {
        place.run(&[
            "eval",
            "--checkpoint",
            "out/train/r/last.ckpt",
            "--json",
            "--backend",
            backend,
        ])
    };
    let loss = |output: &Output| {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["loss"].as_f64().unwrap()
    };
    let (flex, wgpu) = (eval("flex"), eval("wgpu"));
    assert_eq!(code(&wgpu), 0, "install mesa-vulkan-drivers: {}", error(&wgpu));
    assert!((loss(&flex) - loss(&wgpu)).abs() < 1e-4, "{} {}", loss(&flex), loss(&wgpu));
    let hidden = place
        .command(&["train", "data", "--output", "out", "--experiment", "none", "--backend", "wgpu"])
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
        .output()
        .unwrap();
    refused(&hidden, 7, &["no graphics adapter", "--backend flex"]);
    assert!(!place.path("out/train/none").exists());
}
