//! The guards of a run: losses that are not finite are skipped, recorded and replayed; a run that
//! cannot be saved ends with its exit code.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Output;

use test_folder::{SMALL, TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

/// One white image among black ones. With so small a standard deviation it overflows the first
/// convolution, and no other batch does. `--scale 1 1` keeps every image whole.
fn one_white_image(place: &TestFolder) -> [&'static str; 14] {
    for split in ["train", "val"] {
        for class in ["bag", "sandal", "trouser"] {
            let folder = place.path(&format!("data/{split}/{class}"));
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                image::GrayImage::new(28, 28).save(path).unwrap();
            }
        }
    }
    let white = image::GrayImage::from_pixel(28, 28, image::Luma([255]));
    white.save(place.path("data/train/sandal/0003.png")).unwrap();
    [
        "--mean",
        "0",
        "0",
        "0",
        "--std",
        "3e-39",
        "3e-39",
        "3e-39",
        "--scale",
        "1",
        "1",
        "--epochs",
        "3",
        "--model-ema",
    ]
}

/// Mutations caught: the statistics restored only for a loss that is not finite. Here the loss is
/// finite and the gradient is not, and statistics, average and evaluation were NaN from then on.
#[test]
fn a_batch_that_overflows_is_skipped_written_down_and_replayed() {
    let place = TestFolder::new("overflow");
    let flags = one_white_image(&place);
    let output = place.train("r", &flags);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("step skipped").count(), 3, "{said}");
    let checkpoint = Checkpoint::read(&place.checkpoint("r")).unwrap();
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    for tensor in checkpoint.weights.iter().chain(&checkpoint.averages) {
        assert!(finite(&tensor.values), "{}: {said}", tensor.name);
    }
    assert!(checkpoint.optimizer.iter().all(|t| finite(&t.values)));
    let manifest = &checkpoint.manifest;
    assert_eq!((manifest.position.step, manifest.optimizer_steps), (27, Some(24)));
    assert_eq!((manifest.ema_updates, manifest.nan_guard.factor), (Some(24), 1.0));
    let steps = std::fs::read_to_string(place.path("out/train/r/steps.jsonl")).unwrap();
    assert!(steps.lines().any(|line| line.contains("\"skipped_steps\":1")), "{steps}");
    let record = std::fs::read_dir(place.path("out/train/r/nan"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|x| x == "json"))
        .unwrap();
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains("sandal/0003.png"), "{text}");
    let output = place.run(&["replay", record.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("gradient    NaN") && said.contains("features.0.0.weight"), "{said}");
    // The run cut short and resumed has the same numbers, those of the guard included.
    let out_of_time = ["--max-hours", "0.0000000001"];
    assert_eq!(code(&place.train("cut", &[&flags[..], &out_of_time].concat())), 4);
    let mut cuts = 0;
    while code(&place.run(&["train", "--resume", "out/train/cut"])) == 4 {
        cuts += 1;
        assert!(cuts < 100, "the run does not get on");
    }
    let other = Checkpoint::read(&place.checkpoint("cut")).unwrap();
    assert_eq!(other.manifest.nan_guard, manifest.nan_guard);
    for (a, b) in other.weights.iter().zip(&checkpoint.weights) {
        assert_eq!(a.values, b.values, "{}", a.name);
    }
}

#[test]
fn a_run_may_stop_at_the_first_batch_that_overflows() {
    let place = TestFolder::new("stop");
    let flags = one_white_image(&place);
    let output = place.train("r", &[&flags[..], &["--nan-action", "stop"]].concat());
    refused(&output, 5, &["not finite", "--lr"]);
}

