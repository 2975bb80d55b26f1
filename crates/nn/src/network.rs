//! A configuration to a network: the one place where architectures are listed.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::threads::image_by_image;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::block::conv_norm_activation::Norm;
use crate::block::convolution::Padding;
use crate::block::pooling::global_mean;
use crate::layer_spec::{Key, LayerSpec, Naming};
use crate::models::googlenet;
use crate::models::googlenet::GoogLeNet;
use crate::models::inception_v3;
use crate::models::inception_v3::InceptionV3;
use crate::models::mobilenet_v1;
use crate::models::mobilenet_v1::MobileNetV1;
use crate::models::mobilenet_v2;
use crate::models::mobilenet_v2::MobileNetV2;
use crate::models::mobilenet_v3;
use crate::models::mobilenet_v3::{MobileNetV3, Size};
use crate::models::xception;
use crate::models::xception::Xception;
use crate::{init, preprocessing};

/// The architectures, spelled as torchvision spells them.
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
}

impl Architecture {
    /// All of them.
    pub const ALL: &[Architecture] = &[
        Self::MobilenetV1,
        Self::MobilenetV2,
        Self::MobilenetV3Large,
        Self::MobilenetV3Small,
        Self::Googlenet,
        Self::InceptionV3,
        Self::Xception,
    ];

    /// torchvision's name, or what it would be.
    pub fn name(self) -> &'static str {
        match self {
            Self::MobilenetV1 => "mobilenet_v1",
            Self::MobilenetV2 => "mobilenet_v2",
            Self::MobilenetV3Large => "mobilenet_v3_large",
            Self::MobilenetV3Small => "mobilenet_v3_small",
            Self::Googlenet => "googlenet",
            Self::InceptionV3 => "inception_v3",
            Self::Xception => "xception",
        }
    }

    /// Height and width the published weights were trained for.
    pub fn native_size(self) -> usize {
        match self {
            Self::InceptionV3 | Self::Xception => 299,
            _ => 224,
        }
    }

    /// The smallest image, in pixels, that the network can read in training.
    pub fn least_size(self) -> usize {
        match self {
            Self::InceptionV3 => 75,
            Self::Xception => 33,
            _ => 16,
        }
    }

    /// Batch norm in files of this naming: what the weights were trained with.
    pub fn norm(self, naming: Naming) -> Norm {
        let (epsilon, momentum) = match (self, naming) {
            (Self::MobilenetV3Large | Self::MobilenetV3Small, Naming::Torchvision) => (1e-3, 0.01),
            (Self::Googlenet | Self::InceptionV3, _) => (1e-3, 0.1),
            _ => (1e-5, 0.1),
        };
        Norm { epsilon, momentum }
    }
}

/// How a width multiplier is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Every width times the multiplier, rounded to a multiple of 8.
    Torchvision,
    /// As the authors' code: MobileNetV3's head stays wide (timm does the same), MobileNetV1 truncates.
    Paper,
}

/// Everything that determines a network but its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Which table.
    pub architecture: Architecture,
    /// Width multiplier; 1 for GoogLeNet, Inception v3 and Xception.
    pub width: f64,
    /// Logits.
    pub num_classes: usize,
    /// Probability of dropping an input of the classifier.
    pub dropout: f64,
    /// Epsilon of batch norm.
    pub bn_eps: f64,
    /// Momentum of batch norm in torch's convention.
    pub bn_momentum: f64,
    /// Rule of the width multiplier.
    #[serde(default = "torchvision")]
    pub scaling: Scaling,
    /// Border of the MobileNets' spatial convolutions.
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
    /// The auxiliary heads of GoogLeNet and Inception v3, used in training only.
    #[serde(default)]
    pub auxiliary: bool,
    /// GoogLeNet's third branch as torchvision's weights have it: 3x3 instead of the paper's 5x5.
    #[serde(default)]
    pub three_for_five: bool,
    /// Inputs normalised for ImageNet are brought to [-1, 1] first, as weights ported from TensorFlow
    /// expect.
    #[serde(default)]
    pub transform_input: bool,
}

