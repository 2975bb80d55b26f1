//! Makes an ImageNet-style folder of Debian's package dataset-fashion-mnist:
//!
//! `cargo run --example fashion_mnist -- --output DIR [--train-per-class N --val-per-class N]`
//!
//! Without limits it writes all 60,000 + 10,000 images as 8-bit gray PNG.
#![expect(clippy::print_stdout, reason = "a program of its own")]

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Parser;

const CLASSES: [&str; 10] = [
    "t-shirt-top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
];

#[derive(Parser)]
struct Args {
    /// Folder with the idx files
    #[arg(long, default_value = "/usr/share/datasets/fashion-mnist")]
    source: PathBuf,
    /// Folder to make
    #[arg(long)]
    output: PathBuf,
    /// Images per class, from the first on
    #[arg(long, default_value_t = usize::MAX)]
    train_per_class: usize,
    /// Images per class, from the first on
    #[arg(long, default_value_t = usize::MAX)]
    val_per_class: usize,
}

/// The payload of an idx file of unsigned bytes (Y. LeCun's format): a big-endian header of one
/// magic word and one word per axis, then the bytes. Gzipped or not.
fn idx(folder: &Path, name: &str, axes: usize) -> anyhow::Result<Vec<u8>> {
    let plain = folder.join(name);
    let packed = folder.join(format!("{name}.gz"));
    let hint = "install Debian's package dataset-fashion-mnist, or name its folder with --source";
    let mut bytes = Vec::new();
    if packed.exists() {
        flate2::read::GzDecoder::new(std::fs::File::open(&packed)?).read_to_end(&mut bytes)?;
    } else {
        bytes = std::fs::read(&plain).with_context(|| format!("{}: {hint}", plain.display()))?;
    }
    let word = |i: usize| {
        bytes.get(4 * i..4 * i + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    ensure!(word(0) == Some(0x800 + axes), "{name}: not an idx file of bytes with {axes} axes");
    let count: Option<usize> = (1..=axes).map(word).product();
    let header = 4 * (axes + 1);
    ensure!(count == Some(bytes.len() - header), "{name}: truncated");
    Ok(bytes.split_off(header))
}

fn write(args: &Args, prefix: &str, split: &str, limit: usize) -> anyhow::Result<usize> {
    let images = idx(&args.source, &format!("{prefix}-images-idx3-ubyte"), 3)?;
    let labels = idx(&args.source, &format!("{prefix}-labels-idx1-ubyte"), 1)?;
    let mut counts = [0_usize; 10];
    for class in CLASSES {
        std::fs::create_dir_all(args.output.join(split).join(class))?;
    }
    for (pixels, &label) in images.chunks_exact(28 * 28).zip(&labels) {
        let label = usize::from(label);
        ensure!(label < 10, "label {label} with 10 classes");
        if counts[label] < limit {
            let name = format!("{:04}.png", counts[label]);
            let path = args.output.join(split).join(CLASSES[label]).join(name);
            image::save_buffer(path, pixels, 28, 28, image::ExtendedColorType::L8)?;
            counts[label] += 1;
        }
    }
    Ok(counts.iter().sum())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let train = write(&args, "train", "train", args.train_per_class)?;
    let val = write(&args, "t10k", "val", args.val_per_class)?;
    println!("{}: {train} + {val} images", args.output.display());
    Ok(())
}
