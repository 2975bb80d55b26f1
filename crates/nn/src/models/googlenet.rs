//! GoogLeNet (Szegedy et al., arXiv:1409.4842): nine Inception modules, 22 layers, two auxiliary
//! heads.
//!
//! Departures from the paper, as in torchvision: batch norm after every convolution and no local
//! response normalisation; the fourth pooling is 2x2; an auxiliary head pools to a grid of 4x4
//! regions and drops 70 %. The kernel of the third branch is 3x3 with torchvision's weights and the
//! paper's 5x5 by default in training from scratch (`NetworkConfig::three_for_five`).

use burn::module::Module;
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation::{Linear as Plain, Relu};
use crate::block::auxiliary_head::AuxiliaryHead;
use crate::block::backbone::{Backbone, OnStride};
use crate::block::classifier::Classifier;
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::dropout::DropoutSeed;
use crate::block::inception::{Inception, InceptionModule};
use crate::block::linear::{add_linear, zero_linear};
use crate::block::pooling::{global_mean, max_pool};
use crate::config::NetworkConfig;
use crate::geometry::{Conv, Pool};
use crate::graph::Graph;
use crate::graph_builder::{GraphBuilder, names_below};
use crate::layer_spec::Init;
use crate::outputs::{AuxiliaryLogits, TrainingOutputs};

const fn inception(
    name: &'static str,
    input: usize,
    one: usize,
    three: [usize; 2],
    five: [usize; 2],
    pool: usize,
) -> (&'static str, Inception) {
    (name, Inception { input, one, three, five, pool })
}

/// Table 1, the Inception rows.
#[rustfmt::skip]
const ROWS: [(&str, Inception); 9] = [
    //        name   in  #1x1   3x3r #3x3    5x5r #5x5  pool
    inception("3a", 192,  64, [ 96, 128], [16,  32],  32),
    inception("3b", 256, 128, [128, 192], [32,  96],  64),
    inception("4a", 480, 192, [ 96, 208], [16,  48],  64),
    inception("4b", 512, 160, [112, 224], [24,  64],  64),
    inception("4c", 512, 128, [128, 256], [24,  64],  64),
    inception("4d", 512, 112, [144, 288], [32,  64],  64),
    inception("4e", 528, 256, [160, 320], [32, 128], 128),
    inception("5a", 832, 256, [160, 320], [32, 128], 128),
    inception("5b", 832, 384, [192, 384], [48, 128], 128),
];

/// The Inception modules by their names in table 1, `3a` to `5b`, with the height and width of
/// their input for images of 224x224.
pub fn modules() -> impl Iterator<Item = (&'static str, Inception, usize)> {
    // The digit of the name is the stage; a pooling halves the map before each.
    ROWS.iter().map(|&(name, module)| {
        let side = match name.as_bytes()[0] {
            b'3' => 28,
            b'4' => 14,
            _ => 7,
        };
        (name, module, side)
    })
}

/// Whether every row's input is the previous row's output.
const fn chains(rows: &[(&str, Inception)]) -> bool {
    let mut i = 1;
    while i < rows.len() {
        if rows[i].1.input != rows[i - 1].1.output() {
            return false;
        }
        i += 1;
    }
    true
}

const _: () = assert!(chains(&ROWS), "table 1: a row's input is not the previous row's output");

/// The three convolutions before the modules.
const STEM: [Conv; 3] =
    [Conv::standard(3, 64, 7, 2), Conv::pointwise(64, 64), Conv::standard(64, 192, 3, 1)];

/// Pooling before the second convolution, module 3a and module 4a.
const POOL: Pool = Pool::new(3, 2).ceil();
/// Pooling before module 5a.
const LAST_POOL: Pool = Pool::new(2, 2).ceil();

/// Dropout of the auxiliary heads, the paper's 70 %.
const HEAD_DROPOUT: f64 = 0.7;
/// Weight of each auxiliary loss (the paper's section 5).
const HEAD_WEIGHT: f64 = 0.3;
/// Height and width of the pooled map that an auxiliary head reads.
const HEAD_SIDE: usize = 4;
/// Channels of an auxiliary head's convolution and of its hidden layer.
const HEAD_WIDTHS: [usize; 2] = [128, 1024];
/// Rows after which an auxiliary head is attached: 4a and 4d.
const HEADS: [usize; 2] = [2, 5];

/// Standard deviation of every initial weight.
const DEVIATION: f64 = 0.01;

/// The graph for images of `size` (height, width), under torchvision's names.
pub(crate) fn graph(config: &NetworkConfig, size: [usize; 2]) -> Graph {
    let mut layers = GraphBuilder::new(size[0], size[1], Init::Normal { deviation: DEVIATION });
    if config.transform_input {
        layers.add_imagenet_to_symmetric();
    }
    layers.add_conv_norm(&names_below("conv1", "conv", "bn"), STEM[0], Relu);
    layers.add_max_pool("maxpool1", POOL);
    layers.add_conv_norm(&names_below("conv2", "conv", "bn"), STEM[1], Relu);
    layers.add_conv_norm(&names_below("conv3", "conv", "bn"), STEM[2], Relu);
    layers.add_max_pool("maxpool2", POOL);
    let mut heads = Vec::new();
    for (i, (name, row)) in ROWS.iter().enumerate() {
        match *name {
            "4a" => layers.add_max_pool("maxpool3", POOL),
            "5a" => layers.add_max_pool("maxpool4", LAST_POOL),
            _ => {}
        }
        row.add_to(&mut layers, &format!("inception{name}"), config.third_branch_kernel());
        if HEADS.contains(&i) {
            heads.push(layers.shape());
        }
    }
    // In torchvision's parameter order the heads follow the modules and precede the classifier.
    if config.auxiliary {
        for (number, shape) in heads.into_iter().enumerate() {
            layers.auxiliary_branch(&mut |layers| {
                let name = format!("aux{}", number + 1);
                layers.set_shape(shape);
                layers.add_adaptive_mean(&format!("{name}.pool"), HEAD_SIDE);
                let conv = Conv::pointwise(shape[0], HEAD_WIDTHS[0]);
                let names = names_below(&format!("{name}.conv"), "conv", "bn");
                layers.add_conv_norm(&names, conv, Relu);
                add_linear(layers, &format!("{name}.fc1"), HEAD_WIDTHS[1], Relu, DEVIATION);
                add_linear(layers, &format!("{name}.fc2"), config.num_classes, Plain, DEVIATION);
            });
        }
    }
    layers.add_adaptive_mean("avgpool", 1);
    add_linear(&mut layers, "fc", config.num_classes, Plain, DEVIATION);
    layers.finish()
}

