//! A cache changes no bit of a training, takes nothing that is old or broken, and never ends a run.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use test_folder::{SMALL, TestFolder, code, error, refused};
use train::datasets::batch::Batch;
use train::datasets::cache::Caching;
use train::datasets::image_folder::ImageFolder;
use train::datasets::loader::{Loader, LoaderConfig, Mode};
use train::run::checkpoint::Checkpoint;
use transforms::augment::Augment;
use transforms::decode::{DecodeScratch, Decoding, EncodedImage};
use transforms::jpeg::{Jpeg, JpegScratch};
use transforms::preprocess::Preprocess;
use transforms::random::Counter;
use transforms::resize::Region;

const ALL: u64 = u64::MAX;

/// An image of Fashion-MNIST decoded.
const PIXELS: u64 = 28 * 28 * 3;

fn loader(place: &TestFolder, repeats: usize, caching: &Caching) -> Loader {
    loader_of(place, &Augment { repeats, ..Augment::default() }, caching)
}

fn loader_of(place: &TestFolder, augment: &Augment, caching: &Caching) -> Loader {
    let config = LoaderConfig {
        batch_size: 5,
        workers: 3,
        prefetch_bytes: 1 << 20,
        seed: 3,
        strict: false,
        drop_last: false,
    };
    let train = ImageFolder::open_train(&place.path("data"), None).unwrap();
    let rule = Preprocess::imagenet(32, 32);
    Loader::new(Arc::new(train), rule, Mode::Train(*augment), config).caching(caching)
}

fn epochs(loader: &Loader, which: std::ops::Range<u64>) -> Vec<Batch> {
    which.flat_map(|epoch| loader.epoch(epoch, 0)).map(|batch| batch.unwrap()).collect()
}

fn disk(place: &TestFolder, bytes: u64) -> Caching {
    Caching::Disk { folder: place.path("cache"), bytes }
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found.sort();
    found
}

/// A JPEG without some of its last bytes but with its end: a region above decodes, the whole does
/// not.
fn damaged_jpeg(place: &TestFolder) {
    let mut draw = Counter::new(1, 0, 0, 0);
    let image = RgbImage::from_fn(96, 96, |_, _| Rgb([draw.range(256) as u8; 3]));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 75).encode_image(&image).unwrap();
    let end = bytes.len() - 2;
    bytes.drain(end - 600..end);
    let opened = EncodedImage::open(&bytes, false).unwrap();
    assert!(opened.pixels(&mut DecodeScratch::default()).is_none(), "the whole has a fault");
    let top = Region { top: 0, left: 0, height: 40, width: 96 };
    let jpeg = Jpeg::parse(&bytes).unwrap();
    let scratch = &mut JpegScratch::default();
    assert!(jpeg.decode(top, 1, scratch, &mut Vec::new()).is_ok(), "what lies above has none");
    std::fs::write(place.path("data/train/bag/damaged.jpg"), bytes).unwrap();
}

/// A JPEG that training decodes smaller is not kept: neither in memory nor taken from the files of
/// a run that decoded it whole. Mutations caught: large images kept, those of the other run taken.
#[test]
fn a_image_that_is_decoded_smaller_is_not_kept() {
    let place = TestFolder::new("cache-large");
    let mut draw = Counter::new(1, 0, 0, 0);
    let image = RgbImage::from_fn(300, 260, |_, _| Rgb([draw.range(256) as u8; 3]));
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 75).encode_image(&image).unwrap();
    std::fs::write(place.path("data/train/bag/large.jpg"), bytes).unwrap();
    let augment = Augment { decode: Decoding::Scaled, ..Augment::default() };
    let scaled = |caching: &Caching| loader_of(&place, &augment, caching);
    let plain = epochs(&scaled(&Caching::Nothing), 0..8);
    assert!(plain != epochs(&loader(&place, 1, &Caching::Nothing), 0..8), "it has an effect");
    let memory = scaled(&Caching::Ram { bytes: ALL });
    let told = memory.cache_estimate().unwrap();
    assert!(told.contains("decoded smaller each time"), "{told}");
    assert!(plain == epochs(&memory, 0..8), "memory");
    epochs(&loader(&place, 1, &disk(&place, ALL)), 0..1);
    assert!(plain == epochs(&scaled(&disk(&place, ALL)), 0..8), "files");
}

