//! How many images a second the loader prepares, nobody consuming them:
//! `input_speed DIR WORKERS [EPOCHS [exact|scaled [WINDOW [SIZE [none|ram|CACHE_DIR]]]]]`.
//!
//! Random resized crop to SIZE (224), mirror image, normalised, batches of 64; one line of JSON. Of
//! 0 epochs the first one counts, which otherwise warms the file cache. WINDOW is `--shard-window`
//! of a folder of shards. `benches/input.py` runs it beside torchvision's and timm's loaders,
//! `benches/shards.py` by place and in windows.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use train::datasets::cache::Caching;
use train::datasets::image_folder::ImageFolder;
use train::datasets::loader::{Loader, LoaderConfig, Mode};
use transforms::augment::Augment;
use transforms::decode::Decoding;
use transforms::preprocess::Preprocess;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, workers] = words.get(..2).context("input_speed DIR WORKERS [EPOCHS]")? else {
        unreachable!("a slice of two")
    };
    let workers: usize = workers.parse().context("WORKERS is a number")?;
    let epochs: u64 = words.get(2).map_or(Ok(3), |word| word.parse()).context("EPOCHS")?;
    let decode = match words.get(3).map(String::as_str) {
        Some("exact") => Decoding::Exact,
        None | Some("scaled") => Decoding::Scaled,
        Some(word) => anyhow::bail!("{word}: expected exact or scaled"),
    };
    let window: usize = words.get(4).map_or(Ok(0), |word| word.parse()).context("WINDOW")?;
    let size: usize = words.get(5).map_or(Ok(224), |word| word.parse()).context("SIZE")?;
    let caching = match words.get(6).map(String::as_str) {
        None | Some("none") => Caching::Nothing,
        Some("ram") => Caching::Ram { bytes: 4 << 30 },
        Some(folder) => Caching::Disk { folder: folder.into(), bytes: u64::MAX },
    };
    let config = LoaderConfig {
        batch_size: 64,
        workers,
        prefetch_bytes: 256 << 20,
        seed: 1,
        strict: true,
        drop_last: true,
    };
    let folder = Arc::new(ImageFolder::open_train(Path::new(folder), None)?);
    let loader = Loader::new(
        folder,
        Preprocess::imagenet(size * 8 / 7, size),
        Mode::Train(Augment { decode, ..Augment::default() }),
        config,
    )
    .windowed(window)
    .caching(&caching);
    let mut images = 0;
    let mut start = Instant::now();
    let mut before = reads();
    for epoch in 0..=epochs {
        for batch in loader.epoch(epoch, 0) {
            images += batch?.labels.len();
        }
        if epoch == 0 && epochs > 0 {
            (images, start, before) = (0, Instant::now(), reads());
        }
    }
    let img_per_s = images as f64 / start.elapsed().as_secs_f64();
    let [calls, bytes, disk] = [0, 1, 2].map(|i| reads()[i] - before[i]);
    println!(
        "{{\"workers\": {workers}, \"images\": {images}, \"img_per_s\": {img_per_s:.1}, \"read_calls\": {calls}, \
         \"read_mb\": {:.1}, \"disk_mb\": {:.1}}}",
        bytes as f64 / 1e6,
        disk as f64 / 1e6
    );
    Ok(())
}

/// Calls that read, bytes that they gave, bytes that came from a disk: of this process, where Linux
/// counts them.
fn reads() -> [u64; 3] {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    ["syscr:", "rchar:", "read_bytes:"].map(|name| of(name).unwrap_or(0))
}
