//! Xception (Chollet, arXiv:1610.02357): Inception taken to its extreme, separable convolutions
//! with residual connections; entry flow, middle flow, exit flow (figure 5).
//!
//! Departures from the paper, as in timm's `legacy_xception`: batch norm's epsilon is 1e-5; the
//! pooling pads symmetrically, where Keras' SAME differs on the one map of even size.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::branch;
use kernels::ops::elementwise::{relu, sum};

use crate::activation::Activation::{self, Linear as Plain, Relu};
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::pooling::max_pool;
use crate::block::separable::{Separable, SeparableConvolution};
use crate::config::{NetworkConfig, Norm};
use crate::geometry::{Conv, Padding, Pool};
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, LinearSpec};
use crate::layer_spec::Init;

/// A residual block without its weights.
#[derive(Clone, Copy)]
struct ResidualSpec {
    /// Channels before, between and after the separable convolutions.
    widths: [usize; 4],
    /// Number of separable convolutions, 2 or 3.
    depth: usize,
    /// Stride of the pooling after the convolutions; 1 is no pooling.
    stride: usize,
    /// Whether the block begins with a ReLU; the first block reads the output of one.
    leading_relu: bool,
}

const fn row(widths: [usize; 4], depth: usize, stride: usize, leading_relu: bool) -> ResidualSpec {
    ResidualSpec { widths, depth, stride, leading_relu }
}

/// Number of blocks in the middle flow.
const MIDDLE_BLOCKS: usize = 8;
const MIDDLE: ResidualSpec = row([728, 728, 728, 728], 3, 1, true);

/// Figure 5, the residual blocks; the middle flow is repeated [`MIDDLE_BLOCKS`] times.
#[rustfmt::skip]
const ENTRY: [ResidualSpec; 3] = [
    //  widths              n  s  ReLU first
    row([ 64, 128, 128, 0], 2, 2, false),
    row([128, 256, 256, 0], 2, 2, true),
    row([256, 728, 728, 0], 2, 2, true),
];
const EXIT: ResidualSpec = row([728, 728, 1024, 0], 2, 2, true);

/// The two convolutions before the blocks.
const STEM: [Conv; 2] = [
    Conv::standard(3, 32, 3, 2).with_padding(Padding::Valid),
    Conv::standard(32, 64, 3, 1).with_padding(Padding::Valid),
];

/// Channels before, between and after the two separable convolutions that follow the blocks.
const TAIL: [usize; 3] = [1024, 1536, 2048];
/// Pooling of the blocks with stride 2.
const POOL: Pool = Pool::new(3, 2).padded(1);

impl ResidualSpec {
    fn separable(&self, index: usize) -> Separable {
        Separable::new(self.widths[index], self.widths[index + 1], 3, 1)
    }

    fn output(&self) -> usize {
        self.widths[self.depth]
    }

    /// The 1x1 convolution on the skip path, where the shape changes.
    fn skip(&self) -> Option<Conv> {
        let skip = Conv::standard(self.widths[0], self.output(), 1, self.stride);
        (self.stride > 1 || self.widths[0] != self.output()).then_some(skip)
    }
}

/// All residual blocks in forward order.
fn rows() -> Vec<ResidualSpec> {
    let mut rows = ENTRY.to_vec();
    rows.extend([MIDDLE; MIDDLE_BLOCKS]);
    rows.push(EXIT);
    rows
}

