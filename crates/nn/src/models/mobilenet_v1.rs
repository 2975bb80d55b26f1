//! MobileNetV1 (Howard et al., arXiv:1704.04861): depthwise-separable convolutions throughout, and
//! two knobs, the width multiplier alpha and the resolution.
//!
//! Departures from the paper: the activation is ReLU6, as in the published weights and timm (ReLU
//! on request); timm's `mobilenetv1_100h` has a last 1x1 convolution as MobileNetV2 has one; the
//! second stride 2 that table 1 prints at 7x7x1024 is 1, as in every
//! implementation. Weight decay on depthwise filters is an option of the optimizer, not of the
//! network.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::separable::{DepthwiseSeparable, Separable};
use crate::block::stages::Stages;
use crate::channels::make_divisible;
use crate::config::{NetworkConfig, Scaling};
use crate::geometry::Conv;
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, LinearSpec, names_below};
use crate::layer_spec::Init;

/// Table 1, the depthwise-separable rows: channels out and the stride of the depthwise convolution.
#[rustfmt::skip]
const ROWS: [(usize, usize); 13] = [
    // out, s
    (  64, 1),
    ( 128, 2), ( 128, 1),
    ( 256, 2), ( 256, 1),
    ( 512, 2), ( 512, 1), ( 512, 1), ( 512, 1), ( 512, 1), ( 512, 1),
    (1024, 2), (1024, 1),
];

/// Channels of the first convolution.
const STEM: usize = 32;

/// Least channels of the last 1x1 convolution, where there is one.
const HEAD: usize = 1024;

/// Table 1 under a configuration.
struct MobileNetV1Table {
    stem: Conv,
    blocks: Vec<Separable>,
    head: Option<Conv>,
    activation: Activation,
}

impl MobileNetV1Table {
    fn new(config: &NetworkConfig) -> Self {
        let scale = |channels: usize| match config.scaling {
            Scaling::Paper => ((channels as f64 * config.width) as usize).max(8),
            Scaling::Torchvision => make_divisible(channels as f64 * config.width),
        };
        let mut input = scale(STEM);
        let stem = Conv::standard(3, input, 3, 2).with_padding(config.padding);
        let mut block = |&(out, stride): &(usize, usize)| {
            let Separable { depthwise, pointwise } = Separable::new(input, scale(out), 3, stride);
            input = pointwise.output;
            Separable { depthwise: depthwise.with_padding(config.padding), pointwise }
        };
        let blocks = ROWS.iter().map(&mut block).collect();
        let head = config.head_conv.then(|| Conv::pointwise(input, scale(HEAD).max(HEAD)));
        let activation = config.activation.unwrap_or(Activation::Relu6);
        Self { stem, blocks, head, activation }
    }

    fn features(&self) -> usize {
        self.head.map_or(self.blocks[self.blocks.len() - 1].pointwise.output, |head| head.output)
    }
}

/// The graph for images of `size` (height, width), under timm's names.
pub(crate) fn graph(config: &NetworkConfig, size: [usize; 2]) -> Graph {
    let table = MobileNetV1Table::new(config);
    let mut layers = GraphBuilder::new(size[0], size[1], Init::FanOutOfGroup);
    layers.add_conv_norm(&["conv_stem".into(), "bn1".into()], table.stem, table.activation);
    let (mut stage, mut index) = (0, 0);
    for (i, (block, row)) in table.blocks.iter().zip(&ROWS).enumerate() {
        // A stage of timm holds the rows of one width.
        (stage, index) = match i > 0 && ROWS[i - 1].0 == row.0 {
            true => (stage, index + 1),
            false => (stage + usize::from(i > 0), 0),
        };
        let prefix = format!("blocks.{stage}.{index}");
        layers.add_conv_norm(
            &names_below(&prefix, "conv_dw", "bn1"),
            block.depthwise,
            table.activation,
        );
        layers.add_conv_norm(
            &names_below(&prefix, "conv_pw", "bn2"),
            block.pointwise,
            table.activation,
        );
    }
    if let Some(head) = table.head {
        layers.add_conv_norm(&["conv_head".into(), "bn2".into()], head, table.activation);
    }
    layers.add_adaptive_mean("global_pool", 1);
    let bound = 1.0 / (config.num_classes as f64).sqrt();
    layers.add_linear(LinearSpec {
        name: "classifier",
        output: config.num_classes,
        activation: Activation::Linear,
        weights: Init::Uniform { bound },
        bias: Init::Constant(0.0),
        pointwise: false,
    });
    layers.finish()
}

/// MobileNetV1; fields in forward order.
#[derive(Module, Debug)]
pub(crate) struct MobileNetV1 {
    stages: Stages<DepthwiseSeparable>,
    classifier: Classifier,
}

impl MobileNetV1 {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(config: &NetworkConfig, device: &Device) -> Self {
        let table = MobileNetV1Table::new(config);
        let (norm, activation) = (config.norm(), table.activation);
        let block = |b: &Separable| DepthwiseSeparable::new(*b, norm, activation, device);
        let stages = Stages {
            stem: ConvNormActivation::new(table.stem, norm, activation, device), // 32 channels
            blocks: table.blocks.iter().map(block).collect(), // 512 at stride 16, 1024 at stride 32
            last: table.head.map(|head| ConvNormActivation::new(head, norm, activation, device)),
        };
        let (features, classes) = (table.features(), config.num_classes);
        Self { stages, classifier: Classifier::new(features, classes, config.dropout, device) }
    }
}

impl Backbone for MobileNetV1 {
    /// `[b, 3, h, w]` to `[b, 1024, h/32, w/32]`.
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
