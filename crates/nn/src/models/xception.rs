//! Xception (Chollet, arXiv:1610.02357): Inception taken to its extreme, separable convolutions with
//! residual connections; entry flow, middle flow, exit flow (figure 5).
//!
//! Departures from the paper, as in timm's `legacy_xception`: batch norm's epsilon 1e-5; the pooling
//! pads symmetrically, where Keras' SAME differs on the one even map.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::fork;
use kernels::ops::elementwise::{relu, sum};

use crate::activation::Activation::{Linear as Plain, Relu};
use crate::block::conv_norm_activation::{ConvNormActivation, Norm};
use crate::block::convolution::{Conv, Padding};
use crate::block::dropout::drop_out;
use crate::block::linear::through;
use crate::block::pooling::Pool;
use crate::block::separable::{Separable, SeparableConvolution};
use crate::layer_spec::{Init, LayerListBuilder, LayerSpec, LinearSpec};
use crate::network::NetworkConfig;

/// A residual block: the widths of its separable convolutions and the stride of its pooling.
#[derive(Clone, Copy)]
struct Row {
    widths: [usize; 4],
    /// How many of the widths' steps there are, 2 or 3.
    steps: usize,
    stride: usize,
    /// Whether a ReLU comes first; the first block reads what a ReLU gave.
    leading_relu: bool,
}

const fn row(widths: [usize; 4], steps: usize, stride: usize, leading_relu: bool) -> Row {
    Row { widths, steps, stride, leading_relu }
}

const MIDDLE_BLOCKS: usize = 8;
const MIDDLE: Row = row([728, 728, 728, 728], 3, 1, true);

/// Figure 5, the residual blocks; the middle flow is repeated [`MIDDLE_BLOCKS`] times.
#[rustfmt::skip]
const ENTRY: [Row; 3] = [
    row([ 64, 128, 128, 0], 2, 2, false),
    row([128, 256, 256, 0], 2, 2, true),
    row([256, 728, 728, 0], 2, 2, true),
];
const EXIT: Row = row([728, 728, 1024, 0], 2, 2, true);

/// The two convolutions before the blocks.
const STEM: [Conv; 2] = [
    Conv::standard(3, 32, 3, 2).with_padding(Padding::Valid),
    Conv::standard(32, 64, 3, 1).with_padding(Padding::Valid),
];

/// The separable convolutions after the blocks.
const TAIL: [usize; 3] = [1024, 1536, 2048];
const POOL: Pool = Pool::new(3, 2).padded(1);

impl Row {
    fn separable(&self, step: usize) -> Separable {
        Separable::new(self.widths[step], self.widths[step + 1], 3, 1)
    }

    fn output(&self) -> usize {
        self.widths[self.steps]
    }

    /// The 1x1 convolution on the skip path, where the shape changes.
    fn skip(&self) -> Option<Conv> {
        let skip = Conv::standard(self.widths[0], self.output(), 1, self.stride);
        (self.stride > 1 || self.widths[0] != self.output()).then_some(skip)
    }
}

fn rows() -> Vec<Row> {
    let mut rows = ENTRY.to_vec();
    rows.extend([MIDDLE; MIDDLE_BLOCKS]);
    rows.push(EXIT);
    rows
}

