//! A trained network with its preprocessing and its class names, ready for images.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use kernels::ops::threads::inside;
use nn::config::NetworkConfig;
use nn::network::Network;
use nn::weights::load::{HeadPolicy, load_state_dict};
use nn::weights::{NamedTensor, WeightsError};
use transforms::decode::EncodedImage;
use transforms::preprocess::{Preprocess, TransformScratch};

use crate::container::Container;
use crate::error::Error;
use crate::files::read;
use crate::manifest::{ModelManifest, WeightsKind, check_crop};
use crate::predict::Prediction;

/// A trained network, how it is fed, and what its logits mean.
///
/// A classifier is `Send` and `Sync`: threads may share one, and none of its methods changes it.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    preprocess: Preprocess,
    classes: Arc<[String]>,
    device: Device,
}

/// Builds a network on `device` and puts `tensors` into it; every tensor must fit.
///
/// # Errors
/// [`WeightsError::Mismatch`] with the names of the tensors that do not fit.
pub fn load_network(
    config: &NetworkConfig,
    tensors: Vec<NamedTensor>,
    device: &Device,
) -> Result<Network, WeightsError> {
    load_state_dict(config.init_zero(device), tensors, HeadPolicy::Exact)
        .map(|(network, _)| network)
}

impl Classifier {
    /// Loads a checkpoint onto the CPU, with the weights that were better when it was written.
    ///
    /// # Errors
    /// [`Error`] if the file is missing, foreign, damaged, or of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::load_on(path, &Device::flex())
    }

    /// [`Classifier::load`] onto a device.
    ///
    /// # Errors
    /// See [`Classifier::load`].
    pub fn load_on(path: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        Self::load_weights(path, WeightsKind::Best, device)
    }

    /// [`Classifier::load_on`] with a choice among the weights of the checkpoint.
    ///
    /// # Errors
    /// See [`Classifier::load`]; [`Error::NoAverage`].
    pub fn load_weights(
        path: impl AsRef<Path>,
        weights: WeightsKind,
        device: &Device,
    ) -> Result<Self, Error> {
        let file = path.as_ref();
        let path = || file.to_path_buf();
        let bytes = read(file).map_err(|source| Error::Read { path: path(), source })?;
        let Container { manifest, tensors } = Container::from_bytes(&bytes)
            .map_err(|source| Error::Container { path: path(), source })?;
        drop(bytes);
        let manifest =
            ModelManifest::parse(&manifest).map_err(|why| Error::Manifest { path: path(), why })?;
        let tensors =
            manifest.select(tensors, weights).ok_or_else(|| Error::NoAverage { path: path() })?;
        // A network on an autodiff device would use batch statistics.
        let device = device.clone().without_autodiff();
        let network = load_network(&manifest.network, tensors, &device)
            .map_err(|source| Error::Weights { path: path(), source })?;
        let ModelManifest { preprocess, classes, .. } = manifest;
        Ok(Self { network, preprocess, classes: classes.into(), device })
    }

    /// A classifier of a network that is in memory, on its own device.
    ///
    /// # Errors
    /// [`Error::Parts`]: another number of class names than of logits, or an image too small for
    /// the network.
    pub fn new(
        network: Network,
        preprocess: Preprocess,
        classes: Vec<String>,
    ) -> Result<Self, Error> {
        let (names, logits) = (classes.len(), network.config().num_classes);
        if names != logits {
            return Err(Error::Parts { why: format!("{names} class names for {logits} logits") });
        }
        preprocess.validate().map_err(|why| Error::Parts { why })?;
        check_crop(network.config(), &preprocess).map_err(|why| Error::Parts { why })?;
        let device = network.devices().into_iter().next().unwrap_or_else(Device::flex);
        // A network on an autodiff device would use batch statistics.
        let device = device.without_autodiff();
        let network = network.to_device(&device);
        Ok(Self { network, preprocess, classes: classes.into(), device })
    }

    /// Class names in the order of the logits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// How images become the input of the network.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The network, for inference.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The device of the network.
    pub(crate) fn device(&self) -> Device {
        self.device.clone()
    }

    /// Names the image in a file.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Image`], [`Error::NotFinite`].
    pub fn classify(&self, path: impl AsRef<Path>) -> Result<Prediction, Error> {
        single(self.classify_batch(&[path]))
    }

    /// Names the image in the bytes of a file.
    ///
    /// # Errors
    /// [`Error::Bytes`], [`Error::NotFinite`].
    pub fn classify_bytes(&self, bytes: &[u8]) -> Result<Prediction, Error> {
        single(self.classify_bytes_batch(&[bytes]))
    }

    /// Names a decoded image.
    ///
    /// # Errors
    /// [`Error::NoPixels`], [`Error::NotFinite`].
    pub fn classify_image(&self, image: &RgbImage) -> Result<Prediction, Error> {
        single(self.classify_image_batch(&[image]))
    }

    /// Names the images in files, all in one pass through the network: one result for each, in
    /// order.
    pub fn classify_batch<P: AsRef<Path>>(&self, paths: &[P]) -> Vec<Result<Prediction, Error>> {
        let name = |number: usize| paths[number].as_ref().display().to_string();
        self.batch(paths, name, |file, scratch, values| {
            let file = file.as_ref();
            let path = || file.to_path_buf();
            let bytes = read(file).map_err(|source| Error::Read { path: path(), source })?;
            EncodedImage::open(&bytes, self.preprocess.exif)
                .and_then(|image| self.preprocess.apply_into(&image, scratch, values))
                .map_err(|source| Error::Image { path: path(), source })
        })
    }

    /// [`Classifier::classify_batch`] of the bytes of files.
    pub fn classify_bytes_batch<B: AsRef<[u8]>>(
        &self,
        files: &[B],
    ) -> Vec<Result<Prediction, Error>> {
        self.batch(files, numbered, |bytes, scratch, values| {
            let image = EncodedImage::open(bytes.as_ref(), self.preprocess.exif)?;
            Ok(self.preprocess.apply_into(&image, scratch, values)?)
        })
    }

    /// [`Classifier::classify_batch`] of decoded images.
    pub fn classify_image_batch(&self, images: &[&RgbImage]) -> Vec<Result<Prediction, Error>> {
        self.batch(images, numbered, |image, scratch, values| {
            let (width, height) = image.dimensions();
            if width == 0 || height == 0 {
                return Err(Error::NoPixels { width, height });
            }
            Ok(self.preprocess.apply_into(&EncodedImage::of(image), scratch, values)?)
        })
    }

    /// The network's input for the image in the bytes of a file, `[3, height, width]`, flat.
    ///
    /// # Errors
    /// [`Error::Bytes`].
    pub fn prepare(&self, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; self.preprocess.values()];
        let image = EncodedImage::open(bytes, self.preprocess.exif)?;
        self.preprocess.apply_into(&image, &mut TransformScratch::default(), &mut values)?;
        Ok(values)
    }

    /// Names prepared images `[n, 3, height, width]`, flat: one result for each, in order.
    ///
    /// # Errors
    /// For an image: [`Error::NotFinite`].
    ///
    /// # Panics
    /// When `values` is no whole number of images.
    pub fn classify_prepared(&self, values: Vec<f32>) -> Vec<Result<Prediction, Error>> {
        let (numbers, image) = (values.len(), self.preprocess.values());
        assert_eq!(numbers % image, 0, "{numbers} numbers for images of {image}");
        let named = |(number, prediction): (usize, Option<Prediction>)| {
            prediction.ok_or_else(|| Error::NotFinite { image: numbered(number) })
        };
        self.forward(values).into_iter().enumerate().map(named).collect()
    }

    /// A description of each prepared image `[n, 3, height, width]`, flat, for retrieval: the mean
    /// of the network's last map, scaled to length 1, so that the dot product of two is their
    /// cosine.
    ///
    /// ```
    /// use deploy::classifier::Classifier;
    ///
    /// let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    /// let classifier = Classifier::load(format!("{here}/fashion.ckpt"))?;
    /// let image = classifier.prepare(&std::fs::read(format!("{here}/trouser.png")).unwrap())?;
    /// let features = classifier.features(image.repeat(2));
    /// let cosine: f32 = features[0].iter().zip(&features[1]).map(|(a, b)| a * b).sum();
    /// assert!((cosine - 1.0).abs() < 1e-5);
    /// # Ok::<(), deploy::error::Error>(())
    /// ```
    ///
    /// # Panics
    /// When `values` is no whole number of images.
    pub fn features(&self, values: Vec<f32>) -> Vec<Vec<f32>> {
        let (numbers, image) = (values.len(), self.preprocess.values());
        assert_eq!(numbers % image, 0, "{numbers} numbers for images of {image}");
        let ([height, width], count) = (self.preprocess.crop, numbers / image);
        if count == 0 {
            return Vec::new();
        }
        let data = TensorData::new(values, [count, 3, height, width]);
        let means = inside(|| {
            let means = self.network.forward_pooled(Tensor::<4>::from_data(data, &self.device));
            means.into_data().convert::<f32>().try_into_vec::<f32>().expect("converted to f32")
        });
        let scaled = |row: &[f32]| {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter().map(|value| value / length.max(f32::MIN_POSITIVE)).collect()
        };
        means.chunks_exact(means.len() / count).map(scaled).collect()
    }

    /// Prepares every item and sends those that succeed through the network together. `name` is an
    /// item's name in a message, by its index.
    fn batch<T>(
        &self,
        items: &[T],
        name: impl Fn(usize) -> String,
        prepare: impl Fn(&T, &mut TransformScratch, &mut [f32]) -> Result<(), Error>,
    ) -> Vec<Result<Prediction, Error>> {
        let size = self.preprocess.values();
        let mut scratch = TransformScratch::default();
        let mut values = Vec::with_capacity(items.len() * size);
        let prepared: Vec<Result<(), Error>> = items
            .iter()
            .map(|item| {
                let start = values.len();
                values.resize(start + size, 0.0);
                let result = prepare(item, &mut scratch, &mut values[start..]);
                if result.is_err() {
                    values.truncate(start);
                }
                result
            })
            .collect();
        let mut predictions = self.forward(values).into_iter();
        let mut next = || predictions.next().expect("a prediction for every prepared image");
        let named = |(number, result): (usize, Result<(), Error>)| {
            result?;
            next().ok_or_else(|| Error::NotFinite { image: name(number) })
        };
        prepared.into_iter().enumerate().map(named).collect()
    }

    /// The logits of prepared images `[n, 3, height, width]`, flat.
    pub(crate) fn logits(&self, values: Vec<f32>) -> Vec<f32> {
        let [height, width] = self.preprocess.crop;
        let count = values.len() / self.preprocess.values();
        let data = TensorData::new(values, [count, 3, height, width]);
        inside(|| {
            let logits = self.network.forward(Tensor::<4>::from_data(data, &self.device));
            let logits = logits.into_data().convert::<f32>();
            logits.try_into_vec::<f32>().expect("converted to f32")
        })
    }

    /// Sends prepared images `[n, 3, height, width]`, flat, through the network. An image has no
    /// prediction where a logit is not a finite number.
    fn forward(&self, values: Vec<f32>) -> Vec<Option<Prediction>> {
        let [height, width] = self.preprocess.crop;
        let count = values.len() / self.preprocess.values();
        if count == 0 {
            return Vec::new();
        }
        let data = TensorData::new(values, [count, 3, height, width]);
        let [logits, probabilities] = inside(|| {
            let logits = self.network.forward(Tensor::<4>::from_data(data, &self.device));
            [logits.clone(), softmax(logits, 1)].map(|values| {
                let values = values.into_data().convert::<f32>();
                values.try_into_vec::<f32>().expect("converted to f32")
            })
        });
        let classes = self.classes.len();
        let rows = logits.chunks_exact(classes).zip(probabilities.chunks_exact(classes));
        rows.map(|(logits, row)| {
            let finite = logits.iter().all(|logit| logit.is_finite());
            finite
                .then(|| Prediction::new(Arc::clone(&self.classes), logits.to_vec(), row.to_vec()))
        })
        .collect()
    }
}

/// The name of an item that has none.
fn numbered(number: usize) -> String {
    format!("image {} of the batch", number + 1)
}

/// The one result of a batch of one.
fn single(mut results: Vec<Result<Prediction, Error>>) -> Result<Prediction, Error> {
    results.pop().expect("a batch of one has one result")
}
