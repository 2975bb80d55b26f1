//! Shards give what the folder gives, bit for bit; any tar reads them; what is wrong with them is
//! told.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use test_folder::{SMALL, TestFolder, code, error, refused};
use train::datasets::batch::Batch;
use train::datasets::cache::Caching;
use train::datasets::image_folder::ImageFolder;
use train::datasets::loader::{Loader, LoaderConfig, Mode};
use train::datasets::quarantine;
use train::datasets::shards;
use train::datasets::shards::Split;
use train::run::checkpoint::Checkpoint;
use transforms::augment::Augment;
use transforms::preprocess::Preprocess;

/// All batches of two epochs of training and one of evaluation; both leave out what a list of the
/// folder says.
fn batches(place: &TestFolder, folder: &str, caching: &Caching) -> Vec<Batch> {
    let config = LoaderConfig {
        batch_size: 5,
        workers: 2,
        prefetch_bytes: 1 << 20,
        seed: 3,
        strict: true,
        drop_last: false,
    };
    let root = place.path(folder);
    let mut train = ImageFolder::open_train(&root, None).unwrap();
    let mut val = ImageFolder::open_val(&root, None, &train.classes).unwrap();
    quarantine::leave_out_of_val(&root, None, &mut train).unwrap();
    quarantine::leave_out_of_val(&root, None, &mut val).unwrap();
    let rule = Preprocess::imagenet(32, 32);
    let make = |folder, mode| Loader::new(Arc::new(folder), rule.clone(), mode, config.clone());
    let train = make(train, Mode::Train(Augment::default())).caching(caching);
    let val = make(val, Mode::Eval);
    let mut all: Vec<Batch> =
        (0..2).flat_map(|epoch| train.epoch(epoch, 0)).map(|b| b.unwrap()).collect();
    all.extend(val.epoch(0, 0).map(|batch| batch.unwrap()));
    all
}

/// A name that ustar has no room for, not even in two parts.
fn long_name() -> String {
    format!("{}ü.png", "x".repeat(120))
}

fn with_long_name(name: &str) -> TestFolder {
    let place = TestFolder::new(name);
    let bag = place.path("data/train/bag");
    std::fs::copy(bag.join("0000.png"), bag.join(long_name())).unwrap();
    place
}

