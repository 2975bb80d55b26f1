//! A folder of photos and no flag: what is found in the folder, what is chosen for it, what is
//! said.
//!
//! Mutations caught, each alone: an evaluation split looked for by its lower-case name alone; the
//! only folder in a folder not entered; a rule over a flag; mirrored copies on both sides;
//! `split.csv` not read by `eval`.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use test_folder::{TestFolder, code, error, refused, said};

/// What keeps a run small and is no default under test.
const TINY: [&str; 12] = [
    "--model",
    "mobilenet_v3_small",
    "--width",
    "0.35",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--output",
    "out",
    "--experiment",
    "r",
];

/// `photos/<class>/*` out of the test folder's training images.
fn photos(place: &TestFolder, to: &str) {
    for class in ["bag", "sandal", "trouser"] {
        let folder = place.path(to).join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(place.path("data/train").join(class)).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
        }
    }
}

fn train(place: &TestFolder, words: &[&str]) -> std::process::Output {
    place.run(&[&["train"], words, &TINY[..]].concat())
}

fn plan(place: &TestFolder, run: &str) -> toml::Table {
    let path = place.path(&format!("out/train/{run}/args.toml"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

/// (path, split) of every line of `split.csv`.
fn list(path: &Path) -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[0].to_owned(), fields[2].to_owned())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn a_folder_of_class_folders_trains_and_is_evaluated_on_what_it_set_aside() {
    let place = TestFolder::new("flat");
    // As an archive is unpacked: one folder in another.
    photos(&place, "download/photos");
    let output = train(&place, &["download"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let text = said(&output);
    for words in [
        "taken from download/photos",
        "20 % of each class are set aside",
        "defaults for 29 training images of about 28 pixels, from scratch",
        "epoch 1/1 · train ",
        "best: top-1 ",
        "next: kindling predict IMAGE --checkpoint out/train/r/model_best.ckpt",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let split = list(&place.path("out/train/r/split.csv"));
    assert_eq!(split.len(), 36);
    assert_eq!(split.iter().filter(|(_, split)| split == "val").count(), 6);

    // New images change neither the evaluation nor the run.
    let new = place.path("download/photos/bag/new.png");
    std::fs::copy(place.path("data/val/bag/0000.png"), new).unwrap();
    let checkpoint = "out/train/r/model_best.ckpt";
    let output = place.run(&["eval", "--checkpoint", checkpoint]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains("6 images"), "{}", said(&output));
    assert!(
        error(&output).contains("split.csv") && error(&output).contains("1 images came"),
        "{}",
        error(&output)
    );
    let output = place.run(&["train", "--resume", "out/train/r", "--epochs", "2"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(said(&output).contains("epoch 2/2 · "), "{}", said(&output));
}

#[test]
fn splits_are_found_under_any_case_and_never_taken_for_classes() {
    let place = TestFolder::new("cases");
    photos(&place, "kaggle/Training");
    photos(&place, "kaggle/Test");
    let output = train(&place, &["kaggle"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(
        said(&output).contains("36 training and 36 validation images, 3 classes"),
        "{}",
        said(&output)
    );
    // Without a training split beside it, `test` may be a class or a split.
    photos(&place, "odd");
    photos(&place, "odd/test");
    refused(&train(&place, &["odd"]), 3, &["odd: it has a folder `test` and no `train`"]);
    // A training split alone is parted.
    photos(&place, "alone/train");
    std::fs::remove_dir_all(place.path("out")).unwrap();
    let output = train(&place, &["alone"]);
    assert!(said(&output).contains("30 training and 6 validation"), "{}", said(&output));
}

#[test]
fn copies_of_an_image_stay_on_one_side() {
    let place = TestFolder::new("copies");
    photos(&place, "photos");
    // Of every class five images three times: as they are, as JPEG, mirrored.
    for class in ["bag", "sandal", "trouser"] {
        let folder = place.path("photos").join(class);
        for i in 0..5 {
            let image = image::open(folder.join(format!("000{i}.png"))).unwrap().into_rgb8();
            let larger =
                image::imageops::resize(&image, 112, 112, image::imageops::FilterType::CatmullRom);
            larger.save(folder.join(format!("000{i}_jpeg.jpg"))).unwrap();
            image::imageops::flip_horizontal(&image)
                .save(folder.join(format!("000{i}_mirror.png")))
                .unwrap();
        }
    }
    let sides = |flags: &[&str], output: &str| {
        let words =
            [&["data", "split", "photos", "-o", output, "--val-fraction", "0.4"], flags].concat();
        let result = place.run(&words);
        assert_eq!(code(&result), 0, "{}", error(&result));
        let split = list(&place.path(output).join("split.csv"));
        let parted = split.iter().filter(|(path, side)| {
            let name = path.split('.').next().unwrap();
            let copies = split.iter().filter(|(other, _)| other.starts_with(name));
            copies.into_iter().any(|(_, other)| other != side)
        });
        (parted.count(), split.iter().filter(|(_, side)| side == "val").count())
    };
    let (parted, val) = sides(&[], "grouped");
    assert_eq!(parted, 0);
    assert!((20..=33).contains(&val), "{val}");
    assert!(sides(&["--no-group-duplicates"], "single").0 > 3);
    let files = |split: &str| walk(&place.path("grouped").join(split));
    assert_eq!((files("val"), files("train")), (val, 36 + 30 - val));
    refused(&place.run(&["data", "split", "photos", "-o", "grouped"]), 2, &["not empty"]);
    refused(
        &place.run(&["data", "split", "data", "-o", "again"]),
        3,
        &["evaluation split already"],
    );
}

fn walk(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { walk(&path) } else { 1 })
        .sum()
}

#[test]
fn a_flag_wins_over_the_rules_and_a_recipe_knows_none() {
    let place = TestFolder::new("rules");
    assert_eq!(code(&train(&place, &["data", "--img-size", "40", "--smoothing", "0"])), 0);
    let own = plan(&place, "r");
    assert_eq!(own["img_size"].as_integer(), Some(40));
    assert_eq!(own["smoothing"].as_float(), Some(0.0));
    assert_eq!(own["bn_momentum"].as_float(), Some(0.1), "few steps");
    assert_eq!(own["bn_cumulative"].as_bool(), Some(true));

    std::fs::remove_dir_all(place.path("out")).unwrap();
    let recipe = ["data", "--recipe", "mobilenet_v3_small/torchvision", "--img-size", "32"];
    let output = train(&place, &recipe);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let own = plan(&place, "r");
    assert_eq!(own["bn_momentum"].as_float(), Some(0.01));
    assert_eq!(own["bn_cumulative"].as_bool(), Some(false));
    assert!(!said(&output).contains("defaults for"), "{}", said(&output));
}

/// `--result` leaves standard output to the JSON alone; `--log-format json` has nothing but JSON
/// lines.
///
/// Mutations caught, each alone: the lines on standard output; a share in place of percent.
#[test]
fn machines_get_json_and_nothing_else() {
    let place = TestFolder::new("json");
    let output = train(&place, &["data", "--result"]);
    let result: serde_json::Value = serde_json::from_str(&said(&output)).unwrap();
    let top1 = result["best_top1"].as_f64().unwrap();
    assert!(error(&output).contains("epoch 1/1 · train "), "{}", error(&output));

    std::fs::remove_dir_all(place.path("out")).unwrap();
    let output = train(&place, &["data", "--log-format", "json"]);
    let lines: Vec<serde_json::Value> =
        said(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let epoch = lines.iter().find(|line| line["eval"].is_object()).unwrap();
    assert_eq!(epoch["eval"]["top1"].as_f64(), Some(top1));
    assert_eq!(epoch["epoch"], 0);
    assert_eq!(lines.last().unwrap()["result"]["best_top1"].as_f64(), Some(top1));
    assert!(
        lines.iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains("run folder")))
    );
}

/// A new classifier on trained weights knows nothing: it begins at ln(classes).
///
/// Mutations caught: the classifier left at its random values.
#[test]
fn a_new_classifier_begins_at_the_loss_of_guessing() {
    let place = TestFolder::new("head");
    assert_eq!(code(&place.train("trunk", &["--lr", "0.02"])), 0);
    std::fs::remove_dir_all(place.path("data/train/bag")).unwrap();
    std::fs::remove_dir_all(place.path("data/val/bag")).unwrap();
    let weights = "out/train/trunk/model_best.ckpt";
    let words =
        ["train", "data", "--pretrained-path", weights, "--img-size", "32", "--log-interval", "1"];
    let more = [
        "--smoothing",
        "0",
        "--batch-size",
        "8",
        "--epochs",
        "1",
        "--output",
        "out",
        "--experiment",
        "new",
    ];
    let output = place.run(&[&words[..], &more, &["--no-report", "--backend", "flex"]].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    let steps = std::fs::read_to_string(place.path("out/train/new/steps.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(steps.lines().next().unwrap()).unwrap();
    let loss = first["loss"].as_f64().unwrap();
    assert!((loss - std::f64::consts::LN_2).abs() < 1e-6, "{loss}");
}

/// Trained weights of other classes are fine-tuned: the lower layers slower. The same classes go on
/// with the classifier that they have, and a linear probe stays one.
///
/// Mutations caught, each alone: all trained weights taken for those of other classes; a file
/// without names for one of the same classes.
#[test]
fn weights_of_other_classes_are_fine_tuned_by_default() {
    let place = TestFolder::new("tuned");
    assert_eq!(code(&place.train("trunk", &[])), 0);
    let convert = ["convert", "out/train/trunk/last.ckpt", "trunk.safetensors"];
    assert_eq!(code(&place.run(&convert)), 0);
    let weights = "out/train/trunk/last.ckpt";
    let model = ["--model", "mobilenet_v3_small", "--width", "0.35", "--img-size", "32"];
    let chosen = |weights: &str, more: &[&str]| {
        let words = ["train", "data", "--pretrained-path", weights, "--dry-run"];
        let small = ["--batch-size", "4", "--backend", "flex"];
        let output = place.run(&[&words[..], &model, &small, more].concat());
        assert_eq!(code(&output), 0, "{}", error(&output));
        error(&output) + &said(&output)
    };
    for file in [weights, "trunk.safetensors"] {
        let same = chosen(file, &[]);
        assert!(same.contains("from trained weights: "), "{same}");
        assert!(!same.contains("--layer-decay"), "{same}");
    }
    for (from, to) in [("bag", "hat"), ("trouser", "boot")] {
        for split in ["train", "val"] {
            let folder = place.path("data").join(split);
            std::fs::rename(folder.join(from), folder.join(to)).unwrap();
        }
    }
    let other = chosen(weights, &[]);
    assert!(other.contains("from trained weights with a new classifier: "), "{other}");
    assert!(other.contains("--layer-decay"), "{other}");
    let probe = chosen(weights, &["--linear-probe"]);
    assert!(probe.contains("with a new classifier") && !probe.contains("--unfreeze"), "{probe}");
    // Three classes in the file, four in the folder.
    std::fs::rename(place.path("data/train/sandal"), place.path("data/train/shoe")).unwrap();
    std::fs::rename(place.path("data/val/sandal"), place.path("data/val/shoe")).unwrap();
    for split in ["train", "val"] {
        let folder = place.path("data").join(split);
        std::fs::create_dir(folder.join("slipper")).unwrap();
        let image = folder.join("shoe/0000.png");
        std::fs::rename(image, folder.join("slipper/0.png")).unwrap();
    }
    let more = chosen("trunk.safetensors", &[]);
    assert!(more.contains("--layer-decay"), "{more}");
}

/// A data set as it was downloaded.
///
/// Mutations caught, each alone: a member that leads out of the folder written; leftovers kept.
#[test]
fn an_archive_of_class_folders_trains() {
    let place = TestFolder::new("archive");
    photos(&place, "photos");
    let shell = |words: &str| {
        let output = std::process::Command::new("sh")
            .args(["-ec", words])
            .current_dir(place.path(""))
            .output();
        assert!(output.unwrap().status.success(), "{words}");
    };
    shell(
        "mkdir -p photos/__MACOSX photos/bag && echo x > photos/bag/.hidden.jpg && tar czf photos.tar.gz photos",
    );
    shell("tar cf odd.tar -P --transform 's,^photos/bag,../../out,' photos");
    shell("head -c 9000 photos.tar.gz > cut.tar.gz");
    let run = |archive: &str, run: &str| {
        let words =
            ["--model", "mobilenet_v3_small", "--width", "0.35", "--epochs", "1", "--no-report"];
        let own =
            [&["train", archive], &words[..], &["--output", "out", "--experiment", run]].concat();
        place.command(&own).env("XDG_CACHE_HOME", place.path("cache")).output().unwrap()
    };
    let output = run("photos.tar.gz", "a");
    assert_eq!(code(&output), 0, "{}", error(&output));
    assert!(
        error(&output).contains("36 images of photos.tar.gz unpacked to"),
        "{}",
        error(&output)
    );
    assert!(
        said(&output).contains("30 training and 6 validation images, 3 classes"),
        "{}",
        said(&output)
    );
    let output = run("photos.tar.gz", "b");
    assert!(!error(&output).contains("unpacked"), "{}", error(&output));
    let output = run("odd.tar", "c");
    assert!(said(&output).contains("2 classes"), "{}", said(&output));
    assert!(!place.path("cache/kindling/out").exists() && !place.path("cache/out").exists());
    let mut zip = zip::ZipWriter::new(std::fs::File::create(place.path("photos.zip")).unwrap());
    for (class, to) in [("bag", "bag"), ("sandal", "../sandal"), ("trouser", "trouser")] {
        for entry in std::fs::read_dir(place.path("photos").join(class)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{to}/{}", path.file_name().unwrap().to_string_lossy());
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(&std::fs::read(path).unwrap()).unwrap();
        }
    }
    zip.finish().unwrap();
    let output = run("photos.zip", "z");
    assert!(said(&output).contains("2 classes"), "{}{}", said(&output), error(&output));
    refused(&run("cut.tar.gz", "d"), 3, &["cut.tar.gz: a damaged archive", "copy it again"]);
    std::fs::write(place.path("empty.zip"), b"").unwrap();
    refused(&run("empty.zip", "e"), 3, &["empty.zip: a damaged archive"]);
    let kept = || {
        let entries = std::fs::read_dir(place.path("cache/kindling/data")).unwrap();
        entries.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    assert_eq!(kept(), 3, "nothing half-unpacked");

    // What processes that were killed have left, today's and those of before.
    for name in ["photos-0123.part", "photos-0123.part4711"] {
        std::fs::create_dir(place.path("cache/kindling/data").join(name)).unwrap();
    }
    shell("cp photos.zip again.zip");
    assert_eq!(code(&run("again.zip", "again")), 0);
    assert_eq!(kept(), 4, "leftovers are removed");
}

/// Archives that would fill the disk, and small ones that hold too much.
///
/// Mutations caught, each alone: the declared sizes not added up; what is passed over in a tar.gz not
/// counted.
#[test]
fn an_archive_unpacks_to_what_the_disk_and_its_length_allow() {
    const PLENTY: u64 = 1 << 40;

    let place = TestFolder::new("archive-room");
    let run = |archive: &str, free: u64| {
        place
            .command(&["train", archive, "--output", "out"])
            .env("XDG_CACHE_HOME", place.path("cache"))
            .env("KINDLING_TEST_FREE_BYTES", free.to_string())
            .output()
            .unwrap()
    };
    let zeros = vec![0; 50 << 20];
    let tar = |name: &str, members: &[&str]| {
        let mut tar = tar::Builder::new(Vec::new());
        for member in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(zeros.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append_data(&mut header, member, &zeros[..]).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        if name.ends_with("gz") {
            let file = std::fs::File::create(place.path(name)).unwrap();
            let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::best());
            gz.write_all(&bytes).unwrap();
            gz.finish().unwrap();
        } else {
            std::fs::write(place.path(name), bytes).unwrap();
        }
    };
    let images = [1, 2, 3, 4, 5, 6, 7, 8].map(|number| format!("a/{number}.png"));
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    tar("images.tar", &images[..2]);
    tar("bomb.tar.gz", &images);
    tar("data.tar.gz", &["a.bin"; 8]);
    let mut zip = zip::ZipWriter::new(std::fs::File::create(place.path("bomb.zip")).unwrap());
    for name in images {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated);
        zip.start_file(name, options).unwrap();
        zip.write_all(&zeros).unwrap();
    }
    zip.finish().unwrap();
    let little = ["images take at least 104 MB unpacked", "has room for 62 MB", "XDG_CACHE_HOME"];
    // The reserve of the disk is not for images.
    refused(&run("images.tar", (256 << 20) + (60 << 20)), 8, &little);
    let bomb = ["unpacks to more than 3", " MB, 200 times its length"];
    for archive in ["bomb.zip", "bomb.tar.gz", "data.tar.gz"] {
        refused(&run(archive, PLENTY), 3, &bomb);
    }
    // Sizes of a compressed tar are known on the way only.
    refused(&run("bomb.tar.gz", (256 << 20) + (120 << 20)), 8, &["has room for 125 MB"]);
    let entries = std::fs::read_dir(place.path("cache/kindling/data")).unwrap();
    let folders = entries.filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(folders.count(), 0, "nothing is kept");
}
