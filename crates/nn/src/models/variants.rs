//! Every name of a network in torchvision, timm and Keras: its configuration and its published
//! accuracy.

use crate::config::Architecture::{
    self, Googlenet, InceptionV3, MobilenetV1, MobilenetV2, MobilenetV3Large, MobilenetV3Small,
    Xception, Xception41, Xception65, Xception71,
};
use crate::config::{NetworkConfig, Scaling};
use crate::geometry::Padding;
use crate::preprocessing::{IMAGENET_MEAN, IMAGENET_STD, InputSpec};

/// A family of published weights. It decides the rounding of widths, the padding and batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightSource {
    /// torchvision's own training.
    Torchvision,
    /// timm's own training: the authors' widths, epsilon 1e-5.
    Timm,
    /// TensorFlow's weights in timm (`tf_*`) and Keras: the authors' widths, SAME padding, epsilon
    /// 1e-3.
    Tensorflow,
}

/// A change to the network of the paper or of torchvision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modification {
    /// No change.
    None,
    /// MobileNetV3 without 5x5, h-swish and squeeze-excite.
    Minimal,
    /// MobileNetV3 with a dilated last stage instead of a strided one.
    Dilated,
    /// MobileNetV3 with half the channels in the last stage.
    ReducedTail,
    /// MobileNetV1 with a 1x1 convolution before the classifier.
    HeadConv,
    /// GoogLeNet with 5x5 branches, as in the paper.
    FiveByFive,
}

/// A named network, a row of [`VARIANTS`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// Name in the library that publishes it.
    pub name: &'static str,
    /// The paper and its table.
    pub architecture: Architecture,
    /// Width multiplier.
    pub width: f64,
    /// Family of its published weights.
    pub weight_source: WeightSource,
    /// Change to the network.
    pub modification: Modification,
    /// Published top-1 accuracy on ImageNet-1k in percent, single crop at the native size.
    pub top1: Option<f64>,
    /// Published top-5 accuracy in percent.
    pub top5: Option<f64>,
    /// Publisher of the accuracy.
    pub source: &'static str,
}

#[expect(clippy::too_many_arguments, reason = "the columns of a table")]
const fn variant(
    name: &'static str,
    architecture: Architecture,
    width: f64,
    weight_source: WeightSource,
    modification: Modification,
    top1: Option<f64>,
    top5: Option<f64>,
    source: &'static str,
) -> Variant {
    Variant { name, architecture, width, weight_source, modification, top1, top5, source }
}

use Modification::{Dilated, FiveByFive, HeadConv, Minimal, None as Plain, ReducedTail};
use WeightSource::{Tensorflow as Tf, Timm as Ti, Torchvision as Tv};

