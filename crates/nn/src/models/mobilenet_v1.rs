//! MobileNetV1 (Howard et al., arXiv:1704.04861): depthwise-separable convolutions throughout, and two
//! knobs, the width multiplier alpha and the resolution.
//!
//! Departures from the paper: ReLU6, as in the published weights and timm (ReLU on request); the
//! second stride 2 that table 1 prints at 7x7x1024 is 1, as in every implementation; weight decay on
//! depthwise filters is the trainer's matter.

use std::ops::Range;

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::activation::Activation;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::convolution::Conv;
use crate::block::dropout::drop_out;
use crate::block::linear::through;
use crate::block::separable::{DepthwiseSeparable, Separable};
use crate::channels::make_divisible;
use crate::layer_spec::{Init, LayerListBuilder, LayerSpec, LinearSpec, pair};
use crate::network::{NetworkConfig, Scaling, at_sixteenth};

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

/// The table under a multiplier.
struct Table {
    stem: Conv,
    blocks: Vec<Separable>,
    activation: Activation,
}

impl Table {
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
        let activation = config.activation.unwrap_or(Activation::Relu6);
        Self { stem, blocks, activation }
    }

    fn features(&self) -> usize {
        self.blocks[self.blocks.len() - 1].pointwise.output
    }
}

/// The layers for images of `size`, under timm's names.
pub(crate) fn layers(config: &NetworkConfig, size: [usize; 2]) -> Vec<LayerSpec> {
    let table = Table::new(config);
    let mut draft = LayerListBuilder::new(size[0], size[1], Init::FanOutOfGroup);
    draft.conv_norm(&["conv_stem".into(), "bn1".into()], table.stem, table.activation);
    let (mut stage, mut place) = (0, 0);
    for (i, (block, row)) in table.blocks.iter().zip(&ROWS).enumerate() {
        // timm's stages hold the rows of equal width.
        (stage, place) = match i > 0 && ROWS[i - 1].0 == row.0 {
            true => (stage, place + 1),
            false => (stage + usize::from(i > 0), 0),
        };
        let prefix = format!("blocks.{stage}.{place}");
        draft.conv_norm(&pair(&prefix, "conv_dw", "bn1"), block.depthwise, table.activation);
        draft.conv_norm(&pair(&prefix, "conv_pw", "bn2"), block.pointwise, table.activation);
    }
    draft.adaptive_mean("global_pool", 1);
    let bound = 1.0 / (config.num_classes as f64).sqrt();
    draft.linear(LinearSpec {
        name: "classifier",
        output: config.num_classes,
        activation: Activation::Linear,
        weights: Init::Uniform { bound },
        bias: Init::Constant(0.0),
        pointwise: false,
    });
    draft.finish()
}

/// MobileNetV1; fields in forward order.
#[derive(Module, Debug)]
pub struct MobileNetV1 {
    stem: ConvNormActivation,
    blocks: Vec<DepthwiseSeparable>,
    classifier: Linear,
    dropout: f64,
    #[module(skip)]
    strides: Vec<usize>,
}

impl MobileNetV1 {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(config: &NetworkConfig, device: &Device) -> Self {
        let table = Table::new(config);
        let (norm, activation) = (config.norm(), table.activation);
        let block = |b: &Separable| DepthwiseSeparable::new(*b, norm, activation, device);
        let linear = LinearConfig::new(table.features(), config.num_classes);
        Self {
            stem: ConvNormActivation::new(table.stem, norm, activation, device),
            blocks: table.blocks.iter().map(block).collect(),
            classifier: linear.with_initializer(Initializer::Zeros).init(device),
            dropout: config.dropout,
            strides: ROWS.iter().map(|row| row.1).collect(),
        }
    }

    /// `[b, 3, h, w]` to `[b, 512, h/16, w/16]`; `tap` is shown the last map of every stride.
    pub(crate) fn large_maps(
        &self,
        images: Tensor<4>,
        tap: &mut dyn FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem.forward(images); // [b, 32, h/2, w/2]
        self.along(0..at_sixteenth(self.strides.iter().copied()), x, tap)
    }

    /// To `[b, 1024, h/32, w/32]`.
    pub(crate) fn small_maps(&self, x: Tensor<4>, tap: &mut dyn FnMut(&Tensor<4>)) -> Tensor<4> {
        let cut = at_sixteenth(self.strides.iter().copied());
        let x = self.along(cut..self.blocks.len(), x, tap);
        tap(&x);
        x
    }

    fn along(
        &self,
        rows: Range<usize>,
        mut x: Tensor<4>,
        tap: &mut dyn FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        for (block, stride) in self.blocks[rows.clone()].iter().zip(&self.strides[rows]) {
            if *stride > 1 {
                tap(&x);
            }
            x = block.forward(x);
        }
        x
    }

    /// The mean map `[b, 1024]` to logits; no dropout without a seed.
    pub(crate) fn head(&self, x: Tensor<2>, seed: Option<u64>) -> Tensor<2> {
        through(
            &self.classifier,
            match seed {
                Some(seed) => drop_out(x, self.dropout, seed),
                None => x,
            },
        )
    }
}
