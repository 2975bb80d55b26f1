//! The configuration of a network: everything that determines it except its weights. This file
//! imports no paper; `network` turns a configuration into a network.

use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::geometry::Padding;
use crate::layer_spec::Naming;

/// Constants of every batch norm of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Constant added to the variance.
    pub epsilon: f64,
    /// Weight of the new statistic (torch's convention).
    pub momentum: f64,
}

/// The architectures under torchvision's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Architecture {
    MobilenetV1,
    MobilenetV2,
    MobilenetV3Large,
    MobilenetV3Small,
    Googlenet,
    InceptionV3,
    Xception,
    Xception41,
    Xception65,
    Xception71,
}

impl Architecture {
    /// torchvision's name; for MobileNetV1 and Xception, which it lacks, a name in its style or
    /// timm's.
    pub fn name(self) -> &'static str {
        match self {
            Self::MobilenetV1 => "mobilenet_v1",
            Self::MobilenetV2 => "mobilenet_v2",
            Self::MobilenetV3Large => "mobilenet_v3_large",
            Self::MobilenetV3Small => "mobilenet_v3_small",
            Self::Googlenet => "googlenet",
            Self::InceptionV3 => "inception_v3",
            Self::Xception => "xception",
            Self::Xception41 => "xception41",
            Self::Xception65 => "xception65",
            Self::Xception71 => "xception71",
        }
    }

    /// Height and width in pixels of the images that the published weights were trained on.
    pub fn native_size(self) -> usize {
        match self {
            Self::InceptionV3
            | Self::Xception
            | Self::Xception41
            | Self::Xception65
            | Self::Xception71 => 299,
            _ => 224,
        }
    }

    /// Height and width in pixels of the smallest image that the network can be trained on.
    pub fn min_size(self) -> usize {
        match self {
            Self::InceptionV3 => 75,
            Self::Xception => 33,
            _ => 16,
        }
    }

    /// The batch norm constants with which the weights under these names were trained.
    pub fn norm(self, naming: Naming) -> Norm {
        let (epsilon, momentum) = match (self, naming) {
            (Self::MobilenetV3Large | Self::MobilenetV3Small, Naming::Torchvision) => (1e-3, 0.01),
            (
                Self::Googlenet
                | Self::InceptionV3
                | Self::Xception41
                | Self::Xception65
                | Self::Xception71,
                _,
            ) => (1e-3, 0.1),
            _ => (1e-5, 0.1),
        };
        Norm { epsilon, momentum }
    }
}

/// How a width multiplier is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Every width is multiplied and rounded to a multiple of 8.
    Torchvision,
    /// The rule of the authors' code: MobileNetV3's head stays wide, as in timm, and MobileNetV1
    /// truncates.
    Paper,
}

/// Most classes of a network: a classifier of so many and 1280 features holds 86 GB.
const MAX_CLASSES: usize = 1 << 24;

/// Everything that determines a network except its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The paper and its table.
    pub architecture: Architecture,
    /// Width multiplier; 1 for GoogLeNet, Inception v3 and the Xceptions.
    pub width: f64,
    /// Number of logits.
    pub num_classes: usize,
    /// Probability that dropout zeroes an input of the classifier.
    pub dropout: f64,
    /// Epsilon of batch norm.
    pub bn_eps: f64,
    /// Momentum of batch norm in torch's convention: the weight of the new statistic.
    pub bn_momentum: f64,
    /// Rule of the width multiplier.
    #[serde(default = "torchvision")]
    pub scaling: Scaling,
    /// Padding of the MobileNets' spatial convolutions.
    #[serde(default = "symmetric")]
    pub padding: Padding,
    /// MobileNetV1's activation, ReLU6 if absent.
    #[serde(default)]
    pub activation: Option<Activation>,
    /// MobileNetV3's minimalistic variant: 3x3, ReLU, no squeeze-excite.
    #[serde(default)]
    pub minimal: bool,
    /// MobileNetV3 for dense prediction: the last stage dilated instead of strided.
    #[serde(default)]
    pub dilated: bool,
    /// MobileNetV3 with the last stage's channels halved.
    #[serde(default)]
    pub reduced_tail: bool,
    /// Whether MobileNetV1 has a 1x1 convolution with at least 1024 channels before the classifier,
    /// as timm's `mobilenetv1_100h`.
    #[serde(default)]
    pub head_conv: bool,
    /// Whether GoogLeNet and Inception v3 have their auxiliary heads, which only training uses.
    #[serde(default)]
    pub auxiliary: bool,
    /// Whether GoogLeNet's third branch is 3x3, as in torchvision's weights, instead of the paper's
    /// 5x5.
    #[serde(default)]
    pub three_for_five: bool,
    /// Whether images normalised for ImageNet are first scaled to [-1, 1], as weights ported from
    /// TensorFlow expect.
    #[serde(default)]
    pub transform_input: bool,
    /// Whether maps are f16 where they were f32, to read and write half the bytes. Weights,
    /// statistics, sums and logits stay f32. A checkpoint does not hold it: it is how a network is
    /// run, on a GPU, and not what it is.
    #[serde(skip)]
    pub half_maps: bool,
}

