//! The interface that every paper's network implements: its maps and its head. `network` builds
//! inference, training and feature extraction on it.

use burn::tensor::Tensor;
use kernels::ops::threads::image_by_image;

use crate::block::dropout::DropoutSeed;
use crate::block::pooling::global_mean;
use crate::outputs::TrainingOutputs;

/// Called with the last map of every stride, the largest first.
pub(crate) type OnStride<'a> = &'a mut dyn FnMut(&Tensor<4>);

/// A network of one paper.
pub(crate) trait Backbone: Sync {
    /// The last map.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, features, h / 32, w / 32]`, rounded up or down as the paper pads.
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4>;

    /// The mean of the last map to logits; without a seed there is no dropout.
    ///
    /// # Shapes
    /// `[b, features]` to `[b, classes]`.
    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2>;

    /// The mean of the last map in inference, image by image.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, features]`.
    fn forward_pooled(&self, images: Tensor<4>) -> Tensor<2> {
        image_by_image(images, |image| global_mean(self.forward_features(image, &mut |_| ())))
    }

    /// The logits with dropout, and those of the auxiliary heads.
    fn forward_train(&self, images: Tensor<4>, dropout_seed: &DropoutSeed) -> TrainingOutputs {
        let x = self.forward_features(images, &mut |_| ());
        let logits = self.forward_head(global_mean(x), Some(dropout_seed));
        TrainingOutputs { logits, auxiliary: Vec::new() }
    }
}
