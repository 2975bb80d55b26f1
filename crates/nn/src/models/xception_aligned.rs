//! Modified Aligned Xception (Chen et al., arXiv:1802.02611, figure 4, and DeepLab's `xception_41`,
//! `_65` and `_71`): Xception with strides in place of the max pooling, batch norm after every
//! depthwise convolution too, and a deeper middle flow.
//!
//! Departures from the paper: none in the network. Initial weights are normal with the fan-out of a
//! group, where timm leaves torch's uniform ones.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::branch;
use kernels::ops::elementwise::{relu, sum};

use crate::activation::Activation::{self, Linear as Plain, Relu};
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::separable::{DepthwiseSeparable, Separable};
use crate::config::{NetworkConfig, Norm};
use crate::geometry::Conv;
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, LinearSpec, names_below};
use crate::layer_spec::Init;

/// The number of layers in the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XceptionDepth {
    Layers41,
    Layers65,
    Layers71,
}

/// A block of three separable convolutions without its weights; the last one has the stride.
#[derive(Clone, Copy)]
struct BlockSpec {
    /// Channels before and after each separable convolution.
    widths: [usize; 4],
    stride: usize,
}

const fn row(input: usize, outputs: [usize; 3], stride: usize) -> BlockSpec {
    BlockSpec { widths: [input, outputs[0], outputs[1], outputs[2]], stride }
}

/// Figure 4, the entry flow.
#[rustfmt::skip]
const ENTRY: [BlockSpec; 3] = [
    //   in   out              s
    row( 64, [128, 128, 128], 2),
    row(128, [256, 256, 256], 2),
    row(256, [728, 728, 728], 2),
];

/// The entry flow of the network with 71 layers.
#[rustfmt::skip]
const ENTRY_71: [BlockSpec; 5] = [
    //   in   out              s
    row( 64, [128, 128, 128], 2),
    row(128, [256, 256, 256], 1),
    row(256, [256, 256, 256], 2),
    row(256, [728, 728, 728], 1),
    row(728, [728, 728, 728], 2),
];

/// The middle flow: 8 of these with 41 layers, otherwise 16.
const MIDDLE: BlockSpec = row(728, [728, 728, 728], 1);

/// The exit flow with a residual connection.
const EXIT: BlockSpec = row(728, [728, 1024, 1024], 2);

/// The end of the exit flow, without a residual connection.
const TAIL: BlockSpec = row(1024, [1536, 1536, 2048], 1);

/// The two convolutions before the blocks.
const STEM: [Conv; 2] = [Conv::standard(3, 32, 3, 2), Conv::standard(32, 64, 3, 1)];

const _: () = {
    assert!(ENTRY[0].widths[0] == STEM[1].output && ENTRY_71[0].widths[0] == STEM[1].output);
    assert!(ENTRY[2].widths[3] == MIDDLE.widths[0] && ENTRY_71[4].widths[3] == MIDDLE.widths[0]);
    assert!(EXIT.widths[0] == MIDDLE.widths[3] && TAIL.widths[0] == EXIT.widths[3]);
};

impl BlockSpec {
    fn separable(&self, index: usize) -> Separable {
        let stride = if index == 2 { self.stride } else { 1 };
        Separable::new(self.widths[index], self.widths[index + 1], 3, stride)
    }

    /// The 1x1 convolution on the skip path, where the shape changes.
    fn shortcut(&self) -> Option<Conv> {
        let shortcut = Conv::standard(self.widths[0], self.widths[3], 1, self.stride);
        (self.stride > 1 || self.widths[0] != self.widths[3]).then_some(shortcut)
    }
}

/// The blocks with a residual connection in forward order.
fn rows(depth: XceptionDepth) -> Vec<BlockSpec> {
    let (entry, middle): (&[BlockSpec], usize) = match depth {
        XceptionDepth::Layers41 => (&ENTRY, 8),
        XceptionDepth::Layers65 => (&ENTRY, 16),
        XceptionDepth::Layers71 => (&ENTRY_71, 16),
    };
    let mut rows = entry.to_vec();
    rows.extend(std::iter::repeat_n(MIDDLE, middle));
    rows.push(EXIT);
    rows
}

