//! Finds the images that look most like a first one, by the cosine of their features.
//!
//! Usage: `cargo run --example retrieve -- CKPT IMAGE OTHER...`

#![expect(clippy::print_stdout, reason = "a program")]

use deploy::classifier::Classifier;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let classifier = Classifier::load(words.next().ok_or("CKPT IMAGE OTHER...")?)?;
    let paths: Vec<String> = words.collect();
    let mut features = Vec::new();
    for path in &paths {
        features.extend(classifier.features(classifier.prepare(&std::fs::read(path)?)?));
    }
    let (query, others) = features.split_first().ok_or("CKPT IMAGE OTHER...")?;
    let cosine = |other: &Vec<f32>| query.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    let mut found: Vec<(f32, &String)> = others.iter().map(cosine).zip(&paths[1..]).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (cosine, path) in found {
        println!("{cosine:.3} {path}");
    }
    Ok(())
}
