//! Squeeze-and-excite (arXiv:1709.01507) as MobileNetV3 uses it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::squeeze_excite::squeeze_excite;

use crate::block::convolution::Convolution;
use crate::geometry::Conv;

/// Multiplies every channel by a gate: mean over the map, 1x1 convolution, ReLU, 1x1 convolution,
/// hard-sigmoid.
#[derive(Module, Debug)]
pub struct SqueezeExcite {
    fc1: Convolution,
    fc2: Convolution,
}

impl SqueezeExcite {
    /// A gate for `channels` channels with `squeezed` hidden ones; the weights are zero until
    /// [`crate::init::fill`].
    pub fn new(channels: usize, squeezed: usize, device: &Device) -> Self {
        Self {
            fc1: Convolution::with_bias(Conv::pointwise(channels, squeezed), device),
            fc2: Convolution::with_bias(Conv::pointwise(squeezed, channels), device),
        }
    }

    /// The map times its gates.
    ///
    /// # Shapes
    /// `[b, c, h, w]`, in and out.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::block::squeeze_excite::SqueezeExcite;
    ///
    /// let device = Device::flex();
    /// // With weights zero the gate is hard_sigmoid(0) = 1/2.
    /// let y = SqueezeExcite::new(8, 8, &device).forward(Tensor::ones([1, 8, 3, 5], &device));
    /// assert_eq!(y.mean().into_scalar::<f32>(), 0.5);
    /// ```
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let tensors = |fc: &Convolution| (fc.weight(), fc.bias().expect("a layer with a bias"));
        squeeze_excite(x, tensors(&self.fc1), tensors(&self.fc2))
    }
}
