//! A run with every augmentation: it is interrupted and resumed to the same bits, mistakes in its
//! flags are reported, and the preview shows its images.
//!
//! Mutations caught: erasing drawn from another stream than the image's; mixing missing in the
//! plan; a contradiction accepted; a margin of the sheet forgotten; `--epoch` without effect.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use test_folder::{TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

const ALL: [&str; 17] = [
    "--aa",
    "rand-m9-mstd0.5-inc1",
    "--train-interpolation",
    "random",
    "--reprob=0.5",
    "--recount=2",
    "--vflip=0.3",
    "--mixup=0.2",
    "--cutmix-alpha=1",
    "--mixup-switch-prob=0.4",
    "--mixup-off-epoch=2",
    "--aug-repeats=2",
    "--img-size-start=16",
    "--progressive-epochs=2",
    "--epochs=3",
    "--color-jitter=0.4,0.4,0.4,0.1",
    "--force-color-jitter",
];

#[test]
fn an_interrupted_run_with_every_augmentation_goes_on_to_the_same_bits() {
    let place = TestFolder::new("augmented");
    let output = place.train("whole", &ALL);
    assert_eq!(code(&output), 0, "{}", error(&output));
    // Ends after every step of which there are some in each epoch; the sizes are 16, 24 and 32.
    let out_of_time = ["--max-hours", "0.000000001"];
    let mut output = place.train("cut", &[&ALL[..], &out_of_time].concat());
    let mut pieces = 1;
    while code(&output) == 4 {
        output = place.run(&["train", "--resume", "out/train/cut"]);
        pieces += 1;
        assert!(pieces < 60, "{}", error(&output));
    }
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(pieces > 9, "{pieces}");
    let [a, b] = ["whole", "cut"].map(|run| Checkpoint::read(&place.checkpoint(run)).unwrap());
    assert_eq!(a.manifest.best, b.manifest.best);
    for (x, y) in a.weights.iter().zip(&b.weights) {
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
        assert_eq!(bits(&x.values), bits(&y.values), "{}", x.name);
    }
    let again = place.run(&["train", "--resume", "out/train/cut", "--epochs=4", "--mixup=0.5"]);
    refused(&again, 2, &["--mixup 0.5", "0.2"]);
}

#[test]
fn mistakes_in_the_flags_are_told() {
    let place = TestFolder::new("augment-flags");
    let check = |more: &[&str], words: &[&str]| refused(&place.train("x", more), 2, words);
    check(&["--aa", "randaugment"], &["--aa", "no policy `randaugment`", "rand-m9-mstd0.5-inc1"]);
    check(&["--auto-augment", "rand-m9-z3"], &["`z3` means nothing"]);
    check(&["--color-jitter", "0.4,0.4"], &["--color-jitter", "1, 3 or 4 numbers"]);
    check(&["--color-jitter", "0,0,0,0.7"], &["--color-jitter", "0 to 0.5"]);
    check(&["--mixup", "-1"], &["--mixup", "0.01 to 100"]);
    check(
        &["--cutmix-minmax", "0.8", "0.2"],
        &["--cutmix-minmax", "0.8 0.2", "0 to 1, the smaller one first"],
    );
    check(&["--reprob", "2"], &["--reprob", "0 to 1"]);
    check(&["--remode", "noise"], &["noise", "pixel"]);
    check(&["--recount", "0"], &["--recount", "1 to 64"]);
    check(&["--no-aug", "--aa", "ra"], &["--no-aug", "--aa"]);
    check(&["--img-size-start", "48"], &["--img-size-start", "`48`", "to 32"]);
    check(&["--progressive-epochs", "3"], &["--progressive-epochs", "--img-size-start"]);
    check(&["--train-interpolation", "nearest"], &["nearest", "random"]);
    assert!(!place.path("out").exists(), "a refused run leaves nothing behind");
    std::fs::write(place.path("c.toml"), "epochs = 1\naa = \"rand-x\"\n").unwrap();
    refused(&place.run(&["train", "data", "--config", "c.toml"]), 2, &["line 2", "`x` means"]);
}

#[test]
fn the_preview_is_a_image_of_what_is_trained_on() {
    let place = TestFolder::new("preview");
    let preview = |file: &str, more: &[&str]| {
        let words =
            ["data", "preview", "data", "--img-size", "32", "--count", "10", "--output", file];
        let output = place.run(&[&words[..], more].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        image::open(place.path(file)).unwrap().to_rgb8()
    };
    let plain = preview("a.png", &[]);
    // Four columns of 32 pixels and three rows of 32 and a line of text, 4 pixels between them.
    assert_eq!(plain.dimensions(), (4 + 4 * 36, 4 + 3 * 44));
    assert_eq!(plain, preview("b.png", &["--workers", "1"]));
    assert_ne!(plain, preview("c.png", &["--epoch", "1"]));
    assert_ne!(plain, preview("d.png", &["--aa", "rand-m9"]));
    assert_ne!(plain, preview("e.png", &["--cutmix", "1"]));
    assert!(!place.path("out").exists());
    refused(&place.run(&["data", "preview", "none"]), 3, &["none", "no such folder"]);
}
