//! Inception v3 (Szegedy et al., arXiv:1512.00567): the Inception module with its convolutions
//! factorised, 5x5 into two 3x3 (A), 7x7 into 1x7 and 7x1 (C), 3x3 into 1x3 and 3x1 side by side (E),
//! with grid reductions (B, D) and one auxiliary head.
//!
//! Departures from the paper, as in torchvision: module A keeps a 5x5 beside the pair of 3x3; the mean
//! pooling counts its padding.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::fork;
use kernels::ops::concat::concat;

use crate::activation::Activation::{Linear as Plain, Relu};
use crate::block::conv_norm_activation::{ConvNormActivation, Norm};
use crate::block::convolution::{Conv, Padding};
use crate::block::dropout::drop_out;
use crate::block::linear::through;
use crate::block::pooling::{Pool, global_mean};
use crate::layer_spec::{Init, LayerListBuilder, LayerSpec, LinearSpec, pair};
use crate::network::{Auxiliary, NetworkConfig};

/// The kinds of module; numbers are the widths that differ.
#[derive(Clone, Copy)]
enum Kind {
    /// Pool projection.
    A(usize),
    B,
    /// Width of the 7x7 towers.
    C(usize),
    D,
    E,
}

/// The modules in order, under torchvision's names.
const MODULES: [(&str, Kind); 11] = [
    ("Mixed_5b", Kind::A(32)),
    ("Mixed_5c", Kind::A(64)),
    ("Mixed_5d", Kind::A(64)),
    ("Mixed_6a", Kind::B),
    ("Mixed_6b", Kind::C(128)),
    ("Mixed_6c", Kind::C(160)),
    ("Mixed_6d", Kind::C(160)),
    ("Mixed_6e", Kind::C(192)),
    ("Mixed_7a", Kind::D),
    ("Mixed_7b", Kind::E),
    ("Mixed_7c", Kind::E),
];

/// The module after which the auxiliary head is attached.
const HEAD: usize = 7;

/// How a tower begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Input,
    Mean,
    Max,
}

