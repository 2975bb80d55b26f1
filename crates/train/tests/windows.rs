//! Shards read in windows: the same batches whoever makes them, whatever is kept, cut off or
//! resumed; what is wrong is told; and what `data shard` writes for it, interrupted or not.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use test_folder::{SMALL, TestFolder, code, error, refused};
use train::datasets::batch::Batch;
use train::datasets::cache::Caching;
use train::datasets::image_folder::ImageFolder;
use train::datasets::loader::{Loader, LoaderConfig, Mode};
use train::datasets::quarantine;
use train::datasets::sampler::BatchShare;
use train::datasets::shards;
use train::datasets::split::SplitRule;
use train::run::checkpoint::Checkpoint;
use transforms::augment::Augment;
use transforms::preprocess::Preprocess;

/// Shards of the folder in some files.
fn shard(place: &TestFolder, output: &str, more: &[&str]) -> String {
    let words = ["data", "shard", "data", "--output", output, "--shard-size", "0.01"];
    let output = place.run(&[&words[..], more].concat());
    assert_eq!(code(&output), 0, "{}", error(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sharded(name: &str) -> TestFolder {
    let place = TestFolder::new(name);
    shard(&place, "shards", &[]);
    place
}

struct How {
    workers: usize,
    window: usize,
    repeats: usize,
    batch: usize,
    drop_last: bool,
    strict: bool,
}

const USUAL: How =
    How { workers: 2, window: 10, repeats: 1, batch: 5, drop_last: false, strict: true };

fn loader(folder: ImageFolder, how: &How) -> Loader {
    let config = LoaderConfig {
        batch_size: how.batch,
        workers: how.workers,
        prefetch_bytes: 1 << 20,
        seed: 3,
        strict: how.strict,
        drop_last: how.drop_last,
    };
    let augment = Augment { repeats: how.repeats, ..Augment::default() };
    let rule = Preprocess::imagenet(32, 32);
    Loader::new(Arc::new(folder), rule, Mode::Train(augment), config).windowed(how.window)
}

fn open(place: &TestFolder, folder: &str) -> ImageFolder {
    ImageFolder::open_train(&place.path(folder), None).unwrap()
}

fn all(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
    loader.epoch(epoch, first).map(|batch| batch.unwrap()).collect()
}

fn indices(batches: &[Batch]) -> Vec<usize> {
    batches.iter().flat_map(|batch| batch.indices.clone()).collect()
}

/// Mutations caught, each alone: the windows of a batch without repeats (which waits for ever); the
/// place of an image without them; the bytes of the image next to it; an order that the number of
/// workers or the first batch has a part in; the order of epoch 0 for ever.
#[test]
fn batches_depend_on_seed_and_epoch_alone() {
    let place = sharded("windows-workers");
    for (repeats, batch, drop_last, window) in [
        (1, 5, false, 10),
        (1, 5, true, 10),
        (3, 4, false, 9),
        (1, 16, false, 7),
        (2, 40, true, 5),
        (1, 7, true, 1),
    ] {
        let how = How { window, repeats, batch, drop_last, ..USUAL };
        let make = |workers| loader(open(&place, "shards"), &How { workers, ..how });
        let by_place = loader(open(&place, "shards"), &How { window: 0, ..how });
        let one = make(1);
        for epoch in 0..3 {
            let whole = all(&one, epoch, 0);
            assert_eq!(whole.len(), by_place.batches(), "as many batches as without windows");
            for workers in [2, 5] {
                assert!(
                    all(&make(workers), epoch, 0) == whole,
                    "{workers} workers, window {window}"
                );
            }
            for first in 0..=whole.len() {
                assert!(
                    all(&make(3), epoch, first) == whole[first..],
                    "from batch {first} on, window {window}"
                );
            }
            for (number, batch) in whole.iter().enumerate() {
                // Read by place, where a batch is made again.
                assert!(one.batch(epoch, number).unwrap() == *batch, "batch {number} alone");
            }
            assert_ne!(indices(&whole), indices(&all(&one, epoch + 1, 0)));
            assert_ne!(indices(&whole), indices(&all(&by_place, epoch, 0)));
        }
        if repeats == 1 && !drop_last {
            // An image is drawn as the one of its number, wherever it comes.
            let images = |batches: &[Batch]| -> BTreeMap<usize, Vec<u32>> {
                let bits = |values: &[f32]| {
                    values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>()
                };
                let own = |b: &Batch| -> Vec<_> {
                    b.indices
                        .iter()
                        .copied()
                        .zip(b.images.chunks_exact(3 * 32 * 32).map(bits))
                        .collect()
                };
                batches.iter().flat_map(own).collect()
            };
            assert!(images(&all(&one, 1, 0)) == images(&all(&by_place, 1, 0)));
        }
    }
}

/// Mutations caught, each alone: the image next to it read in its stead; items left in the order of
/// the files. That what is kept is not read ahead is seen in `loader`.
#[test]
fn caches_lists_and_shares_change_no_bit() {
    let place = sharded("windows-kept");
    let epochs = |loader: &Loader| -> Vec<Batch> {
        (0..3).flat_map(|epoch| all(loader, epoch, 0)).collect()
    };
    let plain = epochs(&loader(open(&place, "shards"), &USUAL));
    let disk = Caching::Disk { folder: place.path("cache"), bytes: u64::MAX };
    for caching in
        [Caching::Ram { bytes: u64::MAX }, Caching::Ram { bytes: 30_000 }, disk.clone(), disk]
    {
        let kept = loader(open(&place, "shards"), &USUAL).caching(&caching);
        assert!(epochs(&kept) == plain, "{caching:?}");
    }
    let list = "train/bag/0003.png\tbroken\ntrain/sandal/0000.png\ttaste\n";
    std::fs::write(place.path("shards/quarantine.txt"), list).unwrap();
    let mut folder = open(&place, "shards");
    quarantine::leave_out_of_val(&place.path("shards"), None, &mut folder).unwrap();
    let names: Vec<PathBuf> = folder.items.iter().map(|(path, _)| path.clone()).collect();
    let seen: Vec<usize> = indices(&all(&loader(folder, &USUAL), 0, 0));
    let seen: BTreeSet<&PathBuf> = seen.iter().map(|index| &names[*index]).collect();
    assert_eq!(seen.len(), 34);
    assert!(
        !seen
            .iter()
            .any(|path| path.ends_with("bag/0003.png") || path.ends_with("sandal/0000.png"))
    );
    let (train, val) = ImageFolder::split(
        &place.path("shards"),
        SplitRule { share: 0.25, seed: 7, group_duplicates: false },
    )
    .unwrap();
    let (folder, _) = ImageFolder::split(
        &place.path("data"),
        SplitRule { share: 0.25, seed: 7, group_duplicates: false },
    )
    .unwrap();
    let below = |folder: &ImageFolder| -> Vec<PathBuf> {
        let name =
            |(path, _): &(PathBuf, usize)| path.strip_prefix(&folder.root).unwrap().to_owned();
        folder.items.iter().map(name).collect()
    };
    assert_eq!(below(&train), below(&folder), "the same share as of the folder");
    let count = train.items.len();
    assert_eq!(count + val.items.len(), 36);
    let mut seen = indices(&all(&loader(train, &USUAL), 2, 0));
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..count));
}

/// Batches of 12 images of 6 canonical nodes, on 1 to 4 ranks: each image with its row, whole and
/// from batch 2 on, mixed or not, one of them left out. Of ranks whose number divides 6, none opens
/// a file of another one, and none needs it.
///
/// Mutations caught, each alone: a rank's share contiguous, while nodes lie at both ends of a batch;
/// rows counted among the images that are left, which shifts a rank into another's files; a thread
/// that reads the nodes of all ranks; a part of the files refused; the images of batch 0 for ever;
/// both halves of a batch the same images.
#[test]
fn any_number_of_ranks_has_the_same_batches_and_reads_the_files_of_its_own_nodes() {
    let place = sharded("windows-nodes");
    let how = How { batch: 12, window: 12, drop_last: true, ..USUAL };
    let of = |folder: ImageFolder, rank: usize, world: usize| {
        loader(folder, &how).canonical_nodes(6).sharing(BatchShare { rank, world })
    };
    let opened = || -> BTreeSet<PathBuf> {
        let files = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let files = files.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        files.filter(|path| path.starts_with(place.path("shards"))).collect()
    };
    let folder = || open(&place, "shards");
    let one_node = indices(&all(&loader(folder(), &how), 0, 0));
    for (case, left_out) in [("all", HashSet::new()), ("left out", HashSet::from([7]))] {
        let make = |rank, world| of(folder(), rank, world).leaving_out(left_out.clone());
        let whole = make(0, 1);
        let expected = all(&whole, 1, 0);
        let mut seen = indices(&expected);
        assert_ne!(seen, one_node);
        seen.sort_unstable();
        assert_eq!(seen.len(), 36 - left_out.len(), "{case}: each once");
        let rows = |batch: &Batch| -> BTreeMap<usize, (usize, Vec<u32>)> {
            let images = batch.images.chunks_exact(3 * 32 * 32);
            let bits = images.map(|image| image.iter().map(|value| value.to_bits()).collect());
            let own = batch.indices.iter().copied().zip(bits);
            batch.rows.iter().copied().zip(own).collect()
        };
        drop(whole);
        for world in 1..=4 {
            for first in [0, 2] {
                let mut together = vec![BTreeMap::new(); expected.len() - first];
                for rank in 0..world {
                    let own = make(rank, world);
                    assert!(opened().is_empty(), "{case}: another loader's files");
                    for (batch, all) in all(&own, 1, first).iter().zip(&mut together) {
                        all.extend(rows(batch));
                    }
                    let files: BTreeSet<PathBuf> =
                        own.shard_files().into_iter().map(PathBuf::from).collect();
                    assert!(opened().is_subset(&files), "{case}: rank {rank} of {world}");
                    assert!(6 % world != 0 || files.len() <= 12_usize.div_ceil(world) + 1);
                }
                let expected: Vec<_> = expected[first..].iter().map(rows).collect();
                assert!(together == expected, "{case}: {world} ranks from batch {first} on");
            }
        }
    }
    for rank in 0..3 {
        let part = place.path(&format!("part-{rank}"));
        std::fs::create_dir_all(&part).unwrap();
        let files = of(folder(), rank, 3);
        for file in files.shard_files().into_iter().chain([&*place.path("shards/index.json")]) {
            std::fs::copy(file, part.join(file.file_name().unwrap())).unwrap();
        }
        assert!(ImageFolder::open_train(&part, None).is_err(), "one process needs all of them");
        let own = of(ImageFolder::open_train_part(&part).unwrap(), rank, 3);
        assert!(all(&own, 0, 0) == all(&files, 0, 0), "rank {rank} without the files of others");
    }
}

/// Mutations caught, each alone: files written in the folder's order; items left in the order of
/// the files; one seed for all; a version of 2 for files that are not shuffled; an order with a
/// number twice put up with.
#[test]
fn files_are_shuffled_and_give_the_folders_order_back() {
    let place = TestFolder::new("windows-order");
    let told = [("a", ["--seed", "1"]), ("b", ["--seed", "2"])]
        .map(|(output, seed)| shard(&place, output, &seed));
    assert!(told[1].contains("shuffled with seed 2"), "{}", told[1]);
    shard(&place, "plain", &["--no-shuffle"]);
    shard(&place, "usual", &[]);
    shard(&place, "again", &["--seed", "42"]);
    let index = |output: &str| shards::index(&place.path(output)).unwrap().unwrap();
    assert_eq!(["a", "plain"].map(|output| index(output).format), [2, 1]);
    let text = std::fs::read_to_string(place.path("plain/index.json")).unwrap();
    assert!(!text.contains("order"), "the first layout");
    let names = |output: &str| -> Vec<String> {
        index(output)
            .train
            .iter()
            .flat_map(|shard| &shard.images)
            .map(|member| member.4.clone())
            .collect()
    };
    let folder: Vec<String> = names("plain");
    assert!(folder.is_sorted());
    for other in ["a", "b", "usual"] {
        let mut sorted = names(other);
        assert!(!sorted.is_sorted(), "{other}");
        sorted.sort();
        assert_eq!(sorted, folder);
        let items = |output: &str| -> Vec<(PathBuf, usize)> {
            let folder = open(&place, output);
            let below = |path: &PathBuf| path.strip_prefix(&folder.root).unwrap().to_owned();
            folder.items.iter().map(|(path, label)| (below(path), *label)).collect()
        };
        assert_eq!(items(other), items("data"), "{other}");
        assert_eq!(index(other).val, index("plain").val, "val as it always was");
    }
    assert_ne!(names("a"), names("b"));
    assert_eq!(names("usual"), names("again"));
    // An order that is none.
    let text = std::fs::read_to_string(place.path("a/index.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json.as_object_mut().unwrap().remove("crc32");
    for wrong in [serde_json::json!(999), json["train"][0]["order"][1].clone()] {
        json["train"][0]["order"][0] = wrong;
        std::fs::write(place.path("a/index.json"), json.to_string()).unwrap();
        refused(
            &train(&place, "a", "x", &[]),
            3,
            &["index.json", "folder's order", "shard the folder again"],
        );
    }
    let one = ["data", "shard", "data", "--output", "x", "--no-shuffle", "--seed", "1"];
    refused(&place.run(&one), 2, &["--seed", "--no-shuffle"]);
}

fn train(place: &TestFolder, folder: &str, run: &str, more: &[&str]) -> std::process::Output {
    let mut words = SMALL.to_vec();
    words[1] = folder;
    place.run(&[&words[..], &["--experiment", run], more].concat())
}

/// A folder of three classes one after the other: windows of a third of it. Mutations caught: files
/// in the folder's order, and with a note where there is nothing to say.
#[test]
fn windows_hold_all_classes_and_it_is_told_where_they_do_not() {
    let place = TestFolder::new("windows-classes");
    for (output, more) in [("shards", None), ("plain", Some("--no-shuffle"))] {
        let words = ["data", "shard", "data", "--output", output].into_iter().chain(more);
        let output = place.run(&words.collect::<Vec<_>>());
        assert_eq!(code(&output), 0, "{}", error(&output));
    }
    let classes = |output: &str| -> Vec<usize> {
        let folder = open(&place, output);
        let labels: Vec<usize> = folder.items.iter().map(|(_, label)| *label).collect();
        let batches = all(&loader(folder, &How { window: 12, batch: 12, ..USUAL }), 0, 0);
        let count = |b: &Batch| b.indices.iter().map(|i| labels[*i]).collect::<HashSet<_>>().len();
        batches.iter().map(count).collect()
    };
    assert_eq!(classes("shards"), [3, 3, 3]);
    assert!(classes("plain").iter().all(|count| *count < 3), "{:?}", classes("plain"));
    let told = |folder: &str| {
        let output = train(&place, folder, folder, &["--epochs", "1", "--shard-window", "12"]);
        assert_eq!(code(&output), 0, "{}", error(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (good, poor) = (told("shards"), told("plain"));
    assert!(
        good.contains("3 windows of 12 images") && !good.contains("class after class"),
        "{good}"
    );
    assert!(poor.contains("class after class") && poor.contains("without --no-shuffle"), "{poor}");
}

/// Mutations caught, each alone: an image that does not decode taken for a fault of the folder;
/// altered bytes let through; a file cut off while it is read not named.
#[test]
fn what_is_broken_in_a_window_is_named() {
    let place = TestFolder::new("windows-broken");
    std::fs::write(place.path("data/train/bag/0003.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    shard(&place, "shards", &[]);
    for epoch in 0..3 {
        let lenient = loader(open(&place, "shards"), &How { strict: false, ..USUAL });
        let batches = all(&lenient, epoch, 0);
        let skipped: Vec<_> = batches.iter().flat_map(|batch| &batch.skipped).collect();
        assert!(skipped.len() == 1 && skipped[0].0.ends_with("bag/0003.png"), "{skipped:?}");
        assert_eq!(indices(&batches).len(), 35);
        let strict = loader(open(&place, "shards"), &USUAL);
        let fatal = strict.epoch(epoch, 0).find_map(Result::err).unwrap().to_string();
        assert!(fatal.contains("0003.png") && fatal.contains("--strict-data"), "{fatal}");
    }
    let run = train(&place, "shards", "lenient", &["--shard-window", "9", "--epochs", "1"]);
    assert_eq!(code(&run), 0, "{}", error(&run));
    let listed = std::fs::read_to_string(place.path("out/train/lenient/skipped.txt")).unwrap();
    assert!(listed.contains("bag/0003.png"), "{listed}");

    let index = shards::index(&place.path("shards")).unwrap().unwrap();
    let file = place.path("shards").join(&index.train[1].file);
    let whole = std::fs::read(&file).unwrap();
    let member = &index.train[1].images[2];
    let folder = open(&place, "shards");
    let failing = |folder: &ImageFolder| {
        let lenient = loader(folder.clone(), &How { strict: false, ..USUAL });
        lenient.epoch(0, 0).find_map(Result::err).map(|fatal| fatal.to_string()).unwrap_or_default()
    };
    assert_eq!(failing(&folder), "");
    let mut altered = whole.clone();
    altered[member.0 as usize + 20] ^= 1;
    std::fs::write(&file, altered).unwrap();
    let fatal = failing(&folder);
    assert!(
        [&member.4, "altered", &index.train[1].file, "checksum"].iter().all(|w| fatal.contains(*w)),
        "{fatal}"
    );
    refused(
        &train(&place, "shards", "altered", &["--shard-window", "9"]),
        3,
        &[&member.4, "altered", &index.train[1].file],
    );
    // Cut off after it was opened; before, it is told at once.
    std::fs::write(&file, &whole[..member.0 as usize + 10]).unwrap();
    let fatal = failing(&folder);
    assert!(fatal.contains(&index.train[1].file), "{fatal}");
    let told = train(&place, "shards", "cut", &["--shard-window", "9"]);
    refused(&told, 3, &[&index.train[1].file, "copy it again"]);
    std::fs::write(&file, whole).unwrap();
    assert_eq!(failing(&folder), "");
}

fn same_bits(place: &TestFolder, one: &str, other: &str) {
    let read = |run: &str| Checkpoint::read(&place.checkpoint(run)).unwrap();
    let (a, b) = (read(one), read(other));
    assert_eq!(a.manifest.position, b.manifest.position, "{one} and {other}");
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    for (x, y) in a.weights.iter().zip(&b.weights) {
        assert!(bits(&x.values) == bits(&y.values), "{one} and {other}: {}", x.name);
    }
    assert_eq!(a.optimizer.len(), b.optimizer.len());
    for (x, y) in a.optimizer.iter().zip(&b.optimizer) {
        assert!(bits(&x.values) == bits(&y.values), "{one} and {other}: {}", x.name);
    }
}

/// The program, killed at whatever step and cut off after every step. Mutations caught, each alone:
/// an order that the first batch or the number of workers has a part in; another window, a folder,
/// or shards in another order put up with at the resume.
#[test]
fn a_run_in_windows_resumes_to_the_same_bits() {
    let place = sharded("windows-resume");
    let flags = ["--shard-window", "7", "--aug-repeats", "2", "--checkpoint-interval-steps", "1"];
    assert_eq!(code(&train(&place, "shards", "whole", &flags)), 0);
    let words = [&["train", "shards"], &SMALL[2..], &["--experiment", "killed"], &flags].concat();
    let mut child = place.command(&words).stdout(Stdio::null()).spawn().unwrap();
    while !place.checkpoint("killed").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(u64::from(child.id()) % 60));
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.run(&["train", "--resume", "out/train/killed", "--workers", "3"]);
    assert_eq!(code(&resumed), 0, "{}", error(&resumed));
    same_bits(&place, "whole", "killed");
    let mut last =
        train(&place, "shards", "cut", &[&flags[..], &["--max-hours", "0.0000000001"]].concat());
    let mut cuts = 0;
    while code(&last) == 4 {
        cuts += 1;
        assert!(cuts < 50, "the run does not get on");
        last = place.run(&["train", "--resume", "out/train/cut"]);
    }
    assert!(code(&last) == 0 && cuts >= 15, "{cuts} cuts: {}", error(&last));
    same_bits(&place, "whole", "cut");
    // What would compute something else is refused.
    let resume = |more: &[&str]| {
        place.run(&[&["train", "--resume", "out/train/whole", "--epochs", "3"], more].concat())
    };
    refused(&resume(&["--shard-window", "8"]), 2, &["--shard-window 8", "has 7"]);
    refused(
        &resume(&["--data-dir", "data"]),
        2,
        &["--shard-window 7", "data is no folder of shards"],
    );
    shard(&place, "other", &["--seed", "1"]);
    refused(&resume(&["--data-dir", "other"]), 3, &["or their order in the shards changed"]);
    std::fs::rename(place.path("shards"), place.path("moved")).unwrap();
    let resumed = resume(&["--data-dir", "moved"]);
    assert_eq!(code(&resumed), 0, "{}", error(&resumed));
}

/// Mutations caught, each alone: a folder put up with; draws from everywhere put up with; the
/// memory of one window.
#[test]
fn windows_are_refused_where_they_make_no_sense_and_their_memory_is_foreseen() {
    let place = sharded("windows-refused");
    refused(
        &train(&place, "data", "x", &["--shard-window", "9"]),
        2,
        &["--shard-window 9", "data is no folder of shards", "kindling data shard"],
    );
    assert!(!place.path("out").exists());
    let balanced = ["--shard-window", "9", "--balanced-sampling"];
    refused(
        &train(&place, "shards", "x", &balanced),
        2,
        &["--shard-window 9", "--balanced-sampling"],
    );
    refused(&train(&place, "shards", "x", &["--shard-window", "-1"]), 2, &["--shard-window"]);
    let told = train(&place, "shards", "x", &["--shard-window", "9", "--dry-run"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("4 windows of 9 images, of which two take about 0.0 MB"), "{told}");
    let folder = open(&place, "shards");
    let bytes: u64 = std::fs::read_dir(place.path("data/train"))
        .unwrap()
        .flat_map(|class| std::fs::read_dir(class.unwrap().path()).unwrap())
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    let mb = bytes as f64 / f64::from(1 << 20);
    assert!((shards::order::window_mb(&folder, 9) - mb / 2.0).abs() < 1e-5);
    assert!((shards::order::window_mb(&folder, 500) - mb).abs() < 1e-5, "no more than there is");
    assert_eq!(shards::order::window_mb(&folder, 0), 0.0);
}

/// Sharding that takes seconds, and where it is.
#[cfg(unix)]
fn slowly(place: &TestFolder) -> std::process::Child {
    let large = place.path("large");
    std::fs::File::create(&large).unwrap().set_len(16 << 20).unwrap();
    for number in 0..120 {
        std::os::unix::fs::symlink(
            &large,
            place.path(&format!("data/train/bag/large-{number}.png")),
        )
        .unwrap();
    }
    let words = ["data", "shard", "data", "--output", "slow", "--shard-size", "0.01"];
    let child = place.command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    while scratch(place).len() < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

/// Names in the folder of the slow one.
#[cfg(unix)]
fn scratch(place: &TestFolder) -> Vec<String> {
    let found = std::fs::read_dir(place.path("slow")).into_iter().flatten().flatten();
    found.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Mutations caught, each alone: signals not listened to, the files left, the folder left, the exit
/// code 0, finished files under their names before all are made.
#[test]
#[cfg(unix)]
fn an_interrupted_sharding_leaves_nothing() {
    for (signal, exit) in [("-TERM", 143), ("-INT", 130)] {
        let place = TestFolder::new(&format!("windows-signal{signal}"));
        let child = slowly(&place);
        assert!(
            scratch(&place).iter().all(|name| name.ends_with(".tar.tmp")),
            "{:?}",
            scratch(&place)
        );
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        refused(
            &child.wait_with_output().unwrap(),
            exit,
            &["interrupted", "nothing of the shards is left in slow"],
        );
        assert!(!place.path("slow").exists(), "{:?}", scratch(&place));
    }
}

/// Mutations caught, each alone: files of a killed run left; all files that end in `.tmp` removed;
/// finished files under their names before all are made.
#[test]
#[cfg(unix)]
fn what_a_killed_sharding_left_is_removed_by_the_next() {
    let place = TestFolder::new("windows-killed");
    let mut child = slowly(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(scratch(&place).len() >= 3);
    assert!(!place.path("slow/index.json").exists());
    refused(&train(&place, "slow", "x", &[]), 3, &["slow"]);
    for number in 0..120 {
        std::fs::remove_file(place.path(&format!("data/train/bag/large-{number}.png"))).unwrap();
    }
    std::fs::write(place.path("slow/mine.tmp"), b"somebody's").unwrap();
    let words = ["data", "shard", "data", "--output", "slow"];
    let output = place.run(&words);
    assert_eq!(code(&output), 0, "{}", error(&output));
    let mut left = scratch(&place);
    left.sort();
    assert_eq!(left, ["index.json", "mine.tmp", "train-000000.tar", "val-000000.tar"]);
    assert_eq!(indices(&all(&loader(open(&place, "slow"), &USUAL), 0, 0)).len(), 36);
}