/// Mutations caught: the pixels of another image, a damaged JPEG kept as far as it decodes.
#[test]
fn every_kind_and_size_of_cache_gives_the_same_bits() {
    let place = TestFolder::new("cache-bits");
    damaged_jpeg(&place);
    // Repeats: two threads may keep one image at a time.
    let plain = epochs(&loader(&place, 3, &Caching::Nothing), 0..4);
    for bytes in [ALL, 10 * PIXELS + 1, PIXELS - 1, 0] {
        let ram = loader(&place, 3, &Caching::Ram { bytes });
        assert!(epochs(&ram, 0..4) == plain, "{bytes} bytes of memory");
    }
    // From a part to all, and from files of runs before.
    for bytes in [0, 9 * PIXELS, ALL, ALL] {
        assert!(epochs(&loader(&place, 3, &disk(&place, bytes)), 0..4) == plain, "{bytes} bytes");
    }
    assert!(files(&place.path("cache")).len() > 30);
    assert!(files(&place.path("cache")).iter().all(|file| file.extension().unwrap() == "rgb"));
}

/// Mutations caught: the limit not compared; room not given back by the second thread with the same
/// image; what the folder holds already not counted.
#[test]
fn a_cache_takes_no_more_than_its_limit() {
    let place = TestFolder::new("cache-limit");
    let held = || -> u64 {
        let length = |file: &PathBuf| std::fs::metadata(file).unwrap().len();
        files(&place.path("cache")).iter().map(length).sum()
    };
    let limit = 10 * PIXELS;
    for _ in 0..3 {
        epochs(&loader(&place, 3, &disk(&place, limit)), 0..3);
        // Nearly full: the heads of the files take less than an image.
        assert!(held() <= limit && held() > limit - 2 * PIXELS, "{}", held());
    }
    epochs(&loader(&place, 3, &disk(&place, limit + 5 * PIXELS)), 0..6);
    assert!(held() > limit + 3 * PIXELS && held() <= limit + 5 * PIXELS, "{}", held());
    // What memory holds is seen in what a removed file does.
    let ram = loader(&place, 3, &Caching::Ram { bytes: limit });
    epochs(&ram, 0..6);
    files(&place.path("data/train")).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let read: std::collections::BTreeSet<usize> =
        epochs(&ram, 0..30).iter().flat_map(|batch| batch.indices.clone()).collect();
    assert_eq!(read.len(), 10);
}

