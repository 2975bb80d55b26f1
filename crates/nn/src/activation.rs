//! The activations of the papers.

use burn::tensor::{Tensor, activation};
use kernels::ops::elementwise::hard_swish;
use serde::{Deserialize, Serialize};

/// The non-linearity after a layer, the papers' column `NL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The identity, as after a linear bottleneck.
    Linear,
    /// `max(x, 0)`, MobileNetV3's `RE`.
    Relu,
    /// `min(max(x, 0), 6)` (arXiv:1704.04861 in its published weights, arXiv:1801.04381).
    Relu6,
    /// `x * min(max(x + 3, 0), 6) / 6`, MobileNetV3's `HS` (arXiv:1905.02244, section 5.2).
    HardSwish,
}

impl Activation {
    /// Applies the function to every element.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::activation::Activation;
    ///
    /// let x = Tensor::<1>::from_floats([-1.0, 3.0, 9.0], &Device::flex());
    /// let y = Activation::Relu6.apply(x.clone()).into_data().try_into_vec::<f32>().unwrap();
    /// assert_eq!(y, [0.0, 3.0, 6.0]);
    /// let y = Activation::HardSwish.apply(x).into_data().try_into_vec::<f32>().unwrap();
    /// assert!((y[0] + 1.0 / 3.0).abs() < 1e-6 && y[1] == 3.0 && y[2] == 9.0);
    /// ```
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Activation::Linear => x,
            Activation::Relu => activation::relu(x),
            Activation::Relu6 => x.clamp(0.0, 6.0),
            Activation::HardSwish => hard_swish(x),
        }
    }

    /// The kernels' own type for this activation.
    pub(crate) fn kernel(self) -> kernels::cpu::activation::FusedActivation {
        use kernels::cpu::activation::FusedActivation as Kernel;
        match self {
            Activation::Linear => Kernel::Linear,
            Activation::Relu => Kernel::Relu,
            Activation::Relu6 => Kernel::Relu6,
            Activation::HardSwish => Kernel::HardSwish,
        }
    }

    /// The papers' abbreviation, `-` for the identity.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Linear => "-",
            Activation::Relu => "RE",
            Activation::Relu6 => "R6",
            Activation::HardSwish => "HS",
        }
    }
}
