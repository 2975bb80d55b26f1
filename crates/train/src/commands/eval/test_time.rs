//! Several views of an image in evaluation, and the classes that may be answered.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use clap::ValueEnum;
use nn::network::Network;
use rayon::prelude::*;
use transforms::decode::EncodedImage;
use transforms::preprocess::{Preprocess, TransformScratch};

use crate::datasets::batch::Batch;
use crate::datasets::image_folder::ImageFolder;
use crate::error::Error;
use crate::learner::device_images::images;
use crate::learner::evaluate::forward;
use crate::text_list::{lines, read_text};

/// The views of an image whose probabilities are averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TestTimeAugmentation {
    /// The image
    None,
    /// The image and its mirror image
    Hflip,
    /// Four corners and the centre, each with its mirror image
    TenCrop,
}

/// How a batch gets its logits.
pub(super) struct Views<'a> {
    kind: TestTimeAugmentation,
    rule: &'a Preprocess,
    folder: &'a Arc<ImageFolder>,
}

/// Logits of a class that may not be answered.
const NEVER: f32 = -1e30;
/// Images whose ten crops are in memory at a time.
const PIECE: usize = 8;

impl<'a> Views<'a> {
    /// The views of the images of a folder.
    ///
    /// # Errors
    /// Ten crops of a rule whose crop is the whole image.
    pub(super) fn new(
        kind: TestTimeAugmentation,
        rule: &'a Preprocess,
        folder: &'a Arc<ImageFolder>,
    ) -> Result<Self, Error> {
        let largest = rule.crop[0].max(rule.crop[1]);
        if kind == TestTimeAugmentation::TenCrop && largest > rule.resize {
            return Err(Error::usage(format!(
                "--tta ten-crop: crops of {largest} pixels in images of {}; give a larger image with a \
                 smaller --crop-pct",
                rule.resize
            )));
        }
        Ok(Self { kind, rule, folder })
    }

    /// Logits, or the logarithms of the mean probabilities of several views.
    ///
    /// # Errors
    /// An image that cannot be read any more.
    pub(super) fn logits(
        &self,
        network: &Network,
        batch: &mut Batch,
        device: &Device,
    ) -> Result<Tensor<2>, Error> {
        let mirrored = |x: Tensor<4>| {
            let mirror = x.clone().flip([3]);
            softmax(network.forward(x), 1) + softmax(network.forward(mirror), 1)
        };
        match self.kind {
            TestTimeAugmentation::None => Ok(forward(network, batch, device)),
            TestTimeAugmentation::Hflip => Ok((mirrored(images(batch, device)) / 2.0).log()),
            TestTimeAugmentation::TenCrop => {
                let mut pieces = Vec::new();
                for indices in batch.indices.chunks(PIECE) {
                    let crops = self.crops(indices)?;
                    let [_, channels, height, width] = batch.shape;
                    let shape = [5 * indices.len(), channels, height, width];
                    let sums = mirrored(Tensor::from_data(TensorData::new(crops, shape), device));
                    let [_, classes] = sums.dims();
                    let mean = sums.reshape([indices.len(), 5, classes]).sum_dim(1) / 10.0;
                    pieces.push(mean.reshape([indices.len(), classes]));
                }
                Ok(Tensor::cat(pieces, 0).log())
            }
        }
    }

    /// The five crops of every image of a batch, `[5 n, 3, height, width]`, flat.
    fn crops(&self, indices: &[usize]) -> Result<Vec<f32>, Error> {
        let crops = |&index: &usize| -> Result<Vec<f32>, Error> {
            let mut bytes = Vec::new();
            self.folder.read_bytes(index, &mut bytes)?;
            let mut scratch = TransformScratch::default();
            EncodedImage::open(&bytes, self.rule.exif)
                .and_then(|image| self.rule.five_crops(&image, &mut scratch))
                .map_err(|why| {
                    Error::data(format!("{}: {why}", self.folder.items[index].0.display()))
                })
        };
        let all: Result<Vec<Vec<f32>>, Error> = indices.par_iter().map(crops).collect();
        Ok(all?.concat())
    }
}

/// Which classes may be answered, by the lines of a file: names, or indices of logits; none without
/// a file.
///
/// # Errors
/// A line that is no class; a folder with images of a class that may not be answered.
pub(super) fn valid_labels(
    file: Option<&Path>,
    classes: &[String],
    folder: &ImageFolder,
) -> Result<Option<Vec<f32>>, Error> {
    let Some(file) = file else { return Ok(None) };
    let mut mask = vec![NEVER; classes.len()];
    let text = read_text(file)
        .map_err(|why| Error::data(format!("--valid-labels: {}: {why}", file.display())))?;
    for line in lines(&text) {
        let by_name = classes.iter().position(|class| *class == line.text);
        let by_index = || line.text.parse::<usize>().ok().filter(|index| *index < classes.len());
        let index = by_name.or_else(by_index).ok_or_else(|| {
            Error::usage(format!(
                "--valid-labels: {}:{}: `{}` is no class of the checkpoint, and no index below {}",
                file.display(),
                line.number,
                line.text,
                classes.len()
            ))
        })?;
        mask[index] = 0.0;
    }
    let outside = folder.items.iter().find(|(_, label)| mask[*label] != 0.0);
    match outside {
        Some((path, label)) => Err(Error::usage(format!(
            "--valid-labels: {}: {} is of class {}, which is not among them",
            file.display(),
            path.display(),
            classes[*label]
        ))),
        None => Ok(Some(mask)),
    }
}

/// Logits without the classes that may not be answered.
pub(super) fn masked(logits: Tensor<2>, mask: Option<&[f32]>) -> Tensor<2> {
    let Some(mask) = mask else { return logits };
    let data = TensorData::new(mask.to_vec(), [1, mask.len()]);
    logits.clone() + Tensor::from_data(data, &logits.device())
}
