//! Which class a logit means: lists as editors write them, weights from elsewhere, many classes,
//! and images that a network was trained on.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::process::Output;

use nn::weights::state_dict::state_dict;
use serde_json::Value;
use test_folder::{SMALL, TestFolder, code, error, refused};
use train::run::checkpoint::Checkpoint;

fn said(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", error(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A text as Windows' editors write it: with a byte order mark, as UTF-16, with CR LF.
fn as_editors_write(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let windows = text.replace('\n', "\r\n");
    let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        std::iter::once(0xFEFF).chain(windows.encode_utf16()).flat_map(bytes).collect()
    };
    vec![
        ("utf8", text.as_bytes().to_vec()),
        ("crlf", windows.clone().into_bytes()),
        ("bom", format!("\u{FEFF}{windows}").into_bytes()),
        ("utf16le", utf16(u16::to_le_bytes)),
        ("utf16be", utf16(u16::to_be_bytes)),
        ("blanks", text.replace('\n', " \t\n").into_bytes()),
        ("end", format!("{text}\n\n  \n").into_bytes()),
    ]
}

/// Mutations caught, each alone: the byte order mark kept; the bytes of UTF-16 swapped; empty
/// lines at the end counted as names.
#[test]
fn every_list_is_read_as_editors_write_it() {
    let place = TestFolder::new("lists");
    said(&place.train("r", &["--epochs", "1"]));
    let quarantine = "train/bag/0001.png\tblurred\nval/bag/0001.png\tblurred\n";
    for (kind, classes) in as_editors_write("cat\nCafé au lait\ndog\n") {
        std::fs::write(place.path("classes.txt"), classes).unwrap();
        let words = ["convert", "out/train/r/last.ckpt", "c.ckpt", "--classes", "classes.txt"];
        said(&place.run(&words));
        let names = Checkpoint::read(&place.path("c.ckpt")).unwrap().manifest.classes;
        assert_eq!(names, ["cat", "Café au lait", "dog"], "{kind}");
    }
    let options = as_editors_write("epochs = 1\nexperiment = \"listed\"\n");
    let weights = as_editors_write("bag,2\nsandal,1\ntrouser,0.5\n");
    for (((kind, list), (_, options)), (_, weights)) in
        as_editors_write(quarantine).into_iter().zip(options).zip(weights)
    {
        std::fs::write(place.path("data/quarantine.txt"), list).unwrap();
        std::fs::write(place.path("o.toml"), options).unwrap();
        std::fs::write(place.path("w.csv"), weights).unwrap();
        let _ = std::fs::remove_dir_all(place.path("out/train/listed"));
        // A flag would win over the file.
        let words = [&SMALL[..10], &SMALL[12..]].concat();
        let more = ["--config", "o.toml", "--class-weights", "w.csv", "--warmup-epochs", "0"];
        let said = said(&place.run(&[&words[..], &more].concat()));
        assert!(
            said.contains("2 images left out") && !said.contains("not there"),
            "{kind}: {said}"
        );
        assert!(place.path("out/train/listed/last.ckpt").exists(), "{kind}: {said}");
        let log = std::fs::read_to_string(place.path("out/train/listed/summary.csv")).unwrap();
        assert_eq!(log.lines().count(), 2, "{kind}");
    }
}

