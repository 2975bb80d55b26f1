//! MobileNetV2 (Sandler et al., arXiv:1801.04381): inverted residuals with linear bottlenecks.
//!
//! Departures from the paper: none known; the last convolution stays 1280 wide below width 1, as in
//! the paper's section 6.1, and grows above it.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::activation::Activation::{self, Relu6};
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::convolution::Conv;
use crate::block::dropout::drop_out;
use crate::block::inverted_residual::{Bottleneck, BottleneckKeys, InvertedResidual, along};
use crate::block::linear::through;
use crate::channels::make_divisible;
use crate::layer_spec::{Init, LayerListBuilder, LayerSpec, LinearSpec, Naming, pair};
use crate::network::{NetworkConfig, at_sixteenth};

/// Table 2: expansion, channels out, repeats, stride of the first.
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

struct Table {
    stem: Conv,
    /// Row of the table, repeat, block.
    blocks: Vec<(usize, usize, Bottleneck)>,
    last: Conv,
}

impl Table {
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

/// The layers for images of `size`.
pub(crate) fn layers(config: &NetworkConfig, size: [usize; 2], naming: Naming) -> Vec<LayerSpec> {
    let table = Table::new(config);
    let timm = naming == Naming::Timm;
    let names = |torchvision: [String; 2], own: [&str; 2]| match timm {
        true => own.map(str::to_owned),
        false => torchvision,
    };
    let mut draft = LayerListBuilder::new(size[0], size[1], Init::FanOut);
    draft.conv_norm(&names(pair("features.0", "0", "1"), ["conv_stem", "bn1"]), table.stem, Relu6);
    for (i, (row, repeat, block)) in table.blocks.iter().enumerate() {
        let keys = match timm {
            true => timm_keys(&format!("blocks.{row}.{repeat}"), block),
            false => torchvision_keys(&format!("features.{}.conv", i + 1), block),
        };
        block.draw(&mut draft, &keys);
    }
    let end = pair(&format!("features.{}", table.blocks.len() + 1), "0", "1");
    draft.conv_norm(&names(end, ["conv_head", "bn2"]), table.last, Relu6);
    draft.adaptive_mean("pool", 1);
    draft.linear(LinearSpec {
        name: if timm { "classifier" } else { "classifier.1" },
        output: config.num_classes,
        activation: Activation::Linear,
        weights: Init::Normal { deviation: 0.01 },
        bias: Init::Constant(0.0),
        pointwise: false,
    });
    draft.finish()
}

/// torchvision's `InvertedResidual`: expansion `0.0, 0.1`, depthwise `1.0, 1.1`, projection `2, 3`; one
/// less without an expansion.
fn torchvision_keys(prefix: &str, block: &Bottleneck) -> BottleneckKeys {
    let first = usize::from(block.expand().is_some());
    BottleneckKeys {
        expand: pair(prefix, "0.0", "0.1"),
        depthwise: pair(prefix, &format!("{first}.0"), &format!("{first}.1")),
        gate: [String::new(), String::new()],
        project: pair(prefix, &format!("{}", first + 1), &format!("{}", first + 2)),
    }
}

/// timm's `InvertedResidual`, or its `DepthwiseSeparableConv` where there is no expansion.
pub(crate) fn timm_keys(prefix: &str, block: &Bottleneck) -> BottleneckKeys {
    let gate = pair(prefix, "se.conv_reduce", "se.conv_expand");
    match block.expand() {
        Some(_) => BottleneckKeys {
            expand: pair(prefix, "conv_pw", "bn1"),
            depthwise: pair(prefix, "conv_dw", "bn2"),
            gate,
            project: pair(prefix, "conv_pwl", "bn3"),
        },
        None => BottleneckKeys {
            expand: [String::new(), String::new()],
            depthwise: pair(prefix, "conv_dw", "bn1"),
            gate,
            project: pair(prefix, "conv_pw", "bn2"),
        },
    }
}

/// MobileNetV2; fields in forward order, which is torchvision's.
#[derive(Module, Debug)]
pub struct MobileNetV2 {
    stem: ConvNormActivation,
    blocks: Vec<InvertedResidual>,
    last: ConvNormActivation,
    classifier: Linear,
    dropout: f64,
}

impl MobileNetV2 {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(config: &NetworkConfig, device: &Device) -> Self {
        let (table, norm) = (Table::new(config), config.norm());
        let linear = LinearConfig::new(table.last.output, config.num_classes);
        let blocks = table.blocks.iter().map(|(_, _, b)| InvertedResidual::new(b, norm, device));
        Self {
            stem: ConvNormActivation::new(table.stem, norm, Relu6, device),
            blocks: blocks.collect(),
            last: ConvNormActivation::new(table.last, norm, Relu6, device),
            classifier: linear.with_initializer(Initializer::Zeros).init(device),
            dropout: config.dropout,
        }
    }

    /// `[b, 3, h, w]` to the first map at 1/16, `[b, 64, h/16, w/16]`; `tap` is shown the last map of every stride.
    pub(crate) fn large_maps(
        &self,
        images: Tensor<4>,
        tap: &mut dyn FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem.forward(images); // [b, 32, h/2, w/2]
        let cut = at_sixteenth(self.blocks.iter().map(InvertedResidual::stride));
        along(&self.blocks[..cut], x, tap)
    }

    /// To `[b, 1280, h/32, w/32]`.
    pub(crate) fn small_maps(&self, x: Tensor<4>, tap: &mut dyn FnMut(&Tensor<4>)) -> Tensor<4> {
        let cut = at_sixteenth(self.blocks.iter().map(InvertedResidual::stride));
        let x = self.last.forward(along(&self.blocks[cut..], x, tap));
        tap(&x);
        x
    }

    /// The mean map `[b, 1280]` to logits; no dropout without a seed.
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
