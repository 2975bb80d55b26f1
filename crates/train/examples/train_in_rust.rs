//! Trains a classifier on a folder of class folders from a program, follows its epochs, and uses
//! it.
//!
//! Usage: `cargo run --example train_in_rust -- DIR IMAGE`

#![expect(clippy::print_stdout, reason = "a program")]

use deploy::classifier::Classifier;
use train::config::options::Options;
use train::run::begin::train;
use train::run::observer::{EpochRecord, Observer};

/// Prints the accuracy after every epoch.
struct Epochs;

impl Observer for Epochs {
    fn epoch(&self, record: &EpochRecord) {
        if let Some(report) = record.report {
            println!("epoch {}: top-1 {:.1} %", record.epoch + 1, 100.0 * report.top1);
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut options = Options::default();
    options.data.data_dir = words.next().map(Into::into);
    options.network.model = Some("mobilenet_v3_small".into());
    options.training.epochs = Some(2);
    options.data.img_size = Some(32);
    let trained = train(options, &Epochs)?;
    let classifier = Classifier::load(&trained.checkpoint)?;
    for image in words {
        println!("{image}: {}", classifier.classify(&image)?.best().class);
    }
    Ok(())
}