/// All variants. The first one of an architecture is its standard variant.
#[rustfmt::skip]
pub const VARIANTS: &[Variant] = &[
    //      name                                  table             width  from   change  top-1   top-5    source
    variant("mobilenet_v1",                       MobilenetV1,      1.00, Ti, Plain, Some(70.9), Some(89.9), "TF-slim"),
    variant("mobilenet_v1_075",                   MobilenetV1,      0.75, Ti, Plain, Some(68.4), Some(88.2), "TF-slim"),
    variant("mobilenet_v1_050",                   MobilenetV1,      0.50, Ti, Plain, Some(63.3), Some(84.9), "TF-slim"),
    variant("mobilenet_v1_025",                   MobilenetV1,      0.25, Ti, Plain, Some(49.8), Some(74.2), "TF-slim"),
    variant("mobilenetv1_100",                    MobilenetV1,      1.00, Ti, Plain, Some(75.388), Some(92.310), "timm ra4"),
    variant("mobilenetv1_100h",                   MobilenetV1,      1.00, Ti, HeadConv, Some(75.662), Some(92.504), "timm ra4"),
    variant("mobilenetv1_125",                    MobilenetV1,      1.25, Ti, Plain, None, None, "timm"),
    variant("tf_mobilenet_v1",                    MobilenetV1,      1.00, Tf, Plain, Some(70.9), Some(89.9), "TF-slim"),
    variant("mobilenet_v2",                       MobilenetV2,      1.00, Tv, Plain, Some(72.154), Some(90.822), "torchvision V2"),
    variant("mobilenetv2_100",                    MobilenetV2,      1.00, Ti, Plain, Some(72.910), Some(91.000), "timm ra"),
    variant("mobilenetv2_035",                    MobilenetV2,      0.35, Ti, Plain, Some(60.3), Some(82.9), "TF-slim"),
    variant("mobilenetv2_050",                    MobilenetV2,      0.50, Ti, Plain, Some(65.928), Some(86.114), "timm lamb"),
    variant("mobilenetv2_075",                    MobilenetV2,      0.75, Ti, Plain, Some(69.8), Some(89.6), "TF-slim"),
    variant("mobilenetv2_140",                    MobilenetV2,      1.40, Ti, Plain, Some(76.528), Some(93.008), "timm ra"),
    variant("tf_mobilenet_v2",                    MobilenetV2,      1.00, Tf, Plain, Some(71.8), Some(91.0), "TF-slim"),
    variant("mobilenet_v3_large",                 MobilenetV3Large, 1.00, Tv, Plain, Some(75.274), Some(92.566), "torchvision V2"),
    variant("mobilenet_v3_large_dilated",         MobilenetV3Large, 1.00, Tv, Dilated, None, None, "torchvision"),
    variant("mobilenet_v3_large_reduced_tail",    MobilenetV3Large, 1.00, Tv, ReducedTail, None, None, "torchvision"),
    variant("mobilenetv3_large_100",              MobilenetV3Large, 1.00, Ti, Plain, Some(75.784), Some(92.528), "timm ra"),
    variant("mobilenetv3_large_075",              MobilenetV3Large, 0.75, Ti, Plain, None, None, "timm"),
    variant("tf_mobilenetv3_large_100",           MobilenetV3Large, 1.00, Tf, Plain, Some(75.510), Some(92.600), "TensorFlow"),
    variant("tf_mobilenetv3_large_075",           MobilenetV3Large, 0.75, Tf, Plain, Some(73.442), None, "TensorFlow"),
    variant("tf_mobilenetv3_large_minimal_100",   MobilenetV3Large, 1.00, Tf, Minimal, Some(72.270), None, "TensorFlow"),
    variant("mobilenet_v3_small",                 MobilenetV3Small, 1.00, Tv, Plain, Some(67.668), Some(87.402), "torchvision"),
    variant("mobilenet_v3_small_dilated",         MobilenetV3Small, 1.00, Tv, Dilated, None, None, "torchvision"),
    variant("mobilenet_v3_small_reduced_tail",    MobilenetV3Small, 1.00, Tv, ReducedTail, None, None, "torchvision"),
    variant("mobilenetv3_small_100",              MobilenetV3Small, 1.00, Ti, Plain, Some(67.636), None, "timm lamb"),
    variant("mobilenetv3_small_075",              MobilenetV3Small, 0.75, Ti, Plain, Some(65.284), None, "timm lamb"),
    variant("mobilenetv3_small_050",              MobilenetV3Small, 0.50, Ti, Plain, Some(57.918), None, "timm lamb"),
    variant("tf_mobilenetv3_small_100",           MobilenetV3Small, 1.00, Tf, Plain, Some(67.922), Some(87.686), "TensorFlow"),
    variant("tf_mobilenetv3_small_075",           MobilenetV3Small, 0.75, Tf, Plain, Some(65.706), None, "TensorFlow"),
    variant("tf_mobilenetv3_small_minimal_100",   MobilenetV3Small, 1.00, Tf, Minimal, Some(62.892), None, "TensorFlow"),
    variant("googlenet",                          Googlenet,        1.00, Tv, Plain, Some(69.778), Some(89.530), "torchvision"),
    variant("googlenet_5x5",                      Googlenet,        1.00, Tv, FiveByFive, None, None, "paper"),
    variant("inception_v3",                       InceptionV3,      1.00, Tv, Plain, Some(77.294), Some(93.450), "torchvision"),
    variant("xception",                           Xception,         1.00, Ti, Plain, Some(79.058), Some(94.396), "timm"),
    variant("xception41",                         Xception41,       1.00, Ti, Plain, Some(78.504), Some(94.276), "timm tf"),
    variant("xception65",                         Xception65,       1.00, Ti, Plain, Some(79.556), Some(94.654), "timm tf"),
    variant("xception71",                         Xception71,       1.00, Ti, Plain, Some(79.872), Some(94.928), "timm tf"),
];