fn torchvision() -> Scaling {
    Scaling::Torchvision
}

fn symmetric() -> Padding {
    Padding::Symmetric
}

impl NetworkConfig {
    /// Width 1 and torchvision's constants; timm's for MobileNetV1 and Xception, which torchvision
    /// lacks.
    ///
    /// ```
    /// use nn::config::{Architecture, NetworkConfig};
    /// let config = NetworkConfig::new(Architecture::MobilenetV3Large, 10);
    /// assert_eq!((config.bn_eps, config.dropout), (1e-3, 0.2));
    /// ```
    pub fn new(architecture: Architecture, num_classes: usize) -> Self {
        let dropout = match architecture {
            Architecture::MobilenetV1 => 0.001,
            Architecture::InceptionV3
            | Architecture::Xception
            | Architecture::Xception41
            | Architecture::Xception65
            | Architecture::Xception71 => 0.5,
            _ => 0.2,
        };
        let norm = architecture.norm(Naming::Torchvision);
        Self {
            architecture,
            width: 1.0,
            num_classes,
            dropout,
            bn_eps: norm.epsilon,
            bn_momentum: norm.momentum,
            scaling: Scaling::Torchvision,
            padding: Padding::Symmetric,
            activation: None,
            minimal: false,
            dilated: false,
            reduced_tail: false,
            head_conv: false,
            auxiliary: false,
            half_maps: false,
            three_for_five: false,
            transform_input: false,
        }
    }

    /// Checks that the architecture has every option that is set.
    ///
    /// # Errors
    /// One sentence that names the field, its value and the expected values.
    pub fn validate(&self) -> Result<(), String> {
        use Architecture::{
            Googlenet, InceptionV3, MobilenetV1, Xception, Xception41, Xception65, Xception71,
        };
        let name = self.architecture.name();
        let v3 = matches!(
            self.architecture,
            Architecture::MobilenetV3Large | Architecture::MobilenetV3Small
        );
        let fixed = matches!(
            self.architecture,
            Googlenet | InceptionV3 | Xception | Xception41 | Xception65 | Xception71
        );
        let heads = matches!(self.architecture, Googlenet | InceptionV3);
        let refuse = |what: &str| Err(format!("{name} has no {what}; omit it"));
        if !(0.05..=8.0).contains(&self.width) {
            return Err(format!("width {}: expected 0.05 to 8", self.width));
        }
        let shares = [
            ("dropout", self.dropout, 0.0..=0.999_999),
            ("bn_eps", self.bn_eps, 0.0..=1.0),
            ("bn_momentum", self.bn_momentum, 0.0..=1.0),
        ];
        if let Some((field, value, range)) = shares.iter().find(|(_, v, range)| !range.contains(v))
        {
            let (low, high) = (range.start(), range.end());
            return Err(format!("{field} {value}: expected {low} to {high}"));
        }
        match self {
            _ if !(1..=MAX_CLASSES).contains(&self.num_classes) => {
                Err(format!("{} classes: expected 1 to {MAX_CLASSES}", self.num_classes))
            }
            _ if fixed && self.width != 1.0 => refuse("width multiplier"),
            _ if fixed && self.padding != Padding::Symmetric => refuse("choice of padding"),
            _ if !v3 && (self.minimal || self.dilated || self.reduced_tail) => {
                refuse("minimal, dilated or reduced-tail variant")
            }
            _ if self.scaling == Scaling::Paper && (self.dilated || self.reduced_tail) => {
                Err(format!(
                    "{name}: dilated and reduced-tail are torchvision's; use torchvision's scaling"
                ))
            }
            _ if self.architecture != MobilenetV1 && self.head_conv => refuse("head convolution"),
            _ if !heads && self.auxiliary => refuse("auxiliary head"),
            _ if !heads && self.transform_input => refuse("transformed input"),
            _ if self.architecture != Googlenet && self.three_for_five => refuse("5x5 branch"),
            _ if self.architecture != MobilenetV1 && self.activation.is_some() => {
                refuse("choice of activation")
            }
            _ => Ok(()),
        }
    }

    /// The constants of every batch norm.
    pub(crate) fn norm(&self) -> Norm {
        Norm { epsilon: self.bn_eps, momentum: self.bn_momentum }
    }

    /// Kernel size of the third branch of GoogLeNet's modules.
    pub(crate) fn third_branch_kernel(&self) -> usize {
        if self.three_for_five { 3 } else { 5 }
    }
}
