//! Burn's traits for data sets and data loaders, for programs that train with Burn's own learner.
//! Kindling's training loop does not use them: Burn's traits know no epochs and no resuming.

use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use image::RgbImage;
use transforms::decode::decode;

use crate::datasets::batch::Batch;
use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::loader::Loader;
use crate::datasets::loader::epoch::Epoch;

/// One decoded image.
#[derive(Clone, Debug)]
pub struct DecodedImage {
    /// RGB, 8 bits.
    pub pixels: RgbImage,
    /// Index into the class list.
    pub label: usize,
    /// Index into the folder's items.
    pub index: usize,
}

/// The images of a folder, decoded one by one. The EXIF orientation is ignored, as torchvision
/// ignores it.
///
/// ```
/// use burn::data::dataset::Dataset;
/// use train::datasets::burn_adapters::DecodedImage;
/// use train::datasets::image_folder::ImageFolder;
///
/// let root = std::env::temp_dir().join(format!("kindling-dataset-{}", std::process::id()));
/// for (class, shade) in [("cat", 10), ("dog", 200)] {
///     let folder = root.join("train").join(class);
///     std::fs::create_dir_all(&folder).unwrap();
///     let image = image::RgbImage::from_pixel(4, 3, image::Rgb([shade, 0, 0]));
///     image.save(folder.join("1.png")).unwrap();
/// }
/// let images = ImageFolder::open_train(&root, None).unwrap();
/// let dataset: &dyn Dataset<DecodedImage> = &images;
/// assert_eq!(dataset.len(), 2);
/// let dog = dataset.get(1).unwrap();
/// assert_eq!((dog.label, dog.index), (1, 1));
/// assert_eq!(dog.pixels.dimensions(), (4, 3));
/// assert_eq!(dog.pixels.get_pixel(0, 0).0, [200, 0, 0]);
/// # std::fs::remove_dir_all(&root).unwrap();
/// ```
impl Dataset<DecodedImage> for ImageFolder {
    fn get(&self, index: usize) -> Result<DecodedImage, DatasetError> {
        let mut bytes = Vec::new();
        self.read_bytes(index, &mut bytes).map_err(DatasetError::new)?;
        let (path, label) = &self.items[index];
        let pixels = decode(&bytes, false).map_err(|error| {
            DatasetError::new(DataError::Image { path: path.clone(), why: error.to_string() })
        })?;
        Ok(DecodedImage { pixels, label: *label, index })
    }

    fn len(&self) -> usize {
        self.items.len()
    }
}

/// An epoch with the number of images given so far.
struct BurnEpoch {
    epoch: Epoch,
    given: usize,
    total: usize,
}

impl Iterator for BurnEpoch {
    type Item = Result<Batch, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.epoch.next()?;
        self.given += batch.as_ref().map_or(0, |b| b.labels.len() + b.skipped.len());
        Some(batch.map_err(DatasetError::new))
    }
}

impl DataLoaderIterator<Batch> for BurnEpoch {
    fn progress(&self) -> Progress {
        let (items_processed, items_total) = (self.given, self.total);
        Progress { items_processed, items_total, unit: Some("images".into()) }
    }
}

/// The batches of epoch 0; [`Loader::epoch`] gives those of any epoch. Batches are plain memory, so
/// a device changes nothing.
///
/// ```
/// use std::sync::Arc;
///
/// use burn::data::dataloader::DataLoader;
/// use train::datasets::batch::Batch;
/// use train::datasets::image_folder::ImageFolder;
/// use train::datasets::loader::{Loader, LoaderConfig, Mode};
/// use transforms::preprocess::Preprocess;
///
/// let root = std::env::temp_dir().join(format!("kindling-dataloader-{}", std::process::id()));
/// for class in ["cat", "dog"] {
///     let folder = root.join("train").join(class);
///     std::fs::create_dir_all(&folder).unwrap();
///     for number in 0..3 {
///         let image = image::RgbImage::from_pixel(8, 8, image::Rgb([number, 0, 0]));
///         image.save(folder.join(format!("{number}.png"))).unwrap();
///     }
/// }
/// let images = Arc::new(ImageFolder::open_train(&root, None).unwrap());
/// let config = LoaderConfig {
///     batch_size: 4,
///     workers: 1,
///     prefetch_bytes: 1 << 20,
///     seed: 0,
///     strict: true,
///     drop_last: false,
/// };
/// let loader = Loader::new(images, Preprocess::imagenet(8, 8), Mode::Eval, config);
/// let labels = |loader: &dyn DataLoader<Batch>| -> Vec<Vec<i64>> {
///     loader.iter().map(|batch| batch.unwrap().labels).collect()
/// };
/// assert_eq!(loader.num_items(), 6);
/// assert_eq!(labels(&loader), [vec![0, 0, 0, 1], vec![1, 1]]);
/// let part = loader.slice(2, 99);
/// assert_eq!(labels(&*part), [vec![0, 1, 1, 1]]);
/// let mut batches = part.iter();
/// batches.next();
/// assert_eq!((batches.progress().items_processed, batches.progress().items_total), (4, 4));
/// # std::fs::remove_dir_all(&root).unwrap();
/// ```
impl DataLoader<Batch> for Loader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Batch> + 'a> {
        Box::new(BurnEpoch { epoch: self.epoch(0, 0), given: 0, total: self.images() })
    }

    fn num_items(&self) -> usize {
        self.images()
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Batch>> {
        Arc::new(self.clone().with_range(start, end))
    }
}