/// Other names of the same variants.
const ALIASES: &[(&str, &str)] = &[
    ("mobilenetv1_075", "mobilenet_v1_075"),
    ("mobilenetv1_050", "mobilenet_v1_050"),
    ("mobilenetv1_025", "mobilenet_v1_025"),
    ("MobileNet", "tf_mobilenet_v1"),
    ("MobileNetV2", "tf_mobilenet_v2"),
    ("MobileNetV3Large", "tf_mobilenetv3_large_100"),
    ("MobileNetV3Small", "tf_mobilenetv3_small_100"),
    ("inception_v1", "googlenet"),
    ("InceptionV3", "inception_v3"),
    ("Xception", "xception"),
    ("legacy_xception", "xception"),
];

impl Variant {
    /// The variant of this name or alias.
    ///
    /// ```
    /// use nn::models::variants::Variant;
    /// assert_eq!(Variant::parse("mobilenetv3_large_075").unwrap().width, 0.75);
    /// assert_eq!(Variant::parse("legacy_xception").unwrap().name, "xception");
    /// assert!(Variant::parse("resnet50").is_none());
    /// ```
    pub fn parse(name: &str) -> Option<&'static Variant> {
        let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, own)| own);
        VARIANTS.iter().find(|variant| variant.name == name)
    }

    /// Every name that [`Variant::parse`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        VARIANTS.iter().map(|v| v.name).chain(ALIASES.iter().map(|(alias, _)| *alias))
    }

    /// The image size, crop and normalisation of this variant's published weights.
    ///
    /// ```
    /// use nn::models::variants::Variant;
    /// let input = Variant::parse("xception").unwrap().input();
    /// // 333 pixels to 299, mean and deviation one half.
    /// assert_eq!((input.size, input.crop_pct, input.mean), (299, 0.8975, [0.5; 3]));
    /// ```
    pub fn input(&self) -> InputSpec {
        let size = self.architecture.native_size();
        let imagenet = InputSpec {
            size,
            crop_pct: 0.875,
            bicubic: false,
            mean: IMAGENET_MEAN,
            std: IMAGENET_STD,
        };
        let half = InputSpec { mean: [0.5; 3], std: [0.5; 3], ..imagenet };
        match (self.architecture, self.weight_source) {
            (Xception, _) => InputSpec { crop_pct: 0.8975, bicubic: true, ..half },
            // 331 pixels to 299.
            (Xception41 | Xception65 | Xception71, _) => {
                InputSpec { crop_pct: 0.903, bicubic: true, ..half }
            }
            // 342 pixels to 299.
            (InceptionV3, _) => InputSpec { crop_pct: 299.0 / 342.0, ..imagenet },
            (_, WeightSource::Torchvision) => imagenet,
            // timm's own MobileNetV1 (ra4) has TensorFlow's normalisation.
            (MobilenetV1, WeightSource::Timm) => InputSpec { bicubic: true, ..half },
            (_, WeightSource::Timm) => InputSpec { bicubic: true, ..imagenet },
            (MobilenetV1 | MobilenetV2, WeightSource::Tensorflow) => half,
            (_, WeightSource::Tensorflow) => InputSpec { bicubic: false, ..half },
        }
    }

    /// The configuration of this variant for `num_classes` classes.
    pub fn config(&self, num_classes: usize) -> NetworkConfig {
        let mut config = NetworkConfig::new(self.architecture, num_classes);
        config.width = self.width;
        let v3 = matches!(self.architecture, MobilenetV3Large | MobilenetV3Small);
        match self.weight_source {
            WeightSource::Torchvision => {}
            WeightSource::Timm => {
                if v3 {
                    (config.bn_eps, config.bn_momentum) = (1e-5, 0.1);
                    config.scaling = Scaling::Paper;
                }
            }
            WeightSource::Tensorflow => {
                config.bn_eps = 1e-3;
                // timm fine-tunes V3 with momentum 0.1; the original decays are .997 (TF-slim) and
                // .999 (Keras).
                config.bn_momentum = if v3 { 0.1 } else { 0.003 };
                config.padding = Padding::Same;
                if v3 {
                    config.scaling = Scaling::Paper;
                }
            }
        }
        match self.modification {
            Modification::Minimal => config.minimal = true,
            Modification::Dilated => config.dilated = true,
            Modification::ReducedTail => config.reduced_tail = true,
            Modification::HeadConv => config.head_conv = true,
            Modification::None | Modification::FiveByFive => {}
        }
        config.three_for_five =
            self.architecture == Googlenet && self.modification != Modification::FiveByFive;
        config
    }
}
