//! The subcommands about networks and weights: summary, explain, convert, forward, and training
//! every architecture for an epoch.
//!
//! Mutations caught: one multiply-add more a layer in `summary`; torchvision's names for timm's in
//! `convert`; a label beyond the classes not refused by `forward`.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use test_folder::{TestFolder, code, error, refused};

fn text(output: &std::process::Output) -> String {
    assert_eq!(code(output), 0, "{}", error(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// `input` [2, 3, 64, 64] and `targets` [2].
fn write_input(path: &Path, labels: [i64; 2]) {
    let values: Vec<u8> = (0..2 * 3 * 64 * 64_u32)
        .flat_map(|i| ((i.wrapping_mul(2_654_435_761) >> 16) as f32 / 65_536.0 - 0.5).to_le_bytes())
        .collect();
    let targets: Vec<u8> = labels.iter().flat_map(|t| t.to_le_bytes()).collect();
    let views = [
        ("input", TensorView::new(Dtype::F32, vec![2, 3, 64, 64], &values).unwrap()),
        ("targets", TensorView::new(Dtype::I64, vec![2], &targets).unwrap()),
    ];
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let floats = view.data().chunks_exact(4);
    let values = floats.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (view.shape().to_vec(), values)
}

#[test]
fn models_summary_and_explain_print_the_known_numbers() {
    let place = TestFolder::new("print");
    let models = text(&place.run(&["models"]));
    assert!(models.contains("22.86") && models.contains("xception"), "{models}");
    let summary = text(&place.run(&["summary", "mobilenet_v2"]));
    assert!(
        summary.contains("3504872 parameters, 300774272 multiply-adds at 224x224"),
        "{summary}"
    );
    let summary = text(&place.run(&[
        "summary",
        "mobilenet_v1",
        "--width",
        "0.25",
        "--img-size",
        "128",
        "--json",
    ]));
    let rows: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let sum =
        |key: &str| rows.as_array().unwrap().iter().map(|r| r[key].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum("parameters"), 470_072);
    assert_eq!((sum("multiply_adds") as f64 / 1e4).round(), 1357.0);
    let classic =
        ["explain", "convolution", "--kernel", "3", "--in", "3", "--out", "4", "--size", "5"];
    let classic = text(&place.run(&classic));
    for word in ["108", "27 + 12", "39", "2700", "975", "0.3611", "2.77", "N = 72"] {
        assert!(classic.contains(word), "{word}: {classic}");
    }
    assert!(text(&place.run(&["explain", "inverted-residual"])).contains("added to the output"));
    assert!(text(&place.run(&["explain", "h-swish"])).contains("-0.375"));
    assert!(text(&place.run(&["explain", "multipliers"])).contains("568.7"));
    let module = text(&place.run(&["explain", "inception"]));
    for word in ["64 | 96-128 | 16-32 | pool-32 = 256 ", "163328", "1638400", "67840", "e-16"] {
        assert!(module.contains(word), "{word}: {module}");
    }
    refused(&place.run(&["explain", "inception", "--module", "3c"]), 2, &["there are 3a, 3b"]);
    let block = text(&place.run(&["explain", "bneck", "--block", "4"]));
    for word in ["24 channels of 56x56 to 40 of 28x28", "5x5 depthwise", "h-sigmoid", "no skip"] {
        assert!(block.contains(word), "{word}: {block}");
    }
    refused(&place.run(&["explain", "bneck", "--block", "16"]), 2, &["blocks 1 to 15"]);
    refused(&place.run(&["explain", "bneck", "--model", "xception"]), 2, &["no bneck"]);
    refused(&place.run(&["summary", "resnet50"]), 2, &["unknown model `resnet50`"]);
    refused(&place.run(&["summary", "xception", "--width", "0.5"]), 2, &["width multiplier"]);
    refused(&place.run(&["summary", "inception_v3", "--img-size", "50"]), 2, &["75"]);
    refused(&place.run(&["explain", "convolution", "--kernel", "4"]), 2, &["odd"]);
    refused(&place.run(&["explain", "convolution", "--in", "0"]), 2, &["--in"]);
    refused(
        &place.run(&["explain", "multipliers", "--model", "xception"]),
        2,
        &["width multiplier"],
    );
}

#[test]
fn weights_travel_between_names_types_and_checkpoints_without_a_change() {
    let place = TestFolder::new("convert");
    write_input(&place.path("x.safetensors"), [0, 1]);
    let model = ["--model", "mobilenet_v3_small", "--width", "0.35", "--num-classes", "3"];
    let run = |words: &[&str]| {
        let output = place.run(words);
        assert_eq!(code(&output), 0, "{words:?}: {}", error(&output));
    };
    // Initial weights out of a training step of nothing.
    let step = [
        &["forward", "--input", "x.safetensors", "--output", "step.safetensors", "--train-step"],
        &["--lr", "0", "--seed", "4"][..],
        &model,
    ];
    run(&step.concat());
    let logits = |weights: &str, more: &[&str]| {
        let words = [
            "forward",
            "--weights",
            weights,
            "--input",
            "x.safetensors",
            "--output",
            "y.safetensors",
            "--features",
        ];
        run(&[&words[..], more].concat());
        let y = place.path("y.safetensors");
        assert_eq!(tensor(&y, "features.0").0, [2, 8, 32, 32]);
        assert_eq!(tensor(&y, "features.4").0[2..], [2, 2]);
        tensor(&y, "logits").1
    };
    // Only the network's own tensors are weights.
    let bytes = std::fs::read(place.path("step.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert!(file.names().iter().any(|n| n.starts_with("grad.")));
    let own = file.tensors().into_iter().filter(|(n, _)| n != "loss" && !n.starts_with("grad."));
    std::fs::write(place.path("w.safetensors"), safetensors::serialize(own, None).unwrap())
        .unwrap();
    let first = logits("w.safetensors", &model);
    run(&[&["convert", "w.safetensors", "timm.safetensors", "--names", "timm"], &model[..]]
        .concat());
    // The model's name says torchvision's constants; a file in timm's names brings timm's.
    let constants = ["--bn-eps", "0.001", "--scaling", "torchvision"];
    assert_eq!(logits("timm.safetensors", &[&model[..], &constants].concat()), first);
    assert_ne!(
        logits("timm.safetensors", &[&model[..], &["--scaling", "torchvision"]].concat()),
        first
    );
    run(&[&["convert", "w.safetensors", "half.safetensors", "--dtype", "f16"], &model[..]].concat());
    let half = logits("half.safetensors", &model);
    assert!(half.iter().zip(&first).all(|(a, b)| (a - b).abs() < 1e-2), "{half:?} {first:?}");
    run(&[&["convert", "w.safetensors", "w.ckpt", "--resize", "32", "--crop", "32"], &model[..]]
        .concat());
    assert_eq!(logits("w.ckpt", &[]), first);
    let words = ["predict", "--checkpoint", "w.ckpt", "data/val/bag/0000.png", "--topk", "1"];
    assert!(text(&place.run(&words)).contains("0000.png: "));
    std::fs::write(place.path("names.txt"), "one\ntwo\n").unwrap();
    let words = ["convert", "w.safetensors", "x.ckpt", "--classes", "names.txt"];
    refused(&place.run(&[&words[..], &model].concat()), 3, &["2 class names for 3 logits"]);
    refused(&place.run(&["convert", "w.safetensors", "w.onnx"]), 2, &[".safetensors or .ckpt"]);
    refused(&place.run(&["convert", "w.safetensors", "x.safetensors"]), 2, &["--model"]);
    refused(
        &place.run(&["convert", "none.pth", "x.safetensors", "--model", "xception"]),
        6,
        &["none.pth"],
    );
    let wrong = ["convert", "w.safetensors", "x.safetensors", "--model", "mobilenet_v2"];
    refused(
        &place.run(&wrong),
        6,
        &["do not fit", "these are mobilenet_v3_small's weights, with another width"],
    );
    std::fs::write(place.path("graph.pb"), b"no graph").unwrap();
    let graph = ["convert", "graph.pb", "x.ckpt", "--model", "tf_mobilenet_v1"];
    refused(&place.run(&graph), 6, &["not a TensorFlow graph"]);
}

#[test]
fn a_training_step_is_the_same_on_every_backend() {
    let place = TestFolder::new("step");
    write_input(&place.path("x.safetensors"), [2, 0]);
    let mut losses = Vec::new();
    for backend in ["flex", "ndarray", "wgpu"] {
        let words = [
            "forward",
            "--model",
            "mobilenet_v3_small",
            "--width",
            "0.35",
            "--num-classes",
            "3",
            "--input",
            "x.safetensors",
            "--output",
            "y.safetensors",
            "--train-step",
            "--steps",
            "2",
            "--optimizer",
            "adamw",
            "--lr",
            "0.001",
            "--label-smoothing",
            "0.1",
            "--backend",
            backend,
        ];
        let output = place.run(&words);
        assert_eq!(code(&output), 0, "{backend}: {}", error(&output));
        losses.push(tensor(&place.path("y.safetensors"), "loss").1);
    }
    for other in &losses[1..] {
        for (a, b) in losses[0].iter().zip(other) {
            assert!((a - b).abs() < 1e-3 * a.abs(), "{losses:?}");
        }
    }
    let base = [
        "forward",
        "--model",
        "mobilenet_v3_small",
        "--input",
        "x.safetensors",
        "--output",
        "y.safetensors",
    ];
    let more = |more: &[&str]| place.run(&[&base[..], more].concat());
    refused(&more(&["--num-classes", "2", "--train-step"]), 3, &["label 2 with 2 classes"]);
    refused(&more(&["--features", "--train-step"]), 2, &["--features"]);
    let large = [
        "forward",
        "--model",
        "inception_v3",
        "--input",
        "x.safetensors",
        "--output",
        "y.safetensors",
    ];
    refused(&place.run(&large), 3, &["64x64", "75"]);
    std::fs::write(place.path("x.safetensors"), b"words").unwrap();
    refused(&more(&[]), 3, &["not a safetensors file"]);
}

#[test]
fn every_architecture_trains_evaluates_and_predicts() {
    let place = TestFolder::new("zoo");
    let narrow: &[&str] = &["--width", "0.25"];
    let cases: [(&str, &[&str]); 8] = [
        ("mobilenet_v1", narrow),
        ("mobilenet_v1", &["--width", "0.25", "--relu", "--padding", "same"]),
        ("mobilenet_v2", narrow),
        ("mobilenetv3_large_075", narrow),
        ("googlenet", &["--width", "1", "--aux"]),
        ("xception", &["--width", "1", "--img-size", "40"]),
        ("mobilenetv1_100h", narrow),
        ("xception41", &["--width", "1"]),
    ];
    for (i, (model, more)) in cases.into_iter().enumerate() {
        let name = format!("r{i}");
        let flags = [&["--model", model, "--epochs", "1", "--batch-size", "12"], more].concat();
        let output = place.train(&name, &flags);
        assert_eq!(code(&output), 0, "{model}: {}", error(&output));
        let checkpoint = format!("out/train/{name}/last.ckpt");
        let words = ["eval", "--checkpoint", &checkpoint, "--json", "--backend", "flex"];
        let report: serde_json::Value = serde_json::from_str(&text(&place.run(&words))).unwrap();
        assert_eq!(report["pictures"], 15, "{model}");
    }
    let small = place.train("x", &["--model", "inception_v3", "--width", "1"]);
    refused(&small, 2, &["--img-size", "75"]);
    let aux = ["--model", "inception_v3", "--width", "1", "--img-size", "96", "--aux"];
    refused(&place.train("x", &aux), 2, &["299", "auxiliary head"]);
    refused(&place.train("x", &["--aux"]), 2, &["auxiliary head"]);
}
