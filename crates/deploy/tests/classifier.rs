//! A checkpoint that an older program wrote names images with that program's probabilities,
//! whichever way the image comes in, and every fault of a file has a sentence of its own.
//!
//! `fixtures/fashion.ckpt` was written at commit 33c264c, before this crate existed:
//!
//! ```text
//! kindling train datasets/fashion-mnist-mini --model mobilenet_v3_small --width 0.1 --img-size 32
//!     --batch-size 16 --epochs 30 --lr 0.01 --warmup-epochs 2 --bn-momentum 0.1 --scale 0.7 1 --seed 1
//!     --backend flex --output out --experiment fashion
//! kindling average out/train/fashion/model_best.ckpt --output fashion.ckpt
//! kindling predict --checkpoint fashion.ckpt --backend flex --format csv --topk 3 trouser.png ..
//! ```
//!
//! The images are `val/<class>/0002.png` of the same data set (MIT).

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use deploy::classifier::Classifier;
use deploy::container::{Container, EMA, OPTIMIZER, TensorRef, container_of, safetensors_of};
use deploy::error::Error;
use deploy::files::write_atomically;
use deploy::manifest::WeightsKind;
use deploy::predict::Prediction;
use nn::weights::NamedTensor;

/// A classifier is shared by threads: this compiles.
const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<Classifier>();
    shared::<Prediction>();
    shared::<Error>();
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fashion() -> Classifier {
    Classifier::load(fixture("fashion.ckpt")).unwrap()
}

/// A folder of its own for a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("deploy-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The fixture's bytes with another manifest and other tensors.
fn changed(
    manifest: impl FnOnce(&mut serde_json::Value),
    tensors: impl FnOnce(&mut Vec<NamedTensor>),
) -> Vec<u8> {
    let mut container =
        Container::from_bytes(&std::fs::read(fixture("fashion.ckpt")).unwrap()).unwrap();
    let mut fields: serde_json::Value = serde_json::from_str(&container.manifest).unwrap();
    manifest(&mut fields);
    tensors(&mut container.tensors);
    container_of(&fields.to_string(), container.tensors.iter().map(TensorRef::from))
}

/// Expected: `kindling predict` of commit 33c264c.
#[test]
fn the_probabilities_are_those_of_the_program_that_wrote_the_checkpoint() {
    let classifier = fashion();
    assert_eq!(classifier.classes().len(), 10);
    for (name, expected) in [
        ("trouser.png", [("trouser", 0.984_846), ("pullover", 0.004_479), ("coat", 0.003_333)]),
        ("bag.png", [("bag", 0.986_030), ("pullover", 0.006_022), ("shirt", 0.005_413)]),
        (
            "ankle-boot.png",
            [("ankle-boot", 0.755_520), ("sneaker", 0.227_278), ("sandal", 0.016_290)],
        ),
    ] {
        let prediction = classifier.classify(fixture(name)).unwrap();
        for (guess, (class, probability)) in prediction.top(3).iter().zip(expected) {
            assert_eq!(guess.class, class, "{name}");
            assert_eq!(classifier.classes()[guess.index], class);
            assert!((guess.probability - probability).abs() < 1e-4, "{name}: {guess:?}");
        }
        let sum: f32 = prediction.probabilities().iter().sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
}

#[test]
fn a_path_its_bytes_and_its_pixels_give_the_same() {
    let classifier = fashion();
    for name in ["trouser.png", "bag.png", "ankle-boot.png"] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let pixels = image::load_from_memory(&bytes).unwrap().to_rgb8();
        let of_path = classifier.classify(fixture(name)).unwrap();
        assert_eq!(of_path, classifier.classify_bytes(&bytes).unwrap(), "{name}");
        assert_eq!(of_path, classifier.classify_image(&pixels).unwrap(), "{name}");
    }
}

