//! Names for images: files and folders in, the first k classes with their probabilities out.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, activation::softmax};
use nn::network::Network;
use serde::Serialize;

use crate::error::Error;
use transforms::decode::decode;
use transforms::preprocess::Preprocess;

/// One guess.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// Class name.
    pub class: String,
    /// Index of its logit.
    pub index: usize,
    /// Softmax of the logits.
    pub probability: f32,
}

/// An image's guesses, best first, or why there are none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The image.
    pub file: PathBuf,
    /// Best first.
    pub guesses: Vec<Guess>,
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The images named by `sources`: files as they are, folders recursively in name order.
///
/// # Errors
/// A source that does not exist, or no image at all.
pub fn gather(sources: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for source in sources {
        match source.is_dir() {
            true => walk(source, &mut found)?,
            false if source.exists() => found.push(source.clone()),
            false => {
                return Err(Error::data(format!(
                    "{}: no such file or folder; check the path",
                    source.display()
                )));
            }
        }
    }
    if found.is_empty() {
        let names: Vec<String> = sources.iter().map(|s| s.display().to_string()).collect();
        return Err(Error::data(format!(
            "{}: no image (jpg, jpeg, png, webp, bmp, gif, tif, tiff) below it",
            names.join(", ")
        )));
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    let read = |e: std::io::Error| Error::data(format!("{}: {e}", folder.display()));
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(read)?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let extension = path.extension().map(|x| x.to_string_lossy().to_lowercase());
        let known = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];
        if hidden {
            continue;
        }
        if path.is_dir() {
            walk(&path, found)?;
        } else if extension.is_some_and(|x| known.contains(&x.as_str())) {
            found.push(path);
        }
    }
    Ok(())
}

/// Guesses for one batch of files; an unreadable one carries its error.
pub fn predict(
    network: &Network,
    files: &[PathBuf],
    preprocess: &Preprocess,
    classes: &[String],
    top: usize,
    device: &Device,
) -> Vec<Prediction> {
    let [height, width] = preprocess.crop;
    let mut values = Vec::with_capacity(files.len() * 3 * height * width);
    let mut predictions: Vec<Prediction> = Vec::with_capacity(files.len());
    let mut readable = Vec::new();
    for file in files {
        let pixels = std::fs::read(file)
            .map_err(|e| e.to_string())
            .and_then(|bytes| decode(&bytes, preprocess.exif).map_err(|e| e.to_string()));
        let error = match pixels {
            Ok(pixels) => {
                values.extend(preprocess.apply(&pixels));
                readable.push(predictions.len());
                None
            }
            Err(why) => Some(why),
        };
        predictions.push(Prediction { file: file.clone(), guesses: Vec::new(), error });
    }
    if readable.is_empty() {
        return predictions;
    }
    let shape = [readable.len(), 3, height, width];
    let images = Tensor::<4>::from_data(TensorData::new(values, shape), device);
    let shares = softmax(network.forward(images), 1).into_data().convert::<f32>();
    let shares = shares.try_into_vec::<f32>().expect("f32");
    for (row, &place) in shares.chunks_exact(classes.len()).zip(&readable) {
        let mut order: Vec<usize> = (0..classes.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        predictions[place].guesses = order
            .into_iter()
            .take(top)
            .map(|k| Guess { class: classes[k].clone(), index: k, probability: row[k] })
            .collect();
    }
    predictions
}
