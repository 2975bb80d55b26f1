//! Files with random faults, given to every reader: an error or a result, never a panic, a hang or
//! memory out of proportion to the file.
//!
//! The faults are a function of a seed: flipped bits, bytes of critical values, cut ends, parts
//! removed, doubled, exchanged, or taken from another file. The ordinary test tries each reader for
//! a moment; `KINDLING_FUZZ_SECONDS=600` for ten minutes. A message names the seed.
//!
//! Mutations caught: an entry of an EXIF directory sliced without its bounds; an index of shards that is
//! no JSON unwrapped.

#[path = "test_folder/test_folder.rs"]
mod test_folder;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use deploy::container::{Container, TensorRef, container_of, safetensors_of};
use deploy::manifest::ModelManifest;
use kernels::random::splitmix64;
use nn::config::{Architecture, NetworkConfig};
use nn::weights::frozen_graph::mobilenet_v1;
use nn::weights::kind::WeightsKind;
use nn::weights::read::read_weights;
use nn::weights::state_dict::state_dict;
use test_folder::TestFolder;
use train::config::options::Options;
use train::datasets::shards::{self, Split};
use train::run::checkpoint::Checkpoint;
use transforms::decode::decode;

/// Most time for one file. The slowest takes a hundredth on an idle machine.
const MOST_TIME: Duration = Duration::from_secs(20);
/// Resident memory that a reader may take whatever the length of the file: an image of 512 MiB, its
/// coefficients, and what a decoder holds beside them.
const ANY_LENGTH: u64 = 2 << 30;
const PER_BYTE: u64 = 64;

/// Values on which lengths, offsets and factors go wrong.
const CRITICAL: [u64; 14] = [
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    u64::MAX >> 1,
    u64::MAX,
];

/// Random numbers of a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(kernels::random::GOLDEN);
        splitmix64(self.0)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A file of the corpus with one to six faults.
fn damaged(corpus: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut file = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        if file.is_empty() {
            break;
        }
        // Faults gather at the front, where headers are.
        let reach = if random.below(2) == 0 { file.len().min(256) } else { file.len() };
        let at = random.below(reach);
        let length = 1 + random.below(16).min(file.len() - at - 1);
        match random.below(9) {
            0 => file[at] ^= 1 << random.below(8),
            1 => file[at] = random.next() as u8,
            2 => file.truncate(at),
            3 => drop(file.drain(at..at + length)),
            4 => {
                let part = file[at..at + length].to_vec();
                let to = random.below(file.len());
                file.splice(to..to, part);
            }
            5 | 6 => {
                let value = CRITICAL[random.below(CRITICAL.len())];
                let width = [1, 2, 4, 8][random.below(4)].min(file.len() - at);
                let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
                let bytes = if random.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
                file[at..at + width].copy_from_slice(bytes);
            }
            7 if !words.is_empty() => {
                let word = words[random.below(words.len())].bytes();
                file.splice(at..at + length, word);
            }
            _ => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len());
                let part = &other[from..other.len().min(from + 64)];
                file.splice(at..at + length, part.iter().copied());
            }
        }
    }
    file
}

/// The largest resident memory since [`forget_peak`], in bytes; none where the system does not say.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Gives damaged files to a reader until the time is over.
fn fuzz(name: &str, corpus: &[Vec<u8>], words: &[&str], read: impl Fn(&[u8])) {
    // The memory of the process is that of one reader.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let seconds = std::env::var("KINDLING_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let first = std::env::var("KINDLING_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let first: u64 = first.unwrap_or(1);
    for file in corpus {
        read(file);
    }
    let mut seed = first;
    while seed == first || Instant::now() < end {
        let file = damaged(corpus, words, &mut Random(seed << 20));
        forget_peak();
        let (before, start) = (peak(), Instant::now());
        let result = catch_unwind(AssertUnwindSafe(|| read(&file)));
        let time = start.elapsed();
        let memory = before.zip(peak()).map_or(0, |(before, after)| after.saturating_sub(before));
        let again = format!("{name}: KINDLING_FUZZ_SEED={seed}, {} bytes", file.len());
        assert!(result.is_ok(), "{again}: a panic, see above");
        assert!(time < MOST_TIME, "{again}: {time:?}");
        let most = ANY_LENGTH + PER_BYTE * file.len() as u64;
        assert!(memory <= most, "{again}: {memory} bytes of memory");
        seed += 1;
    }
    assert!(seed - first > 20, "{name}: {} files only", seed - first);
    let report = format!("{name}: {} files, seeds {first} to {}", seed - first, seed - 1);
    let _ = writeln!(std::io::stderr(), "{report}");
}

