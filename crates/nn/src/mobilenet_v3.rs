//! MobileNetV3 (Howard et al., arXiv:1905.02244): bneck blocks with squeeze-excite and h-swish, found
//! by search, with a redesigned head.
//!
//! Departures from the paper, all as in torchvision: squeeze-excite's first activation and `RE` are
//! plain ReLU; Small has no squeeze-excite on its last 1x1 convolution, which table 2 ticks; a width
//! multiplier scales the last layers too.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};

use crate::activation::Activation;
use crate::activation::Activation::{HardSwish as Hs, Relu as Re};
use crate::block::conv_norm_activation::{Conv, ConvNormActivation, Norm};
use crate::block::inverted_residual::{Bottleneck, InvertedResidual};
use crate::channels::make_divisible;
use crate::init::uniform;

/// A `bneck` row: input (side, channels), kernel, expanded width, #out, SE, NL, s.
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

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Table 1.
    Large,
    /// Table 2.
    Small,
}

/// The network's widths under a multiplier: all that cost and construction need.
#[derive(Clone, Debug, PartialEq)]
pub struct Widths {
    /// The 3x3 convolution at stride 2.
    pub stem: Conv,
    /// The bneck rows.
    pub blocks: Vec<Bottleneck>,
    /// The last 1x1 convolution, to 6 times its input.
    pub last: Conv,
    /// Width of the hidden linear layer.
    pub hidden: usize,
}

impl Widths {
    /// The table of `size`, every width times `width` and rounded (torchvision's rule).
    pub fn new(size: Size, width: f64) -> Self {
        let (rows, hidden): (&[Bneck], f64) = match size {
            Size::Large => (&LARGE, 1280.0),
            Size::Small => (&SMALL, 1024.0),
        };
        let scale = |channels: usize| make_divisible(channels as f64 * width);
        let blocks: Vec<Bottleneck> = rows
            .iter()
            .map(|row| {
                let expanded = scale(row.expanded);
                Bottleneck {
                    input: scale(row.input.1),
                    kernel: row.kernel,
                    expanded,
                    output: scale(row.out),
                    squeezed: row.se.then(|| make_divisible((expanded / 4) as f64)),
                    activation: row.activation,
                    stride: row.stride,
                }
            })
            .collect();
        let (first, end) = (blocks[0].input, blocks[blocks.len() - 1].output);
        let stem = Conv { input: 3, output: first, kernel: 3, stride: 2, dilation: 1, groups: 1 };
        Self {
            stem,
            blocks,
            last: Conv::pointwise(end, 6 * end),
            hidden: make_divisible(hidden * width),
        }
    }
}

/// MobileNetV3-Large or -Small; fields in forward order, which is torchvision's.
#[derive(Module, Debug)]
pub struct MobileNetV3 {
    stem: ConvNormActivation,
    blocks: Vec<InvertedResidual>,
    last: ConvNormActivation,
    hidden: Linear,
    classifier: Linear,
    dropout: f64,
}

impl MobileNetV3 {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(widths: &Widths, classes: usize, dropout: f64, norm: Norm, device: &Device) -> Self {
        let linear = |input, output| {
            LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
        };
        Self {
            stem: ConvNormActivation::new(widths.stem, norm, Hs, device),
            blocks: widths.blocks.iter().map(|b| InvertedResidual::new(b, norm, device)).collect(),
            last: ConvNormActivation::new(widths.last, norm, Hs, device),
            hidden: linear(widths.last.output, widths.hidden),
            classifier: linear(widths.hidden, classes),
            dropout,
        }
    }

    /// `[b, 3, h, w]` to the input of dropout, `[b, hidden]`.
    fn hidden(&self, images: Tensor<4>) -> Tensor<2> {
        let x = self.stem.forward(images); // [b, 16, h/2, w/2]
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x)); // [b, 160, h/32, w/32]
        let x = self.last.forward(x); // [b, 960, h/32, w/32]
        let x = x.mean_dim(3).mean_dim(2).flatten::<2>(1, 3); // [b, 960]
        Hs.apply(self.hidden.forward(x)) // [b, 1280]
    }

    /// Logits without dropout.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.classifier.forward(self.hidden(images))
    }

    /// Logits with dropout; the mask is a function of `seed` and the element only.
    ///
    /// # Shapes
    /// `[b, 3, h, w]` to `[b, classes]`.
    pub fn forward_train(&self, images: Tensor<4>, seed: u64) -> Tensor<2> {
        let x = self.hidden(images);
        let x = match self.dropout > 0.0 {
            true => drop_out(x, self.dropout, seed),
            false => x,
        };
        self.classifier.forward(x)
    }

    /// torchvision's key of every tensor, in the order of the module walk.
    pub fn names(&self) -> Vec<String> {
        let mut names = layer_names("features.0");
        for (i, block) in self.blocks.iter().enumerate() {
            let (expand, gate) = block.has();
            let mut places = (0..).map(|j| format!("features.{}.block.{j}", i + 1));
            let mut place = || places.next().expect("endless");
            if expand {
                names.extend(layer_names(&place()));
            }
            names.extend(layer_names(&place()));
            if gate {
                let place = place();
                let parts = ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"];
                names.extend(parts.iter().map(|part| format!("{place}.{part}")));
            }
            names.extend(layer_names(&place()));
        }
        names.extend(layer_names(&format!("features.{}", self.blocks.len() + 1)));
        let parts = ["0.weight", "0.bias", "3.weight", "3.bias"];
        names.extend(parts.iter().map(|part| format!("classifier.{part}")));
        names
    }
}

/// The tensors of one convolution with batch norm in a torchvision `Conv2dNormActivation`.
fn layer_names(prefix: &str) -> Vec<String> {
    ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
        .iter()
        .map(|part| format!("{prefix}.{part}"))
        .collect()
}

/// Inverted dropout with a mask drawn on the CPU, the same on every backend.
fn drop_out(x: Tensor<2>, probability: f64, seed: u64) -> Tensor<2> {
    let [b, c] = x.dims();
    let scale = (1.0 / (1.0 - probability)) as f32;
    let mask: Vec<f32> = (0..(b * c) as u64)
        .map(|i| if uniform(seed, i) < probability { 0.0 } else { scale })
        .collect();
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [b, c]), &x.device());
    x * mask
}