/// Mutations caught: the room of an image that cannot be read kept in the batch.
#[test]
fn a_batch_gives_the_same_as_its_images_one_by_one() {
    let classifier = fashion();
    let names = ["trouser.png", "missing.png", "bag.png", "fashion.ckpt", "ankle-boot.png"];
    let paths = names.map(fixture);
    let of_paths = classifier.classify_batch(&paths);
    assert_eq!(of_paths.len(), 5);
    for (path, result) in paths.iter().zip(&of_paths) {
        match (result, classifier.classify(path)) {
            (Ok(batched), Ok(single)) => assert_eq!(*batched, single, "{}", path.display()),
            (Err(batched), Err(single)) => assert_eq!(batched.to_string(), single.to_string()),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    assert!(matches!(of_paths[1], Err(Error::Read { .. })), "{:?}", of_paths[1]);
    assert!(matches!(of_paths[3], Err(Error::Image { .. })), "{:?}", of_paths[3]);
    let readable = [&paths[0], &paths[2], &paths[4]];
    let files = readable.map(|path| std::fs::read(path).unwrap());
    let images = files.each_ref().map(|f| image::load_from_memory(f).unwrap().to_rgb8());
    let of_bytes = classifier.classify_bytes_batch(&files);
    let of_images = classifier.classify_image_batch(&images.each_ref());
    for ((path, bytes), image) in readable.iter().zip(of_bytes).zip(of_images) {
        let single = classifier.classify(path).unwrap();
        assert_eq!(bytes.unwrap(), single);
        assert_eq!(image.unwrap(), single);
    }
    assert!(classifier.classify_batch::<PathBuf>(&[]).is_empty());
}

/// Mutations caught: the average always.
#[test]
fn the_better_weights_are_taken_unless_others_are_named() {
    let folder = Folder::new("weights");
    let with_average = |prefer: bool| {
        changed(
            |manifest| {
                manifest["ema_updates"] = 7.into();
                manifest["prefer_ema"] = prefer.into();
            },
            |tensors| {
                let mut average = tensors.clone();
                average.iter_mut().for_each(|t| t.name.insert_str(0, EMA));
                // The average is told apart by its bias: it always names the first class.
                let bias = average.iter_mut().find(|t| t.name == "ema.classifier.3.bias").unwrap();
                bias.values[0] = 100.0;
                let name = format!("{OPTIMIZER}first.classifier.3.bias");
                tensors.push(NamedTensor { name, shape: vec![1], values: vec![1.0] });
                tensors.extend(average);
            },
        )
    };
    let class = |prefer: bool, weights: WeightsKind| {
        let path = folder.write("average.ckpt", &with_average(prefer));
        let classifier = Classifier::load_weights(path, weights, &Device::flex()).unwrap();
        classifier.classify(fixture("trouser.png")).unwrap().best().class
    };
    assert_eq!(class(true, WeightsKind::Best), "ankle-boot");
    assert_eq!(class(false, WeightsKind::Best), "trouser");
    assert_eq!(class(true, WeightsKind::Raw), "trouser");
    assert_eq!(class(false, WeightsKind::Ema), "ankle-boot");
    let none = Classifier::load_weights(fixture("fashion.ckpt"), WeightsKind::Ema, &Device::flex());
    let error = none.unwrap_err();
    assert!(matches!(error, Error::NoAverage { .. }), "{error}");
    assert!(error.to_string().contains("no exponential average"), "{error}");
}

#[test]
fn every_fault_of_a_checkpoint_has_its_sentence() {
    let folder = Folder::new("faults");
    let check = |name: &str, bytes: &[u8], words: &[&str]| {
        let error = Classifier::load(folder.write(name, bytes)).unwrap_err().to_string();
        for word in [&[name], words].concat() {
            assert!(error.contains(word), "`{word}` in: {error}");
        }
        assert!(!error.contains('\n') && !error.ends_with('.'), "{error}");
    };
    let good = std::fs::read(fixture("fashion.ckpt")).unwrap();
    check("empty.ckpt", b"", &["not a Kindling checkpoint", "copy it again"]);
    check("foreign.ckpt", b"PK\x03\x04 something else", &["not a Kindling checkpoint"]);
    check("half.ckpt", &good[..good.len() / 2], &["truncated", "copy it again"]);
    let tensor = TensorRef { name: "a", shape: vec![2], values: &[1.0, 2.0] };
    check("plain.ckpt", &safetensors_of([tensor], &[]), &["without Kindling's manifest"]);
    let mut flipped = good.clone();
    let last = flipped.len() - 100;
    flipped[last] ^= 4;
    check("tensors.ckpt", &flipped, &["the tensors were altered", "copy it again"]);
    let mut flipped = good;
    // A letter of a class name: the JSON remains JSON.
    let letter = flipped.windows(4).position(|w| w == b"bag\\").unwrap();
    flipped[letter] ^= 1;
    check("manifest.ckpt", &flipped, &["the manifest was altered"]);
    let version = changed(|manifest| manifest["format"] = 2.into(), |_| ());
    check("newer.ckpt", &version, &["layout version 2", "reads 1"]);
    let classes = changed(|manifest| manifest["classes"] = vec!["a"].into(), |_| ());
    check("classes.ckpt", &classes, &["1 class names for 10 logits"]);
    let crop = changed(|manifest| manifest["preprocess"]["crop"] = vec![0, 0].into(), |_| ());
    check("crop.ckpt", &crop, &["preprocess.crop: 0"]);
    let field =
        changed(|manifest| drop(manifest.as_object_mut().unwrap().remove("network")), |_| ());
    check("field.ckpt", &field, &["manifest", "network"]);
    let lacking = changed(|_| (), |tensors| drop(tensors.pop()));
    check("lacking.ckpt", &lacking, &["do not fit this network"]);
    let error = Classifier::load(folder.0.join("missing.ckpt")).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    assert!(error.to_string().contains("missing.ckpt: cannot read it"), "{error}");
}

#[test]
fn every_fault_of_an_image_has_its_sentence() {
    let folder = Folder::new("images");
    let classifier = fashion();
    let check = |error: Error, words: &[&str]| {
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    check(classifier.classify("nowhere.png").unwrap_err(), &["nowhere.png: cannot read it"]);
    let empty = folder.write("empty.png", b"");
    check(classifier.classify(empty).unwrap_err(), &["empty.png: the file is empty"]);
    let text = folder.write("text.png", b"words");
    check(classifier.classify(text).unwrap_err(), &["text.png: not an image of a known format"]);
    check(classifier.classify_bytes(b"words").unwrap_err(), &["not an image of a known format"]);
    let nothing = classifier.classify_image(&image::RgbImage::new(0, 4)).unwrap_err();
    check(nothing, &["0 x 4 pixels"]);
}

#[test]
fn a_container_is_written_as_it_was_read() {
    let bytes = std::fs::read(fixture("fashion.ckpt")).unwrap();
    let container = Container::from_bytes(&bytes).unwrap();
    let backwards = container.tensors.iter().rev().map(TensorRef::from);
    let written = container_of(&container.manifest, backwards);
    assert_eq!(written.len(), bytes.len());
    assert_eq!(Container::from_bytes(&written).unwrap(), container);
    // Behind the header, whose fields have no order, the bytes are the same.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    assert!(written[8 + header..] == bytes[8 + header..]);
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let folder = Folder::new("atomic");
    let path = folder.write("kept.txt", b"old");
    write_atomically(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    // A folder in the way of the rename.
    let blocked = folder.0.join("blocked.txt");
    std::fs::create_dir_all(blocked.join("inside")).unwrap();
    let error = write_atomically(&blocked, b"new").unwrap_err().to_string();
    assert!(error.contains("blocked.txt: cannot write") && error.contains("untouched"), "{error}");
    let names = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, ["blocked.txt", "kept.txt"]);
}

/// Weights that are not finite, and finite ones whose logits are not: no class, and no confidence.
/// Mutations caught: logits that are not finite named.
#[test]
fn what_is_not_finite_has_no_class() {
    let folder = Folder::new("odd");
    let with = |name: &str, value: f32, all: bool| {
        let bytes = changed(
            |_| {},
            |tensors| {
                let tensor = tensors.iter_mut().find(|t| t.name == name).unwrap();
                match all {
                    true => tensor.values.fill(value),
                    false => tensor.values[0] = value,
                }
            },
        );
        Classifier::load(folder.write("odd.ckpt", &bytes))
    };
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for name in ["features.0.0.weight", "features.0.1.running_var", "classifier.3.bias"] {
            let error = with(name, odd, false).unwrap_err();
            assert!(matches!(error, Error::Weights { .. }), "{error}");
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }
    assert!(matches!(with("features.0.1.running_var", -1.0, false), Err(Error::Weights { .. })));
    // A convolution that overflows, a classifier that does.
    for name in ["features.0.0.weight", "classifier.3.weight"] {
        let classifier = with(name, 3e38, true).unwrap();
        let (path, missing) = (fixture("trouser.png"), fixture("none.png"));
        let error = classifier.classify(&path).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }), "{name}: {error}");
        assert!(error.to_string().contains("trouser.png: the logits are not finite"), "{error}");
        let results = classifier.classify_batch(&[&missing, &path]);
        assert!(matches!(results[0], Err(Error::Read { .. })));
        assert!(results[1].as_ref().is_err_and(|e| e.to_string().contains("trouser.png")));
        let bytes = std::fs::read(&path).unwrap();
        let error =
            classifier.classify_bytes_batch(&[&b""[..], &bytes]).pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("image 2 of the batch: the logits"), "{error}");
    }
}
