//! Steps on a GPU whose losses are read together: the same weights as with every loss read at once,
//! and a step that is not finite reaches neither weights nor averages nor statistics.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, said};
use train::run::checkpoint::Checkpoint;

/// Statistics that need no mean over the first batches, so that steps are read late soon.
const LATE: [&str; 16] = [
    "--backend",
    "wgpu",
    "--batch-size",
    "2",
    "--bn-momentum",
    "0.5",
    "--epochs",
    "3",
    "--opt",
    "sgd",
    "--lr",
    "0.01",
    "--clip-grad",
    "0.5",
    "--log-interval",
    "50",
];

fn trained(place: &TestFolder, run: &str, more: &[&str]) -> (Checkpoint, String) {
    let output = place.train(run, &[&LATE[..], more].concat());
    assert_eq!(code(&output), 0, "install mesa-vulkan-drivers: {}", error(&output));
    (Checkpoint::read(&place.checkpoint(run)).unwrap(), said(&output) + &error(&output))
}

fn values(checkpoint: &Checkpoint) -> Vec<f32> {
    checkpoint.weights.iter().flat_map(|tensor| tensor.values.clone()).collect()
}

/// Mutations caught, each alone: the limit of the norm not applied on the device; losses of other
/// steps in the epoch's mean.
#[test]
fn steps_read_together_are_the_same_steps() {
    let place = TestFolder::new("late");
    let (late, _) = trained(&place, "late", &["--model-ema"]);
    let (soon, _) = trained(&place, "soon", &["--model-ema", "--log-interval", "1"]);
    assert!(values(&late) == values(&soon), "the same bits");
    assert_eq!(late.averages.len(), soon.averages.len());
    let summary = |run: &str| {
        let text = std::fs::read_to_string(place.path(&format!("out/train/{run}/summary.csv")));
        let text = text.unwrap();
        let loss = |line: &str| line.split(',').nth(1).unwrap().to_owned();
        text.lines().skip(1).map(loss).collect::<Vec<_>>()
    };
    assert_eq!(summary("late"), summary("soon"));
    // Every step read at once, on another device.
    trained(&place, "flex", &["--model-ema", "--backend", "flex"]);
    for (late, flex) in summary("late").iter().zip(summary("flex")) {
        let [late, flex] = [late, &flex].map(|loss| loss.parse::<f64>().unwrap());
        assert!((late - flex).abs() < 2e-3 * flex, "{late} for {flex}");
    }
}

/// Mutations caught, each alone: no guard in the update; none in the running statistics; the step
/// counted by the optimizer.
#[test]
fn a_step_that_is_not_finite_reaches_nothing_before_it_is_read() {
    let place = TestFolder::new("late-nan");
    for split in ["train", "val"] {
        for class in ["bag", "sandal", "trouser"] {
            for entry in std::fs::read_dir(place.path(&format!("data/{split}/{class}"))).unwrap() {
                image::GrayImage::new(28, 28).save(entry.unwrap().path()).unwrap();
            }
        }
    }
    let white = image::GrayImage::from_pixel(28, 28, image::Luma([255]));
    white.save(place.path("data/train/sandal/0003.png")).unwrap();
    // Divided by so small a deviation, white overflows the first convolution.
    let std = "1.2e-38";
    let words =
        ["--mean", "0", "0", "0", "--std", std, std, std, "--scale", "1", "1", "--model-ema"];
    // With this seed the white image comes after ten others in every epoch.
    let words = [&words[..], &["--seed", "3"]].concat();
    let (checkpoint, text) = trained(&place, "r", &words);
    assert_eq!(text.matches("step skipped").count(), 3, "{text}");
    for tensor in checkpoint.weights.iter().chain(&checkpoint.averages) {
        assert!(tensor.values.iter().all(|v| v.is_finite()), "{}: {text}", tensor.name);
    }
    assert!(checkpoint.optimizer.iter().all(|t| t.values.iter().all(|v| v.is_finite())));
    assert_eq!(checkpoint.manifest.position.step, 54);
    assert_eq!(checkpoint.manifest.optimizer_steps, Some(51));
}