/// The graph for images of `size` (height, width), under timm's names.
pub(crate) fn graph(depth: XceptionDepth, config: &NetworkConfig, size: [usize; 2]) -> Graph {
    let mut layers = GraphBuilder::new(size[0], size[1], Init::FanOutOfGroup);
    for (i, conv) in STEM.into_iter().enumerate() {
        layers.add_conv_norm(&names_below(&format!("stem.{i}"), "conv", "bn"), conv, Relu);
    }
    let rows = rows(depth);
    for (i, row) in rows.iter().enumerate() {
        let shortcut = match row.shortcut() {
            Some(shortcut) => layers.branch(&mut |layers| {
                let names = names_below(&format!("blocks.{i}.shortcut"), "conv", "bn");
                layers.add_conv_norm(&names, shortcut, Plain);
            }),
            None => layers.map(),
        };
        for j in 0..3 {
            layers.add_activation(Relu);
            add_separable(&mut layers, &[i, j], row.separable(j), Plain);
        }
        layers.add_sum(shortcut);
    }
    for j in 0..3 {
        add_separable(&mut layers, &[rows.len(), j], TAIL.separable(j), Relu);
    }
    layers.add_adaptive_mean("head.global_pool", 1);
    let bound = 1.0 / (TAIL.widths[3] as f64).sqrt();
    layers.add_linear(LinearSpec {
        name: "head.fc",
        output: config.num_classes,
        activation: Plain,
        weights: Init::Uniform { bound },
        bias: Init::Uniform { bound },
        pointwise: false,
    });
    layers.finish()
}

/// Adds separable convolution `at[1]` of block `at[0]`.
fn add_separable(
    layers: &mut GraphBuilder,
    at: &[usize; 2],
    separable: Separable,
    activation: Activation,
) {
    let prefix = format!("blocks.{}.stack.conv{}", at[0], at[1] + 1);
    let names = names_below(&prefix, "conv_dw", "bn_dw");
    layers.add_conv_norm(&names, separable.depthwise, activation);
    let names = names_below(&prefix, "conv_pw", "bn_pw");
    layers.add_conv_norm(&names, separable.pointwise, activation);
}

/// Three separable convolutions, a ReLU before each, and a skip path that reads the input without
/// the ReLU.
#[derive(Module, Debug)]
struct ResidualBlock {
    shortcut: Option<ConvNormActivation>,
    separable: Vec<DepthwiseSeparable>,
    stride: usize,
}

impl ResidualBlock {
    fn new(row: &BlockSpec, norm: Norm, device: &Device) -> Self {
        let separable = |i| DepthwiseSeparable::new(row.separable(i), norm, Plain, device);
        Self {
            shortcut: row.shortcut().map(|conv| ConvNormActivation::new(conv, norm, Plain, device)),
            separable: (0..3).map(separable).collect(),
            stride: row.stride,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let input = branch(input);
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(input.clone()),
            None => input.clone(),
        };
        sum(self.separable.iter().fold(input, |x, layer| layer.forward(relu(x))), shortcut)
    }
}

/// Aligned Xception; fields in forward order.
#[derive(Module, Debug)]
pub(crate) struct XceptionAligned {
    stem: Vec<ConvNormActivation>,
    blocks: Vec<ResidualBlock>,
    tail: Vec<DepthwiseSeparable>,
    classifier: Classifier,
}

impl XceptionAligned {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(depth: XceptionDepth, config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let tail = |i| DepthwiseSeparable::new(TAIL.separable(i), norm, Relu, device);
        Self {
            stem: STEM.map(|conv| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            blocks: rows(depth).iter().map(|row| ResidualBlock::new(row, norm, device)).collect(),
            tail: (0..3).map(tail).collect(),
            classifier: Classifier::new(TAIL.widths[3], config.num_classes, config.dropout, device),
        }
    }
}

impl Backbone for XceptionAligned {
    /// `[b, 3, h, w]` to `[b, 2048, h/32, w/32]`.
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        let x = self.stem[0].forward(images); // [b, 32, h/2, w/2]
        let mut x = self.stem[1].forward(x); // [b, 64, h/2, w/2]
        for block in &self.blocks {
            if block.stride > 1 {
                on_stride(&x);
            }
            x = block.forward(x);
        }
        let x = self.tail.iter().fold(x, |x, layer| layer.forward(x));
        on_stride(&x);
        x
    }

    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        self.classifier.forward(pooled, dropout_seed)
    }
}
