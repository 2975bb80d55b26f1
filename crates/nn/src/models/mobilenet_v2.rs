//! MobileNetV2 (Sandler et al., arXiv:1801.04381): inverted residuals with linear bottlenecks.
//!
//! Departures from the paper: none known. The last convolution stays 1280 wide below width 1, as in
//! the paper's section 6.1, and grows above it.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation::{self, Relu6};
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::inverted_residual::{Bottleneck, BottleneckKeys, InvertedResidual};
use crate::block::stages::Stages;
use crate::channels::make_divisible;
use crate::config::NetworkConfig;
use crate::geometry::Conv;
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, LinearSpec, names_below};
use crate::layer_spec::{Init, Naming};

/// Table 2: expansion factor, channels out, number of blocks, stride of the first block.
#[rustfmt::skip]
const ROWS: [[usize; 4]; 7] = [
    // t,   c, n, s
    [1,  16, 1, 1],
    [6,  24, 2, 2],
    [6,  32, 3, 2],
    [6,  64, 4, 2],
    [6,  96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
];

/// Channels of the first and of the last convolution.
const STEM: usize = 32;
const LAST: usize = 1280;

/// Table 2 under a configuration.
struct MobileNetV2Table {
    stem: Conv,
    /// Row of the table, index of the block in its row, block.
    blocks: Vec<(usize, usize, Bottleneck)>,
    last: Conv,
}

impl MobileNetV2Table {
    fn new(config: &NetworkConfig) -> Self {
        let scale = |channels: usize, width: f64| make_divisible(channels as f64 * width);
        let mut input = scale(STEM, config.width);
        let stem = Conv::standard(3, input, 3, 2).with_padding(config.padding);
        let mut blocks = Vec::new();
        for (row, [t, c, n, s]) in ROWS.into_iter().enumerate() {
            let output = scale(c, config.width);
            for repeat in 0..n {
                let block = Bottleneck {
                    input,
                    kernel: 3,
                    expanded: input * t,
                    output,
                    squeezed: None,
                    activation: Relu6,
                    stride: if repeat == 0 { s } else { 1 },
                    dilation: 1,
                    padding: config.padding,
                };
                blocks.push((row, repeat, block));
                input = output;
            }
        }
        let last = Conv::pointwise(input, scale(LAST, config.width.max(1.0)));
        Self { stem, blocks, last }
    }
}

/// The graph for images of `size` (height, width).
pub(crate) fn graph(config: &NetworkConfig, size: [usize; 2], naming: Naming) -> Graph {
    let table = MobileNetV2Table::new(config);
    let timm = naming == Naming::Timm;
    let names = |torchvision: [String; 2], timms: [&str; 2]| match timm {
        true => timms.map(str::to_owned),
        false => torchvision,
    };
    let mut layers = GraphBuilder::new(size[0], size[1], Init::FanOut);
    let stem = names(names_below("features.0", "0", "1"), ["conv_stem", "bn1"]);
    layers.add_conv_norm(&stem, table.stem, Relu6);
    for (i, (row, repeat, block)) in table.blocks.iter().enumerate() {
        let keys = match timm {
            true => BottleneckKeys::timm(&format!("blocks.{row}.{repeat}"), block),
            false => torchvision_keys(&format!("features.{}.conv", i + 1), block),
        };
        block.add_to(&mut layers, &keys);
    }
    let end = names_below(&format!("features.{}", table.blocks.len() + 1), "0", "1");
    layers.add_conv_norm(&names(end, ["conv_head", "bn2"]), table.last, Relu6);
    layers.add_adaptive_mean("pool", 1);
    layers.add_linear(LinearSpec {
        name: if timm { "classifier" } else { "classifier.1" },
        output: config.num_classes,
        activation: Activation::Linear,
        weights: Init::Normal { deviation: 0.01 },
        bias: Init::Constant(0.0),
        pointwise: false,
    });
    layers.finish()
}

/// The names of torchvision's `InvertedResidual`: expansion `0.0, 0.1`, depthwise `1.0, 1.1`,
/// projection `2, 3`. Without an expansion the numbers are one less.
fn torchvision_keys(prefix: &str, block: &Bottleneck) -> BottleneckKeys {
    let first = usize::from(block.expand().is_some());
    BottleneckKeys {
        expand: names_below(prefix, "0.0", "0.1"),
        depthwise: names_below(prefix, &format!("{first}.0"), &format!("{first}.1")),
        gate: [String::new(), String::new()],
        project: names_below(prefix, &format!("{}", first + 1), &format!("{}", first + 2)),
    }
}

/// MobileNetV2; fields in forward order, which is torchvision's.
#[derive(Module, Debug)]
pub(crate) struct MobileNetV2 {
    stages: Stages<InvertedResidual>,
    classifier: Classifier,
}

impl MobileNetV2 {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(config: &NetworkConfig, device: &Device) -> Self {
        let (table, norm) = (MobileNetV2Table::new(config), config.norm());
        let blocks = table.blocks.iter().map(|(_, _, b)| InvertedResidual::new(b, norm, device));
        let stages = Stages {
            stem: ConvNormActivation::new(table.stem, norm, Relu6, device), // 32 channels
            blocks: blocks.collect(), // 64 channels at stride 16, 320 at stride 32
            last: Some(ConvNormActivation::new(table.last, norm, Relu6, device)),
        };
        let (features, classes) = (table.last.output, config.num_classes);
        Self { stages, classifier: Classifier::new(features, classes, config.dropout, device) }
    }
}

impl Backbone for MobileNetV2 {
    /// `[b, 3, h, w]` to `[b, 1280, h/32, w/32]`.
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        self.stages.forward(images, on_stride)
    }

    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        self.classifier.forward(pooled, dropout_seed)
    }

    fn forward_pooled(&self, images: Tensor<4>) -> Tensor<2> {
        self.stages.forward_pooled(images)
    }
}
