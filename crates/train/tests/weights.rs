//! Weights that come from elsewhere, at the command line: values that are not finite, several sets
//! in one file, another network's. A refusal is one sentence with its exit code, and nothing is
//! written before it.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;
use std::process::Output;

use burn::tensor::Device;
use deploy::container::{Container, EMA, TensorRef, container_of, safetensors_of};
use nn::models::variants::Variant;
use nn::weights::NamedTensor;
use nn::weights::state_dict::state_dict;
use test_folder::{SMALL, TestFolder, code, error, refused, unlike};

const MODEL: [&str; 4] = ["--model", "mobilenet_v3_small", "--width", "0.35"];

/// The first class, whose images every command is asked about.
const IMAGES: &str = "data/val/bag";

/// A checkpoint with other values.
fn changed(place: &TestFolder, from: &str, to: &str, change: impl FnOnce(&mut Vec<NamedTensor>)) {
    let mut container = Container::from_bytes(&std::fs::read(place.path(from)).unwrap()).unwrap();
    change(&mut container.tensors);
    let bytes = container_of(&container.manifest, container.tensors.iter().map(TensorRef::from));
    std::fs::write(place.path(to), bytes).unwrap();
}

fn tensor<'a>(tensors: &'a mut [NamedTensor], name: &str) -> &'a mut NamedTensor {
    tensors.iter_mut().find(|t| t.name == name).unwrap()
}

/// Writes the tensors of several sets, each below its prefix.
fn write(place: &TestFolder, name: &str, sets: &[(&str, &[NamedTensor])]) {
    let named = |prefix: &str, t: &NamedTensor| NamedTensor {
        name: format!("{prefix}{}", t.name),
        ..t.clone()
    };
    let all: Vec<NamedTensor> = sets
        .iter()
        .flat_map(|(prefix, tensors)| tensors.iter().map(move |t| named(prefix, t)))
        .collect();
    let bytes = safetensors_of(all.iter().map(TensorRef::from), &[]);
    std::fs::write(place.path(name), bytes).unwrap();
}

fn tensors_of(place: &TestFolder, name: &str) -> Vec<NamedTensor> {
    Container::from_bytes(&std::fs::read(place.path(name)).unwrap()).unwrap().tensors
}

/// The files below a folder, to see that none is added.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() && !path.ends_with("data") {
            found.extend(listing(&path));
        }
    }
    found.sort();
    found
}

fn input(place: &TestFolder) {
    let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|i| (i % 7) as f32 / 7.0).collect();
    let images = TensorRef { name: "input", shape: vec![2, 3, 32, 32], values: &values };
    std::fs::write(place.path("i.safetensors"), safetensors_of([images], &[])).unwrap();
}