/// Shards of the folder, several files of them.
fn shard(place: &TestFolder, output: &str, more: &[&str]) -> String {
    let words = ["data", "shard", "data", "--output", output, "--shard-size", "0.01"];
    let output = place.run(&[&words[..], more].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sharded(name: &str) -> TestFolder {
    let place = with_long_name(name);
    shard(&place, "shards", &[]);
    place
}

fn train(place: &TestFolder, folder: &str, run: &str, more: &[&str]) -> std::process::Output {
    let mut words = SMALL.to_vec();
    words[1] = folder;
    place.run(&[&words[..], &["--experiment", run], more].concat())
}

fn said(output: &std::process::Output) -> String {
    assert_eq!(code(output), 0, "{}", error(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn same_weights(place: &TestFolder, one: &str, other: &str) {
    let weights = |run| Checkpoint::read(&place.checkpoint(run)).unwrap().weights;
    for (a, b) in weights(one).iter().zip(&weights(other)) {
        assert!(a.name == b.name && a.values == b.values, "{one} and {other}: {}", a.name);
    }
}

/// Mutations caught: an image read from the byte before.
#[test]
fn several_files_give_the_folders_bits() {
    let place = sharded("shards-bits");
    let files = |prefix: &str| {
        let names = std::fs::read_dir(place.path("shards")).unwrap().flatten();
        names.filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).count()
    };
    assert!(files("train-") > 3 && files("val-") > 1, "{} {}", files("train-"), files("val-"));
    let folder = batches(&place, "data", &Caching::Nothing);
    assert_eq!(folder.iter().map(|batch| batch.labels.len()).sum::<usize>(), 2 * 37 + 15);
    assert!(batches(&place, "shards", &Caching::Nothing) == folder, "shards");
    let disk = Caching::Disk { folder: place.path("cache"), bytes: u64::MAX };
    for caching in [Caching::Ram { bytes: 30_000 }, disk.clone(), disk] {
        assert!(batches(&place, "shards", &caching) == folder, "{caching:?}");
    }
    said(&train(&place, "data", "folder", &[]));
    said(&train(&place, "shards", "shards", &["--cache-gb", "0.5"]));
    same_weights(&place, "folder", "shards");
    let checkpoint = place.checkpoint("folder");
    let checkpoint = checkpoint.to_str().unwrap();
    let eval = |more: &[&str]| {
        place.run(&[&["eval", "--checkpoint", checkpoint, "shards", "--json"], more].concat())
    };
    let images = |more: &[&str]| {
        serde_json::from_str::<Value>(&said(&eval(more))).unwrap()["pictures"].clone()
    };
    assert_eq!((images(&[]), images(&["--val-split", "val"])), (15.into(), 15.into()));
    assert_eq!(images(&["--val-split", "train"]), 37);
    refused(&eval(&["--val-split", "test"]), 3, &["shards", "no split `test`", "train, val"]);
}

/// Mutations caught: what was left out not in the index; listed names looked for as files; nothing
/// left out; a class without an image put up with.
#[test]
fn a_quarantine_list_means_the_same_beside_folder_and_shards() {
    let place = with_long_name("shards-list");
    shard(&place, "whole", &[]);
    let list = format!(
        "train/bag/0003.png\tbroken\ntrain/bag/{}\tlong\nval/bag/0000.png\ttaste\n",
        long_name()
    );
    std::fs::write(place.path("data/quarantine.txt"), &list).unwrap();
    std::fs::write(place.path("whole/quarantine.txt"), &list).unwrap();
    let told = shard(&place, "shards", &[]);
    assert!(told.contains("train: 35 images") && told.contains("val: 14 images"), "{told}");
    assert!(told.contains("3 images left out, as data/quarantine.txt says"), "{told}");
    let images = |folder: &str| {
        let index = shards::index(&place.path(folder)).unwrap().unwrap();
        let split = |split| shards::open(&place.path(folder), split, &index).unwrap().items.len();
        (split(Split::Train), split(Split::Val))
    };
    assert_eq!((images("whole"), images("shards")), ((37, 15), (35, 14)));
    // Beside shards that were made by it, the list has nothing left to say.
    std::fs::write(place.path("shards/quarantine.txt"), &list).unwrap();
    let folder = batches(&place, "data", &Caching::Nothing);
    assert_eq!(folder.iter().map(|batch| batch.labels.len()).sum::<usize>(), 2 * 35 + 14);
    let indices_apart = |batches: Vec<Batch>| -> Vec<_> {
        batches.into_iter().map(|b| (b.images, b.labels, b.shape)).collect()
    };
    let folder = indices_apart(folder);
    for other in ["shards", "whole"] {
        assert!(indices_apart(batches(&place, other, &Caching::Nothing)) == folder, "{other}");
        let told = said(&train(&place, other, other, &["--epochs", "1"]));
        assert!(!told.contains("not there"), "{other}: {told}");
        assert_eq!(told.contains("3 images left out"), other == "whole", "{told}");
        let checkpoint = place.checkpoint(other);
        let words = ["eval", "--checkpoint", checkpoint.to_str().unwrap(), other];
        let evaluated = place.run(&words);
        assert!(!error(&evaluated).contains("not there"), "{}", error(&evaluated));
        assert!(said(&evaluated).len() > 10);
    }
    said(&train(&place, "data", "folder", &["--epochs", "1"]));
    same_weights(&place, "folder", "whole");
    same_weights(&place, "folder", "shards");
    // What is nowhere is told all the same.
    std::fs::write(place.path("shards/quarantine.txt"), "train/bag/none.png\tgone\n").unwrap();
    let told = said(&train(&place, "shards", "gone", &["--epochs", "1"]));
    assert!(
        told.contains("1 of the listed images are not there, such as train/bag/none.png"),
        "{told}"
    );
    let all: String = (0..12).map(|i| format!("train/sandal/{i:04}.png\tall\n")).collect();
    std::fs::write(place.path("data/quarantine.txt"), all).unwrap();
    let words = ["data", "shard", "data", "--output", "none"];
    refused(&place.run(&words), 3, &["data/quarantine.txt", "class sandal"]);
}

/// Folders by other names, and one without splits, keep their names for lists. Mutations caught:
/// the split called val whatever its folder; its own name not taken by --val-split; class folders
/// alone given the name train.
#[test]
fn other_names_and_a_folder_without_splits_can_be_sharded() {
    let place = TestFolder::new("shards-names");
    std::fs::rename(place.path("data/val"), place.path("data/validation")).unwrap();
    shard(&place, "shards", &[]);
    let folder = batches(&place, "data", &Caching::Nothing);
    assert!(batches(&place, "shards", &Caching::Nothing) == folder);
    std::fs::write(place.path("shards/quarantine.txt"), "validation/bag/0000.png\ttaste\n")
        .unwrap();
    let told = said(&train(&place, "shards", "listed", &["--epochs", "1"]));
    assert!(told.contains("1 images left out") && !told.contains("not there"), "{told}");
    let checkpoint = place.checkpoint("listed");
    let words = ["eval", "--checkpoint", checkpoint.to_str().unwrap(), "shards", "--val-split"];
    said(&place.run(&[&words[..], &["validation"]].concat()));
    refused(&place.run(&[&words[..], &["test"]].concat()), 3, &["no split `test`"]);
    std::fs::rename(place.path("data/validation"), place.path("data/held")).unwrap();
    shard(&place, "held", &["--val-split", "held"]);
    assert!(batches(&place, "held", &Caching::Nothing) == folder);
    refused(
        &place.run(&["data", "shard", "data", "--output", "x", "--val-split", "none"]),
        3,
        &["data/none", "no such folder"],
    );

    // <class>/* alone.
    std::fs::rename(place.path("data/train"), place.path("flat")).unwrap();
    std::fs::remove_dir_all(place.path("data")).unwrap();
    std::fs::rename(place.path("flat"), place.path("data")).unwrap();
    std::fs::write(place.path("data/quarantine.txt"), "bag/0003.png\tbroken\n").unwrap();
    let told = shard(&place, "flat", &[]);
    assert!(told.contains("train: 35 images") && told.contains("val: 0 images"), "{told}");
    let told = said(&train(&place, "flat", "none", &[]));
    assert!(told.contains("20 % of each class are set aside"), "{told}");
    let parted = ["--val-fraction", "0.25"];
    // The folder counts the listed image where it parts, the shards do not have it: without the
    // list both agree.
    std::fs::remove_file(place.path("data/quarantine.txt")).unwrap();
    shard(&place, "flat-all", &[]);
    said(&train(&place, "data", "folder", &parted));
    said(&train(&place, "flat-all", "flat", &parted));
    same_weights(&place, "folder", "flat");
    std::fs::write(place.path("flat-all/quarantine.txt"), "bag/0003.png\tbroken\n").unwrap();
    let told = said(&train(&place, "flat-all", "flat-listed", &parted));
    assert!(told.contains("1 images left out") && !told.contains("not there"), "{told}");
}

/// Every member of a tar file, checked as any tar does: name and bytes.
fn members(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let text = |field: &[u8]| {
        String::from_utf8(field.iter().copied().take_while(|b| *b != 0).collect()).unwrap()
    };
    let octal = |field: &[u8]| usize::from_str_radix(text(field).trim(), 8).unwrap();
    let (mut at, mut found, mut extended) = (0, Vec::new(), None);
    while bytes[at] != 0 {
        let header = &bytes[at..at + 512];
        assert_eq!(&header[257..265], b"ustar\x0000");
        let blank = |i: usize| if (148..156).contains(&i) { b' ' } else { header[i] };
        let sum = (0..512).map(|i| usize::from(blank(i))).sum::<usize>();
        assert_eq!(octal(&header[148..156]), sum);
        let size = octal(&header[124..136]);
        let content = bytes[at + 512..at + 512 + size].to_vec();
        let (prefix, name) = (text(&header[345..500]), text(&header[..100]));
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        match header[156] {
            b'x' => {
                let record = String::from_utf8(content).unwrap();
                let (length, rest) = record.split_once(' ').unwrap();
                assert_eq!(length.parse::<usize>().unwrap(), record.len());
                let name = rest.strip_prefix("path=").unwrap().strip_suffix('\n').unwrap();
                extended = Some(name.to_owned());
            }
            b'0' => found.push((extended.take().unwrap_or(name), content)),
            kind => panic!("member of kind {kind}"),
        }
        at += 512 + size.next_multiple_of(512);
    }
    assert_eq!(bytes.len() - at, 1024);
    assert!(bytes[at..].iter().all(|byte| *byte == 0));
    found
}

/// Names, order and labels as webdataset takes them: two members of one key for an image. Mutations
/// caught: the sum taken over zeros instead of blanks. Mutations caught besides: a key given twice,
/// dots in a key, no extended header or one with half of the name, ustar's prefix left out.
#[test]
fn the_files_are_tar_and_webdataset() {
    let place = with_long_name("shards-tar");
    // Two parts of ustar; two images of one key; a key with dots.
    let deep = format!("deep-{}/{}.png", "d".repeat(70), "n".repeat(90));
    let copy = |from: &str, to: &str| {
        let to = place.path("data/train/bag").join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(place.path("data/train/bag").join(from), to).unwrap();
    };
    copy("0001.png", &deep);
    copy("0002.png", "0002.PNG");
    copy("0003.png", "a.b.png");
    shard(&place, "shards", &[]);
    let index = shards::index(&place.path("shards")).unwrap().unwrap();
    let (mut seen, mut keys) = (BTreeMap::new(), std::collections::BTreeSet::new());
    for (split, shards) in [("train", &index.train), ("val", &index.val)] {
        keys.clear();
        for shard in shards {
            let members = members(&place.path("shards").join(&shard.file));
            assert_eq!(members.len(), 2 * shard.images.len());
            for (pair, image) in members.chunks_exact(2).zip(&shard.images) {
                let name = format!("{split}/{}", image.4);
                let on_disk = std::fs::read(place.path("data").join(&name)).unwrap();
                assert!(pair[0].1 == on_disk, "{name}");
                // webdataset: the key ends at the first dot of the last part.
                let cut = |name: &str| {
                    let file = name.rfind('/').map_or(0, |at| at + 1);
                    let dot = file + name[file..].find('.').unwrap();
                    (name[..dot].to_owned(), name[dot + 1..].to_owned())
                };
                let (key, ending) = cut(&pair[0].0);
                assert_eq!(cut(&pair[1].0), (key.clone(), "cls".to_owned()));
                assert!(ending.eq_ignore_ascii_case("png"), "{ending}");
                assert!(keys.insert(key), "{name}: its key is another's");
                let class = image.4.split('/').next().unwrap();
                let label: usize = String::from_utf8_lossy(&pair[1].1).parse().unwrap();
                assert_eq!((index.classes[label].as_str(), label), (class, image.2));
                seen.insert(name, pair[0].0.clone());
            }
        }
    }
    assert_eq!(seen.len(), 36 + 4 + 15);
    assert_eq!(seen[&format!("train/bag/{}", long_name())], format!("bag/{}", long_name()));
    assert_eq!(seen[&format!("train/bag/{deep}")], format!("bag/{deep}"));
    assert_eq!(seen["train/bag/a.b.png"], "bag/a_b.png");
    assert_eq!(seen["val/sandal/0004.png"], "sandal/0004.png");
}

/// More files than a process may have open. Mutations caught: every file kept open.
#[test]
#[cfg(target_os = "linux")]
fn a_few_handles_are_enough_for_any_number_of_files() {
    let place = TestFolder::new("shards-handles");
    for class in ["bag", "sandal", "trouser"] {
        for i in 0..12 {
            for copy in 0..8 {
                let folder = place.path("data/train").join(class);
                let from = folder.join(format!("{i:04}.png"));
                std::fs::copy(from, folder.join(format!("{i:04}-{copy}.png"))).unwrap();
            }
        }
    }
    // A file for every image.
    shard(&place, "shards", &["--shard-size", "0.000001"]);
    let index = shards::index(&place.path("shards")).unwrap().unwrap();
    assert_eq!((index.train.len(), index.val.len()), (324, 15));
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let folder = ImageFolder::open_train(&place.path("shards"), None).unwrap();
    let before = open();
    let mut bytes = Vec::new();
    for round in 0..2 {
        for (index, (path, _)) in folder.items.iter().enumerate() {
            folder.read_bytes(index, &mut bytes).unwrap();
            let below = path.strip_prefix(place.path("shards")).unwrap();
            assert!(bytes == std::fs::read(place.path("data").join(below)).unwrap(), "{round}");
        }
    }
    // Other tests of this file open some meanwhile.
    assert!(open() < before + 150, "{} after {before}", open());
    let words = [&["shards"], &SMALL[2..], &["--epochs", "1"]].concat();
    let limited = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 128; exec \"$0\" train \"$@\"", env!("CARGO_BIN_EXE_kindling")])
        .args(words)
        .current_dir(place.path(""))
        .output()
        .unwrap();
    said(&limited);
}

/// Mutations caught: files not removed; the words of training for an unreadable image; a name made
/// UTF-8 by force.
#[test]
fn what_cannot_be_sharded_leaves_nothing_behind() {
    let place = TestFolder::new("shards-left");
    let left = || -> Vec<String> {
        let list = std::fs::read_dir(place.path("shards")).into_iter().flatten().flatten();
        list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let words = ["data", "shard", "data", "--output", "shards", "--shard-size", "0.01"];
    std::fs::create_dir_all(place.path("shards/val-000000.tar/in-the-way")).unwrap();
    refused(&place.run(&words), 8, &["val-000000.tar", "cannot write"]);
    assert_eq!(left(), ["val-000000.tar"]);
    std::fs::remove_dir_all(place.path("shards")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let name = std::ffi::OsStr::from_bytes(b"\xFFz.png");
        let odd = place.path("data/train/trouser").join(name);
        std::fs::copy(place.path("data/train/bag/0000.png"), &odd).unwrap();
        refused(&place.run(&words), 3, &["trouser", "not UTF-8"]);
        assert_eq!(left(), [""; 0]);
        std::fs::remove_file(odd).unwrap();
    }
    #[cfg(target_os = "linux")]
    {
        // A file that nobody can read, root neither: the first page of a process is none.
        let link = place.path("data/train/trouser/zz.png");
        std::os::unix::fs::symlink("/proc/self/mem", &link).unwrap();
        let output = place.run(&words);
        refused(&output, 3, &["trouser/zz.png", "quarantine.txt"]);
        assert!(!error(&output).contains("--strict"), "{}", error(&output));
        assert_eq!(left(), [""; 0]);
        std::fs::remove_file(link).unwrap();
    }
    for size in ["0", "-1", "much", "nan"] {
        let size = format!("--shard-size={size}");
        refused(
            &place.run(&["data", "shard", "data", "--output", "shards", &size]),
            2,
            &["above 0"],
        );
    }
    assert!(left().is_empty());
    shard(&place, "shards", &[]);
    refused(&place.run(&["data", "shard", "shards", "--output", "x"]), 2, &["a folder of shards"]);
}

/// An index as older programs wrote it.
fn without_checksum(text: &str) -> String {
    let mut json: Value = serde_json::from_str(text).unwrap();
    assert!(json.as_object_mut().unwrap().remove("crc32").is_some());
    json.to_string()
}

/// Mutations caught, each alone: the checksum not compared; paths that lead out of the folder
/// accepted; values not checked.
#[test]
fn an_index_tells_a_changed_byte_and_refuses_mad_values() {
    let place = sharded("shards-index");
    let index = place.path("shards/index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let open = |text: &str| {
        std::fs::write(&index, text).unwrap();
        let folder = ImageFolder::open_train(&place.path("shards"), None);
        folder.map(|folder| folder.items.len()).map_err(|error| error.to_string())
    };
    let whole = open(&text);
    assert_eq!(whole, Ok(37));
    assert_eq!(open(&without_checksum(&text)), whole, "older ones are read");
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&text).unwrap());
    assert_eq!(open(&spaced.unwrap()), whole, "blanks are no change");
    // Every digit, letter and sign that is changed is told, in whatever words.
    for at in (1..text.len()).step_by(7) {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        std::fs::write(&index, bytes).unwrap();
        let error = ImageFolder::open_train(&place.path("shards"), None).unwrap_err().to_string();
        assert!(error.contains("index.json") && !error.contains('\n'), "{at}: {error}");
    }
    let json: Value = serde_json::from_str(&without_checksum(&text)).unwrap();
    let file = |name: &str| serde_json::json!(name);
    let changes: [(&str, Value, &str); 14] = [
        ("/classes", serde_json::json!([]), "0 classes"),
        ("/classes/1", file("bag"), "`bag`"),
        ("/classes/1", file(""), "``"),
        ("/classes/1", file("../x"), "`../x`"),
        ("/train/0/file", file("/etc/hostname"), "`/etc/hostname`"),
        ("/train/0/file", file("../shards/train-000000.tar"), "no file name"),
        ("/train/0/file", json["train"][1]["file"].clone(), "stands there twice"),
        ("/train/0/pictures/0/4", file("../../x.png"), "`../../x.png`"),
        ("/train/0/pictures/0/4", file("/x.png"), "`/x.png`"),
        ("/train/0/pictures/0/0", serde_json::json!(u64::MAX), "lies outside its file"),
        ("/train/0/pictures/0/1", serde_json::json!(u64::MAX), "lies outside its file"),
        ("/train/0/pictures/0/2", serde_json::json!(3), "has no class"),
        ("/train/0/bytes", serde_json::json!(0), "copy it again"),
        ("/val_folder", file("../val"), "`../val`"),
    ];
    for (place, value, words) in changes {
        let mut json = json.clone();
        match json.pointer_mut(place) {
            Some(old) => *old = value,
            None => json[&place[1..]] = value,
        }
        let error = open(&json.to_string()).unwrap_err();
        assert!(error.contains(words), "{place}: `{words}` in: {error}");
    }
}

/// Tar files that a copy has damaged or that are gone for a moment.
///
/// Mutations caught, each alone: a cut file taken for the storage; a missing file taken for a
/// damaged one.
#[cfg(unix)]
#[test]
fn a_damaged_tar_file_is_named_and_one_that_is_gone_is_waited_for() {
    let place = sharded("shards-damaged");
    let folder = || ImageFolder::open_train(&place.path("shards"), None).unwrap();
    let read = |folder: &ImageFolder| {
        let mut bytes = Vec::new();
        (0..folder.items.len()).find_map(|index| folder.read_bytes(index, &mut bytes).err())
    };
    let file = |number: usize| place.path(&format!("shards/train-{number:06}.tar"));
    let whole = std::fs::read(file(0)).unwrap();
    // Cut after it was opened, filled with zeros, two files that changed places.
    let open = folder();
    std::fs::write(file(0), &whole[..700]).unwrap();
    let error = read(&open).unwrap().to_string();
    assert!(error.contains("truncated in") && error.contains("train-000000.tar"), "{error}");
    std::fs::write(file(0), vec![0; whole.len()]).unwrap();
    let error = read(&folder()).unwrap().to_string();
    assert!(error.contains("altered in") && error.contains("train-000000.tar"), "{error}");
    std::fs::write(file(0), &whole).unwrap();
    assert!(read(&folder()).is_none());
    // Gone while the run reads, then a folder in its place: the storage's fault, not an image's.
    let open = folder();
    std::fs::rename(file(0), place.path("away")).unwrap();
    let error = read(&open).unwrap();
    assert!(matches!(error, train::datasets::data_error::DataError::Storage { .. }), "{error}");
    std::fs::rename(place.path("away"), file(0)).unwrap();
    assert!(read(&open).is_none(), "it is back");
}

/// Mutations caught: the checksum not compared, the length not compared. Mutations caught besides:
/// two images of one name; an index sought beside train/, in training and in `data check`.
#[test]
fn what_is_wrong_with_shards_is_told() {
    let place = sharded("shards-wrong");
    let train = |more: &[&str]| train(&place, "shards", "x", more);
    let again = place.run(&["data", "shard", "data", "--output", "shards"]);
    refused(&again, 2, &["index.json", "shards already"]);
    refused(&place.run(&["data", "check", "shards"]), 3, &["shards", "made of"]);
    let file = place.path("shards/train-000000.tar");
    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[560] ^= 1;
    std::fs::write(&file, &altered).unwrap();
    refused(&train(&[]), 3, &["altered", "train-000000.tar", "checksum"]);
    std::fs::write(&file, &whole[..whole.len() - 700]).unwrap();
    refused(&train(&[]), 3, &["train-000000.tar", "copy it again"]);
    std::fs::remove_file(&file).unwrap();
    refused(&train(&[]), 3, &["train-000000.tar", "copy the shards again"]);
    std::fs::write(&file, &whole).unwrap();
    let index = place.path("shards/index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    assert!(text.contains("bag/0001.png"));
    std::fs::write(&index, text.replace("bag/0001.png", "bag/0000.png")).unwrap();
    refused(&train(&[]), 3, &["index.json", "altered (checksum)"]);
    std::fs::write(&index, without_checksum(&text).replace("bag/0001.png", "bag/0000.png"))
        .unwrap();
    refused(&train(&[]), 3, &["index.json", "two images are called `bag/0000.png`"]);
    std::fs::write(&index, "{\"format\": 7}").unwrap();
    refused(&train(&[]), 3, &["index.json", "layout 7"]);
    std::fs::write(&index, "[]").unwrap();
    refused(&train(&[]), 3, &["index.json", "kindling data shard"]);
    // Beside train/ it is nobody's business.
    std::fs::write(place.path("data/index.json"), "[]").unwrap();
    said(&self::train(&place, "data", "beside", &["--epochs", "1"]));
    let checked = place.run(&["data", "check", "data"]);
    assert!(code(&checked) == 0 || !error(&checked).contains("shards"), "{}", error(&checked));
    shard(&place, "other", &[]);
}

/// What a run that was killed has left goes with the next one; other files stay.
///
/// Mutations caught: leftovers kept.
#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let place = TestFolder::new("shards-left");
    let shards = place.path("shards");
    std::fs::create_dir(&shards).unwrap();
    for name in ["train-000003.tar.tmp", "val-000000.tar.tmp", "mine.tar.tmp", "train-3.tar.tmp"] {
        std::fs::write(shards.join(name), "half").unwrap();
    }
    let output = place.run(&["data", "shard", "data", "--output", "shards"]);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let entries = std::fs::read_dir(&shards).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> =
        entries.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect();
    left.sort();
    assert_eq!(left, ["mine.tar.tmp", "train-3.tar.tmp"]);
}
