//! What lies among the images and is none of ours: photos of other formats, litter of file managers
//! and archives, images without a class. Each kind is counted and named once, by every command that
//! reads a folder, and makes no class.
//!
//! Mutations caught: `@eaDir` listed as a class, the notes dropped by the folder, by `predict` or
//! by `data check`, loose images not counted, capitals of an extension not read.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::Path;

use test_folder::{TestFolder, code, error};

/// The notes that the planted files must give, word for word.
const FOREIGN: &str = "1 AVIF image, 2 HEIC photos (iPhone), 1 PNM image (ppm, pgm), 1 camera raw file left out, such as";
const LITTER: &str = "(.DS_Store, ._*, @eaDir, Thumbs.db, __MACOSX) left out, such as";
const LOOSE: &str = "2 images beside the class folders left out, such as";

/// Puts into a split what people's folders have.
fn plant(split: &Path) {
    let put = |path: &str, bytes: &[u8]| {
        std::fs::create_dir_all(split.join(path).parent().unwrap()).unwrap();
        std::fs::write(split.join(path), bytes).unwrap();
    };
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    put("bag/IMG_0001.HEIC", heic);
    put("sandal/deep/IMG_0002.heic", heic);
    put("sandal/x.avif", b"");
    put("trouser/x.ppm", b"P6 1 1 255 abc");
    put("trouser/x.CR2", b"II*\0");
    let png = std::fs::read(split.join("bag/0000.png")).unwrap();
    put("@eaDir/bag/0000.png", &png);
    put("__MACOSX/bag/._0000.png", b"resource");
    put("bag/@eaDir/0000.png", &png);
    put("bag/._0000.png", b"resource");
    put(".DS_Store", b"x");
    put("bag/Thumbs.db", b"x");
    put("loose.png", &png);
    put("more.jpg", &png);
}

#[track_caller]
fn once(text: &str, words: &str) {
    assert_eq!(text.matches(words).count(), 1, "`{words}` in:\n{text}");
}

#[test]
fn every_command_names_each_kind_once() {
    let place = TestFolder::new("left-out");
    // The same images with and without the planted files: the classes and their number stay.
    let images = |run: &str| {
        let text =
            std::fs::read_to_string(place.path(&format!("out/train/{run}/run.json"))).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["data"].clone()
    };
    assert_eq!(code(&place.train("clean", &["--epochs", "1"])), 0);
    plant(&place.path("data/train"));
    plant(&place.path("data/val"));
    let output = place.train("r", &["--epochs", "1"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert_eq!(images("r"), images("clean"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    for split in ["data/train", "data/val"] {
        once(&said, &format!("{FOREIGN} {split}/bag/IMG_0001.HEIC: convert them to JPEG or PNG"));
        once(&said, &format!("{LOOSE} {split}/loose.png: move each"));
    }
    assert_eq!(said.matches(LITTER).count(), 2, "{said}");

    let eval = place.run(&["eval", "--checkpoint", "out/train/r/last.ckpt", "--backend", "flex"]);
    assert_eq!(code(&eval), 0, "{}", error(&eval));
    for words in [FOREIGN, LITTER, LOOSE] {
        once(&error(&eval), words);
    }

    let words = ["predict", "--checkpoint", "out/train/r/last.ckpt", "--backend", "flex"];
    let predict =
        place.run(&[&words[..], &["--format", "csv", "--topk", "1", "data/val"]].concat());
    assert_eq!(code(&predict), 0, "{}", error(&predict));
    // Header, 15 images, and the two loose ones, which are images here.
    assert_eq!(String::from_utf8_lossy(&predict.stdout).lines().count(), 18);
    once(&error(&predict), FOREIGN);
    once(&error(&predict), LITTER);
}

#[test]
fn data_check_lists_them() {
    let place = TestFolder::new("left-out-check");
    plant(&place.path("data/val"));
    let output = place.run(&["data", "check", "data", "--json", "-"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = |kind: &str| {
        let all = report["findings"].as_array().unwrap();
        let finding = all.iter().find(|finding| finding["kind"] == kind);
        let finding = finding.unwrap_or_else(|| panic!("no {kind} in {report:#}"));
        (finding["severity"].as_str().unwrap().to_owned(), finding["count"].as_u64().unwrap())
    };
    assert_eq!(found("other_format"), ("warning".into(), 5));
    assert_eq!(found("system_files"), ("note".into(), 6));
    assert_eq!(found("no_class"), ("error".into(), 2));
    let classes = report["splits"][1]["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 3, "{classes:?}");
}

/// A folder of photos of another format alone says so.
#[test]
fn a_folder_of_other_formats_alone_says_which() {
    let place = TestFolder::new("left-out-alone");
    for class in ["bag", "sandal", "trouser"] {
        for entry in std::fs::read_dir(place.path("data/train").join(class)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::rename(&path, path.with_extension("heic")).unwrap();
        }
    }
    let output = place.train("r", &["--epochs", "1"]);
    assert_eq!(code(&output), 3, "{}", error(&output));
    assert!(error(&output).contains("36 HEIC photos (iPhone)"), "{}", error(&output));
}