fn crates(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The files of a folder of fixtures, in the order of their names.
fn files(path: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(crates(path))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn small() -> NetworkConfig {
    NetworkConfig { width: 0.1, ..NetworkConfig::new(Architecture::MobilenetV3Small, 3) }
}

/// A reader of paths, given bytes.
fn through_a_file(folder: &TestFolder, read: impl Fn(&Path)) -> impl Fn(&[u8]) {
    let path = folder.path("damaged");
    move |bytes| {
        std::fs::write(&path, bytes).unwrap();
        read(&path);
    }
}

fn images(name: &str, corpus: &[Vec<u8>]) {
    fuzz(name, corpus, &[], |bytes| {
        for exif in [false, true] {
            if let Err(error) = decode(bytes, exif) {
                assert!(!error.to_string().contains("panicked"), "{error}");
            }
        }
    });
}

#[test]
fn images_of_every_format() {
    images("images", &files("transforms/tests/fixtures/decode"));
}

#[test]
fn jpegs_of_every_kind() {
    let bytes = std::fs::read(crates("transforms/tests/fixtures/jpeg_kinds.bin")).unwrap();
    // Every file begins with SOI and a marker; a false beginning is one more fault.
    let starts: Vec<usize> = (0..bytes.len() - 2)
        .filter(|&at| bytes[at..].starts_with(&[0xFF, 0xD8, 0xFF]))
        .chain([bytes.len()])
        .collect();
    let corpus: Vec<Vec<u8>> = starts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
    images("jpegs", &corpus);
}

#[test]
fn safetensors() {
    let folder = TestFolder::new("fuzz-safetensors");
    let values: Vec<f32> = (0..24).map(|v| v as f32).collect();
    let tensor = |name, shape: &[usize]| TensorRef { name, shape: shape.to_vec(), values: &values };
    let plain = safetensors_of([tensor("a.weight", &[2, 3, 4]), tensor("b", &[24])], &[("x", "y")]);
    let corpus = [plain, std::fs::read(crates("nn/tests/fixtures/bfloat.safetensors")).unwrap()];
    let words = [
        "\"F64\"",
        "\"BF16\"",
        "\"F8_E4M3\"",
        "[0,18446744073709551615]",
        "[4294967296,4294967296]",
        "-1",
        "{",
        "}",
        "1e308",
    ];
    fuzz(
        "safetensors",
        &corpus,
        &words,
        through_a_file(&folder, |path| {
            let _ = read_weights(path, WeightsKind::Best);
        }),
    );
}

#[test]
fn torch_files() {
    let folder = TestFolder::new("fuzz-torch");
    let corpus = ["zip.pth", "legacy_half.pth", "nested_half.pth"]
        .map(|name| std::fs::read(crates("nn/tests/fixtures").join(name)).unwrap());
    fuzz(
        "torch",
        &corpus,
        &["cos\nsystem\n", "ctorch\nFloatStorage\n", "PK\u{3}\u{4}"],
        through_a_file(&folder, |path| {
            let _ = read_weights(path, WeightsKind::Best);
        }),
    );
}

#[test]
fn frozen_graphs() {
    let field = |number: u8, content: &[u8]| {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length > 127 {
            bytes.push(length as u8 | 128);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    };
    let dim = |size: u8| field(2, &[1 << 3, size]);
    let constant = |name: &str, shape: &[u8]| {
        let count: usize = shape.iter().map(|&size| usize::from(size)).product();
        let shape: Vec<u8> = shape.iter().flat_map(|&size| dim(size)).collect();
        let content = vec![0; count * 4];
        let tensor = [&[1 << 3, 1][..], &field(2, &shape), &field(4, &content)].concat();
        let entry = [field(1, b"value"), field(2, &field(8, &tensor))].concat();
        field(1, &[field(1, name.as_bytes()), field(2, b"Const"), field(5, &entry)].concat())
    };
    let layer = |from: &str, weights: &str, shape: &[u8]| {
        let norms = ["gamma", "beta", "moving_mean", "moving_variance"];
        let norms = norms.map(|norm| constant(&format!("{from}/BatchNorm/{norm}"), &[2]));
        [constant(&format!("{from}/{weights}"), shape), norms.concat()].concat()
    };
    let mut graph = layer("MobilenetV1/Conv2d_0", "weights", &[3, 3, 3, 2]);
    for number in 1..14 {
        let name = format!("MobilenetV1/Conv2d_{number}");
        graph.extend(layer(&format!("{name}_depthwise"), "depthwise_weights", &[3, 3, 2, 1]));
        graph.extend(layer(&format!("{name}_pointwise"), "weights", &[1, 1, 2, 2]));
    }
    graph.extend(constant("MobilenetV1/Logits/Conv2d_1c_1x1/weights", &[1, 1, 2, 3]));
    graph.extend(constant("MobilenetV1/Logits/Conv2d_1c_1x1/biases", &[3]));
    assert_eq!(mobilenet_v1(&graph).unwrap().len(), 137);
    fuzz("frozen graphs", &[graph], &["MobilenetV1/Conv2d_0/weights"], |bytes| {
        let _ = mobilenet_v1(bytes);
    });
}

/// Words that change what a JSON or TOML text says without breaking it.
const VALUES: [&str; 24] = [
    "0",
    "-1",
    "1e999",
    "-0.0",
    "nan",
    "4294967296",
    "18446744073709551616",
    "9223372036854775807",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\"a\"",
    "[[[[[[[[",
    "1.5",
    "\"\\u0000\"",
    "1e-320",
    "{\"a\":",
    "inf",
    "0x10",
    "'''",
    "[table]",
    "= =",
];

#[test]
fn checkpoints() {
    let folder = TestFolder::new("fuzz-checkpoint");
    assert!(folder.train("a", &["--model-ema", "--epochs", "1"]).status.success());
    let bytes = std::fs::read(folder.checkpoint("a")).unwrap();
    let corpus = [bytes.clone()];
    fuzz(
        "checkpoints",
        &corpus,
        &[],
        through_a_file(&folder, |path| {
            let _ = Checkpoint::read(path);
        }),
    );
    // Behind the checksums: manifests with faults of their own, in a file that is whole.
    let container = Container::from_bytes(&bytes).unwrap();
    let network = small().init_seeded(&burn::tensor::Device::flex(), 1);
    let tensors = state_dict(&network);
    let manifest = container.manifest.into_bytes();
    fuzz(
        "manifests",
        &[manifest],
        &VALUES,
        through_a_file(&folder, |path| {
            let Ok(text) = std::fs::read_to_string(path) else { return };
            let _ = ModelManifest::parse(&text);
            std::fs::write(path, container_of(&text, tensors.iter().map(TensorRef::from))).unwrap();
            let _ = Checkpoint::read(path);
        }),
    );
}

#[test]
fn configurations() {
    let corpus = [
        files("../configs"),
        vec![b"lr = 0.1\nsched = \"cosine\"\naa = \"rand-m9-mstd0.5\"\n".to_vec()],
    ]
    .concat();
    fuzz("configurations", &corpus, &VALUES, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Err(error) = Options::parse(text, "x.toml") {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    });
}

#[test]
fn shards_and_their_index() {
    let folder = TestFolder::new("fuzz-shards");
    assert!(folder.run(&["data", "shard", "data", "--output", "shards"]).status.success());
    let root = folder.path("shards");
    let index = std::fs::read(root.join("index.json")).unwrap();
    let words = [&VALUES[..], &["\"../../x\"", "\"pictures\"", "\"order\""]].concat();
    fuzz("indices of shards", std::slice::from_ref(&index), &words, |bytes| {
        std::fs::write(root.join("index.json"), bytes).unwrap();
        let Ok(Some(index)) = shards::index(&root) else { return };
        for split in [Split::Train, Split::Val] {
            let Ok(images) = shards::open(&root, split, &index) else { continue };
            let tar = images.shards.as_ref().expect("a folder of shards");
            for (image, _) in &images.items {
                let _ = tar.read(image, &mut Vec::new());
            }
        }
    });
    std::fs::write(root.join("index.json"), &index).unwrap();
    let index = shards::index(&root).unwrap().unwrap();
    let tar = root.join(&index.train[0].file);
    let whole = std::fs::read(&tar).unwrap();
    fuzz("shards", &[whole], &[], |bytes| {
        std::fs::write(&tar, bytes).unwrap();
        let Ok(images) = shards::open(&root, Split::Train, &index) else { return };
        let reader = images.shards.as_ref().expect("a folder of shards");
        for (image, _) in &images.items {
            let mut bytes = Vec::new();
            if reader.read(image, &mut bytes).is_ok() {
                let _ = decode(&bytes, false);
            }
        }
    });
}
