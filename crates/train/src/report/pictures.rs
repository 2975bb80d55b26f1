//! Pictures in a page: small copies of images, and training images as the network sees them.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{Rgb, RgbImage};

use crate::config::plan::Plan;
use crate::datasets::batch::Batch;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Mode;
use crate::run::open_data;
use transforms::decode::decode;
use transforms::preprocess::Preprocess;

/// Longer edge of a small copy, pixels.
const EDGE: u32 = 144;

const QUALITY: u8 = 82;

/// A small copy of an image of a folder as a JPEG in a `data:` address; none if it cannot be read.
pub(super) fn thumbnail(folder: &ImageFolder, index: usize, exif: bool) -> Option<String> {
    let mut bytes = Vec::new();
    folder.read_bytes(index, &mut bytes).ok()?;
    Some(data_address(&decode(&bytes, exif).ok()?))
}

/// An image as a JPEG in a `data:` address, made smaller where it is large.
pub(super) fn data_address(image: &RgbImage) -> String {
    let longer = image.width().max(image.height()).max(1);
    let scaled =
        |edge: u32| ((edge as f64 * f64::from(EDGE) / f64::from(longer)).round() as u32).max(1);
    let small = match longer > EDGE {
        true => image::imageops::resize(
            image,
            scaled(image.width()),
            scaled(image.height()),
            FilterType::Triangle,
        ),
        false => image.clone(),
    };
    let mut jpeg = Vec::new();
    let encoded = small.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY));
    encoded.expect("a JPEG is written to memory");
    format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg))
}

/// The first training images of epoch 0 as the network sees them, with their labels.
pub(super) fn training_images(
    plan: &Plan,
    train: &Arc<ImageFolder>,
    most: usize,
) -> Vec<(RgbImage, String)> {
    let loader =
        open_data::loader(plan, train, Mode::Train(plan.augment()), plan.training.batch_size);
    let (rule, mut tiles) = (plan.preprocess(), Vec::new());
    for batch in loader.epoch(0, 0) {
        let Ok(batch) = batch else { break };
        let images = (0..batch.labels.len())
            .map(|number| (tile(&rule, &batch, number), label(&train.classes, &batch, number)));
        tiles.extend(images);
        if tiles.len() >= most {
            break;
        }
    }
    tiles.truncate(most);
    tiles
}

/// Image `number` of a batch, its normalisation undone; what erasing and mixing brought outside of
/// [0, 255] is cut off.
pub fn tile(rule: &Preprocess, batch: &Batch, number: usize) -> RgbImage {
    let [_, channels, height, width] = batch.shape;
    let plane = height * width;
    let values = &batch.images[number * channels * plane..][..channels * plane];
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([0, 1, 2]
            .map(|c| (255.0 * (values[c * plane + at] * rule.std[c] + rule.mean[c])).round() as u8))
    })
}

/// The class of image `number` of a batch, or both with the share of the first.
pub fn label(classes: &[String], batch: &Batch, number: usize) -> String {
    let name = |label: i64| classes[usize::try_from(label).expect("a class index")].as_str();
    let own = name(batch.labels[number]);
    match &batch.mixed_labels {
        Some((labels, share)) => {
            format!("{:.0}% {own} + {}", 100.0 * share, name(labels[number]))
        }
        None => own.to_owned(),
    }
}
