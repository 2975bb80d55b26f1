//! What some published weights expect of their input beyond the usual normalisation.

use burn::tensor::{Tensor, TensorData};

/// ImageNet's channel means and deviations, of images in [0, 1].
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// See [`IMAGENET_MEAN`].
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What a family of published weights was trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// Height and width.
    pub size: usize,
    /// Centre crop as a share of the resized short edge.
    pub crop_pct: f64,
    /// Bicubic resampling instead of bilinear.
    pub bicubic: bool,
    /// Subtracted from each channel in [0, 1].
    pub mean: [f32; 3],
    /// Each channel is then divided by it.
    pub std: [f32; 3],
}

/// From ImageNet's normalisation to [-1, 1]: `x * std / 0.5 + (mean - 0.5) / 0.5` (torchvision's
/// `transform_input`).
///
/// # Shapes
/// `[b, 3, h, w]` to the same.
pub fn imagenet_to_symmetric(images: Tensor<4>) -> Tensor<4> {
    let row = |values: [f32; 3]| {
        Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &images.device())
    };
    let scale = row(IMAGENET_STD.map(|std| std / 0.5));
    let shift = row(IMAGENET_MEAN.map(|mean| (mean - 0.5) / 0.5));
    images * scale + shift
}
