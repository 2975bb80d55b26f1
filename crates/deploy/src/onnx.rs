//! A classifier as an ONNX file, which the world's runtimes take.
//!
//! The file is checked before anybody gets it: its bytes are read back and run by another runtime
//! (rten, in pure Rust), and its answers are compared with the network's own.

mod builder;
mod layers;
mod model;
mod preparation;
mod proto;

use image::{Rgb, RgbImage};
use nn::weights::state_dict::state_dict;
use prost::Message as _;
use rten::Model;
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, NdTensorView};
use serde_json::{Value, json};
use transforms::decode::EncodedImage;
use transforms::preprocess::{Preprocess, TransformScratch};

pub use crate::onnx::model::{INPUT, LOGITS};
pub use crate::onnx::preparation::IMAGE;

use crate::classifier::Classifier;
use crate::error::Error;
use crate::quantization::Quantization;

/// Largest difference of logits that passes the check, in units of the root of their mean square.
const TOLERANCE: f64 = 1e-4;
/// A network that amplifies rounding may differ by this many times what noise of a millionth of the
/// input's values changes in its own logits: a network after its first epoch does.
const OF_NOISE: f64 = 4.0;
/// No network may differ by more: a wrong operation changes the first digits.
const MOST: f64 = 1e-2;

/// Largest mean difference of the logits of an integer file, in units of their size: a sum that is
/// rounded in another order falls to the next byte now and then.
const MOST_INT8: f64 = 0.1;

/// What an ONNX file says about its model, beside the classes and the preparation of images.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Name of the model, such as `mobilenet_v3_large`.
    pub model: String,
    /// CRC-32 of the checkpoint's bytes, where there is one.
    pub source_crc32: Option<u32>,
}

/// A checked ONNX model.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// The bytes of the file.
    pub bytes: Vec<u8>,
    /// Largest difference to the network's logits in the check, in units of the root of their mean
    /// square.
    pub difference: f64,
}

/// Writes a classifier as ONNX: opset 18, batch norm folded, input `input`
/// (`[batch, 3, height, width]`, f32, prepared as the metadata's `preprocessing` says), output
/// `logits` (`[batch, classes]`). `picture` is the file of an image that the check runs, otherwise
/// a drawn one.
///
/// ```
/// use deploy::classifier::Classifier;
/// use deploy::onnx::{Description, to_onnx};
///
/// let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
/// let classifier = Classifier::load(format!("{here}/fashion.ckpt"))?;
/// let onnx = to_onnx(&classifier, &Description::default(), None)?;
/// assert!(onnx.difference < 1e-4);
/// # Ok::<(), deploy::error::Error>(())
/// ```
///
/// # Errors
/// [`Error::Onnx`]: the file cannot be read back, or answers otherwise than the network;
/// [`Error::Bytes`]: `picture` is no image.
pub fn to_onnx(
    classifier: &Classifier,
    description: &Description,
    picture: Option<&[u8]>,
) -> Result<OnnxModel, Error> {
    let bytes = encoded(classifier, description, None, None);
    let difference = check(classifier, &bytes, picture)?;
    Ok(OnnxModel { bytes, difference })
}

/// [`to_onnx`] in 8-bit integers: weights of int8 with a scale a channel, maps of uint8, input and
/// output in floats. The file is read back and run by rten on images of the calibration;
/// `difference` is that to the rounded network's own logits.
///
/// # Errors
/// As [`to_onnx`].
pub fn to_onnx_int8(
    classifier: &Classifier,
    description: &Description,
    quantization: &Quantization,
) -> Result<OnnxModel, Error> {
    let bytes = encoded(classifier, description, Some(quantization), None);
    let fault = |why: String| Error::Onnx { why };
    let runner = OnnxRunner::new(&bytes, classifier)?;
    let (images, classes) = (&quantization.sample, classifier.classes().len());
    let (theirs, ours) = (runner.logits(images)?, &quantization.logits);
    let ours = &ours[..ours.len().min(theirs.len())];
    if theirs.len() != ours.len() || theirs.iter().any(|logit| !logit.is_finite()) {
        return Err(fault(format!("{} logits of {classes} classes are none", theirs.len())));
    }
    let difference = mean_difference(&theirs, ours);
    match difference <= MOST_INT8 {
        true => Ok(OnnxModel { bytes, difference }),
        false => Err(fault(format!(
            "its logits differ from the rounded network's by {difference:.1e} of their size, at most \
             {MOST_INT8:.0e} is expected"
        ))),
    }
}

