//! A name to a network: the one place where architectures are listed.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::block::conv_norm_activation::Norm;
use crate::init;
use crate::mobilenet_v3::{MobileNetV3, Size, Widths};

/// The architectures, spelled as torchvision spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// MobileNetV3-Large.
    MobilenetV3Large,
    /// MobileNetV3-Small.
    MobilenetV3Small,
}

impl Architecture {
    /// All of them.
    pub const ALL: &[Architecture] = &[Self::MobilenetV3Large, Self::MobilenetV3Small];

    /// torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MobilenetV3Large => "mobilenet_v3_large",
            Self::MobilenetV3Small => "mobilenet_v3_small",
        }
    }

    /// An architecture by torchvision's, timm's or Keras' name.
    ///
    /// ```
    /// use nn::network::Architecture;
    /// let large = Some(Architecture::MobilenetV3Large);
    /// assert_eq!(Architecture::parse("mobilenetv3_large_100"), large);
    /// assert_eq!(Architecture::parse("MobileNetV3Large"), large);
    /// assert_eq!(Architecture::parse("resnet50"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "mobilenet_v3_large" | "mobilenetv3_large_100" | "MobileNetV3Large" => {
                Some(Self::MobilenetV3Large)
            }
            "mobilenet_v3_small" | "mobilenetv3_small_100" | "MobileNetV3Small" => {
                Some(Self::MobilenetV3Small)
            }
            _ => None,
        }
    }
}

/// Everything that determines a network but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Which table.
    pub architecture: Architecture,
    /// Width multiplier.
    pub width: f64,
    /// Logits.
    pub num_classes: usize,
    /// Probability of dropping an input of the classifier.
    pub dropout: f64,
    /// Epsilon of batch norm; torchvision's V3 uses 1e-3.
    pub bn_eps: f64,
    /// Momentum of batch norm in torch's convention; torchvision's V3 uses 0.01.
    pub bn_momentum: f64,
}

impl NetworkConfig {
    /// Width 1 and torchvision's constants.
    pub fn new(architecture: Architecture, num_classes: usize) -> Self {
        let (dropout, bn_eps, bn_momentum) = (0.2, 1e-3, 0.01);
        Self { architecture, width: 1.0, num_classes, dropout, bn_eps, bn_momentum }
    }

    /// The scaled table.
    pub fn widths(&self) -> Widths {
        match self.architecture {
            Architecture::MobilenetV3Large => Widths::new(Size::Large, self.width),
            Architecture::MobilenetV3Small => Widths::new(Size::Small, self.width),
        }
    }

    /// [`NetworkConfig::init_seeded`] with seed 0.
    pub fn init(&self, device: &Device) -> Network {
        self.init_seeded(device, 0)
    }

    /// A network with initial weights drawn from `seed`, the same on every backend.
    pub fn init_seeded(&self, device: &Device, seed: u64) -> Network {
        let norm = Norm { epsilon: self.bn_eps, momentum: self.bn_momentum };
        let network =
            MobileNetV3::new(&self.widths(), self.num_classes, self.dropout, norm, device);
        init::fill(Network::MobileNetV3(network), seed)
    }
}

/// A network of any architecture.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per process")]
pub enum Network {
    /// MobileNetV3.
    MobileNetV3(MobileNetV3),
}

impl Network {
    /// Logits. Batch norm uses batch statistics on an autodiff device, running ones elsewhere.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        match self {
            Self::MobileNetV3(network) => network.forward(images),
        }
    }

    /// Logits with dropout, its mask a function of `dropout_seed`.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward_train(&self, images: Tensor<4>, dropout_seed: u64) -> Tensor<2> {
        match self {
            Self::MobileNetV3(network) => network.forward_train(images, dropout_seed),
        }
    }

    /// torchvision's key of every tensor, in the order of the module walk.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::MobileNetV3(network) => network.names(),
        }
    }
}