fn torchvision() -> Scaling {
    Scaling::Torchvision
}

fn symmetric() -> Padding {
    Padding::Symmetric
}

impl NetworkConfig {
    /// Width 1 and the constants of torchvision (timm, where it lacks the architecture).
    ///
    /// ```
    /// use nn::network::{Architecture, NetworkConfig};
    /// let config = NetworkConfig::new(Architecture::MobilenetV3Large, 10);
    /// assert_eq!((config.bn_eps, config.dropout), (1e-3, 0.2));
    /// ```
    pub fn new(architecture: Architecture, num_classes: usize) -> Self {
        let dropout = match architecture {
            Architecture::MobilenetV1 => 0.001,
            Architecture::InceptionV3 | Architecture::Xception => 0.5,
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
            auxiliary: false,
            three_for_five: false,
            transform_input: false,
        }
    }

    /// Refuses what the tables cannot be asked for.
    ///
    /// # Errors
    /// One sentence: the field, its value, what is expected.
    pub fn validate(&self) -> Result<(), String> {
        use Architecture::{Googlenet, InceptionV3, MobilenetV1, Xception};
        let name = self.architecture.name();
        let v3 = matches!(
            self.architecture,
            Architecture::MobilenetV3Large | Architecture::MobilenetV3Small
        );
        let fixed = matches!(self.architecture, Googlenet | InceptionV3 | Xception);
        let heads = matches!(self.architecture, Googlenet | InceptionV3);
        let refuse = |what: &str| Err(format!("{name} has no {what}; leave it away"));
        if !(0.05..=8.0).contains(&self.width) {
            return Err(format!("width {}: expected 0.05 to 8", self.width));
        }
        match self {
            _ if self.num_classes == 0 => Err("0 classes: expected at least 1".into()),
            _ if fixed && self.width != 1.0 => refuse("width multiplier"),
            _ if fixed && self.padding != Padding::Symmetric => refuse("choice of padding"),
            _ if !v3 && (self.minimal || self.dilated || self.reduced_tail) => {
                refuse("minimal, dilated or reduced-tail variant")
            }
            _ if self.scaling == Scaling::Paper && (self.dilated || self.reduced_tail) => {
                Err(format!("{name}: dilated and reduced-tail are torchvision's; take its scaling"))
            }
            _ if !heads && self.auxiliary => refuse("auxiliary head"),
            _ if !heads && self.transform_input => refuse("transformed input"),
            _ if self.architecture != Googlenet && self.three_for_five => refuse("5x5 branch"),
            _ if self.architecture != MobilenetV1 && self.activation.is_some() => {
                refuse("choice of activation")
            }
            _ => Ok(()),
        }
    }

    /// Constants of every batch norm.
    pub(crate) fn norm(&self) -> Norm {
        Norm { epsilon: self.bn_eps, momentum: self.bn_momentum }
    }

    /// Kernel of the third branch of GoogLeNet's modules.
    pub(crate) fn five(&self) -> usize {
        if self.three_for_five { 3 } else { 5 }
    }

    /// The layers for images of `height` by `width` pixels, in the order of the module walk.
    ///
    /// ```
    /// use crate::layer_spec::Naming;
    /// use nn::network::{Architecture, NetworkConfig};
    /// let config = NetworkConfig::new(Architecture::MobilenetV2, 1000);
    /// let layers = config.layers(224, 224, Naming::Timm);
    /// assert_eq!(layers[0].keys[0].name, "conv_stem.weight");
    /// assert_eq!(layers[0].output, [32, 112, 112]);
    /// ```
    pub fn layers(&self, height: usize, width: usize, naming: Naming) -> Vec<LayerSpec> {
        let size = [height, width];
        match self.architecture {
            Architecture::MobilenetV1 => mobilenet_v1::layers(self, size),
            Architecture::MobilenetV2 => mobilenet_v2::layers(self, size, naming),
            Architecture::MobilenetV3Large => mobilenet_v3::layers(Size::Large, self, size, naming),
            Architecture::MobilenetV3Small => mobilenet_v3::layers(Size::Small, self, size, naming),
            Architecture::Googlenet => googlenet::layers(self, size),
            Architecture::InceptionV3 => inception_v3::layers(self, size),
            Architecture::Xception => xception::layers(self, size),
        }
    }

