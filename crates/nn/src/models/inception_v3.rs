//! Inception v3 (Szegedy et al., arXiv:1512.00567): the Inception module with its convolutions
//! factorised, 5x5 into two 3x3 (A), 7x7 into 1x7 and 7x1 (C), 3x3 into 1x3 and 3x1 side by side
//! (E), with grid reductions (B, D) and one auxiliary head.
//!
//! Departures from the paper, as in torchvision: module A keeps a 5x5 beside the pair of 3x3; the
//! mean pooling counts its padding.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kernels::ops::branch::branch;
use kernels::ops::concat::concat;

use crate::activation::Activation::{Linear as Plain, Relu};
use crate::block::auxiliary_head::AuxiliaryHead;
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::linear::{add_linear, zero_linear};
use crate::block::pooling::{global_mean, max_pool, mean_pool};
use crate::config::{NetworkConfig, Norm};
use crate::geometry::{Conv, Padding, Pool};
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, names_below};
use crate::layer_spec::Init;
use crate::outputs::{AuxiliaryLogits, TrainingOutputs};

/// The kinds of module with the widths in which modules of one kind differ.
#[derive(Clone, Copy)]
enum MixedKind {
    /// Width of the pool projection.
    A(usize),
    B,
    /// Width of the 7x7 towers.
    C(usize),
    D,
    E,
}

/// The modules in order, under torchvision's names.
const MODULES: [(&str, MixedKind); 11] = [
    ("Mixed_5b", MixedKind::A(32)),
    ("Mixed_5c", MixedKind::A(64)),
    ("Mixed_5d", MixedKind::A(64)),
    ("Mixed_6a", MixedKind::B),
    ("Mixed_6b", MixedKind::C(128)),
    ("Mixed_6c", MixedKind::C(160)),
    ("Mixed_6d", MixedKind::C(160)),
    ("Mixed_6e", MixedKind::C(192)),
    ("Mixed_7a", MixedKind::D),
    ("Mixed_7b", MixedKind::E),
    ("Mixed_7c", MixedKind::E),
];

/// The module after which the auxiliary head is attached.
const HEAD: usize = 7;

/// The pooling before a tower's convolutions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TowerPool {
    None,
    Mean,
    Max,
}