/// Mutations caught, each alone: zero bytes accepted; lines counted from 0.
#[test]
fn what_is_wrong_in_a_list_is_told_with_its_line() {
    let place = TestFolder::new("wronglists");
    said(&place.train("r", &["--epochs", "1"]));
    let write = |name: &str, bytes: &[u8]| std::fs::write(place.path(name), bytes).unwrap();
    let convert = ["convert", "out/train/r/last.ckpt", "c.ckpt", "--classes", "c.txt"];
    for (bytes, words) in [
        (&b"cat\n\ndog\nbird\n"[..], &["c.txt", "line 2", "empty"][..]),
        (b"cat\ncaf\xe9\ndog\n", &["c.txt", "line 2", "UTF-8"]),
        (b"c\0a\0t\0\n\0", &["c.txt", "UTF-16"]),
        (b"cat\ndog\n", &["2 class names for 3 logits"]),
        (b"", &["0 class names for 3 logits"]),
    ] {
        write("c.txt", bytes);
        refused(&place.run(&convert), 3, words);
    }
    assert!(!place.path("c.ckpt").exists());
    // As ImageNet's own list has it.
    write("c.txt", b"crane\ndog\ncrane\n");
    let output = place.run(&convert);
    said(&output);
    assert!(
        error(&output).contains("line 3: `crane` stands in line 1 already"),
        "{}",
        error(&output)
    );
    let train = |more: &[&str]| place.train("x", more);
    write("w.csv", b"bag,1\nsandal;1\n");
    refused(&train(&["--class-weights", "w.csv"]), 2, &["w.csv", "line 2", "class,weight"]);
    write("w.csv", b"bag,1\nbag,2\nsandal,1\ntrouser,1\n");
    refused(
        &train(&["--class-weights", "w.csv"]),
        2,
        &["w.csv", "line 2", "`bag` has a weight already"],
    );
    write("w.csv", b"bag,1\ns\xe4ndal,1\n");
    refused(&train(&["--class-weights", "w.csv"]), 2, &["w.csv", "line 2", "UTF-8"]);
    write("q.txt", b"\xef\xbb\xbftrain/bag/0001.png\tx\r\ntrain/bag/0002.png\r\n");
    refused(&train(&["--quarantine", "q.txt"]), 3, &["q.txt", "line 2", "TAB"]);
    write("o.toml", b"\xef\xbb\xbfepochs = 1\r\nepochz = 1\r\n");
    refused(&train(&["--config", "o.toml"]), 2, &["o.toml", "line 2", "epochz"]);
    write("o.toml", b"epochs = 1 # caf\xe9\n");
    refused(&train(&["--config", "o.toml"]), 2, &["o.toml", "line 1", "UTF-8"]);
}

/// The values of the classifier's weight.
fn head(checkpoint: &Checkpoint) -> Vec<f32> {
    checkpoint.weights.iter().find(|t| t.name == "classifier.3.weight").unwrap().values.clone()
}

