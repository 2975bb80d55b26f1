//! Whether images are turned by EXIF: a rule of the run, which its checkpoint keeps.
//!
//! Mutations caught: a default of false, `--no-exif` weaker than a file, `--no-exif` of
//! `preprocess` without effect, the classifier turning nothing, `convert` ignoring the flag or
//! leaving weights of others as stored.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::{Path, PathBuf};

use deploy::container::Container;
use serde_json::Value;
use test_folder::{TestFolder, code, error, refused};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../transforms/tests/fixtures/decode").join(name)
}

/// What `preprocess` makes of an image with these flags: the bytes of the tensor.
fn tensor(place: &TestFolder, image: &Path, flags: &[&str]) -> Vec<u8> {
    let image = image.to_str().unwrap();
    let output = place.run(&[&["preprocess", image, "-o", "input.safetensors"], flags].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let file = std::fs::read(place.path("input.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&file).unwrap();
    read.tensor("input").unwrap().data().to_vec()
}

/// What `predict` says of an image.
fn guesses(place: &TestFolder, image: &Path, of: &[&str]) -> Value {
    let words = ["predict", image.to_str().unwrap(), "--format", "json", "--backend", "flex"];
    let output = place.run(&[&words[..], of].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0]["guesses"].clone()
}

/// The rule in a checkpoint: that of its preprocessing, and that of its plan.
fn rule(checkpoint: &Path) -> [Value; 2] {
    let manifest = Container::from_bytes(&std::fs::read(checkpoint).unwrap()).unwrap().manifest;
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    [manifest["preprocess"]["exif"].clone(), manifest["plan"]["exif"].clone()]
}

#[test]
fn a_new_run_turns_and_keeps_its_rule() {
    let place = TestFolder::new("exif-rule");
    let turned_file = fixture("orientation_6.png");
    // Orientation 6: the stored image by a quarter to the right.
    let stored = image::open(fixture("rgb.png")).unwrap().into_rgb8();
    let upright = place.path("upright.png");
    image::imageops::rotate90(&stored).save(&upright).unwrap();
    let small = ["--resize", "20", "--crop", "16"];
    let flags = |more: &[&'static str]| [&small[..], more].concat();
    let [turned, as_stored] =
        [&upright, &fixture("rgb.png")].map(|path| tensor(&place, path, &small));
    assert_ne!(turned, as_stored);
    assert!(tensor(&place, &turned_file, &small) == turned);
    assert!(tensor(&place, &turned_file, &flags(&["--exif"])) == turned);
    assert!(tensor(&place, &turned_file, &flags(&["--no-exif"])) == as_stored);
    refused(&place.run(&["preprocess", "--exif", "--no-exif", "x", "-o", "y"]), 2, &["--no-exif"]);

    for (run, flags, exif) in [
        ("new", &[][..], true),
        ("stored", &["--no-exif"][..], false),
        ("off", &["--exif=false"][..], false),
        ("on", &["--exif"][..], true),
    ] {
        let output = place.train(run, &[&["--epochs", "1"], flags].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        let checkpoint = place.checkpoint(run);
        assert_eq!(rule(&checkpoint), [Value::Bool(exif), Value::Bool(exif)], "{run}");
        let args = place.path(&format!("out/train/{run}/args.toml"));
        let args = std::fs::read_to_string(args).unwrap();
        assert!(args.contains(&format!("exif = {exif}\n")), "{run}: {args}");
        let of = ["--checkpoint", checkpoint.to_str().unwrap()];
        let by_rule = tensor(&place, &turned_file, &of);
        let plain = |path: &Path| tensor(&place, path, &of);
        let expected = if exif { plain(&upright) } else { plain(&fixture("rgb.png")) };
        assert!(by_rule == expected, "{run}");
        let seen = guesses(&place, &turned_file, &of);
        let same = if exif { &upright } else { &fixture("rgb.png") };
        assert_eq!(seen, guesses(&place, same, &of), "{run}");
        // Another way on request.
        let forced = tensor(&place, &turned_file, &[&of[..], &["--exif"]].concat());
        assert!(forced == plain(&upright), "{run}");
        let forced = tensor(&place, &turned_file, &[&of[..], &["--no-exif"]].concat());
        assert!(forced == plain(&fixture("rgb.png")), "{run}");
    }
    // A file says one thing, the flag another.
    std::fs::write(place.path("run.toml"), "exif = true\n").unwrap();
    let output = place.train("file", &["--epochs", "1", "--config", "run.toml", "--no-exif"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(rule(&place.checkpoint("file"))[0], Value::Bool(false));
    refused(&place.train("both", &["--exif", "--no-exif"]), 2, &["--no-exif"]);
    // A run that goes on keeps its rule, and refuses another one.
    let resume = |more: &[&str]| {
        place.run(&[&["train", "--resume", "out/train/stored", "--epochs", "2"], more].concat())
    };
    refused(&resume(&["--exif"]), 2, &["exif"]);
    assert_eq!(code(&resume(&[])), 0);
    assert_eq!(rule(&place.checkpoint("stored"))[0], Value::Bool(false));
}

/// Weights of others become a checkpoint that turns; a checkpoint keeps its own rule.
#[test]
fn converted_weights_turn_unless_told_otherwise() {
    let place = TestFolder::new("exif-convert");
    let output = place.train("stored", &["--epochs", "1", "--no-exif"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let convert = |words: &[&str]| {
        let output = place.run(&[&["convert"], words].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
    };
    convert(&["out/train/stored/last.ckpt", "weights.safetensors"]);
    let foreign =
        ["weights.safetensors", "to.ckpt", "--model", "mobilenet_v3_small", "--width", "0.35"];
    let own = ["out/train/stored/last.ckpt", "to.ckpt"];
    for (words, flags, exif) in [
        (&foreign[..], &[][..], true),
        (&foreign[..], &["--no-exif"][..], false),
        (&own[..], &[][..], false),
        (&own[..], &["--exif"][..], true),
    ] {
        convert(&[words, flags].concat());
        assert_eq!(rule(&place.path("to.ckpt"))[0], Value::Bool(exif), "{words:?} {flags:?}");
        std::fs::remove_file(place.path("to.ckpt")).unwrap();
    }
}
