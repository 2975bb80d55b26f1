//! Training with 16-bit maps on a GPU: near training with 32 bits, and steps whose gradients
//! overflow lower the loss scale and never reach the weights.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused, said};
use train::learner::nan_guard::LossScale;
use train::run::checkpoint::Checkpoint;

const GPU: [&str; 2] = ["--backend", "wgpu"];

fn trained(place: &TestFolder, run: &str, more: &[&str]) -> Checkpoint {
    let output = place.train(run, &[&GPU[..], more].concat());
    assert_eq!(code(&output), 0, "install mesa-vulkan-drivers: {}", error(&output));
    Checkpoint::read(&place.checkpoint(run)).unwrap()
}

fn epoch_loss(place: &TestFolder, run: &str) -> f64 {
    let text =
        std::fs::read_to_string(place.path(&format!("out/train/{run}/summary.csv"))).unwrap();
    let mut lines = text.lines();
    let column = lines.next().unwrap().split(',').position(|name| name == "train_loss").unwrap();
    lines.next().unwrap().split(',').nth(column).unwrap().parse().unwrap()
}

/// Mutations caught, each alone: the loss scale left in the gradients; no scale; maps of 32 bits.
#[test]
fn sixteen_bits_train_as_thirty_two_do_and_overflow_lowers_the_scale() {
    let place = TestFolder::new("amp");
    // A rule that does not divide by the gradients' size, which would hide their scale.
    let one = ["--epochs", "1", "--model-ema", "--opt", "sgd", "--lr", "0.05"];
    let whole = trained(&place, "whole", &one);
    let half = trained(&place, "half", &[&one[..], &["--amp"]].concat());
    assert_eq!(whole.manifest.nan_guard.loss_scale, None);
    let scale = half.manifest.nan_guard.loss_scale.expect("a loss scale");
    assert!(scale.finite_steps > 0 && scale.scale > 1024.0, "{scale:?}");
    let losses = ["whole", "half"].map(|run| epoch_loss(&place, run));
    assert!((losses[0] - losses[1]).abs() < 0.02 * losses[0], "{losses:?}");
    assert_ne!(losses[0], losses[1], "maps of 32 bits");
    // A scale with which every gradient overflows 16 bits.
    let mut checkpoint = Checkpoint::read(&place.checkpoint("half")).unwrap();
    checkpoint.manifest.nan_guard.loss_scale =
        Some(LossScale { scale: 16_777_216.0, finite_steps: 0 });
    let path = place.path("mad.ckpt");
    checkpoint.write(&path).unwrap();
    let folder = place.path("out/train/half");
    std::fs::rename(&path, folder.join("last.ckpt")).unwrap();
    let words = ["train", "--resume", folder.to_str().unwrap(), "--epochs", "3"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output) + &error(&output);
    assert!(text.contains("gradients of 16-bit maps overflow; step skipped, loss scale 8388608"));
    let after = Checkpoint::read(&place.checkpoint("half")).unwrap();
    let scale = after.manifest.nan_guard.loss_scale.unwrap().scale;
    assert!((1.0..8_388_608.0).contains(&scale), "{scale}: {text}");
    assert_eq!(after.manifest.nan_guard.non_finite_steps, 0, "an overflow is no fault");
    for tensor in after.weights.iter().chain(&after.averages) {
        assert!(tensor.values.iter().all(|v| v.is_finite()), "{}", tensor.name);
    }
}

#[test]
fn a_cpu_has_no_16_bit_maps() {
    let place = TestFolder::new("amp-cpu");
    refused(&place.train("r", &["--amp"]), 2, &["--amp", "--backend wgpu"]);
    assert!(!place.path("out").exists(), "nothing is made before the check");
    let words = ["bench", "--model", "mobilenet_v3_small", "--amp", "--backend", "ndarray"];
    refused(&place.run(&words), 2, &["--amp", "ndarray (cpu)"]);
}