/// Mutations caught, each alone: the checksum not compared; the length; of the stamp nothing
/// compared; neither the change of the file nor its inode; not the change; the change in whole
/// seconds without the inode. Size and time alone cannot be missed here: the change sees what they
/// would.
#[test]
fn what_is_old_or_broken_is_decoded_anew() {
    let place = TestFolder::new("cache-old");
    let plain = |which| epochs(&loader(&place, 1, &Caching::Nothing), which);
    let cached = |which| epochs(&loader(&place, 1, &disk(&place, ALL)), which);
    let before = cached(0..2);
    assert!(before == plain(0..2));
    let whole: Vec<(PathBuf, Vec<u8>)> = files(&place.path("cache"))
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(&file).unwrap()))
        .collect();
    assert_eq!(whole.len(), 36);
    let damages: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.clear(),
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        // Width and height exchanged for ones of the same number of pixels, and for huge ones.
        |bytes| (bytes[44], bytes[48]) = (14, 56),
        |bytes| bytes[44..52].fill(0xFF),
        |bytes| bytes.extend([0; 3]),
    ];
    for (number, damage) in damages.iter().enumerate() {
        for (file, bytes) in &whole {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            std::fs::write(file, bytes).unwrap();
        }
        assert!(cached(0..2) == before, "damage {number}");
        for (file, bytes) in &whole {
            assert!(std::fs::read(file).unwrap() == *bytes, "damage {number}: repaired");
        }
    }
    // The file of one image under the name of another.
    std::fs::copy(&whole[0].0, &whole[1].0).unwrap();
    assert!(cached(0..2) == before, "another image's file");
    // Another image in its place: longer with the same time, then later with the same length.
    let place_of = |name: &str| place.path("data/train/bag").join(name);
    let one = place_of("0001.png");
    let replace = |by: &str, length: usize, later: u64| {
        let at = std::fs::metadata(&one).unwrap().modified().unwrap();
        let mut bytes = std::fs::read(place_of(by)).unwrap();
        assert!(bytes.len() < length);
        bytes.resize(length, 0);
        std::fs::write(&one, &bytes).unwrap();
        let file = std::fs::File::options().append(true).open(&one).unwrap();
        file.set_modified(at + std::time::Duration::from_millis(later)).unwrap();
    };
    replace("0002.png", 5000, 0);
    let longer = plain(0..2);
    assert!(longer != before && cached(0..2) == longer, "longer");
    replace("0003.png", 5000, 1);
    let later = plain(0..2);
    assert!(later != longer && cached(0..2) == later, "later");
    // Of the same length and the same time.
    #[cfg(unix)]
    {
        replace("0004.png", 5000, 0);
        let other = plain(0..2);
        assert!(other != later && cached(0..2) == other, "written into");
        let aside = place_of("0001.aside");
        std::fs::copy(&one, &aside).unwrap();
        let time = std::fs::metadata(&one).unwrap().modified().unwrap();
        std::fs::rename(&one, place_of("0001.before")).unwrap();
        let mut bytes = std::fs::read(place_of("0005.png")).unwrap();
        bytes.resize(5000, 0);
        std::fs::write(&aside, &bytes).unwrap();
        std::fs::File::options().append(true).open(&aside).unwrap().set_modified(time).unwrap();
        std::fs::rename(&aside, &one).unwrap();
        let renamed = plain(0..2);
        assert!(renamed != other && cached(0..2) == renamed, "another file in its place");
    }
    // Files of the layout before: without the last two numbers of the stamp, right in themselves.
    let version = std::fs::read(&files(&place.path("cache"))[0]).unwrap()[7];
    for file in files(&place.path("cache")) {
        let now = std::fs::read(&file).unwrap();
        let mut old = [&now[..28], &now[44..]].concat();
        old[7] = 1;
        let count = old.len();
        // Other pixels, which would show.
        old[count - 1000..].fill(7);
        let checksum = crc32fast::hash(&old[12..]);
        old[8..12].copy_from_slice(&checksum.to_le_bytes());
        std::fs::write(&file, &old).unwrap();
    }
    assert!(cached(0..2) == plain(0..2), "files of the layout before");
    let rebuilt = |file: &PathBuf| std::fs::read(file).unwrap()[7] == version;
    assert!(files(&place.path("cache")).iter().all(rebuilt));
}

/// Mutations caught: files named and marked without whether EXIF turned the image.
#[test]
fn exif_and_its_absence_do_not_share_pixels() {
    let place = TestFolder::new("cache-exif");
    let fixtures =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../transforms/tests/fixtures/decode");
    std::fs::copy(fixtures.join("orientation_6.png"), place.path("data/train/bag/turned.png"))
        .unwrap();
    let run = |exif: bool, caching: &Caching| {
        let folder = ImageFolder::open_train(&place.path("data"), None).unwrap();
        let config = LoaderConfig {
            batch_size: 50,
            workers: 1,
            prefetch_bytes: 1 << 20,
            seed: 3,
            strict: true,
            drop_last: false,
        };
        let rule = Preprocess { exif, ..Preprocess::imagenet(32, 32) };
        let loader = Loader::new(Arc::new(folder), rule, Mode::Eval, config).caching(caching);
        epochs(&loader, 0..2)
    };
    for exif in [false, true, false] {
        assert!(run(exif, &disk(&place, ALL)) == run(exif, &Caching::Nothing), "{exif}");
    }
    assert!(run(true, &Caching::Nothing) != run(false, &Caching::Nothing));
}

