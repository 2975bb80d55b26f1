//! How the images of published weights are prepared: size, crop and normalisation.

use burn::tensor::{Tensor, TensorData};

/// ImageNet's channel means, of images in [0, 1].
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's standard deviations per channel, of images in [0, 1].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// The input that a family of published weights was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputSpec {
    /// Height and width in pixels.
    pub size: usize,
    /// Side of the centre crop as a fraction of the resized short edge.
    pub crop_pct: f64,
    /// Whether resampling is bicubic; otherwise it is bilinear.
    pub bicubic: bool,
    /// Mean of each channel, subtracted from values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel, by which the difference is divided.
    pub std: [f32; 3],
}

/// The factor and the summand of each channel in torchvision's `transform_input`: `std / 0.5` and
/// `(mean - 0.5) / 0.5`.
pub fn imagenet_to_symmetric_terms() -> ([f32; 3], [f32; 3]) {
    (IMAGENET_STD.map(|std| std / 0.5), IMAGENET_MEAN.map(|mean| (mean - 0.5) / 0.5))
}

/// Rescales from ImageNet's normalisation to [-1, 1]: `x * std / 0.5 + (mean - 0.5) / 0.5`, as
/// torchvision's `transform_input`.
///
/// # Shapes
/// `[b, 3, h, w]`, in and out.
pub(crate) fn imagenet_to_symmetric(images: Tensor<4>) -> Tensor<4> {
    let per_channel = |values: [f32; 3]| {
        let data = TensorData::new(values.to_vec(), [1, 3, 1, 1]);
        Tensor::<4>::from_data(data, &images.device()).cast(images.dtype())
    };
    let (scale, shift) = imagenet_to_symmetric_terms();
    let (scale, shift) = (per_channel(scale), per_channel(shift));
    images * scale + shift
}