/// The layers for images of `size`, under timm's names.
pub(crate) fn layers(config: &NetworkConfig, size: [usize; 2]) -> Vec<LayerSpec> {
    let mut draft = LayerListBuilder::new(size[0], size[1], Init::FanOut);
    let separable =
        |d: &mut LayerListBuilder, name: &str, norm: String, what: Separable, activation| {
            d.conv(&format!("{name}.conv1"), what.depthwise);
            d.conv_norm(&[format!("{name}.pointwise"), norm], what.pointwise, activation);
        };
    for (i, conv) in STEM.into_iter().enumerate() {
        draft.conv_norm(&[format!("conv{}", i + 1), format!("bn{}", i + 1)], conv, Relu);
    }
    for (i, row) in rows().into_iter().enumerate() {
        let name = format!("block{}", i + 1);
        // timm holds the skip path after `rep`; its constructor makes skip first.
        if let Some(skip) = row.skip() {
            draft.aside(&mut |d| {
                d.conv_norm(&[format!("{name}.skip"), format!("{name}.skipbn")], skip, Plain);
            });
        }
        for step in 0..row.steps {
            let place = 3 * step + usize::from(row.leading_relu);
            let last = step + 1 == row.steps;
            let activation = if last { Plain } else { Relu };
            let (place, norm) =
                (format!("{name}.rep.{place}"), format!("{name}.rep.{}", place + 1));
            separable(&mut draft, &place, norm, row.separable(step), activation);
        }
        if row.stride > 1 {
            draft.max_pool(&format!("{name}.pool"), POOL);
        }
    }
    for (i, pair) in TAIL.windows(2).enumerate() {
        let what = Separable::new(pair[0], pair[1], 3, 1);
        separable(&mut draft, &format!("conv{}", i + 3), format!("bn{}", i + 3), what, Relu);
    }
    draft.adaptive_mean("global_pool", 1);
    let bound = 1.0 / (TAIL[2] as f64).sqrt();
    draft.linear(LinearSpec {
        name: "fc",
        output: config.num_classes,
        activation: Plain,
        weights: Init::Uniform { bound },
        bias: Init::Uniform { bound },
        pointwise: false,
    });
    draft.finish()
}

/// Separable convolutions on one path, a skip on the other; both read the input before its ReLU.
#[derive(Module, Debug)]
struct Block {
    skip: Option<ConvNormActivation>,
    separable: Vec<SeparableConvolution>,
    stride: usize,
    leading_relu: bool,
}

impl Block {
    fn new(row: &Row, norm: Norm, device: &Device) -> Self {
        let step = |step| {
            let activation = if step + 1 == row.steps { Plain } else { Relu };
            SeparableConvolution::new(row.separable(step), norm, activation, device)
        };
        Self {
            skip: row.skip().map(|conv| ConvNormActivation::new(conv, norm, Plain, device)),
            separable: (0..row.steps).map(step).collect(),
            stride: row.stride,
            leading_relu: row.leading_relu,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let input = fork(input);
        let skip = match &self.skip {
            Some(skip) => skip.forward(input.clone()),
            None => input.clone(),
        };
        let x = if self.leading_relu { relu(input) } else { input };
        let x = self.separable.iter().fold(x, |x, layer| layer.forward(x));
        let x = if self.stride > 1 { POOL.max(x) } else { x };
        sum(x, skip)
    }
}

/// Xception; fields in forward order.
#[derive(Module, Debug)]
pub struct Xception {
    stem: Vec<ConvNormActivation>,
    blocks: Vec<Block>,
    tail: Vec<SeparableConvolution>,
    classifier: Linear,
    dropout: f64,
}

impl Xception {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let tail = |pair: &[usize]| {
            let what = Separable::new(pair[0], pair[1], 3, 1);
            SeparableConvolution::new(what, norm, Relu, device)
        };
        let linear = LinearConfig::new(TAIL[2], config.num_classes);
        Self {
            stem: STEM.map(|conv| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            blocks: rows().iter().map(|row| Block::new(row, norm, device)).collect(),
            tail: TAIL.windows(2).map(tail).collect(),
            classifier: linear.with_initializer(Initializer::Zeros).init(device),
            dropout: config.dropout,
        }
    }

    /// `[b, 3, h, w]` to `[b, 2048, h/32, w/32]`; `tap` is shown the last map of every stride.
    pub(crate) fn trunk(&self, images: Tensor<4>, tap: &mut dyn FnMut(&Tensor<4>)) -> Tensor<4> {
        let x = self.stem[0].forward(images); // [b, 32, h/2, w/2]
        let mut x = self.stem[1].forward(x); // [b, 64, h/2, w/2]
        for block in &self.blocks {
            if block.stride > 1 {
                tap(&x);
            }
            x = block.forward(x);
        }
        let x = self.tail.iter().fold(x, |x, layer| layer.forward(x));
        tap(&x);
        x
    }

    /// The mean map `[b, 2048]` to logits; no dropout without a seed.
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
