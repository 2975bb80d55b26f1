//! `kindling data check` on a folder with every fault planted, and the quarantine list in training
//! and evaluation.
//!
//! Mutations caught: every check taken out, each in the list that the first test prints:
//! `orientation`, the extension against the content, the size, truncation, duplicates in train, the
//! splits of a leak, the labels of a contradiction, the mirrored look, hidden folders, loose and
//! overlooked images, alike and numeric names, empty, missing and extra classes, other splits,
//! imbalance; and by themselves: the frame header's components (cmyk), `same_bytes`.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::codecs::png::{CompressionType, FilterType as PngFilter, PngEncoder};
use image::imageops::{FilterType, flip_horizontal, resize};
use image::{GenericImageView as _, Rgb, RgbImage};
use serde_json::Value;
use test_folder::{SMALL, TestFolder, code, error, refused};
use transforms::random::Counter;

/// Soft patches of colour, another image for every number.
fn image(number: u64) -> RgbImage {
    let mut draw = Counter::new(number, 0, 0, 1);
    let patches = RgbImage::from_fn(6, 5, |_, _| {
        Rgb([draw.range(256) as u8, draw.range(256) as u8, draw.range(256) as u8])
    });
    resize(&patches, 60, 48, FilterType::Triangle)
}

fn save(root: &Path, path: &str, image: &RgbImage) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

/// The same pixels as `save` in another file: nothing compressed.
fn save_uncompressed(root: &Path, path: &str, image: &RgbImage) {
    let file = std::fs::File::create(root.join(path)).unwrap();
    let encoder =
        PngEncoder::new_with_quality(file, CompressionType::Uncompressed, PngFilter::NoFilter);
    image.write_with_encoder(encoder).unwrap();
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../transforms/tests/fixtures/decode").join(name)
}

fn copy(from: &Path, to: PathBuf) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

/// Two classes and a numbered pair, with nothing wrong.
fn clean(root: &Path) {
    for (c, class) in ["a", "b"].into_iter().enumerate() {
        for i in 0..6 {
            save(root, &format!("train/{class}/{i}.png"), &image(c as u64 * 100 + i));
        }
        for i in 0..2 {
            save(root, &format!("val/{class}/{i}.png"), &image(c as u64 * 100 + 50 + i));
        }
    }
}

/// Findings: kind -> sorted paths, `a = b` where two belong together.
fn findings(report: &Value) -> BTreeMap<String, Vec<String>> {
    let text = |item: &Value| match item["other"].as_str() {
        Some(other) => format!("{} = {other}", item["path"].as_str().unwrap()),
        None => item["path"].as_str().unwrap().to_owned(),
    };
    let row = |finding: &Value| {
        let items = finding["items"].as_array().unwrap();
        assert_eq!(finding["count"], items.len());
        let mut places: Vec<String> = items.iter().map(text).collect();
        places.sort();
        (finding["kind"].as_str().unwrap().to_owned(), places)
    };
    report["findings"].as_array().unwrap().iter().map(row).collect()
}

fn check(place: &TestFolder, more: &[&str]) -> (i32, Value) {
    let words = [&["data", "check", "faulty", "--json", "-"], more].concat();
    let output = place.run(&words);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (code(&output), serde_json::from_str(&text).unwrap_or_else(|_| panic!("{}", error(&output))))
}