/// The whole program: options, the line at the start, a folder that cannot be written, a second
/// run. Mutations caught: the trouble not told, at the start and on the way.
#[test]
fn the_program_says_what_fits_and_goes_on_without() {
    let place = TestFolder::new("cache-program");
    let run = |name: &str, more: &[&str]| {
        let words = [&SMALL[..], &["--experiment", name], more].concat();
        let output =
            place.command(&words).env("XDG_CACHE_HOME", place.path("xdg")).output().unwrap();
        assert_eq!(code(&output), 0, "{}", error(&output));
        let values: Vec<(String, Vec<f32>)> = Checkpoint::read(&place.checkpoint(name))
            .unwrap()
            .weights
            .iter()
            .map(|weight| (weight.name.clone(), weight.values.clone()))
            .collect();
        (String::from_utf8_lossy(&output.stdout).into_owned(), values)
    };
    let (said, plain) = run("plain", &[]);
    assert!(!said.contains("cache"), "{said}");
    let check = |name: &str, more: &[&str], expected: &[&str]| {
        let (said, weights) = run(name, more);
        assert!(weights == plain, "{name}: the weights");
        let line = said.lines().find(|line| line.contains("cache: ")).unwrap_or_default();
        for word in expected {
            assert!(said.contains(word), "{name}: `{word}` in: {said}");
        }
        assert_eq!(
            said.matches("cache").count().min(1),
            usize::from(!expected.is_empty()),
            "{line}"
        );
    };
    check("none", &["--cache", "none", "--cache-gb", "1"], &[]);
    check(
        "ram",
        &["--cache-gb", "0.5"],
        &["cache: 0.5 GB of memory hold all 36 images, which need 0.1 MB"],
    );
    check("ram-free", &["--cache", "ram"], &["of memory hold all 36 images"]);
    // 36 images of 2352 bytes are 84 672: 42 949 are 51 %.
    check("part", &["--cache", "ram", "--cache-gb", "0.00004"], &["hold 51 % of the 36 images"]);
    check(
        "disk",
        &["--cache", "disk"],
        &["xdg/kindling holds all 36 images", "0 are there already"],
    );
    check("again", &["--cache", "disk"], &["36 are there already"]);
    check(
        "named",
        &["--cache", "disk", "--cache-dir", "own"],
        &["cache: own holds", "0 are there already"],
    );
    // No folder can be there.
    check(
        "file",
        &["--cache", "disk", "--cache-dir", "data/train/bag/0000.png/x"],
        &["note: data/train/bag/0000.png/x: the cache cannot be written", "--cache-dir"],
    );
    // None below it.
    let blocked = place.path("blocked");
    std::fs::create_dir_all(&blocked).unwrap();
    for number in 0..256 {
        std::fs::write(blocked.join(format!("{number:02x}")), b"a file").unwrap();
    }
    check(
        "blocked",
        &["--cache", "disk", "--cache-dir", "blocked"],
        &["the cache cannot be written"],
    );
    // A resumed run may change all three.
    let words = ["train", "--resume", "out/train/again", "--epochs", "3", "--cache", "ram"];
    let more = ["--cache-gb", "0.1", "--cache-dir", "other"];
    let resumed = place.run(&[&words[..], &more].concat());
    assert_eq!(code(&resumed), 0, "{}", error(&resumed));
    refused(&place.train("x", &["--cache-gb", "-1"]), 2, &["--cache-gb"]);
    refused(&place.train("x", &["--cache", "tape"]), 2, &["tape", "ram"]);
}