/// The bytes of a file that prepares images itself: its input is `image`,
/// `[batch, height, width, 3]` bytes of decoded images, of any size but of one size a batch. For
/// ONNX Runtime's CPU: other runtimes resize in another way or not at all, rten among them, so that
/// the part behind the preparation is what [`to_onnx`] and [`to_onnx_int8`] check.
///
/// # Errors
/// [`Error::Onnx`]: a preparation that nodes cannot do.
pub fn to_onnx_of_images(
    classifier: &Classifier,
    description: &Description,
    quantization: Option<&Quantization>,
) -> Result<Vec<u8>, Error> {
    let rule = classifier.preprocess();
    preparation::check(rule).map_err(|why| Error::Onnx { why })?;
    Ok(encoded(classifier, description, quantization, Some(rule)))
}

/// The bytes of an ONNX file.
fn encoded(
    classifier: &Classifier,
    description: &Description,
    quantization: Option<&Quantization>,
    preparation: Option<&Preprocess>,
) -> Vec<u8> {
    let mut metadata = vec![
        ("classes", json!(classifier.classes()).to_string()),
        ("preprocessing", preprocessing(classifier.preprocess()).to_string()),
        ("model", description.model.clone()),
        ("kindling", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if let Some(crc) = description.source_crc32 {
        metadata.push(("source_crc32", format!("{crc:08x}")));
    }
    if preparation.is_some() {
        metadata.push(("preparation", "in the graph".to_owned()));
    }
    if let Some(found) = quantization {
        metadata.push(("int8", json!({ "calibration_images": found.images }).to_string()));
    }
    let network = classifier.network();
    let weights = state_dict(network);
    let crop = classifier.preprocess().crop;
    let config = network.config();
    model::model(config, &weights, crop, metadata, quantization, preparation).encode_to_vec()
}

/// An ONNX file run by rten.
pub struct OnnxRunner {
    model: Model,
    /// Height and width of the input.
    size: [usize; 2],
}

impl OnnxRunner {
    /// Reads the bytes of a file that was written for a classifier.
    ///
    /// # Errors
    /// [`Error::Onnx`].
    pub fn new(bytes: &[u8], classifier: &Classifier) -> Result<Self, Error> {
        let model = Model::load(bytes.to_vec())
            .map_err(|error| Error::Onnx { why: format!("it cannot be read back: {error}") })?;
        Ok(Self { model, size: classifier.preprocess().crop })
    }

    /// The logits of prepared images `[n, 3, height, width]`, flat.
    ///
    /// # Errors
    /// [`Error::Onnx`].
    pub fn logits(&self, images: &[f32]) -> Result<Vec<f32>, Error> {
        let fault = |why: String| Error::Onnx { why };
        let [height, width] = self.size;
        let count = images.len() / (3 * height * width);
        let view = NdTensorView::from_data([count, 3, height, width], images);
        let answer = self
            .model
            .run_one(view.into(), None)
            .map_err(|error| fault(format!("a batch of {count} cannot be run: {error}")))?;
        let answer: NdTensor<f32, 2> =
            answer.try_into().map_err(|error| fault(format!("its output: {error}")))?;
        Ok(answer.to_vec())
    }
}

/// How an image becomes the input, as the metadata says it.
pub(crate) fn preprocessing(rule: &Preprocess) -> Value {
    json!({
        "height": rule.crop[0],
        "width": rule.crop[1],
        "resize_short_edge": rule.resize,
        "crop": "center",
        "interpolation": rule.interpolation,
        "antialias": true,
        "channel_order": "RGB",
        "range": [0, 1],
        "mean": rule.mean,
        "std": rule.std,
        "exif_orientation": rule.exif,
    })
}

/// Runs a file on a random and on a real image, each alone and both in one batch; the largest
/// difference of its logits to the network's, in units of the root of their mean square.
fn check(classifier: &Classifier, bytes: &[u8], picture: Option<&[u8]>) -> Result<f64, Error> {
    let fault = |why: String| Error::Onnx { why };
    let runner = OnnxRunner::new(bytes, classifier)?;
    let rule = classifier.preprocess();
    let random =
        (0..rule.values() as u64).map(|i| (4.0 * nn::init::uniform(7, i) - 2.0) as f32).collect();
    let drawn = drawn();
    let mut prepared = vec![0.0; rule.values()];
    let image = match picture {
        Some(bytes) => EncodedImage::open(bytes, rule.exif)?,
        None => EncodedImage::of(&drawn),
    };
    rule.apply_into(&image, &mut TransformScratch::default(), &mut prepared)?;
    let images: [Vec<f32>; 2] = [random, prepared];
    let mut largest = 0.0_f64;
    for batch in [images[..1].concat(), images[1..].concat(), images.concat()] {
        let (theirs, ours) = (runner.logits(&batch)?, classifier.logits(batch.clone()));
        let difference = compare(&theirs, &ours, classifier.classes().len()).map_err(fault)?;
        largest = largest.max(difference);
        if difference > TOLERANCE {
            let sign = |i: usize| if nn::init::uniform(8, i as u64) < 0.5 { -1e-6 } else { 1e-6 };
            let noisy =
                batch.iter().enumerate().map(|(i, value)| value * (1.0 + sign(i))).collect();
            let noise = relative(&classifier.logits(noisy), &ours);
            let most = (OF_NOISE * noise).clamp(TOLERANCE, MOST);
            if difference > most {
                return Err(fault(format!(
                    "its logits differ from the network's by {difference:.1e} of their size, at most {most:.0e} \
                     is expected"
                )));
            }
        }
    }
    Ok(largest)
}

fn difference(a: f32, b: f32) -> f64 {
    (f64::from(a) - f64::from(b)).abs()
}

/// The root of the logits' mean square.
fn size(logits: &[f32]) -> f64 {
    let squares: f64 = logits.iter().map(|v| f64::from(*v).powi(2)).sum();
    (squares / logits.len() as f64).sqrt()
}

/// The largest difference of two batches of logits, in units of the size of `ours`.
fn relative(theirs: &[f32], ours: &[f32]) -> f64 {
    let largest = theirs.iter().zip(ours).map(|(a, b)| difference(*a, *b)).fold(0.0, f64::max);
    // All logits of a new head are zero.
    if size(ours) > 0.0 { largest / size(ours) } else { largest }
}

/// The root of the mean square of the differences, in units of the size of `ours`.
fn mean_difference(theirs: &[f32], ours: &[f32]) -> f64 {
    let differences: Vec<f32> = theirs.iter().zip(ours).map(|(a, b)| a - b).collect();
    if size(ours) > 0.0 { size(&differences) / size(ours) } else { size(&differences) }
}

/// Compares the logits of a batch, `classes` an image: their relative difference, or why they are
/// no answer or another one.
fn compare(theirs: &[f32], ours: &[f32], classes: usize) -> Result<f64, String> {
    if theirs.len() != ours.len() {
        return Err(format!("{} logits where the network has {}", theirs.len(), ours.len()));
    }
    if theirs.iter().chain(ours).any(|logit| !logit.is_finite()) {
        return Err("logits are not finite numbers".into());
    }
    let top =
        |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a)));
    for (a, b) in theirs.chunks_exact(classes).zip(ours.chunks_exact(classes)) {
        let (first, second) = (top(a).unwrap_or(0), top(b).unwrap_or(0));
        // Of two that are equal but for rounding either may be first.
        let tie = difference(b[first], b[second]) <= 2.0 * TOLERANCE * size(ours);
        if first != second && !tie {
            return Err(format!("its first class is {first} where the network's is {second}"));
        }
    }
    Ok(relative(theirs, ours))
}

