//! Names images from their files, from bytes, and many at a time.
//!
//! Usage: `cargo run --example classify -- CKPT IMAGE...`

#![expect(clippy::print_stdout, reason = "a program")]

use deploy::classifier::Classifier;
use deploy::error::Error;

fn main() -> Result<(), Error> {
    let mut words = std::env::args().skip(1);
    let classifier = Classifier::load(words.next().unwrap_or_else(|| "model_best.ckpt".into()))?;
    let paths: Vec<String> = words.collect();
    for (path, prediction) in paths.iter().zip(classifier.classify_batch(&paths)) {
        let best = prediction?.best();
        println!("{path}: {} {:.3}", best.class, best.probability);
    }
    // Bytes that came over a wire are named the same.
    if let Some(bytes) = paths.first().and_then(|path| std::fs::read(path).ok()) {
        println!("the first by its bytes: {}", classifier.classify_bytes(&bytes)?.best().class);
    }
    Ok(())
}
