//! `kindling export`: an ONNX file that ONNX Runtime runs with the checkpoint's answers, on every
//! architecture.
//!
//! ONNX Runtime is run where `KINDLING_PYTHON` names a Python that has `onnxruntime` and `numpy`;
//! `.ci/run` installs one. Without it the file is held to rten alone, by the check of `export`
//! itself, and the test says so. The page is opened in Chromium where `KINDLING_BROWSER` names a
//! folder with npm's `playwright-core` and `onnxruntime-web`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was compared, and what was not"
)]

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Command;

use test_folder::{TestFolder, code, error, refused, said};

/// The architectures with a size at which each trains quickly.
const NETWORKS: [(&str, &str); 8] = [
    ("mobilenet_v1", "32"),
    ("tf_mobilenet_v1", "34"),
    ("mobilenet_v2", "32"),
    ("mobilenet_v3_large", "32"),
    ("mobilenet_v3_small", "33"),
    ("googlenet", "32"),
    ("inception_v3", "75"),
    ("xception", "48"),
];

/// Exports a checkpoint and compares the file's logits for images of the test folder with
/// `forward`'s, in ONNX Runtime where it is there.
fn agrees(place: &TestFolder, name: &str, checkpoint: &str, tolerance: &str) {
    let run = |words: &[&str]| {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{name} {words:?}: {}", error(&output));
        said(&output)
    };
    let [onnx, input, output] = ["onnx", "in", "out"].map(|kind| format!("{name}.{kind}"));
    let lines = run(&["export", checkpoint, "--output", &onnx]);
    assert!(lines.contains("checked: rten ran the file") && lines.contains("opset 18"), "{lines}");
    let images = ["data/val/bag/0000.png", "data/val/sandal/0001.png", "data/val/trouser/0002.png"];
    run(&[&["preprocess", "--checkpoint", checkpoint, "-o", &input], &images[..]].concat());
    run(&["forward", "--weights", checkpoint, "--input", &input, "--output", &output]);
    let Ok(python) = std::env::var("KINDLING_PYTHON") else {
        eprintln!("KINDLING_PYTHON is not set: {name} was not run in ONNX Runtime");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx_runtime.py");
    let compared = Command::new(python)
        .arg(script)
        .args([&onnx, &input, &output].map(|file| place.path(file)))
        .arg(tolerance)
        .output()
        .unwrap();
    let both = format!("{}{}", said(&compared), error(&compared));
    println!("{name}: {both}");
    assert!(compared.status.success(), "{name}: {both}");
}

#[test]
fn every_architecture_answers_the_same_in_another_runtime() {
    let place = TestFolder::new("export");
    for (name, size) in NETWORKS {
        let words = ["train", "data", "--model", name, "--img-size", size, "--epochs", "1"];
        let output = place
            .command(&words)
            .args(["--batch-size", "8", "--no-report", "--backend", "flex", "--experiment", name])
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{name}: {}", error(&output));
        // A network after one epoch amplifies rounding.
        agrees(&place, name, &format!("checkpoints/train/{name}/last.ckpt"), "1e-3");
    }
}

#[test]
fn a_trained_network_answers_the_same_in_another_runtime() {
    let place = TestFolder::new("export-trained");
    let trained = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
    std::fs::copy(trained, place.path("fashion.ckpt")).unwrap();
    agrees(&place, "fashion", "fashion.ckpt", "1e-4");
}

/// The guide's example in Python says what `predict` says, on images of the carried set.
#[test]
fn the_guides_example_in_python_gives_the_same_answers() {
    let Ok(python) = std::env::var("KINDLING_PYTHON") else {
        eprintln!("KINDLING_PYTHON is not set: the example in docs/guide.md was not run");
        return;
    };
    let guide = include_str!("../../../docs/guide.md");
    let example = guide.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let place = TestFolder::new("export-example");
    std::fs::write(place.path("example.py"), example).unwrap();
    let trained = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
    assert_eq!(code(&place.run(&["export", trained, "-o", "fashion.onnx"])), 0);
    for class in ["bag", "coat", "dress", "sandal", "shirt", "sneaker", "trouser"] {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/fashion-mnist-mini/val");
        let name = format!("{folder}/{class}/0001.png");
        let name = name.as_str();
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let output = Command::new(&python)
            .args(["example.py", "fashion.onnx", name])
            .current_dir(place.path("."))
            .output()
            .unwrap();
        let predicted = place.run(&["predict", name, "--checkpoint", trained, "--format", "json"]);
        assert!(output.status.success(), "{name}: {}", error(&output));
        for line in said(&output).lines() {
            let (class, share) = line.rsplit_once(' ').unwrap();
            theirs.push((class.to_owned(), share.parse::<f64>().unwrap()));
        }
        let predicted: serde_json::Value = serde_json::from_str(&said(&predicted)).unwrap();
        for guess in predicted[0]["guesses"].as_array().unwrap() {
            ours.push((
                guess["class"].as_str().unwrap().to_owned(),
                guess["probability"].as_f64().unwrap(),
            ));
        }
        assert_eq!(theirs[0].0, ours[0].0, "{name}");
        assert!((theirs[0].1 - ours[0].1).abs() < 2e-3, "{name}: {theirs:?} {ours:?}");
    }
}

/// The file that prepares images itself says what `predict` says, on images of any size and shape.
///
/// Mutations caught, each alone: samples beyond the border counted; no antialias; the offset of the
/// crop truncated.
#[test]
fn a_file_that_prepares_images_itself_gives_the_same_answers() {
    let place = TestFolder::new("export-image");
    let trained = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
    for words in
        [&["-o", "a.onnx"][..], &["-o", "b.onnx", "--int8", "--force", "--calibrate", "data/train"]]
    {
        let output = place.run(&[&["export", trained, "--preprocessing", "graph"], words].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(
            said(&output).contains("input `image` [batch, height, width, 3]"),
            "{}",
            said(&output)
        );
    }
    refused(
        &place.run(&["export", trained, "--preprocessing", "graph", "-o", "a.html"]),
        2,
        &["--preprocessing graph", "ONNX alone"],
    );
    let Ok(python) = std::env::var("KINDLING_PYTHON") else {
        eprintln!("KINDLING_PYTHON is not set: the files were not run in ONNX Runtime");
        return;
    };
    // The long edge becomes 39 pixels, of which an odd number is cropped.
    let odd = image::RgbImage::from_fn(65, 60, |x, y| {
        image::Rgb([(3 * x + y) as u8, (x * y / 9) as u8, (4 * (x / 3 % 2) * y) as u8])
    });
    odd.save(place.path("odd.png")).unwrap();
    let images = [
        place.path("odd.png").display().to_string(),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/report.png").to_owned(),
        concat!(env!("CARGO_MANIFEST_DIR"), "/../transforms/tests/fixtures/decode/progressive.jpg")
            .to_owned(),
        place.path("data/val/bag/0001.png").display().to_string(),
    ];
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    // The border of an image counts where the crop is the whole short edge.
    let whole = place.train("whole", &["--crop-pct", "1.0"]);
    assert_eq!(code(&whole), 0, "{}", error(&whole));
    let whole = "out/train/whole/last.ckpt";
    let output = place.run(&["export", whole, "--preprocessing", "graph", "-o", "c.onnx"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/image_input.py");
    for (file, checkpoint, tolerance) in
        [("a.onnx", trained, "0.001"), ("b.onnx", trained, "0.3"), ("c.onnx", whole, "0.003")]
    {
        let words =
            [&["predict", "--checkpoint", checkpoint, "-k", "10", "--format", "json"], &images[..]];
        let predicted = place.run(&words.concat());
        assert_eq!(code(&predicted), 0, "{}", error(&predicted));
        std::fs::write(place.path("predicted.json"), said(&predicted)).unwrap();
        let compared = Command::new(&python)
            .args([script, file, "predicted.json", tolerance])
            .current_dir(place.path(""))
            .output()
            .unwrap();
        let both = format!("{file}: {}{}", said(&compared), error(&compared));
        println!("{both}");
        assert!(compared.status.success(), "{both}");
    }
}

/// The page says what `predict` says, on every kind of image that browsers read but PNG of 16 bits.
///
/// Mutations caught, each alone: a PNG's or WebP's orientation not read; a JPEG turned that must
/// not be; PNG through a canvas; a resize without antialias; the long edge resized to the short
/// one.
#[test]
fn a_page_in_chromium_gives_the_same_answers() {
    let Ok(browser) = std::env::var("KINDLING_BROWSER") else {
        eprintln!("KINDLING_BROWSER is not set: no page was opened");
        return;
    };
    let place = TestFolder::new("export-page");
    let trained = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/fixtures/fashion.ckpt");
    let runtime = format!("{browser}/node_modules/onnxruntime-web/dist");
    // An import is resolved beside the script.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tests/browser.mjs");
    std::fs::copy(script, format!("{browser}/browser.mjs")).unwrap();
    let images = concat!(env!("CARGO_MANIFEST_DIR"), "/../transforms/tests/fixtures/decode");
    let images = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &std::path::PathBuf| {
        let is = |kind: &&str| path.extension().is_some_and(|own| own == *kind);
        ["jpg", "png", "webp"].iter().any(is) && !path.ends_with("deep.png")
    };
    let mut images: Vec<_> = images.filter(read).collect();
    // A large one, which is made smaller.
    images.push(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/report.png").into());
    assert!(images.len() > 18, "{}", images.len());
    // Images as they are stored, and turned by their EXIF orientation.
    assert_eq!(code(&place.run(&["convert", trained, "stored.ckpt", "--no-exif"])), 0);
    assert_eq!(code(&place.run(&["convert", trained, "turned.ckpt", "--exif"])), 0);
    // The one file, and the folder for a server.
    for (checkpoint, to) in
        [("stored.ckpt", "p.html"), ("turned.ckpt", "p.html"), ("turned.ckpt", "site")]
    {
        let words = ["export", checkpoint, "--format", "web", "--runtime", &runtime, "-o", to];
        let output = place.run(&words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        let compared = Command::new("node")
            .args([&format!("{browser}/browser.mjs"), env!("CARGO_BIN_EXE_kindling"), to])
            .arg(checkpoint)
            .args(&images)
            .current_dir(place.path("."))
            .output()
            .unwrap();
        let both = format!("{checkpoint} {to}: {}{}", said(&compared), error(&compared));
        println!("{both}");
        assert!(compared.status.success(), "{both}");
    }
}

/// Mutations caught, each alone: the file written before its check.
#[test]
fn an_export_is_named_beside_its_checkpoint_and_written_only_when_it_is_right() {
    let place = TestFolder::new("export-names");
    let words = ["train", "data", "--model", "mobilenet_v3_small", "--img-size", "32"];
    let output = place
        .command(&words)
        .args(["--epochs", "1", "--no-report", "--backend", "flex", "--experiment", "run"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", error(&output));
    let folder = place.path("checkpoints/train/run");
    // The run's folder, and then no name at all: the newest run.
    for words in [&["export", folder.to_str().unwrap()][..], &["export"]] {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(folder.join("model_best.onnx").is_file(), "{}", said(&output));
        std::fs::remove_file(folder.join("model_best.onnx")).unwrap();
    }
    refused(&place.run(&["export", "--output", "x.pth"]), 2, &["x.pth", ".onnx"]);
    refused(&place.run(&["export", "--format", "web", "-o", "x.onnx"]), 2, &["x.onnx", ".html"]);
    // The ending says the format.
    let output = place.run(&["export", "--output", "x.safetensors"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains("create_model(\"mobilenetv3_small_100\""), "{}", said(&output));
    let way = ["not there", "npm pack onnxruntime-web@1.30.0"];
    refused(&place.run(&["export", "-o", "x.html", "--runtime", "not there"]), 8, &way);
    refused(&place.run(&["export", "none.ckpt"]), 6, &["none.ckpt"]);
    std::fs::write(place.path("photo.jpg"), "no image").unwrap();
    refused(
        &place.run(&["export", "--image", "photo.jpg", "--output", "x.onnx"]),
        3,
        &["photo.jpg"],
    );
    refused(&place.run(&["export", "--output", "none/x.onnx"]), 8, &["none/x.onnx"]);
    assert!(!place.path("x.onnx").exists());
    // The preparation and the classes travel with the file.
    assert_eq!(code(&place.run(&["export", "--output", "x.onnx"])), 0);
    let bytes = std::fs::read(place.path("x.onnx")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for word in ["[\"bag\",\"sandal\",\"trouser\"]", "resize_short_edge", "mobilenet_v3_small"] {
        assert!(text.contains(word), "{word}");
    }
}