    /// The key of every tensor, in the order of the module walk.
    pub fn keys(&self, naming: Naming) -> Vec<Key> {
        let size = self.architecture.native_size();
        self.layers(size, size, naming).into_iter().flat_map(|layer| layer.keys).collect()
    }

    /// [`NetworkConfig::init_seeded`] with seed 0.
    pub fn init(&self, device: &Device) -> Network {
        self.init_seeded(device, 0)
    }

    /// A network with initial weights drawn from `seed`, the same on every backend.
    pub fn init_seeded(&self, device: &Device, seed: u64) -> Network {
        let network = self.init_zero(device);
        init::fill(network, seed, &self.keys(Naming::Torchvision))
    }

    /// A network with all weights zero, to be loaded into: nothing is drawn.
    pub fn init_zero(&self, device: &Device) -> Network {
        use Architecture as A;
        let model = match self.architecture {
            A::MobilenetV1 => Model::MobileNetV1(MobileNetV1::new(self, device)),
            A::MobilenetV2 => Model::MobileNetV2(MobileNetV2::new(self, device)),
            A::MobilenetV3Large => Model::MobileNetV3(MobileNetV3::new(Size::Large, self, device)),
            A::MobilenetV3Small => Model::MobileNetV3(MobileNetV3::new(Size::Small, self, device)),
            A::Googlenet => Model::GoogLeNet(GoogLeNet::new(self, device)),
            A::InceptionV3 => Model::InceptionV3(InceptionV3::new(self, device)),
            A::Xception => Model::Xception(Xception::new(self, device)),
        };
        Network { model, config: self.clone() }
    }
}

#[derive(Module, Debug)]
enum Model {
    MobileNetV1(MobileNetV1),
    MobileNetV2(MobileNetV2),
    MobileNetV3(MobileNetV3),
    GoogLeNet(GoogLeNet),
    InceptionV3(InceptionV3),
    Xception(Xception),
}

/// What an auxiliary head gives in training.
#[derive(Clone, Debug)]
pub struct Auxiliary {
    /// Its published weight in the loss.
    pub weight: f64,
    /// `[b, classes]`.
    pub logits: Tensor<2>,
}

/// Blocks of these strides behind a stem of stride 2, down to the first whose map is a 16th of the image.
pub(crate) fn at_sixteenth(strides: impl Iterator<Item = usize>) -> usize {
    let halving = strides.enumerate().filter(|(_, stride)| *stride > 1).nth(2);
    halving.expect("a network halves its maps four times at least").0 + 1
}

/// All images through the first part, then all through the second: the weights of a part stay in the cache from image
/// to image, as does what an image's layers pass on. The means of the last map.
fn in_two_parts(
    images: Tensor<4>,
    large: impl Fn(Tensor<4>) -> Tensor<4> + Sync,
    small: impl Fn(Tensor<4>) -> Tensor<4> + Sync,
) -> Tensor<2> {
    let x = image_by_image(images, large);
    image_by_image(x, |x| global_mean(small(x)))
}

/// What a network gives in training.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// `[b, classes]`.
    pub logits: Tensor<2>,
    /// From the head nearest the input on; empty for most networks.
    pub auxiliary: Vec<Auxiliary>,
}

/// A network of any architecture, and what it is.
#[derive(Module, Debug)]
pub struct Network {
    model: Model,
    #[module(skip)]
    config: NetworkConfig,
}