/// Every batch overflows: the run is rolled back to its checkpoint at lower rates and then stops.
///
/// Mutations caught: the count of rollbacks read from the checkpoint. The run is then rolled back
/// until its time is up.
#[test]
fn a_run_that_stays_not_finite_goes_back_and_then_gives_up() {
    let place = TestFolder::new("givesup");
    assert_eq!(code(&place.train("r", &["--epochs", "1", "--nan-patience", "2"])), 0);
    let path = place.checkpoint("r");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    // Finite, because weights that are not are refused, and every forward pass overflows.
    checkpoint.weights[0].values.fill(f32::MAX);
    checkpoint.write(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let words = ["train", "--resume", "out/train/r", "--epochs", "9", "--max-hours", "0.002"];
    let output = place.run(&words);
    refused(&output, 5, &["not finite", "3 times at a lower rate", "is intact"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.matches("back to the last checkpoint").count(), 3, "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// Every training image overflows, and no step is made: the epochs have no loss, and the run goes
/// on with the weights that it has.
///
/// Mutations caught: the sums of skipped steps left in the epoch's.
#[test]
fn an_epoch_of_skipped_steps_has_no_loss() {
    let place = TestFolder::new("noloss");
    let flags = one_white_image(&place);
    let white = place.path("data/train/sandal/0003.png");
    for class in ["bag", "sandal", "trouser"] {
        for entry in std::fs::read_dir(place.path(&format!("data/train/{class}"))).unwrap() {
            let path = entry.unwrap().path();
            if path != white {
                std::fs::copy(&white, path).unwrap();
            }
        }
    }
    let more = ["--nan-patience", "100", "--log-format", "json", "--log-interval", "1"];
    let output = place.train("r", &[&flags[..], &more, &["--epochs", "1"]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert!(csv.lines().nth(1).unwrap().starts_with("0,,"), "{csv}");
    let steps = std::fs::read_to_string(place.path("out/train/r/steps.jsonl")).unwrap();
    assert_eq!(steps.matches("\"skipped_steps\":9").count(), 1, "{steps}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let epoch = lines.into_iter().find(|line| line.get("train_loss").is_some()).unwrap();
    assert!(epoch["train_loss"].is_null() && epoch["skipped_steps"] == 9, "{epoch}");
    assert_eq!(Checkpoint::read(&place.checkpoint("r")).unwrap().manifest.epoch_stats.seen, 0);
}

/// Running means that overflow in evaluation alone: training on batch statistics stays finite.
fn overflowing_in_evaluation(place: &TestFolder) {
    let mut checkpoint = Checkpoint::read(&place.checkpoint("r")).unwrap();
    for tensor in &mut checkpoint.weights {
        if tensor.name.ends_with("running_mean") {
            tensor.values.fill(f32::MAX);
        }
    }
    checkpoint.write(&place.checkpoint("r")).unwrap();
}

/// Mutations caught: NaN let through as an evaluation.
#[test]
fn an_evaluation_that_is_not_finite_is_never_the_best_and_goes_back() {
    let place = TestFolder::new("evalnan");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    let whole = std::fs::read(place.checkpoint("r")).unwrap();
    let more = ["train", "--resume", "out/train/r", "--epochs", "2"];
    // Back to the checkpoint of the epoch before, whose evaluation was finite.
    overflowing_in_evaluation(&place);
    let output = place.run(&more);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code(&output), 0, "{said}{}", error(&output));
    let back = "of epoch 2 is not finite (NaN): back to out/train/r/checkpoint-0.ckpt, rate times \
                1.000e-1";
    assert_eq!(said.matches(back).count(), 1, "{said}");
    let last = Checkpoint::read(&place.checkpoint("r")).unwrap();
    assert_eq!((last.manifest.position.epoch, last.manifest.nan_guard.rollbacks), (2, 1));
    let csv = std::fs::read_to_string(place.path("out/train/r/summary.csv")).unwrap();
    assert!(csv.lines().count() == 3 && !csv.contains("NaN"), "{csv}");
    // Without such a checkpoint the run has diverged, and stays so when it is resumed.
    std::fs::write(place.checkpoint("r"), &whole).unwrap();
    overflowing_in_evaluation(&place);
    for file in ["model_best.ckpt", "checkpoint-0.ckpt", "checkpoint-1.ckpt"] {
        std::fs::remove_file(place.path(&format!("out/train/r/{file}"))).unwrap();
    }
    for _ in 0..2 {
        refused(&place.run(&more), 5, &["evaluation of epoch 2 is not finite", "--lr"]);
        assert!(!place.path("out/train/r/model_best.ckpt").exists());
    }
}

/// A finite gradient and weights that overflow all the same.
///
/// Mutations caught: a state saved unseen.
#[test]
fn weights_that_overflow_are_not_saved() {
    let place = TestFolder::new("overflown");
    assert_eq!(code(&place.train("r", &["--epochs", "1", "--opt", "sgd"])), 0);
    let path = place.checkpoint("r");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    checkpoint.manifest.plan.optimizer.lr = 100.0;
    checkpoint.optimizer.iter_mut().for_each(|state| state.values.fill(f32::MAX));
    checkpoint.write(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    let more = ["--epochs", "2", "--checkpoint-interval-steps", "1"];
    let output = place.run(&[&["train", "--resume", "out/train/r"], &more[..]].concat());
    refused(&output, 5, &["not all values are finite after step 10", "last.ckpt is intact"]);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

/// A device without memory for a batch: the batch is split. The step stays the same to the bit, but
/// for batch norm, which the smaller batches of the second run share. A resumed run keeps
/// splitting.
///
/// Mutations caught: the statistics of the failed pass not restored; micro-batches not weighted by
/// their size; `micro_batch` not read from the checkpoint.
#[test]
fn a_batch_without_room_is_taken_apart_and_the_step_stays_the_same() {
    let place = TestFolder::new("memory");
    let run = |name: &str, roofs: &str, more: &[&str]| {
        let fixed = ["--drop", "0", "--opt", "sgd", "--batch-size", "12", "--experiment", name];
        let fixed = [&fixed[..], &["--bn-cumulative", "false"]].concat();
        let words = [&SMALL[..], &fixed[..], more].concat();
        place.command(&words).env("KINDLING_TEST_MEMORY", roofs).output().unwrap()
    };
    let said = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let read = |name: &str| Checkpoint::read(&place.checkpoint(name)).unwrap();
    let same = |a: &str, b: &str| {
        let (a, b) = (read(a), read(b));
        for (x, y) in a.weights.iter().zip(&b.weights) {
            assert_eq!(x.values, y.values, "{}", x.name);
        }
        assert_eq!(a.optimizer.len(), b.optimizer.len());
        a.optimizer.iter().zip(&b.optimizer).for_each(|(x, y)| assert!(x.values == y.values));
    };
    let apart = run("apart", "6@1", &[]);
    assert_eq!(code(&apart), 0, "{}", error(&apart));
    assert!(!error(&apart).contains("panicked"), "{}", error(&apart));
    let line = "out of memory at batch 12: going on with 2 micro-batches of 6; batch norm sees 6 \
                images";
    assert_eq!(said(&apart).matches(line).count(), 1, "{}", said(&apart));
    let log = std::fs::read_to_string(place.path("out/train/apart/train.log")).unwrap();
    assert!(log.contains(line), "{log}");
    assert_eq!(read("apart").manifest.micro_batch, Some(6));
    let small = run("small", "", &["--batch-size", "6", "--grad-accum-steps", "2"]);
    assert_eq!(code(&small), 0, "{}", error(&small));
    same("apart", "small");
    // The failure is in the second micro-batch: the statistics of the first one are undone.
    for (name, roofs) in [("first", "6@1,3@4"), ("second", "6@1,3@5")] {
        let output = run(name, roofs, &["--grad-accum-steps", "2"]);
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert_eq!(said(&output).matches("out of memory").count(), 2, "{}", said(&output));
    }
    same("first", "second");
    // The run is cut after its first step and resumed without a memory limit.
    let cut = run("cut", "6@1", &["--max-hours", "0.0000000001"]);
    assert_eq!(code(&cut), 4, "{}", error(&cut));
    let words = ["train", "--resume", "out/train/cut", "--max-hours", "0"];
    let again = place.run(&words);
    assert_eq!(code(&again), 0, "{}", error(&again));
    assert!(!said(&again).contains("out of memory"), "{}", said(&again));
    same("apart", "cut");
    // Not even one image.
    let none = run("none", "0@4", &["--checkpoint-interval-steps", "1"]);
    refused(&none, 7, &["a batch of 1 image of 32x32", "--img-size", "checkpoint is intact"]);
    assert_eq!(said(&none).matches("out of memory").count(), 4, "{}", said(&none));
    assert_eq!(read("none").manifest.position.step, 3);
}

/// The largest address space of a run in kilobytes, as the kernel counts it.
#[cfg(target_os = "linux")]
fn addressed(mut run: std::process::Command) -> u64 {
    use std::process::Stdio;
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        let peak = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
        most = peak.unwrap_or(0).max(most);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    most
}

/// Memory that is really missing, on a CPU: the address space of the process is too small for the
/// whole batch and large enough for a part of it.
///
/// Mutations caught: a plain allocation of activation maps (the process is ended); the graph of the
/// failed pass not freed (every smaller batch fails too).
#[cfg(target_os = "linux")]
#[test]
fn a_batch_that_the_process_has_no_memory_for_is_taken_apart() {
    let place = TestFolder::new("limit");
    let words = |batch: &'static str| {
        let more = ["--model", "mobilenet_v1", "--width", "1.0", "--img-size", "160"];
        let run = ["--batch-size", batch, "--epochs", "1", "--experiment", "less"];
        [&SMALL[..], &more, &run].concat()
    };
    let again = || drop(std::fs::remove_dir_all(place.path("out")));
    let [small, large] = ["2", "32"].map(|batch| {
        again();
        addressed(place.command(&words(batch)))
    });
    assert!(large > small + 400_000, "{small} kB with 2 images, {large} with 32");
    // The whole batch needs less than it takes without a limit: lower the limit until it fails.
    let said =
        (1..20).map(|twentieth| large - (large - small) / 20 * twentieth).find_map(|limit| {
            again();
            let output = std::process::Command::new("sh")
                .args(["-c", &format!("ulimit -v {limit}; exec \"$0\" \"$@\"")])
                .arg(env!("CARGO_BIN_EXE_kindling"))
                .args(words("32"))
                .current_dir(place.path(""))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(code(&output), 0, "{limit} of {large} kB: {said}{}", error(&output));
            assert!(!error(&output).contains("panicked"), "{}", error(&output));
            said.contains("out of memory").then_some(said)
        });
    let said = said.expect("a limit too low for 32 images");
    assert!(
        said.contains("out of memory at batch 32: going on with 2 micro-batches of 16"),
        "{said}"
    );
    let micro = Checkpoint::read(&place.checkpoint("less")).unwrap().manifest.micro_batch;
    assert_eq!(micro, Some(16));
}