/// Mutations caught: the weights of a new run looked at after its folder was made (as before);
/// those of a classifier for other classes not looked at.
#[test]
fn weights_that_are_not_finite_are_refused_by_every_command() {
    let place = TestFolder::new("not-finite");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    input(&place);
    let good = "out/train/r/last.ckpt";
    let cases = [
        ("features.0.0.weight", f32::NAN, "not all values are finite"),
        ("features.1.block.0.1.running_mean", f32::INFINITY, "not all values are finite"),
        ("classifier.3.bias", f32::NEG_INFINITY, "not all values are finite"),
        ("features.0.1.running_var", -1.0, "running variance is negative"),
    ];
    let mut faults = Vec::new();
    for (name, odd, why) in cases {
        changed(&place, good, "odd.ckpt", |t| *tensor(t, name).values.last_mut().unwrap() = odd);
        let before = listing(&place.path(""));
        let commands: [&[&str]; 8] = [
            &["eval", "--checkpoint", "odd.ckpt", "--output", "e"],
            &["predict", "--checkpoint", "odd.ckpt", IMAGES],
            &["average", good, "odd.ckpt", "--output", "a.ckpt"],
            &["bn-reestimate", "odd.ckpt", "--output", "b.ckpt"],
            &["convert", "odd.ckpt", "w.safetensors"],
            &["convert", "odd.ckpt", "w.ckpt"],
            &["forward", "--weights", "odd.ckpt", "--input", "i.safetensors", "--output", "f"],
            &[&SMALL[..], &["--pretrained-path", "odd.ckpt"]].concat(),
        ];
        for words in commands {
            let output = place.run(words);
            let fault = unlike(&output, 6, &["odd.ckpt", &format!("`{name}`"), why]);
            faults.extend(fault.map(|fault| format!("{words:?}: {fault}")));
        }
        assert_eq!(listing(&place.path("")), before, "{name}");
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Weights that are finite, and logits that are not.
///
/// Mutations caught: logits not looked at (as before).
#[test]
fn logits_that_are_not_finite_are_refused_by_image() {
    let place = TestFolder::new("logits");
    assert_eq!(code(&place.train("r", &["--epochs", "1"])), 0);
    input(&place);
    let good = "out/train/r/last.ckpt";
    changed(&place, good, "large.ckpt", |t| {
        let hidden = tensor(t, "classifier.0.weight");
        let inputs = hidden.shape[1];
        let signed = hidden.values.iter_mut().enumerate();
        signed.for_each(|(i, v)| *v = if (i / inputs).is_multiple_of(2) { 1e20 } else { -1e20 });
        tensor(t, "classifier.3.weight").values.fill(3e38);
    });
    let before = listing(&place.path(""));
    let eval = place.run(&["eval", "--checkpoint", "large.ckpt", "--output", "e", "--json"]);
    refused(&eval, 5, &["logits of 15 of 15 images are not finite", "data/val/bag/0000.png"]);
    let forward = ["forward", "--weights", "large.ckpt", "--input", "i.safetensors"];
    let output = place.run(&[&forward[..], &["--output", "f"]].concat());
    refused(&output, 5, &["the logits of image 1 are not finite", "nothing was written"]);
    for format in ["json", "csv", "text"] {
        let flags = ["predict", "--checkpoint", "large.ckpt", "--format", format, IMAGES];
        let output = place.run(&flags);
        refused(&output, 5, &["data/val/bag/0004.png: the logits are not finite"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("sandal") && !said.contains("probability\":"), "{said}");
    }
    assert_eq!(listing(&place.path("")), before);
    // The mean of finite weights can be infinite.
    for (name, value) in [("plus.ckpt", 3e38), ("minus.ckpt", -3e38)] {
        changed(&place, good, name, |t| tensor(t, "features.0.0.weight").values[0] = value);
    }
    let output = place.run(&["average", "plus.ckpt", "minus.ckpt", "--output", "a.ckpt"]);
    refused(&output, 5, &["a.ckpt", "`features.0.0.weight`", "not finite"]);
    assert!(!place.path("a.ckpt").exists());
    // f16 ends at 65504.
    changed(&place, good, "wide.ckpt", |t| tensor(t, "features.0.0.weight").values[0] = 7e4);
    let convert =
        |dtype: &str| place.run(&["convert", "wide.ckpt", "h.safetensors", "--dtype", dtype]);
    refused(&convert("f16"), 5, &["`features.0.0.weight` has the value 70000", "--dtype"]);
    assert!(!place.path("h.safetensors").exists());
    assert_eq!(code(&convert("bf16")), 0);
    assert_eq!(code(&convert("f32")), 0);
    // An input that is not finite has no logits either.
    let images = TensorRef {
        name: "input",
        shape: vec![1, 3, 32, 32],
        values: &[&[f32::NAN][..], &[0.0; 3 * 32 * 32 - 1]].concat(),
    };
    std::fs::write(place.path("i.safetensors"), safetensors_of([images], &[])).unwrap();
    let output = place.run(&[&forward[..], &["--output", "f"]].concat());
    refused(&output, 3, &["`input` has the value NaN in image 1"]);
}

/// Which of several weights in a file are taken, and that it is said.
///
/// Mutations caught: weights in the entries of a file not found (as before).
#[test]
fn the_kind_of_weights_can_be_chosen_wherever_weights_are_given() {
    let place = TestFolder::new("kinds");
    let run = place.train("r", &["--model-ema", "--model-ema-decay", "0.9"]);
    assert_eq!(code(&run), 0, "{}", error(&run));
    input(&place);
    let checkpoint = "out/train/r/last.ckpt";
    let all = tensors_of(&place, checkpoint);
    let of = |prefix: &str| -> Vec<NamedTensor> {
        let found = all.iter().filter_map(|t| {
            let name = t.name.strip_prefix(prefix)?.to_owned();
            (name.starts_with("features") || name.starts_with("classifier"))
                .then(|| NamedTensor { name, ..t.clone() })
        });
        found.collect()
    };
    let (raw, ema) = (of(""), of(EMA));
    assert!(raw.len() == ema.len() && raw != ema);
    write(&place, "both.safetensors", &[("state_dict.", &raw), ("state_dict_ema.module.", &ema)]);
    let first = |name: &str| -> Vec<NamedTensor> {
        let bytes = std::fs::read(place.path(name)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("features.0.0.weight").unwrap();
        let floats =
            view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        vec![NamedTensor {
            name: "features.0.0.weight".into(),
            shape: view.shape().to_vec(),
            values: floats,
        }]
    };
    let value = |set: &[NamedTensor]| set.iter().find(|t| t.name == "features.0.0.weight").cloned();
    let cases: [(&[&str], &[NamedTensor], &str); 3] = [
        (&[], &ema, "`state_dict_ema`, the average of the weights; --weights-kind raw"),
        (&["--weights-kind", "ema"], &ema, "`state_dict_ema`"),
        (&["--weights-kind", "raw"], &raw, "`state_dict`, the trained weights"),
    ];
    let all_said =
        |output: &Output| format!("{}{}", String::from_utf8_lossy(&output.stdout), error(output));
    for (flags, want, word) in cases {
        let words = [&["convert", "both.safetensors", "c.safetensors"][..], &MODEL, flags].concat();
        let output = place.run(&words);
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(all_said(&output).contains(word), "{}", all_said(&output));
        assert_eq!(first("c.safetensors")[0].values, value(want).unwrap().values, "{flags:?}");
        let words = ["forward", "--weights", "both.safetensors", "--input", "i.safetensors"];
        let output = place.run(&[&words[..], &["--output", "f"], &MODEL, flags].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(error(&output).contains(word), "{}", error(&output));
        let name = format!("t{}", flags.len() + word.len());
        let pretrained = ["--pretrained-path", "both.safetensors", "--lr", "0", "--epochs", "1"];
        let output = place.train(&name, &[&pretrained[..], flags].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        assert!(all_said(&output).contains(word), "{}", all_said(&output));
        let trained = tensors_of(&place, &format!("out/train/{name}/last.ckpt"));
        assert_eq!(value(&trained), value(want), "{flags:?}");
    }
    // A checkpoint has its own flags, and this one means the same.
    for (flag, twin) in [("raw", "--raw"), ("ema", "--use-ema")] {
        let eval = ["eval", "--checkpoint", checkpoint, "--backend", "flex", "--per-class"];
        let output = place.run(&[&eval[..], &["--weights-kind", flag]].concat());
        let same = place.run(&[&eval[..], &[twin]].concat());
        let numbers = |output: &Output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((code(&output), numbers(&output)), (0, numbers(&same)), "{}", error(&output));
        let output = place.run(&[&eval[..], &["--weights-kind", flag, twin]].concat());
        refused(&output, 2, &["cannot be used with"]);
    }
    // Under another name it is a checkpoint still.
    std::fs::copy(place.path(checkpoint), place.path("renamed.safetensors")).unwrap();
    let words = ["convert", "renamed.safetensors", "c.safetensors", "--weights-kind", "ema"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(first("c.safetensors")[0].values, value(&ema).unwrap().values);
    // What is not there.
    write(&place, "one.safetensors", &[("", &raw)]);
    let words = ["convert", "one.safetensors", "x.ckpt", "--weights-kind", "ema"];
    let output = place.run(&[&words[..], &MODEL].concat());
    refused(&output, 2, &["one.safetensors", "no average of the weights"]);
    write(&place, "two.safetensors", &[("student.", &raw), ("teacher.", &ema)]);
    let output = place.run(&[&["convert", "two.safetensors", "x.ckpt"][..], &MODEL].concat());
    refused(&output, 2, &["several sets of weights (`student`, `teacher`)"]);
    assert!(!place.path("x.ckpt").exists());
}

/// Mutations caught: the faults listed instead of the network (as before).
#[test]
fn weights_of_another_network_are_told_before_anything_is_made() {
    let place = TestFolder::new("another");
    input(&place);
    let config = Variant::parse("mobilenet_v2").unwrap().config(3);
    let weights = state_dict(&config.init_seeded(&Device::flex(), 1));
    write(&place, "v2.safetensors", &[("module.", &weights)]);
    let mut cut = std::fs::read(place.path("v2.safetensors")).unwrap();
    cut.truncate(cut.len() / 2);
    std::fs::write(place.path("cut.safetensors"), cut).unwrap();
    let before = listing(&place.path(""));
    let commands: [&[&str]; 4] = [
        &[&SMALL[..], &["--pretrained-path", "FILE"]].concat(),
        &["convert", "FILE", "x.ckpt", "--model", "mobilenet_v3_small"],
        &[
            "forward",
            "--model",
            "googlenet",
            "--weights",
            "FILE",
            "--input",
            "i.safetensors",
            "--output",
            "f",
        ],
        &["convert", "FILE", "x.ckpt"],
    ];
    for words in commands {
        for (file, exit, word) in [
            ("v2.safetensors", 6, "these are mobilenet_v2's weights: --model mobilenet_v2"),
            ("cut.safetensors", 6, "cut.safetensors: the file is cut short"),
        ] {
            let words: Vec<&str> =
                words.iter().map(|word| if *word == "FILE" { file } else { word }).collect();
            let output = place.run(&words);
            // Without --model it is the flag that is missing.
            let exit = if words.contains(&"--model") || file.starts_with("cut") { exit } else { 2 };
            refused(&output, exit, &[word]);
            assert!(error(&output).lines().count() <= 2, "{}", error(&output));
        }
    }
    assert_eq!(listing(&place.path("")), before);
    // And they load where they belong.
    let output = place.run(&["convert", "v2.safetensors", "x.ckpt", "--model", "mobilenet_v2"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
}