/// With a learning rate of 0 the classifier stays as it was loaded.
///
/// Mutations caught, each alone: the classifier kept by its count alone; rows not reordered;
/// the orders not compared.
#[test]
fn a_pretrained_classifier_is_kept_reordered_or_anew_and_the_user_is_told() {
    let place = TestFolder::new("head");
    said(&place.train("r", &["--epochs", "1"]));
    let source = Checkpoint::read(&place.checkpoint("r")).unwrap();
    let trained = head(&source);
    let start = |data: &str, run: &str, from: &str| {
        let still = [
            "--epochs",
            "1",
            "--lr",
            "0",
            "--opt",
            "sgd",
            "--weight-decay",
            "0",
            "--warmup-epochs",
            "0",
        ];
        let more = ["--pretrained-path", from, "--experiment", run];
        let words = [&["train", data], &SMALL[2..], &still, &more].concat();
        let said = said(&place.run(&words));
        (said, head(&Checkpoint::read(&place.checkpoint(run)).unwrap()))
    };
    let (said_same, same) = start("data", "same", "out/train/r/last.ckpt");
    assert!(said_same.contains("the classifier is kept: it has the same classes"), "{said_same}");
    assert!(same == trained);
    // The same classes in another order.
    let mut other = Checkpoint::read(&place.checkpoint("r")).unwrap();
    other.manifest.classes.rotate_left(1);
    for tensor in other.weights.iter_mut().filter(|t| t.name.starts_with("classifier.3.")) {
        let row = tensor.values.len() / 3;
        tensor.values.rotate_left(row);
    }
    other.write(&place.path("rotated.ckpt")).unwrap();
    // An evaluation goes by the names, in whatever order the logits are.
    let [own, rotated] = ["out/train/r/last.ckpt", "rotated.ckpt"].map(|checkpoint| {
        let output = place.run(&["eval", "--checkpoint", checkpoint, "data", "--json"]);
        let report: Value = serde_json::from_str(&self::said(&output)).unwrap();
        (report["top1"].clone(), report["classes"].as_array().unwrap().len())
    });
    assert_eq!(own, rotated);
    let (said_order, order) = start("data", "order", "rotated.ckpt");
    assert!(said_order.contains("its logits were reordered by name"), "{said_order}");
    assert!(order == trained);
    // As many classes with other names.
    let mut other = Checkpoint::read(&place.checkpoint("r")).unwrap();
    other.manifest.classes[1] = "zebra".into();
    other.write(&place.path("zebra.ckpt")).unwrap();
    let output = place.run(&["eval", "--checkpoint", "zebra.ckpt", "data"]);
    refused(&output, 3, &["sandal", "images of a class that the training does not have"]);
    let (said_other, fresh) = start("data", "other", "zebra.ckpt");
    let words = "the classifier starts anew: its 3 classes have other names, such as `zebra` where the data has `sandal`";
    assert!(said_other.contains(words), "{said_other}");
    assert!(fresh != trained);
    // A file that names nothing.
    said(&place.run(&["convert", "out/train/r/last.ckpt", "w.safetensors"]));
    let (said_bare, bare) = start("data", "bare", "w.safetensors");
    assert!(
        said_bare
            .contains("the classifier is kept: the file has 3 classes like the data, but no names"),
        "{said_bare}"
    );
    assert!(!said_bare.contains("torchvision"), "{said_bare}");
    assert!(bare == trained);
    // Numbers: torchvision's order is another.
    for split in ["train", "val"] {
        for (class, name) in [("bag", "1"), ("sandal", "2"), ("trouser", "10")] {
            let (from, to) = (format!("data/{split}/{class}"), format!("numbers/{split}/{name}"));
            std::fs::create_dir_all(place.path(&to)).unwrap();
            std::fs::remove_dir(place.path(&to)).unwrap();
            std::fs::rename(place.path(&from), place.path(&to)).unwrap();
        }
    }
    let (said_numbers, _) = start("numbers", "numbers", "w.safetensors");
    assert!(
        said_numbers.contains("order these folders as text, with `10` where the data has `2`"),
        "{said_numbers}"
    );
    std::fs::write(place.path("n.txt"), "1\n2\n10\n").unwrap();
    let convert =
        ["convert", "w.safetensors", "n.ckpt", "--model", "mobilenet_v3_small", "--width", "0.35"];
    let output = place
        .run(&[&convert[..], &["--classes", "n.txt", "--resize", "32", "--crop", "32"]].concat());
    said(&output);
    assert!(error(&output).contains("where `10` has the index of `2`"), "{}", error(&output));
}