/// Puts one fault of every kind into a clean folder.
fn plant_faults(root: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), bytes).unwrap();
    };
    // Classes and folders.
    std::fs::create_dir_all(root.join("train/empty")).unwrap();
    save(root, "train/10/0.png", &image(300));
    save(root, "train/9/0.png", &image(301));
    save(root, "val/10/0.png", &image(302));
    std::fs::create_dir_all(root.join("val/9")).unwrap();
    save(root, "train/A/0.png", &image(310));
    save(root, "val/A/0.png", &image(311));
    save(root, "val/bb/0.png", &image(312));
    std::fs::create_dir_all(root.join("val/zebra")).unwrap();
    save(root, "train/.ipynb_checkpoints/0.png", &image(320));
    save(root, "train/b/.thumbnails/0.png", &image(321));
    save(root, "val/loose.png", &image(322));
    save(root, "test/a/0.png", &image(323));
    put("train/a/notes.txt", b"words");
    let jpeg = std::fs::read(fixture("rgb.jpg")).unwrap();
    put("train/a/photo.jfif_", &jpeg);
    // Files.
    put("train/a/words.png", b"words");
    put("train/a/nothing.png", b"");
    put("train/b/cut.jpg", &jpeg[..jpeg.len() - 40]);
    save(root, "train/b/really_png.png", &image(340));
    std::fs::rename(root.join("train/b/really_png.png"), root.join("train/b/really_png.jpg"))
        .unwrap();
    copy(&fixture("orientation_6.jpg"), root.join("train/b/turned.jpg"));
    save(root, "train/b/tiny.png", &image(330).view(0, 0, 9, 48).to_image());
    for name in ["cmyk.jpg", "deep.png", "gray_alpha.png", "rgba.webp", "progressive.jpg"] {
        copy(&fixture(name), root.join("train/a").join(name));
    }
    // Copies.
    let source = |path: &str| image::open(root.join(path)).unwrap().into_rgb8();
    copy(&root.join("train/a/1.png"), root.join("train/a/1_again.png"));
    save_uncompressed(root, "train/b/1_from_a.png", &source("train/a/2.png"));
    copy(&root.join("train/a/3.png"), root.join("val/a/leak.png"));
    save_uncompressed(root, "val/b/leak.png", &source("train/b/3.png"));
    save(root, "val/a/mirrored.png", &flip_horizontal(&source("train/a/4.png")));
    save(root, "val/a/again.jpg", &source("train/a/5.png"));
    let larger = resize(&source("train/b/5.png"), 90, 72, FilterType::CatmullRom);
    save(root, "val/b/larger.png", &larger);
}