impl Network {
    /// What it was built from.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    fn enter(&self, images: Tensor<4>) -> Tensor<4> {
        match self.config.transform_input {
            true => preprocessing::imagenet_to_symmetric(images),
            false => images,
        }
    }

    fn trunk(&self, images: Tensor<4>, tap: &mut dyn FnMut(&Tensor<4>)) -> Tensor<4> {
        let images = self.enter(images);
        match &self.model {
            Model::MobileNetV1(network) => network.small_maps(network.large_maps(images, tap), tap),
            Model::MobileNetV2(network) => network.small_maps(network.large_maps(images, tap), tap),
            Model::MobileNetV3(network) => network.small_maps(network.large_maps(images, tap), tap),
            Model::GoogLeNet(network) => network.trunk(images, tap, &mut |_, _| ()),
            Model::InceptionV3(network) => network.trunk(images, tap, &mut |_| ()),
            Model::Xception(network) => network.trunk(images, tap),
        }
    }

    /// The mean of the last map in inference, image by image.
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        match &self.model {
            Model::MobileNetV1(network) => in_two_parts(
                images,
                |x| network.large_maps(self.enter(x), &mut |_| ()),
                |x| network.small_maps(x, &mut |_| ()),
            ),
            Model::MobileNetV2(network) => in_two_parts(
                images,
                |x| network.large_maps(self.enter(x), &mut |_| ()),
                |x| network.small_maps(x, &mut |_| ()),
            ),
            Model::MobileNetV3(network) => in_two_parts(
                images,
                |x| network.large_maps(self.enter(x), &mut |_| ()),
                |x| network.small_maps(x, &mut |_| ()),
            ),
            // The weights of these do not fit the cache either way.
            _ => image_by_image(images, |images| global_mean(self.trunk(images, &mut |_| ()))),
        }
    }

    fn head(&self, x: Tensor<2>, seed: Option<u64>) -> Tensor<2> {
        match &self.model {
            Model::MobileNetV1(network) => network.head(x, seed),
            Model::MobileNetV2(network) => network.head(x, seed),
            Model::MobileNetV3(network) => network.head(x, seed),
            Model::GoogLeNet(network) => network.head(x, seed),
            Model::InceptionV3(network) => network.head(x, seed),
            Model::Xception(network) => network.head(x, seed),
        }
    }

    /// Logits. Batch norm uses batch statistics on an autodiff device, running ones elsewhere.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let features = self.features(images);
        self.head(features, None)
    }

    /// The last map of every stride, the largest first: what a detector is built on.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to about `[b, c, h / 2^i, w / 2^i]`, i from 1.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nn::network::{Architecture, NetworkConfig};
    ///
    /// let device = Device::flex();
    /// let network = NetworkConfig::new(Architecture::MobilenetV2, 10).init(&device);
    /// let maps = network.forward_features(Tensor::zeros([1, 3, 64, 96], &device));
    /// let shapes: Vec<_> = maps.iter().map(|map| map.dims()).collect();
    /// assert_eq!(shapes[2], [1, 32, 8, 12]);
    /// assert_eq!(shapes[4], [1, 1280, 2, 3]);
    /// ```
    pub fn forward_features(&self, images: Tensor<4>) -> Vec<Tensor<4>> {
        let mut maps = Vec::new();
        self.trunk(images, &mut |map| maps.push(map.clone()));
        maps
    }

    /// Logits with dropout, its mask a function of `dropout_seed`, and the auxiliary heads' logits.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]` each.
    pub fn forward_train(&self, images: Tensor<4>, dropout_seed: u64) -> Outputs {
        let (logits, auxiliary) = match &self.model {
            Model::GoogLeNet(network) => network.forward_train(self.enter(images), dropout_seed),
            Model::InceptionV3(network) => network.forward_train(self.enter(images), dropout_seed),
            _ => {
                let x = self.trunk(images, &mut |_| ());
                (self.head(global_mean(x), Some(dropout_seed)), Vec::new())
            }
        };
        Outputs { logits, auxiliary }
    }

    /// The key of every tensor under torchvision's names, in the order of the module walk.
    pub fn names(&self) -> Vec<String> {
        self.config.keys(Naming::Torchvision).into_iter().map(|key| key.name).collect()
    }
}