/// A convolution of a tower: name, kernel, channels out, stride; without padding at stride 2.
type TowerConv = (&'static str, [usize; 2], usize, usize);

/// Convolutions one after another (`chain`). Those of `split` all read the chain's output; their
/// outputs are concatenated.
struct Tower {
    pool: TowerPool,
    chain: Vec<TowerConv>,
    split: Vec<TowerConv>,
}

fn tower(chain: &[TowerConv]) -> Tower {
    Tower { pool: TowerPool::None, chain: chain.to_vec(), split: Vec::new() }
}

fn split(chain: &[TowerConv], split: &[TowerConv]) -> Tower {
    Tower { split: split.to_vec(), ..tower(chain) }
}

fn mean_pooled(projection: usize) -> Tower {
    Tower { pool: TowerPool::Mean, ..tower(&[("branch_pool", [1, 1], projection, 1)]) }
}

fn max_pooled() -> Tower {
    Tower { pool: TowerPool::Max, ..tower(&[]) }
}

/// The towers of a module: figures 5 to 7 and 10 of the paper, with the widths of its published
/// weights.
#[rustfmt::skip]
fn towers(kind: MixedKind) -> Vec<Tower> {
    match kind {
        MixedKind::A(projection) => vec![
            tower(&[("branch1x1",     [1, 1], 64, 1)]),
            tower(&[("branch5x5_1",   [1, 1], 48, 1), ("branch5x5_2", [5, 5], 64, 1)]),
            tower(&[("branch3x3dbl_1", [1, 1], 64, 1), ("branch3x3dbl_2", [3, 3], 96, 1),
                    ("branch3x3dbl_3", [3, 3], 96, 1)]),
            mean_pooled(projection),
        ],
        MixedKind::B => vec![
            tower(&[("branch3x3", [3, 3], 384, 2)]),
            tower(&[("branch3x3dbl_1", [1, 1], 64, 1), ("branch3x3dbl_2", [3, 3], 96, 1),
                    ("branch3x3dbl_3", [3, 3], 96, 2)]),
            max_pooled(),
        ],
        MixedKind::C(width) => vec![
            tower(&[("branch1x1",   [1, 1], 192, 1)]),
            tower(&[("branch7x7_1", [1, 1], width, 1), ("branch7x7_2", [1, 7], width, 1),
                    ("branch7x7_3", [7, 1], 192, 1)]),
            tower(&[("branch7x7dbl_1", [1, 1], width, 1), ("branch7x7dbl_2", [7, 1], width, 1),
                    ("branch7x7dbl_3", [1, 7], width, 1), ("branch7x7dbl_4", [7, 1], width, 1),
                    ("branch7x7dbl_5", [1, 7], 192, 1)]),
            mean_pooled(192),
        ],
        MixedKind::D => vec![
            tower(&[("branch3x3_1", [1, 1], 192, 1), ("branch3x3_2", [3, 3], 320, 2)]),
            tower(&[("branch7x7x3_1", [1, 1], 192, 1), ("branch7x7x3_2", [1, 7], 192, 1),
                    ("branch7x7x3_3", [7, 1], 192, 1), ("branch7x7x3_4", [3, 3], 192, 2)]),
            max_pooled(),
        ],
        MixedKind::E => vec![
            tower(&[("branch1x1", [1, 1], 320, 1)]),
            split(&[("branch3x3_1", [1, 1], 384, 1)],
                  &[("branch3x3_2a", [1, 3], 384, 1), ("branch3x3_2b", [3, 1], 384, 1)]),
            split(&[("branch3x3dbl_1", [1, 1], 448, 1), ("branch3x3dbl_2", [3, 3], 384, 1)],
                  &[("branch3x3dbl_3a", [1, 3], 384, 1), ("branch3x3dbl_3b", [3, 1], 384, 1)]),
            mean_pooled(192),
        ],
    }
}

/// Mean pooling before a projection.
const MEAN: Pool = Pool::new(3, 1).padded(1);
/// Maximum pooling of the stem and of the grid reductions.
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

/// The auxiliary head: pooling 5x5 at stride 3, 1x1 to 128 channels, 5x5 to 768 channels, mean,
/// linear.
const HEAD_POOL: Pool = Pool::new(5, 3);
/// Channels of the map that the auxiliary head reads.
const HEAD_INPUT: usize = 768;
/// Height and width of that map for images of 299 pixels.
const HEAD_SIDE: usize = 17;
/// Channels of the auxiliary head's two convolutions.
const HEAD_WIDTHS: [usize; 2] = [128, 768];
/// Weight of the auxiliary loss in the usual recipe.
const HEAD_WEIGHT: f64 = 0.4;

const fn normal(deviation: f64) -> Init {
    Init::Normal { deviation }
}

fn conv(input: usize, (_, kernel, output, stride): TowerConv) -> Conv {
    let padding = if stride > 1 { Padding::Valid } else { Padding::Symmetric };
    Conv::standard(input, output, 1, stride).with_kernel(kernel).with_padding(padding)
}

fn head_convs() -> [Conv; 2] {
    let spatial = Conv::standard(HEAD_WIDTHS[0], HEAD_WIDTHS[1], 5, 1);
    [Conv::pointwise(HEAD_INPUT, HEAD_WIDTHS[0]), spatial.with_padding(Padding::Valid)]
}

/// The graph for images of `size` (height, width), under torchvision's names.
pub(crate) fn graph(config: &NetworkConfig, size: [usize; 2]) -> Graph {
    let mut layers = GraphBuilder::new(size[0], size[1], normal(0.1));
    if config.transform_input {
        layers.add_imagenet_to_symmetric();
    }
    for (i, (name, conv)) in STEM.into_iter().enumerate() {
        layers.add_conv_norm(&names_below(name, "conv", "bn"), conv, Relu);
        if i == 2 || i == 4 {
            layers.add_max_pool(&format!("maxpool{}", i / 2), MAX);
        }
    }
    for (i, (name, kind)) in MODULES.iter().enumerate() {
        add_module(&mut layers, name, *kind);
        if i == HEAD && config.auxiliary {
            layers.auxiliary_branch(&mut |layers| add_auxiliary_head(layers, config.num_classes));
        }
    }
    layers.add_adaptive_mean("avgpool", 1);
    add_linear(&mut layers, "fc", config.num_classes, Plain, 0.1);
    layers.finish()
}

fn add_module(layers: &mut GraphBuilder, name: &str, kind: MixedKind) {
    let add_conv = |layers: &mut GraphBuilder, tower_conv: TowerConv| {
        let conv = conv(layers.shape()[0], tower_conv);
        let names = names_below(&format!("{name}.{}", tower_conv.0), "conv", "bn");
        layers.add_conv_norm(&names, conv, Relu);
    };
    let add_tower = |layers: &mut GraphBuilder, tower: &Tower| {
        match tower.pool {
            TowerPool::None => {}
            TowerPool::Mean => layers.add_mean_pool(&format!("{name}.branch_pool.pool"), MEAN),
            TowerPool::Max => layers.add_max_pool(&format!("{name}.pool"), MAX),
        }
        tower.chain.iter().for_each(|conv| add_conv(layers, *conv));
        if let [a, b] = tower.split[..] {
            layers.add_concat(&mut [&mut |l| add_conv(l, a), &mut |l| add_conv(l, b)]);
        }
    };
    let towers = towers(kind);
    let mut adders: Vec<_> =
        towers.iter().map(|t| move |l: &mut GraphBuilder| add_tower(l, t)).collect();
    let mut branches: Vec<&mut dyn FnMut(&mut GraphBuilder)> = Vec::new();
    adders.iter_mut().for_each(|add| branches.push(add));
    layers.add_concat(&mut branches);
}

fn add_auxiliary_head(layers: &mut GraphBuilder, classes: usize) {
    // The map of an image smaller than 299 pixels may be smaller than the head's windows.
    let [_, height, width] = layers.shape();
    layers.set_shape([HEAD_INPUT, height.max(HEAD_SIDE), width.max(HEAD_SIDE)]);
    layers.add_mean_pool("AuxLogits.pool", HEAD_POOL);
    let [first, second] = head_convs();
    layers.add_conv_norm(&names_below("AuxLogits.conv0", "conv", "bn"), first, Relu);
    layers.set_conv_init(normal(0.01));
    layers.add_conv_norm(&names_below("AuxLogits.conv1", "conv", "bn"), second, Relu);
    layers.set_conv_init(normal(0.1));
    layers.add_adaptive_mean("AuxLogits.mean", 1);
    add_linear(layers, "AuxLogits.fc", classes, Plain, 0.001);
}

/// A tower's layers.
#[derive(Module, Debug)]
struct TowerLayers {
    chain: Vec<ConvNormActivation>,
    split: Vec<ConvNormActivation>,
    #[module(skip)]
    pool: TowerPool,
}

impl TowerLayers {
    /// The layers and their number of output channels.
    fn new(tower: &Tower, input: usize, norm: Norm, device: &Device) -> (Self, usize) {
        let mut channels = input;
        let layer = |input, step| ConvNormActivation::new(conv(input, step), norm, Relu, device);
        let mut chain = Vec::new();
        for conv in &tower.chain {
            chain.push(layer(channels, *conv));
            channels = conv.2;
        }
        let split: Vec<_> = tower.split.iter().map(|conv| layer(channels, *conv)).collect();
        let output = match tower.split.is_empty() {
            true => channels,
            false => tower.split.iter().map(|conv| conv.2).sum(),
        };
        (Self { chain, split, pool: tower.pool }, output)
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = match self.pool {
            TowerPool::None => x,
            TowerPool::Mean => mean_pool(x, MEAN),
            TowerPool::Max => max_pool(x, MAX),
        };
        let x = self.chain.iter().fold(x, |x, layer| layer.forward(x));
        match self.split.is_empty() {
            true => x,
            false => {
                let x = branch(x);
                concat(self.split.iter().map(|layer| layer.forward(x.clone())).collect())
            }
        }
    }
}

/// A module: towers that read one input, their outputs concatenated.
#[derive(Module, Debug)]
struct MixedModule {
    towers: Vec<TowerLayers>,
}

impl MixedModule {
    fn new(kind: MixedKind, input: usize, norm: Norm, device: &Device) -> (Self, usize) {
        let built: Vec<_> =
            towers(kind).iter().map(|t| TowerLayers::new(t, input, norm, device)).collect();
        let output = built.iter().map(|(_, output)| output).sum();
        (Self { towers: built.into_iter().map(|(tower, _)| tower).collect() }, output)
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = branch(x);
        concat(self.towers.iter().map(|tower| tower.forward(x.clone())).collect())
    }
}

fn auxiliary_head(classes: usize, norm: Norm, device: &Device) -> AuxiliaryHead {
    let layer = |conv| ConvNormActivation::new(conv, norm, Relu, device);
    AuxiliaryHead {
        convs: head_convs().map(layer).into(),
        hidden: None,
        classifier: zero_linear(HEAD_WIDTHS[1], classes, device),
        dropout: 0.0,
    }
}

/// Inception v3; fields in torchvision's order, the auxiliary head between the modules.
#[derive(Module, Debug)]
pub(crate) struct InceptionV3 {
    stem: Vec<ConvNormActivation>,
    early: Vec<MixedModule>,
    auxiliary: Option<AuxiliaryHead>,
    late: Vec<MixedModule>,
    classifier: Classifier,
}

impl InceptionV3 {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let mut channels = STEM_OUTPUT;
        let mut module = |(_, kind): &(&str, MixedKind)| {
            let (module, output) = MixedModule::new(*kind, channels, norm, device);
            channels = output;
            module
        };
        let early = MODULES[..=HEAD].iter().map(&mut module).collect();
        let late = MODULES[HEAD + 1..].iter().map(&mut module).collect();
        let head = || auxiliary_head(config.num_classes, norm, device);
        Self {
            stem: STEM.map(|(_, conv)| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            early,
            auxiliary: config.auxiliary.then(head),
            late,
            classifier: Classifier::new(channels, config.num_classes, config.dropout, device),
        }
    }

    /// [`Backbone::forward_features`]; `on_head_input` is called with the map that the auxiliary
    /// head reads.
    fn run_modules(
        &self,
        images: Tensor<4>,
        on_stride: OnStride<'_>,
        on_head_input: &mut dyn FnMut(&Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem[..3].iter().fold(images, |x, layer| layer.forward(x));
        on_stride(&x); // [b, 64, h/2, w/2]
        let x = self.stem[3..].iter().fold(max_pool(x, MAX), |x, layer| layer.forward(x));
        on_stride(&x); // [b, 192, h/4, w/4]
        let mut x = max_pool(x, MAX);
        for (module, (_, kind)) in self.early.iter().zip(&MODULES) {
            if matches!(kind, MixedKind::B) {
                on_stride(&x); // [b, 288, h/8, w/8]
            }
            x = module.forward(x);
        }
        on_stride(&x); // [b, 768, h/16, w/16]
        on_head_input(&x);
        let x = self.late.iter().fold(x, |x, module| module.forward(x));
        on_stride(&x); // [b, 2048, h/32, w/32]
        x
    }
}

impl Backbone for InceptionV3 {
    /// `[b, 3, h, w]` to `[b, 2048, h/32, w/32]`.
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        self.run_modules(images, on_stride, &mut |_| ())
    }

    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        self.classifier.forward(pooled, dropout_seed)
    }

    /// The auxiliary head needs images of at least 299 pixels.
    fn forward_train(&self, images: Tensor<4>, dropout_seed: &DropoutSeed) -> TrainingOutputs {
        let mut head_input = None;
        let x = self.run_modules(images, &mut |_| (), &mut |x| head_input = Some(x.clone()));
        let heads = self.auxiliary.iter().zip(head_input).map(|(head, map)| {
            let pooled = mean_pool(map, HEAD_POOL); // [b, 768, 5, 5]
            AuxiliaryLogits { weight: HEAD_WEIGHT, logits: head.forward(pooled, dropout_seed) }
        });
        let auxiliary = heads.collect();
        TrainingOutputs { logits: self.forward_head(global_mean(x), Some(dropout_seed)), auxiliary }
    }
}