/// A convolution of a tower: name, kernel, channels out, stride; without padding at stride 2.
type Step = (&'static str, [usize; 2], usize, usize);

/// Convolutions one after another; those of `fork` read the last one side by side.
struct Tower {
    start: Start,
    chain: Vec<Step>,
    fork: Vec<Step>,
}

fn tower(chain: &[Step]) -> Tower {
    Tower { start: Start::Input, chain: chain.to_vec(), fork: Vec::new() }
}

fn forked(chain: &[Step], fork: &[Step]) -> Tower {
    Tower { fork: fork.to_vec(), ..tower(chain) }
}

fn pooled(projection: usize) -> Tower {
    Tower { start: Start::Mean, ..tower(&[("branch_pool", [1, 1], projection, 1)]) }
}

/// The towers of a module; figures 5 to 7 and 10 of the paper, widths of its published weights.
#[rustfmt::skip]
fn towers(kind: Kind) -> Vec<Tower> {
    match kind {
        Kind::A(projection) => vec![
            tower(&[("branch1x1",     [1, 1], 64, 1)]),
            tower(&[("branch5x5_1",   [1, 1], 48, 1), ("branch5x5_2", [5, 5], 64, 1)]),
            tower(&[("branch3x3dbl_1", [1, 1], 64, 1), ("branch3x3dbl_2", [3, 3], 96, 1),
                    ("branch3x3dbl_3", [3, 3], 96, 1)]),
            pooled(projection),
        ],
        Kind::B => vec![
            tower(&[("branch3x3", [3, 3], 384, 2)]),
            tower(&[("branch3x3dbl_1", [1, 1], 64, 1), ("branch3x3dbl_2", [3, 3], 96, 1),
                    ("branch3x3dbl_3", [3, 3], 96, 2)]),
            Tower { start: Start::Max, ..tower(&[]) },
        ],
        Kind::C(width) => vec![
            tower(&[("branch1x1",   [1, 1], 192, 1)]),
            tower(&[("branch7x7_1", [1, 1], width, 1), ("branch7x7_2", [1, 7], width, 1),
                    ("branch7x7_3", [7, 1], 192, 1)]),
            tower(&[("branch7x7dbl_1", [1, 1], width, 1), ("branch7x7dbl_2", [7, 1], width, 1),
                    ("branch7x7dbl_3", [1, 7], width, 1), ("branch7x7dbl_4", [7, 1], width, 1),
                    ("branch7x7dbl_5", [1, 7], 192, 1)]),
            pooled(192),
        ],
        Kind::D => vec![
            tower(&[("branch3x3_1", [1, 1], 192, 1), ("branch3x3_2", [3, 3], 320, 2)]),
            tower(&[("branch7x7x3_1", [1, 1], 192, 1), ("branch7x7x3_2", [1, 7], 192, 1),
                    ("branch7x7x3_3", [7, 1], 192, 1), ("branch7x7x3_4", [3, 3], 192, 2)]),
            Tower { start: Start::Max, ..tower(&[]) },
        ],
        Kind::E => vec![
            tower(&[("branch1x1", [1, 1], 320, 1)]),
            forked(&[("branch3x3_1", [1, 1], 384, 1)],
                   &[("branch3x3_2a", [1, 3], 384, 1), ("branch3x3_2b", [3, 1], 384, 1)]),
            forked(&[("branch3x3dbl_1", [1, 1], 448, 1), ("branch3x3dbl_2", [3, 3], 384, 1)],
                   &[("branch3x3dbl_3a", [1, 3], 384, 1), ("branch3x3dbl_3b", [3, 1], 384, 1)]),
            pooled(192),
        ],
    }
}

const MEAN: Pool = Pool::new(3, 1).padded(1);
const MAX: Pool = Pool::new(3, 2);

/// The convolutions before the modules; pooling follows the third and the fifth.
const STEM: [(&str, Conv); 5] = [
    ("Conv2d_1a_3x3", Conv::standard(3, 32, 3, 2).with_padding(Padding::Valid)),
    ("Conv2d_2a_3x3", Conv::standard(32, 32, 3, 1).with_padding(Padding::Valid)),
    ("Conv2d_2b_3x3", Conv::standard(32, 64, 3, 1)),
    ("Conv2d_3b_1x1", Conv::pointwise(64, 80)),
    ("Conv2d_4a_3x3", Conv::standard(80, 192, 3, 1).with_padding(Padding::Valid)),
];
const STEM_OUTPUT: usize = 192;

/// The auxiliary head: pooling 5x5 at stride 3, 1x1 to 128, 5x5 to 768, mean, linear.
const HEAD_POOL: Pool = Pool::new(5, 3);
const HEAD_INPUT: usize = 768;
const HEAD_WIDTHS: [usize; 2] = [128, 768];
/// Its weight in the loss: the usual recipe.
const HEAD_WEIGHT: f64 = 0.4;

const fn normal(deviation: f64) -> Init {
    Init::Normal { deviation }
}

fn conv(input: usize, (_, kernel, output, stride): Step) -> Conv {
    let padding = if stride > 1 { Padding::Valid } else { Padding::Symmetric };
    Conv::standard(input, output, 1, stride).with_kernel(kernel).with_padding(padding)
}

fn head_convs() -> [Conv; 2] {
    let spatial = Conv::standard(HEAD_WIDTHS[0], HEAD_WIDTHS[1], 5, 1);
    [Conv::pointwise(HEAD_INPUT, HEAD_WIDTHS[0]), spatial.with_padding(Padding::Valid)]
}

/// The layers for images of `size`, under torchvision's names.
pub(crate) fn layers(config: &NetworkConfig, size: [usize; 2]) -> Vec<LayerSpec> {
    let mut draft = LayerListBuilder::new(size[0], size[1], normal(0.1));
    for (i, (name, conv)) in STEM.into_iter().enumerate() {
        draft.conv_norm(&pair(name, "conv", "bn"), conv, Relu);
        if i == 2 || i == 4 {
            draft.max_pool(&format!("maxpool{}", i / 2), MAX);
        }
    }
    for (i, (name, kind)) in MODULES.iter().enumerate() {
        draw_module(&mut draft, name, *kind);
        if i == HEAD && config.auxiliary {
            draft.auxiliary(&mut |d| {
                // Smaller images than 299 reach the head only as far as its windows fit.
                if let [_, h @ 0..17, w] | [_, h, w @ 0..17] = d.at() {
                    d.stand_at([HEAD_INPUT, h.max(17), w.max(17)]);
                }
                d.mean_pool("AuxLogits.pool", HEAD_POOL);
                let [first, second] = head_convs();
                d.conv_norm(&pair("AuxLogits.conv0", "conv", "bn"), first, Relu);
                d.begin_with(normal(0.01));
                d.conv_norm(&pair("AuxLogits.conv1", "conv", "bn"), second, Relu);
                d.begin_with(normal(0.1));
                d.adaptive_mean("AuxLogits.mean", 1);
                line(d, "AuxLogits.fc", config.num_classes, 0.001);
            });
        }
    }
    draft.adaptive_mean("avgpool", 1);
    line(&mut draft, "fc", config.num_classes, 0.1);
    draft.finish()
}

fn draw_module(draft: &mut LayerListBuilder, name: &str, kind: Kind) {
    let draw_step = |d: &mut LayerListBuilder, step: Step| {
        let conv = conv(d.at()[0], step);
        d.conv_norm(&pair(&format!("{name}.{}", step.0), "conv", "bn"), conv, Relu);
    };
    let draw_tower = |d: &mut LayerListBuilder, tower: &Tower| {
        match tower.start {
            Start::Input => {}
            Start::Mean => d.mean_pool(&format!("{name}.branch_pool.pool"), MEAN),
            Start::Max => d.max_pool(&format!("{name}.pool"), MAX),
        }
        tower.chain.iter().for_each(|step| draw_step(d, *step));
        if let [a, b] = tower.fork[..] {
            d.concat(&mut [&mut |d| draw_step(d, a), &mut |d| draw_step(d, b)]);
        }
    };
    let towers = towers(kind);
    let mut draws: Vec<_> =
        towers.iter().map(|t| move |d: &mut LayerListBuilder| draw_tower(d, t)).collect();
    let mut branches: Vec<&mut dyn FnMut(&mut LayerListBuilder)> = Vec::new();
    draws.iter_mut().for_each(|draw| branches.push(draw));
    draft.concat(&mut branches);
}

fn line(draft: &mut LayerListBuilder, name: &str, output: usize, deviation: f64) {
    let bias = Init::Uniform { bound: 1.0 / (draft.at()[0] as f64).sqrt() };
    let weights = normal(deviation);
    draft.linear(LinearSpec { name, output, activation: Plain, weights, bias, pointwise: false });
}

/// A tower's layers.
#[derive(Module, Debug)]
struct TowerLayers {
    chain: Vec<ConvNormActivation>,
    fork: Vec<ConvNormActivation>,
    #[module(skip)]
    start: Start,
}

impl TowerLayers {
    /// The layers, and the channels they give.
    fn new(tower: &Tower, input: usize, norm: Norm, device: &Device) -> (Self, usize) {
        let mut at = input;
        let layer = |input, step| ConvNormActivation::new(conv(input, step), norm, Relu, device);
        let mut chain = Vec::new();
        for step in &tower.chain {
            chain.push(layer(at, *step));
            at = step.2;
        }
        let fork: Vec<_> = tower.fork.iter().map(|step| layer(at, *step)).collect();
        let output = match tower.fork.is_empty() {
            true => at,
            false => tower.fork.iter().map(|step| step.2).sum(),
        };
        (Self { chain, fork, start: tower.start }, output)
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match self.start {
            Start::Input => x,
            Start::Mean => MEAN.mean(x),
            Start::Max => MAX.max(x),
        };
        let x = self.chain.iter().fold(x, |x, layer| layer.forward(x));
        match self.fork.is_empty() {
            true => x,
            false => {
                let x = fork(x);
                concat(self.fork.iter().map(|f| f.forward(x.clone())).collect())
            }
        }
    }
}

/// A module: towers on the same input, their outputs side by side.
#[derive(Module, Debug)]
struct Mixed {
    towers: Vec<TowerLayers>,
}

impl Mixed {
    fn new(kind: Kind, input: usize, norm: Norm, device: &Device) -> (Self, usize) {
        let built: Vec<_> =
            towers(kind).iter().map(|t| TowerLayers::new(t, input, norm, device)).collect();
        let output = built.iter().map(|(_, output)| output).sum();
        (Self { towers: built.into_iter().map(|(tower, _)| tower).collect() }, output)
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = fork(x);
        concat(self.towers.iter().map(|tower| tower.forward(x.clone())).collect())
    }
}

#[derive(Module, Debug)]
struct AuxiliaryHead {
    convs: Vec<ConvNormActivation>,
    classifier: Linear,
}

impl AuxiliaryHead {
    fn new(classes: usize, norm: Norm, device: &Device) -> Self {
        let layer = |conv| ConvNormActivation::new(conv, norm, Relu, device);
        Self {
            convs: head_convs().map(layer).into(),
            classifier: linear(HEAD_WIDTHS[1], classes, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = HEAD_POOL.mean(x); // [b, 768, 5, 5]
        let x = self.convs.iter().fold(x, |x, layer| layer.forward(x)); // [b, 768, 1, 1]
        self.classifier.forward(global_mean(x))
    }
}

fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
}

/// Inception v3; fields in torchvision's order, the head between the modules.
#[derive(Module, Debug)]
pub struct InceptionV3 {
    stem: Vec<ConvNormActivation>,
    early: Vec<Mixed>,
    auxiliary: Option<AuxiliaryHead>,
    late: Vec<Mixed>,
    classifier: Linear,
    dropout: f64,
}

impl InceptionV3 {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let mut at = STEM_OUTPUT;
        let mut module = |(_, kind): &(&str, Kind)| {
            let (module, output) = Mixed::new(*kind, at, norm, device);
            at = output;
            module
        };
        let early = MODULES[..=HEAD].iter().map(&mut module).collect();
        let late = MODULES[HEAD + 1..].iter().map(&mut module).collect();
        let head = || AuxiliaryHead::new(config.num_classes, norm, device);
        Self {
            stem: STEM.map(|(_, conv)| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            early,
            auxiliary: config.auxiliary.then(head),
            late,
            classifier: linear(at, config.num_classes, device),
            dropout: config.dropout,
        }
    }

    /// `[b, 3, h, w]` to `[b, 2048, h/32, w/32]`; `tap` is shown the last map of every stride.
    /// `middle` is shown what the auxiliary head reads.
    pub(crate) fn trunk(
        &self,
        images: Tensor<4>,
        tap: &mut dyn FnMut(&Tensor<4>),
        middle: &mut dyn FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem[..3].iter().fold(images, |x, layer| layer.forward(x));
        tap(&x); // [b, 64, h/2, w/2]
        let x = self.stem[3..].iter().fold(MAX.max(x), |x, layer| layer.forward(x));
        tap(&x); // [b, 192, h/4, w/4]
        let mut x = MAX.max(x);
        for (module, (_, kind)) in self.early.iter().zip(&MODULES) {
            if matches!(kind, Kind::B) {
                tap(&x); // [b, 288, h/8, w/8]
            }
            x = module.forward(x);
        }
        tap(&x); // [b, 768, h/16, w/16]
        middle(&x);
        let x = self.late.iter().fold(x, |x, module| module.forward(x));
        tap(&x); // [b, 2048, h/32, w/32]
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

    /// Logits and those of the auxiliary head, which needs images of 299 pixels.
    pub(crate) fn forward_train(&self, x: Tensor<4>, seed: u64) -> (Tensor<2>, Vec<Auxiliary>) {
        let mut middle = None;
        let x = self.trunk(x, &mut |_| (), &mut |x| middle = Some(x.clone()));
        let heads = self
            .auxiliary
            .iter()
            .zip(middle)
            .map(|(head, map)| Auxiliary { weight: HEAD_WEIGHT, logits: head.forward(map) });
        let heads = heads.collect();
        (self.head(global_mean(x), Some(seed)), heads)
    }
}