#[test]
fn every_planted_fault_is_found_and_nothing_else() {
    let place = TestFolder::new("doctor");
    let root = place.path("faulty");
    clean(&root);
    let (exit, report) = check(&place, &["--strict"]);
    assert_eq!((exit, findings(&report).len()), (0, 0), "a clean folder: {report:#}");
    plant_faults(&root);

    let (exit, report) = check(&place, &["--max-imbalance", "5", "--min-size", "10"]);
    assert_eq!(exit, 3);
    let expected: &[(&str, &[&str])] = &[
        ("empty_class", &["train/empty"]),
        ("missing_class", &["val/9", "val/empty"]),
        ("extra_class", &["val/bb"]),
        ("extra_empty_class", &["val/zebra"]),
        ("alike_names", &["train/A = a", "val/A = a"]),
        ("numeric_names", &["train"]),
        ("hidden", &["train/.ipynb_checkpoints", "train/b/.thumbnails"]),
        ("no_class", &["val/loose.png"]),
        ("other_splits", &["test"]),
        ("other_files", &["train/a/notes.txt"]),
        ("overlooked", &["train/a/photo.jfif_"]),
        ("unreadable", &["train/a/nothing.png", "train/a/words.png"]),
        ("truncated", &["train/b/cut.jpg"]),
        ("misnamed", &["train/b/really_png.jpg"]),
        ("turned", &["train/b/turned.jpg"]),
        ("tiny", &["train/b/tiny.png"]),
        ("duplicate", &["train/a/1_again.png = train/a/1.png"]),
        ("contradiction", &["train/a/2.png = train/b/1_from_a.png"]),
        ("leak", &["val/a/leak.png = train/a/3.png", "val/b/leak.png = train/b/3.png"]),
        (
            "suspected_leak",
            &[
                "val/a/again.jpg = train/a/5.png",
                "val/a/mirrored.png = train/a/4.png",
                "val/b/larger.png = train/b/5.png",
            ],
        ),
        ("imbalance", &["train/9 = train/a"]),
    ];
    let mut found = findings(&report);
    let mut wrong = Vec::new();
    for (kind, places) in expected {
        let got = found.remove(*kind).unwrap_or_default();
        if got != *places {
            wrong.push(format!("{kind}: {got:?} instead of {places:?}"));
        }
    }
    wrong.extend(found.into_iter().map(|(kind, places)| format!("not planted: {kind} {places:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let samples = &report["samples"];
    for (name, count) in [("cmyk", 1), ("of 16 bits", 1), ("with alpha", 2), ("turned by EXIF", 1)]
    {
        assert_eq!(samples[name], count, "{name} in {samples}");
    }
    let detail = |kind: &str, at: usize| {
        let all = report["findings"].as_array().unwrap();
        let one = all.iter().find(|f| f["kind"] == kind).unwrap();
        one["items"][at]["detail"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(detail("leak", 0), "same file");
    assert_eq!(detail("leak", 1), "same pixels");
    assert!(
        detail("suspected_leak", 0).starts_with('0')
            || detail("suspected_leak", 0).contains("bits")
    );
    assert!(detail("extra_class", 0).contains("did you mean `b`"), "{}", detail("extra_class", 0));
}

#[test]
fn warnings_alone_are_no_failure_unless_strict_and_the_table_is_readable() {
    let place = TestFolder::new("doctor-strict");
    let root = place.path("faulty");
    clean(&root);
    copy(&root.join("train/a/1.png"), root.join("train/a/1_again.png"));
    assert_eq!(check(&place, &[]).0, 0);
    assert_eq!(check(&place, &["--strict"]).0, 3);
    let output = place.run(&["data", "check", "faulty", "--json", "report.json"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    for word in [
        "train       2 classes, 13 images",
        "val         2 classes, 4 images",
        "warning duplicate",
        "train/a/1_again.png  =  train/a/1.png  (same file)",
        "faulty: 0 kinds of errors, 1 kind of warning",
    ] {
        assert!(text.contains(word), "`{word}` in:\n{text}");
    }
    let json = std::fs::read_to_string(place.path("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["warnings"], 1);
    refused(&place.run(&["data", "check", "nowhere"]), 3, &["nowhere", "no such folder"]);
    std::fs::create_dir_all(place.path("void")).unwrap();
    refused(&place.run(&["data", "check", "void"]), 3, &["void", "class folders"]);
    // A folder of class folders is examined as a whole.
    let whole = place.run(&["data", "check", "faulty/train"]);
    assert_eq!(code(&whole), 0, "{}", error(&whole));
}

/// Pairs of Fashion-MNIST (`fixtures/alike`): four of the same product photo, four of different
/// sandals before a black ground, which makes their mean difference small. Mutations caught:
/// without the comparison with the contrast; with half of its share.
#[test]
fn a_wide_ground_does_not_make_two_things_alike() {
    let place = TestFolder::new("doctor-ground");
    let root = place.path("faulty");
    clean(&root);
    let pairs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/alike");
    let mut count = 0;
    for entry in std::fs::read_dir(&pairs).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (pair, split) = name.strip_suffix(".png").unwrap().rsplit_once('.').unwrap();
        copy(&pairs.join(&name), root.join(split).join("a").join(format!("{pair}.png")));
        count += 1;
    }
    assert_eq!(count, 16);
    let suspected = |more: &[&str]| {
        let (_, report) = check(&place, more);
        findings(&report).remove("suspected_leak").unwrap()
    };
    let pair = |name: &&str| format!("val/a/{name}.png = train/a/{name}.png");
    let same = ["coat-0642", "shirt-0250", "t-shirt-top-0506", "trouser-0473"];
    assert_eq!(suspected(&[]), same.iter().map(pair).collect::<Vec<_>>());
    // Who asks for more gets more.
    assert_eq!(suspected(&["--difference", "5"]).len(), 8);
}

#[test]
fn the_list_that_is_written_makes_the_next_check_clean() {
    let place = TestFolder::new("doctor-list");
    let root = place.path("faulty");
    clean(&root);
    std::fs::write(root.join("train/a/words.png"), b"words").unwrap();
    copy(&root.join("train/a/1.png"), root.join("train/a/1_again.png"));
    copy(&root.join("train/a/3.png"), root.join("val/a/leak.png"));
    let list = || std::fs::read_to_string(root.join("quarantine.txt")).unwrap();
    assert_eq!(check(&place, &["--write-quarantine"]).0, 3);
    assert_eq!(
        list(),
        "train/a/words.png\tnot an image of a known format (jpeg, png, webp, bmp, gif, tiff)\n"
    );
    // What was listed is left out, the rest is added; the copy to evaluate on stays.
    let (exit, report) = check(&place, &["--write-quarantine", "--quarantine", "leaks,duplicates"]);
    assert_eq!((exit, &report["quarantined"]), (3, &Value::from(1)));
    let lines: Vec<String> = list().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "train/a/1_again.png\tduplicate: equals train/a/1.png");
    assert_eq!(lines[1], "train/a/3.png\tleak: equals val/a/leak.png");
    assert_eq!(lines.len(), 3);
    let (exit, report) = check(&place, &["--strict"]);
    assert_eq!((exit, &report["quarantined"]), (0, &Value::from(3)), "{report:#}");
    assert_eq!(check(&place, &["--ignore-quarantine"]).0, 3);
    refused(&place.run(&["data", "check", "faulty", "--quarantine", "leaks"]), 2, &["quarantine"]);
}

/// Mutations caught: `leave_out` not called by `open_data::open`.
#[test]
fn training_and_evaluation_leave_out_what_is_listed() {
    let place = TestFolder::new("doctor-train");
    let list = place.path("data/quarantine.txt");
    std::fs::write(place.path("data/train/bag/0003.png"), b"no image").unwrap();
    let output = place.train("advice", &["--epochs", "1"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("`kindling data check data --write-quarantine`"), "{said}");
    std::fs::write(
        &list,
        "train/bag/0003.png\tbroken\nval/bag/0000.png\ttaste\ntrain/x.png\tgone\n",
    )
    .unwrap();
    let output = place.train("r", &["--epochs", "1"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for word in ["2 images left out, as data/quarantine.txt says", "not there, such as train/x.png"]
    {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
    let images = |run: &str| {
        let text =
            std::fs::read_to_string(place.path(&format!("out/train/{run}/run.json"))).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["data"]["pictures"].clone()
    };
    assert_eq!(images("r"), 35);
    let eval = |more: &[&str]| {
        let words =
            ["eval", "--checkpoint", "out/train/r/last.ckpt", "--json", "--backend", "flex"];
        let output = place.run(&[&words[..], more].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["pictures"].clone()
    };
    assert_eq!((eval(&[]), eval(&["--ignore-quarantine"])), (14.into(), 15.into()));
    std::fs::write(place.path("other.txt"), "train/bag/0004.png\tother\n").unwrap();
    assert_eq!(code(&place.train("i", &["--epochs", "1", "--ignore-quarantine"])), 0);
    assert_eq!(code(&place.train("o", &["--epochs", "1", "--quarantine", "other.txt"])), 0);
    assert_eq!((images("i"), images("o")), (36.into(), 35.into()));

    let fails = |text: &str, exit: i32, words: &[&str]| {
        std::fs::write(&list, text).unwrap();
        refused(&place.train("x", &["--epochs", "1"]), exit, words);
    };
    fails("train/bag/0003.png broken\n", 3, &["quarantine.txt: line 1", "TAB"]);
    fails("\ntrain/../../0003.png\tup\n", 3, &["line 2", "inside the folder"]);
    fails("/etc/passwd\tabsolute\n", 3, &["line 1", "inside the folder"]);
    let all: String = (0..12).map(|i| format!("train/bag/{i:04}.png\tall\n")).collect();
    fails(&all, 3, &["class bag", "--ignore-quarantine"]);
    std::fs::remove_file(&list).unwrap();
    // The run has its own copy of the list with which it began.
    let resumed = place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]);
    assert_eq!((code(&resumed), images("r")), (0, 35.into()), "{}", error(&resumed));
    let both = ["--quarantine", "other.txt", "--ignore-quarantine"];
    refused(&place.run(&[&SMALL[..], &both].concat()), 2, &["--quarantine", "--ignore-quarantine"]);
    refused(&place.train("y", &["--quarantine", "none.txt"]), 8, &["none.txt", "cannot read"]);
}
