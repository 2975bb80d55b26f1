//! MobileNetV3 (Howard et al., arXiv:1905.02244): bneck blocks with squeeze-excite and h-swish,
//! found by architecture search, with a redesigned head.
//!
//! Departures from the paper, all as in torchvision: squeeze-excite's first activation and `RE` are
//! plain ReLU; Small has no squeeze-excite on its last 1x1 convolution, where table 2 has a tick.
//!
//! The width multiplier has two rules. torchvision scales every width, the head's too. timm follows
//! the paper, whose .75 rows have 4.0 M and 2.0 M parameters: the expansion is a ratio of the
//! rounded input, the head stays at 1280 or 1024, and below .75 the first convolution stays at 16.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::activation::Activation::{HardSwish as Hs, Relu as Re};
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::inverted_residual::{Bottleneck, BottleneckKeys, InvertedResidual};
use crate::block::linear::{linear, zero_linear};
use crate::block::stages::Stages;
use crate::channels::make_divisible;
use crate::config::{NetworkConfig, Scaling};
use crate::geometry::Conv;
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, LinearSpec, names_below};
use crate::layer_spec::{Init, Naming};

/// A `bneck` row: input (side, channels), kernel, expanded channels, #out, SE, NL, s.
#[derive(Clone, Copy)]
struct Bneck {
    input: (usize, usize),
    kernel: usize,
    expanded: usize,
    out: usize,
    se: bool,
    activation: Activation,
    stride: usize,
}

const SE: bool = true;
const NO: bool = false;

const fn bneck(
    input: (usize, usize),
    kernel: usize,
    expanded: usize,
    out: usize,
    se: bool,
    activation: Activation,
    stride: usize,
) -> Bneck {
    Bneck { input, kernel, expanded, out, se, activation, stride }
}

/// Table 1: MobileNetV3-Large, columns and numbers as printed.
#[rustfmt::skip]
const LARGE: [Bneck; 15] = [
    //     input      k  exp  out  SE  NL  s
    bneck((112,  16), 3,  16,  16, NO, Re, 1),
    bneck((112,  16), 3,  64,  24, NO, Re, 2),
    bneck(( 56,  24), 3,  72,  24, NO, Re, 1),
    bneck(( 56,  24), 5,  72,  40, SE, Re, 2),
    bneck(( 28,  40), 5, 120,  40, SE, Re, 1),
    bneck(( 28,  40), 5, 120,  40, SE, Re, 1),
    bneck(( 28,  40), 3, 240,  80, NO, Hs, 2),
    bneck(( 14,  80), 3, 200,  80, NO, Hs, 1),
    bneck(( 14,  80), 3, 184,  80, NO, Hs, 1),
    bneck(( 14,  80), 3, 184,  80, NO, Hs, 1),
    bneck(( 14,  80), 3, 480, 112, SE, Hs, 1),
    bneck(( 14, 112), 3, 672, 112, SE, Hs, 1),
    bneck(( 14, 112), 5, 672, 160, SE, Hs, 2),
    bneck((  7, 160), 5, 960, 160, SE, Hs, 1),
    bneck((  7, 160), 5, 960, 160, SE, Hs, 1),
];

/// Table 2: MobileNetV3-Small.
#[rustfmt::skip]
const SMALL: [Bneck; 11] = [
    //     input      k  exp  out  SE  NL  s
    bneck((112,  16), 3,  16,  16, SE, Re, 2),
    bneck(( 56,  16), 3,  72,  24, NO, Re, 2),
    bneck(( 28,  24), 3,  88,  24, NO, Re, 1),
    bneck(( 28,  24), 5,  96,  40, SE, Hs, 2),
    bneck(( 14,  40), 5, 240,  40, SE, Hs, 1),
    bneck(( 14,  40), 5, 240,  40, SE, Hs, 1),
    bneck(( 14,  40), 5, 120,  48, SE, Hs, 1),
    bneck(( 14,  48), 5, 144,  48, SE, Hs, 1),
    bneck(( 14,  48), 5, 288,  96, SE, Hs, 2),
    bneck((  7,  96), 5, 576,  96, SE, Hs, 1),
    bneck((  7,  96), 5, 576,  96, SE, Hs, 1),
];