/// The auxiliary head that reads a map of `input` channels.
fn auxiliary_head(input: usize, config: &NetworkConfig, device: &Device) -> AuxiliaryHead {
    let conv = Conv::pointwise(input, HEAD_WIDTHS[0]);
    let flattened = HEAD_SIDE * HEAD_SIDE * HEAD_WIDTHS[0];
    AuxiliaryHead {
        convs: vec![ConvNormActivation::new(conv, config.norm(), Relu, device)],
        hidden: Some(zero_linear(flattened, HEAD_WIDTHS[1], device)),
        classifier: zero_linear(HEAD_WIDTHS[1], config.num_classes, device),
        // A configuration without dropout has none in the heads either.
        dropout: if config.dropout > 0.0 { HEAD_DROPOUT } else { 0.0 },
    }
}

/// GoogLeNet; fields in torchvision's order.
#[derive(Module, Debug)]
pub(crate) struct GoogLeNet {
    stem: Vec<ConvNormActivation>,
    modules: Vec<InceptionModule>,
    auxiliary: Vec<AuxiliaryHead>,
    classifier: Classifier,
}

impl GoogLeNet {
    /// Builds the network; the weights are zero until [`crate::init::fill`].
    pub(crate) fn new(config: &NetworkConfig, device: &Device) -> Self {
        let (norm, five) = (config.norm(), config.third_branch_kernel());
        let heads = if config.auxiliary { &HEADS[..] } else { &[] };
        let head = |&row: &usize| auxiliary_head(ROWS[row].1.output(), config, device);
        let module = |(_, row): &(&str, Inception)| InceptionModule::new(row, five, norm, device);
        let (features, classes) = (ROWS[ROWS.len() - 1].1.output(), config.num_classes);
        Self {
            stem: STEM.map(|conv| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            modules: ROWS.iter().map(module).collect(),
            auxiliary: heads.iter().map(head).collect(),
            classifier: Classifier::new(features, classes, config.dropout, device),
        }
    }

    /// [`Backbone::forward_features`]; `on_module` is called with the row and the output of every
    /// module.
    fn run_modules(
        &self,
        images: Tensor<4>,
        on_stride: OnStride<'_>,
        on_module: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem[0].forward(images); // [b, 64, h/2, w/2]
        on_stride(&x);
        let x = self.stem[1].forward(max_pool(x, POOL));
        let x = self.stem[2].forward(x); // [b, 192, h/4, w/4]
        on_stride(&x);
        let mut x = max_pool(x, POOL);
        for (i, (module, (name, _))) in self.modules.iter().zip(&ROWS).enumerate() {
            x = match *name {
                "4a" => {
                    on_stride(&x); // [b, 480, h/8, w/8]
                    max_pool(x, POOL)
                }
                "5a" => {
                    on_stride(&x); // [b, 832, h/16, w/16]
                    max_pool(x, LAST_POOL)
                }
                _ => x,
            };
            x = module.forward(x);
            on_module(i, &x);
        }
        on_stride(&x);
        x
    }
}

impl Backbone for GoogLeNet {
    /// `[b, 3, h, w]` to `[b, 1024, h/32, w/32]`.
    fn forward_features(&self, images: Tensor<4>, on_stride: OnStride<'_>) -> Tensor<4> {
        self.run_modules(images, on_stride, &mut |_, _| ())
    }

    fn forward_head(&self, pooled: Tensor<2>, dropout_seed: Option<&DropoutSeed>) -> Tensor<2> {
        self.classifier.forward(pooled, dropout_seed)
    }

    /// Module 4a's head is the first auxiliary one.
    fn forward_train(&self, images: Tensor<4>, dropout_seed: &DropoutSeed) -> TrainingOutputs {
        let mut maps = Vec::new();
        let mut keep = |row: usize, x: &Tensor<4>| {
            if HEADS.contains(&row) && !self.auxiliary.is_empty() {
                maps.push(x.clone());
            }
        };
        let x = self.run_modules(images, &mut |_| (), &mut keep);
        let heads = self.auxiliary.iter().zip(maps).enumerate();
        let heads = heads.map(|(i, (head, map))| {
            let pooled = adaptive_avg_pool2d(map, [HEAD_SIDE; 2]); // [b, 512 or 528, 4, 4]
            let logits = head.forward(pooled, &dropout_seed.of_layer(1 + i as u64));
            AuxiliaryLogits { weight: HEAD_WEIGHT, logits }
        });
        let auxiliary = heads.collect();
        TrainingOutputs { logits: self.forward_head(global_mean(x), Some(dropout_seed)), auxiliary }
    }
}