/// An image with edges, slopes and colours, for a check without a photo.
fn drawn() -> RgbImage {
    RgbImage::from_fn(320, 240, |x, y| {
        let inside = (f64::from(x) - 160.0).hypot(f64::from(y) - 120.0) < 70.0;
        let slope = (x * 255 / 320) as u8;
        match (inside, (x / 40 + y / 40) % 2) {
            (true, _) => Rgb([220, slope, 40]),
            (false, 0) => Rgb([slope, 90, 160]),
            (false, _) => Rgb([slope, (y * 255 / 240) as u8, 210]),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::compare;

    /// Mutations caught, each alone: another first class passed; a number that is not finite
    /// passed.
    #[test]
    fn logits_that_differ_or_name_another_class_are_refused() {
        let ours = [1.0, 2.0, 3.0, -1.0, 0.5, 0.0];
        assert_eq!(compare(&ours, &ours, 3), Ok(0.0));
        let mut theirs = ours;
        theirs[1] += 1e-2;
        let of = ((1.0 + 4.0 + 9.0 + 1.0 + 0.25_f64) / 6.0).sqrt();
        assert!((compare(&theirs, &ours, 3).unwrap() - 1e-2 / of).abs() < 1e-6);
        assert!(compare(&ours[..3], &ours, 3).unwrap_err().contains("3 logits"));
        // Half a per cent decides between two that are nearly equal.
        let near = [1.0, 2.995, 3.0];
        assert!(compare(&[1.0, 3.001, 3.0], &near, 3).unwrap_err().contains("first class is 1"));
        theirs[1] = f32::NAN;
        assert!(compare(&theirs, &ours, 3).unwrap_err().contains("finite"));
        // A head of zeros has no scale, and every class is first.
        assert_eq!(compare(&[0.0; 3], &[0.0; 3], 3), Ok(0.0));
    }
}