/// Mutations caught: cached images not counted.
#[test]
fn an_evaluation_tells_images_that_were_trained_on() {
    let place = TestFolder::new("seen");
    said(&place.train("r", &["--epochs", "1"]));
    let eval = |checkpoint: &str, more: &[&str]| {
        let output = place.run(&[&["eval", "--checkpoint", checkpoint, "--json"], more].concat());
        let report: Value = serde_json::from_str(&said(&output)).unwrap();
        (report["trained_on"].as_u64(), error(&output))
    };
    let last = "out/train/r/last.ckpt";
    let (seen, told) = eval(last, &["data", "--val-split", "train"]);
    assert_eq!(seen, Some(36));
    assert!(told.contains("36 of these 36 images were trained on"), "{told}");
    let (seen, told) = eval(last, &["data"]);
    assert_eq!((seen, told.contains("trained on")), (Some(0), false), "{told}");
    // Copies under other names among new images.
    for (class, name) in [("bag", "0001"), ("bag", "0007"), ("sandal", "0002")] {
        let from = place.path(&format!("data/train/{class}/{name}.png"));
        std::fs::copy(from, place.path(&format!("data/val/{class}/copy-{name}.png"))).unwrap();
    }
    let (seen, told) = eval(last, &["data"]);
    assert_eq!(seen, Some(3));
    assert!(told.contains("3 of these 18 images were trained on"), "{told}");
    // Resumed, converted, from a cache that another run has filled.
    said(&place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]));
    assert_eq!(eval(last, &["data"]).0, Some(3));
    said(&place.run(&["convert", last, "c.ckpt"]));
    assert_eq!(eval("c.ckpt", &["data"]).0, Some(3));
    for run in ["first", "second"] {
        said(&place.train(run, &["--epochs", "1", "--cache", "disk", "--cache-dir", "cache"]));
        assert_eq!(eval(&format!("out/train/{run}/last.ckpt"), &["data"]).0, Some(3), "{run}");
    }
    // From shards, and evaluated on them.
    said(&place.run(&["data", "shard", "data", "--output", "shards"]));
    let words =
        [&["train", "shards"], &SMALL[2..], &["--epochs", "1", "--experiment", "s"]].concat();
    said(&place.run(&words));
    assert_eq!(eval("out/train/s/last.ckpt", &["data", "--val-split", "train"]).0, Some(36));
    assert_eq!(eval(last, &["shards", "--val-split", "train"]).0, Some(36));
    // Older checkpoints do not know.
    let mut older = Checkpoint::read(&place.checkpoint("r")).unwrap();
    older.manifest.trained_images = None;
    older.write(&place.path("older.ckpt")).unwrap();
    let (seen, told) = eval("older.ckpt", &["data", "--val-split", "train"]);
    assert_eq!((seen, told.contains("trained on")), (None, false), "{told}");
}

#[test]
fn ten_thousand_classes_are_evaluated_as_fast_as_three() {
    let place = TestFolder::new("thousands");
    said(&place.train("r", &["--epochs", "1"]));
    let mut checkpoint = Checkpoint::read(&place.checkpoint("r")).unwrap();
    let manifest = &mut checkpoint.manifest;
    manifest.classes.extend((3..10_000).map(|class| format!("class-{class}")));
    manifest.network.num_classes = 10_000;
    let network = manifest.network.init_seeded(&burn::tensor::Device::flex(), 1);
    checkpoint.weights = state_dict(&network);
    (checkpoint.optimizer, checkpoint.averages) = (Vec::new(), Vec::new());
    checkpoint.write(&place.path("many.ckpt")).unwrap();
    for split in ["train", "val"] {
        for class in ["bag", "sandal", "trouser"] {
            for copy in 0..12 {
                for name in 0..5 {
                    let from = place.path(&format!("data/{split}/{class}/{name:04}.png"));
                    let to = place.path(&format!("data/val/{class}/{split}-{name}-{copy}.png"));
                    std::fs::copy(from, to).unwrap();
                }
            }
        }
    }
    let eval = |checkpoint: &str, folder: &str| {
        let words = ["eval", "--checkpoint", checkpoint, "data", "--output", folder, "--json"];
        let output = place.run(&words);
        let report: Value = serde_json::from_str(&said(&output)).unwrap();
        assert_eq!(report["pictures"], 375);
        (report["img_per_s"].as_f64().unwrap(), error(&output))
    };
    let (few, _) = eval("out/train/r/last.ckpt", "few");
    let (many, told) = eval("many.ckpt", "many");
    assert!(many > few / 4.0, "{many:.1} images/s with 10,000 classes, {few:.1} with 3");
    assert_eq!(told.lines().filter(|line| line.contains("no image of")).count(), 1, "{told}");
    assert!(told.contains("no image of 9997 classes, such as class-3"), "{told}");
    assert!(place.path("few/confusion.csv").exists() && !place.path("many/confusion.csv").exists());
    let table = std::fs::read_to_string(place.path("many/top_confusions.csv")).unwrap();
    assert!(table.starts_with("true,predicted,images,share\n") && table.lines().count() < 1002);
    let counts: Vec<u64> =
        table.lines().skip(1).map(|row| row.split(',').nth(2).unwrap().parse().unwrap()).collect();
    assert!(counts.iter().rev().is_sorted() && counts[0] > 1, "{table}");
}