const fn chains(rows: &[Bneck]) -> bool {
    let mut i = 1;
    while i < rows.len() {
        let before = rows[i - 1];
        let side = before.input.0 / before.stride;
        if rows[i].input.0 != side || rows[i].input.1 != before.out {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = assert!(chains(&LARGE), "table 1: a row's input is not the previous row's output");
const _: () = assert!(chains(&SMALL), "table 2: a row's input is not the previous row's output");

/// The two networks of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MobileNetV3Size {
    /// Table 1.
    Large,
    /// Table 2.
    Small,
}

/// Number of rows in the last stage, from the last stride 2 on; the variants change this stage.
const LAST_STAGE: usize = 3;

/// Table 1 or 2 under a configuration.
struct MobileNetV3Table {
    stem: Conv,
    blocks: Vec<Bottleneck>,
    last: Conv,
    /// Outputs of the hidden linear layer.
    hidden: usize,
    /// Activation after the first and the last convolution and the hidden layer.
    activation: Activation,
    /// Stage of each block in timm.
    stages: Vec<usize>,
}

impl MobileNetV3Table {
    fn new(size: MobileNetV3Size, config: &NetworkConfig) -> Self {
        let (rows, hidden): (&[Bneck], usize) = match size {
            MobileNetV3Size::Large => (&LARGE, 1280),
            MobileNetV3Size::Small => (&SMALL, 1024),
        };
        let scale = |channels: usize| make_divisible(channels as f64 * config.width);
        let paper = config.scaling == Scaling::Paper;
        let first = if paper && config.width < 0.75 { 16 } else { scale(16) };
        let (mut input, mut table_input) = (first, 16);
        let (mut blocks, mut stages) = (Vec::new(), Vec::new());
        for (i, row) in rows.iter().enumerate() {
            let late = i + LAST_STAGE >= rows.len();
            // torchvision's `reduced_tail` and `dilated` change the last stage only.
            let halve = |channels: usize| channels / (1 + usize::from(config.reduced_tail && late));
            let narrow = |channels: usize| match i + LAST_STAGE == rows.len() {
                true => channels, // the first row of the stage expands the stage before it
                false => halve(channels),
            };
            let expanded = match paper {
                true => make_divisible(input as f64 * row.expanded as f64 / table_input as f64),
                false => scale(narrow(row.expanded)),
            };
            let output = scale(halve(row.out));
            let dilated = config.dilated && late;
            blocks.push(Bottleneck {
                input,
                kernel: if config.minimal { 3 } else { row.kernel },
                expanded,
                output,
                squeezed: (row.se && !config.minimal)
                    .then(|| make_divisible((expanded / 4) as f64)),
                activation: if config.minimal { Re } else { row.activation },
                stride: if dilated { 1 } else { row.stride },
                dilation: if dilated { 2 } else { 1 },
                padding: config.padding,
            });
            let before = stages.last().copied().unwrap_or(0);
            stages.push(before + usize::from(i > 0 && rows[i - 1].out != row.out));
            (input, table_input) = (output, row.out);
        }
        let stem = Conv::standard(3, first, 3, 2).with_padding(config.padding);
        let hidden = hidden / (1 + usize::from(config.reduced_tail));
        let last = match paper {
            true => scale(6 * rows[rows.len() - 1].out),
            false => 6 * input,
        };
        Self {
            stem,
            blocks,
            last: Conv::pointwise(input, last),
            hidden: if paper { hidden } else { scale(hidden) },
            activation: if config.minimal { Re } else { Hs },
            stages,
        }
    }
}

/// The `bneck` blocks of MobileNetV3-Large, or of -Small, with the height and width of each one's
/// input for images of 224x224.
pub fn blocks(small: bool, config: &NetworkConfig) -> Vec<(Bottleneck, usize)> {
    let (which, rows): (_, &[Bneck]) = match small {
        true => (MobileNetV3Size::Small, &SMALL),
        false => (MobileNetV3Size::Large, &LARGE),
    };
    let blocks = MobileNetV3Table::new(which, config).blocks;
    blocks.into_iter().zip(rows.iter().map(|row| row.input.0)).collect()
}

/// The graph for images of `size` (height, width).
pub(crate) fn graph(
    which: MobileNetV3Size,
    config: &NetworkConfig,
    size: [usize; 2],
    naming: Naming,
) -> Graph {
    let table = MobileNetV3Table::new(which, config);
    let timm = naming == Naming::Timm;
    let mut layers = GraphBuilder::new(size[0], size[1], Init::FanOut);
    let first = match timm {
        true => ["conv_stem".to_owned(), "bn1".to_owned()],
        false => names_below("features.0", "0", "1"),
    };
    layers.add_conv_norm(&first, table.stem, table.activation);
    for (i, block) in table.blocks.iter().enumerate() {
        let repeat = table.stages[..i].iter().filter(|s| **s == table.stages[i]).count();
        let keys = match timm {
            true => BottleneckKeys::timm(&format!("blocks.{}.{repeat}", table.stages[i]), block),
            false => torchvision_keys(&format!("features.{}.block", i + 1), block),
        };
        block.add_to(&mut layers, &keys);
    }
    let last = match timm {
        true => {
            let stage = table.stages.last().copied().unwrap_or(0) + 1;
            names_below(&format!("blocks.{stage}.0"), "conv", "bn1")
        }
        false => names_below(&format!("features.{}", table.blocks.len() + 1), "0", "1"),
    };
    layers.add_conv_norm(&last, table.last, table.activation);
    layers.add_adaptive_mean("pool", 1);
    let (deviation, zero) = (0.01, Init::Constant(0.0));
    layers.add_linear(LinearSpec {
        name: if timm { "conv_head" } else { "classifier.0" },
        output: table.hidden,
        activation: table.activation,
        weights: Init::Normal { deviation },
        bias: zero,
        pointwise: timm,
    });
    layers.add_linear(LinearSpec {
        name: if timm { "classifier" } else { "classifier.3" },
        output: config.num_classes,
        activation: Activation::Linear,
        weights: Init::Normal { deviation },
        bias: zero,
        pointwise: false,
    });
    layers.finish()
}

/// torchvision's names: it numbers the layers that exist among expansion, depthwise, squeeze-excite
/// and projection.
fn torchvision_keys(prefix: &str, block: &Bottleneck) -> BottleneckKeys {
    let layer = |number: usize| names_below(&format!("{prefix}.{number}"), "0", "1");
    let depthwise = usize::from(block.expand().is_some());
    let gate = depthwise + 1;
    BottleneckKeys {
        expand: layer(0),
        depthwise: layer(depthwise),
        gate: names_below(&format!("{prefix}.{gate}"), "fc1", "fc2"),
        project: layer(gate + usize::from(block.squeezed.is_some())),
    }
}

/// MobileNetV3-Large or -Small; fields in forward order, which is torchvision's.
#[derive(Module, Debug)]
pub(crate) struct MobileNetV3 {
    stages: Stages<InvertedResidual>,
    hidden: Linear,
    classifier: Classifier,
    #[module(skip)]
    activation: Activation,
}

impl MobileNetV3 {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(size: MobileNetV3Size, config: &NetworkConfig, device: &Device) -> Self {
        let (table, norm) = (MobileNetV3Table::new(size, config), config.norm());
        let layer = |conv| ConvNormActivation::new(conv, norm, table.activation, device);
        let blocks = table.blocks.iter().map(|b| InvertedResidual::new(b, norm, device));
        let (hidden, classes) = (table.hidden, config.num_classes);
        Self {
            stages: Stages {
                stem: layer(table.stem), // 16 channels
                blocks: blocks.collect(),
                last: Some(layer(table.last)),
            },
            hidden: zero_linear(table.last.output, hidden, device),
            classifier: Classifier::new(hidden, classes, config.dropout, device),
            activation: table.activation,
        }
    }
}

impl Backbone for MobileNetV3 {
    /// `[b, 3, h, w]` to `[b, 960, h/32, w/32]` (Small: 576).
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        self.stages.forward(images, on_stride)
    }

    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        let x = self.activation.apply(linear(&self.hidden, pooled)); // [b, 1280]
        self.classifier.forward(x, dropout_seed)
    }

    fn forward_pooled(&self, images: Tensor<4>) -> Tensor<2> {
        self.stages.forward_pooled(images)
    }
}