/// The graph for images of `size` (height, width), under timm's names.
pub(crate) fn graph(config: &NetworkConfig, size: [usize; 2]) -> Graph {
    let mut layers = GraphBuilder::new(size[0], size[1], Init::FanOut);
    for (i, conv) in STEM.into_iter().enumerate() {
        layers.add_conv_norm(&[format!("conv{}", i + 1), format!("bn{}", i + 1)], conv, Relu);
    }
    for (i, row) in rows().into_iter().enumerate() {
        let name = format!("block{}", i + 1);
        // timm applies the skip path after `rep`; its constructor creates skip first.
        let skip = match row.skip() {
            Some(skip) => layers.branch(&mut |layers| {
                let names = [format!("{name}.skip"), format!("{name}.skipbn")];
                layers.add_conv_norm(&names, skip, Plain);
            }),
            None => layers.map(),
        };
        if row.leading_relu {
            layers.add_activation(Relu);
        }
        for i in 0..row.depth {
            // timm numbers the ReLUs too: convolution, norm and ReLU are three entries of `rep`.
            let number = 3 * i + usize::from(row.leading_relu);
            let names = [format!("{name}.rep.{number}"), format!("{name}.rep.{}", number + 1)];
            let activation = if i + 1 == row.depth { Plain } else { Relu };
            add_separable(&mut layers, &names, row.separable(i), activation);
        }
        if row.stride > 1 {
            layers.add_max_pool(&format!("{name}.pool"), POOL);
        }
        layers.add_sum(skip);
    }
    for (i, pair) in TAIL.windows(2).enumerate() {
        let names = [format!("conv{}", i + 3), format!("bn{}", i + 3)];
        add_separable(&mut layers, &names, Separable::new(pair[0], pair[1], 3, 1), Relu);
    }
    layers.add_adaptive_mean("global_pool", 1);
    let bound = 1.0 / (TAIL[2] as f64).sqrt();
    layers.add_linear(LinearSpec {
        name: "fc",
        output: config.num_classes,
        activation: Plain,
        weights: Init::Uniform { bound },
        bias: Init::Uniform { bound },
        pointwise: false,
    });
    layers.finish()
}

/// Adds a separable convolution; `names` are those of the convolution and of its norm.
fn add_separable(
    layers: &mut GraphBuilder,
    names: &[String; 2],
    separable: Separable,
    activation: Activation,
) {
    let [name, norm] = names;
    layers.add_conv(&format!("{name}.conv1"), separable.depthwise);
    let names = [format!("{name}.pointwise"), norm.clone()];
    layers.add_conv_norm(&names, separable.pointwise, activation);
}

/// Separable convolutions on one path and a skip on the other. The convolutions' path begins with a
/// ReLU (except in the first block), which the skip does not read.
#[derive(Module, Debug)]
struct ResidualBlock {
    skip: Option<ConvNormActivation>,
    separable: Vec<SeparableConvolution>,
    stride: usize,
    leading_relu: bool,
}

impl ResidualBlock {
    fn new(row: &ResidualSpec, norm: Norm, device: &Device) -> Self {
        let separable = |i| {
            let activation = if i + 1 == row.depth { Plain } else { Relu };
            SeparableConvolution::new(row.separable(i), norm, activation, device)
        };
        Self {
            skip: row.skip().map(|conv| ConvNormActivation::new(conv, norm, Plain, device)),
            separable: (0..row.depth).map(separable).collect(),
            stride: row.stride,
            leading_relu: row.leading_relu,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let input = branch(input);
        let skip = match &self.skip {
            Some(skip) => skip.forward(input.clone()),
            None => input.clone(),
        };
        let x = if self.leading_relu { relu(input) } else { input };
        let x = self.separable.iter().fold(x, |x, layer| layer.forward(x));
        let x = if self.stride > 1 { max_pool(x, POOL) } else { x };
        sum(x, skip)
    }
}

/// Xception; fields in forward order.
#[derive(Module, Debug)]
pub(crate) struct Xception {
    stem: Vec<ConvNormActivation>,
    blocks: Vec<ResidualBlock>,
    tail: Vec<SeparableConvolution>,
    classifier: Classifier,
}

impl Xception {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let tail = |pair: &[usize]| {
            let separable = Separable::new(pair[0], pair[1], 3, 1);
            SeparableConvolution::new(separable, norm, Relu, device)
        };
        Self {
            stem: STEM.map(|conv| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            blocks: rows().iter().map(|row| ResidualBlock::new(row, norm, device)).collect(),
            tail: TAIL.windows(2).map(tail).collect(),
            classifier: Classifier::new(TAIL[2], config.num_classes, config.dropout, device),
        }
    }
}

impl Backbone for Xception {
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
