//! GoogLeNet (Szegedy et al., arXiv:1409.4842): nine Inception modules, 22 layers, two auxiliary heads.
//!
//! Departures from the paper, as in torchvision: batch norm after every convolution and no local
//! response normalisation; the fourth pooling is 2x2; an auxiliary head pools to 4x4 by regions and
//! drops 0.7; the third branch's kernel is 3x3 where torchvision's weights are used and 5x5 (the
//! paper's) by default when training begins anew (`NetworkConfig::three_for_five`).

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::activation::relu;
use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Device, Tensor};

use crate::activation::Activation::{Linear as Plain, Relu};
use crate::block::conv_norm_activation::ConvNormActivation;
use crate::block::convolution::Conv;
use crate::block::dropout::drop_out;
use crate::block::inception::{Inception, InceptionModule};
use crate::block::linear::through;
use crate::block::pooling::{Pool, global_mean};
use crate::layer_spec::{Init, LayerListBuilder, LayerSpec, LinearSpec, pair};
use crate::network::{Auxiliary, NetworkConfig};

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

/// Pooling before the second convolution, module 3a, module 4a and module 5a.
const POOL: Pool = Pool::new(3, 2).ceil();
const LAST_POOL: Pool = Pool::new(2, 2).ceil();

/// Dropout of the auxiliary heads; the paper has the same 70 %.
const AUXILIARY_DROPOUT: f64 = 0.7;
/// Weight of each auxiliary loss (the paper's section 5).
const AUXILIARY_WEIGHT: f64 = 0.3;
/// Channels of an auxiliary head's convolution and of its hidden layer.
const AUXILIARY: [usize; 2] = [128, 1024];
const DEVIATION: Init = Init::Normal { deviation: 0.01 };

/// Row after which an auxiliary head is attached: 4a and 4d.
const HEADS: [usize; 2] = [2, 5];

/// The layers for images of `size`, under torchvision's names.
pub(crate) fn layers(config: &NetworkConfig, size: [usize; 2]) -> Vec<LayerSpec> {
    let mut draft = LayerListBuilder::new(size[0], size[1], DEVIATION);
    draft.conv_norm(&pair("conv1", "conv", "bn"), STEM[0], Relu);
    draft.max_pool("maxpool1", POOL);
    draft.conv_norm(&pair("conv2", "conv", "bn"), STEM[1], Relu);
    draft.conv_norm(&pair("conv3", "conv", "bn"), STEM[2], Relu);
    draft.max_pool("maxpool2", POOL);
    let mut heads = Vec::new();
    for (i, (name, row)) in ROWS.iter().enumerate() {
        match *name {
            "4a" => draft.max_pool("maxpool3", POOL),
            "5a" => draft.max_pool("maxpool4", LAST_POOL),
            _ => {}
        }
        row.draw(&mut draft, &format!("inception{name}"), config.five());
        if HEADS.contains(&i) {
            heads.push(draft.at());
        }
    }
    // torchvision holds the heads after the trunk and before the classifier.
    if config.auxiliary {
        for (number, at) in heads.into_iter().enumerate() {
            draft.auxiliary(&mut |d| {
                let name = format!("aux{}", number + 1);
                d.stand_at(at);
                d.adaptive_mean(&format!("{name}.pool"), 4);
                let conv = Conv::pointwise(at[0], AUXILIARY[0]);
                d.conv_norm(&pair(&format!("{name}.conv"), "conv", "bn"), conv, Relu);
                line(d, &format!("{name}.fc1"), AUXILIARY[1], Relu);
                line(d, &format!("{name}.fc2"), config.num_classes, Plain);
            });
        }
    }
    draft.adaptive_mean("avgpool", 1);
    line(&mut draft, "fc", config.num_classes, Plain);
    draft.finish()
}

fn line(
    draft: &mut LayerListBuilder,
    name: &str,
    output: usize,
    activation: crate::activation::Activation,
) {
    let input: usize = draft.at().iter().product();
    let bias = Init::Uniform { bound: 1.0 / (input as f64).sqrt() };
    draft.linear(LinearSpec {
        name,
        output,
        activation,
        weights: DEVIATION,
        bias,
        pointwise: false,
    });
}

/// A classifier beside the trunk, for training.
#[derive(Module, Debug)]
struct AuxiliaryHead {
    conv: ConvNormActivation,
    hidden: Linear,
    classifier: Linear,
    dropout: f64,
}

