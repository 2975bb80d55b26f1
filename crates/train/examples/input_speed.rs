//! How many pictures a second the loader prepares, nobody consuming them:
//! `input_speed DIR WORKERS [EPOCHS [exact|scaled]]`.
//!
//! Random resized crop to 224, mirror image, normalised, batches of 64; one line of JSON. `benches/input.py` runs
//! it beside torchvision's and timm's loaders.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use train::augment::Augment;
use train::decode::Decoding;
use train::folder::ImageFolder;
use train::loader::{Loader, LoaderConfig, Mode};
use train::preprocess::Preprocess;

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
        Preprocess::imagenet(256, 224),
        Mode::Train(Augment { decode, ..Augment::default() }),
        config,
    );
    let mut pictures = 0;
    let mut start = Instant::now();
    // The first epoch warms the file cache and is not counted.
    for epoch in 0..=epochs {
        for batch in loader.epoch(epoch, 0) {
            pictures += batch?.labels.len();
        }
        if epoch == 0 {
            (pictures, start) = (0, Instant::now());
        }
    }
    let img_per_s = pictures as f64 / start.elapsed().as_secs_f64();
    println!("{{\"workers\": {workers}, \"pictures\": {pictures}, \"img_per_s\": {img_per_s:.1}}}");
    Ok(())
}