impl AuxiliaryHead {
    fn new(input: usize, config: &NetworkConfig, device: &Device) -> Self {
        let (classes, norm) = (config.num_classes, config.norm());
        Self {
            // Whoever wants no dropout wants none in the heads.
            dropout: if config.dropout > 0.0 { AUXILIARY_DROPOUT } else { 0.0 },
            conv: ConvNormActivation::new(Conv::pointwise(input, AUXILIARY[0]), norm, Relu, device),
            hidden: linear(16 * AUXILIARY[0], AUXILIARY[1], device),
            classifier: linear(AUXILIARY[1], classes, device),
        }
    }

    fn forward(&self, x: Tensor<4>, seed: u64) -> Tensor<2> {
        let x = self.conv.forward(adaptive_avg_pool2d(x, [4, 4])); // [b, 128, 4, 4]
        let x = relu(self.hidden.forward(x.flatten::<2>(1, 3))); // [b, 1024]
        self.classifier.forward(drop_out(x, self.dropout, seed))
    }
}

fn linear(input: usize, output: usize, device: &Device) -> Linear {
    LinearConfig::new(input, output).with_initializer(Initializer::Zeros).init(device)
}

/// GoogLeNet; fields in torchvision's order.
#[derive(Module, Debug)]
pub struct GoogLeNet {
    stem: Vec<ConvNormActivation>,
    modules: Vec<InceptionModule>,
    auxiliary: Vec<AuxiliaryHead>,
    classifier: Linear,
    dropout: f64,
}

impl GoogLeNet {
    /// Builds the network; weights are zero until [`crate::init::fill`].
    pub fn new(config: &NetworkConfig, device: &Device) -> Self {
        let norm = config.norm();
        let heads = if config.auxiliary { &HEADS[..] } else { &[] };
        let head = |&row: &usize| AuxiliaryHead::new(ROWS[row].1.output(), config, device);
        let module =
            |(_, row): &(&str, Inception)| InceptionModule::new(row, config.five(), norm, device);
        let features = ROWS[ROWS.len() - 1].1.output();
        Self {
            stem: STEM.map(|conv| ConvNormActivation::new(conv, norm, Relu, device)).into(),
            modules: ROWS.iter().map(module).collect(),
            auxiliary: heads.iter().map(head).collect(),
            classifier: linear(features, config.num_classes, device),
            dropout: config.dropout,
        }
    }

    /// `[b, 3, h, w]` to `[b, 1024, h/32, w/32]`; `tap` is shown the last map of every stride, `inside`
    /// the output of every module.
    pub(crate) fn trunk(
        &self,
        images: Tensor<4>,
        tap: &mut dyn FnMut(&Tensor<4>),
        inside: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Tensor<4> {
        let x = self.stem[0].forward(images); // [b, 64, h/2, w/2]
        tap(&x);
        let x = self.stem[1].forward(POOL.max(x));
        let x = self.stem[2].forward(x); // [b, 192, h/4, w/4]
        tap(&x);
        let mut x = POOL.max(x);
        for (i, (module, (name, _))) in self.modules.iter().zip(&ROWS).enumerate() {
            x = match *name {
                "4a" => {
                    tap(&x); // [b, 480, h/8, w/8]
                    POOL.max(x)
                }
                "5a" => {
                    tap(&x); // [b, 832, h/16, w/16]
                    LAST_POOL.max(x)
                }
                _ => x,
            };
            x = module.forward(x);
            inside(i, &x);
        }
        tap(&x);
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

    /// Logits and those of the auxiliary heads, 4a's first.
    pub(crate) fn forward_train(&self, x: Tensor<4>, seed: u64) -> (Tensor<2>, Vec<Auxiliary>) {
        let mut maps = Vec::new();
        let mut keep = |row: usize, x: &Tensor<4>| {
            if HEADS.contains(&row) && !self.auxiliary.is_empty() {
                maps.push(x.clone());
            }
        };
        let x = self.trunk(x, &mut |_| (), &mut keep);
        let heads = self.auxiliary.iter().zip(maps).enumerate().map(|(i, (head, map))| Auxiliary {
            weight: AUXILIARY_WEIGHT,
            logits: head.forward(map, seed.wrapping_add(1 + i as u64)),
        });
        let heads = heads.collect();
        (self.head(global_mean(x), Some(seed)), heads)
    }
}
