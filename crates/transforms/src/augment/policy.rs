//! Automatic augmentation: timm's and torchvision's policies with their numbers, and what they do to an image.
//! How they are written stands in `grammar`.

use serde::{Deserialize, Serialize};

use crate::augment::affine::Resample;
use crate::augment::augmix::{AugMix, mix_in};
use crate::augment::canvas::Canvas;
use crate::augment::operation::Operation;
use crate::augment::{timm, torchvision};
use crate::preprocess::Interpolation;
use crate::random::Counter;

/// A policy and its numbers. Written as the words that [`Policy`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// timm's AutoAugment.
    Auto {
        /// The table.
        table: Table,
        /// Deviation of the magnitudes.
        deviation: f64,
    },
    /// timm's RandAugment.
    Rand(Rand),
    /// timm's AugMix.
    AugMix(AugMix),
    /// torchvision's AutoAugment.
    Learned(Dataset),
    /// torchvision's RandAugment.
    Ra {
        /// Bin of 31.
        magnitude: usize,
        /// Operations on an image.
        count: usize,
    },
    /// torchvision's TrivialAugmentWide: one operation of any strength.
    TrivialWide,
    /// torchvision's AugMix: three chains of one to three operations, mixed with one another and with the image, all
    /// shares alike probable (arXiv:1912.02781).
    Mixed {
        /// Bins of ten that the operations have, from the weakest on.
        severity: usize,
    },
}

/// A table of timm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the tables stand in `timm`")]
pub enum Table {
    Original,
    OriginalResearch,
    V0,
    V0Research,
    Three,
}

/// What a policy of torchvision was searched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "names of data sets")]
pub enum Dataset {
    ImageNet,
    Cifar10,
    Svhn,
}

/// timm's RandAugment: some operations, each done with a probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rand {
    /// 0 to `most`.
    pub magnitude: u32,
    /// Operations on an image.
    pub count: usize,
    /// Probability of each.
    pub probability: f64,
    /// Deviation of the magnitude; infinite: uniform from 0 to the magnitude.
    pub deviation: f64,
    /// Greatest magnitude after the draw.
    pub most: u32,
    /// Whether everything grows stronger with the magnitude.
    pub increasing: bool,
    /// What is chosen among.
    pub choice: Choice,
}

/// timm's sets of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the sets stand in `timm`")]
pub enum Choice {
    All,
    Weighted,
    Three,
    ThreeWeighted,
}

/// The filter of affine operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Always this.
    Fixed(Interpolation),
    /// Bilinear or bicubic, by chance.
    Random,
}

impl Filter {
    /// A filter; draws where it is random.
    pub fn draw(self, random: &mut Counter) -> Interpolation {
        match self {
            Filter::Fixed(filter) => filter,
            Filter::Random => [Interpolation::Bilinear, Interpolation::Bicubic][random.range(2)],
        }
    }
}

impl Policy {
    /// Whether colour jitter stays on beside it, as timm has it.
    #[must_use]
    pub fn keeps_jitter(&self) -> bool {
        match self {
            Policy::Auto { table, .. } => *table == Table::Three,
            Policy::Rand(rand) => matches!(rand.choice, Choice::Three | Choice::ThreeWeighted),
            _ => false,
        }
    }

    /// Augments an image. `mean` is what timm's policies put outside of it; torchvision's put black.
    pub fn apply(&self, canvas: &mut Canvas, filter: Filter, mean: [u8; 3], random: &mut Counter) {
        let size = [canvas.height(), canvas.width()];
        let timm = |deviation, most: u32, translate| Timm {
            deviation,
            most: f64::from(most),
            translate,
            size,
            filter,
            fill: mean,
        };
        let torchvision = |canvas: &mut Canvas, operation: Operation, random: &mut Counter| {
            let look = Resample { filter: filter.draw(random), fill: [0; 3] };
            operation.apply(canvas, look);
        };
        match *self {
            Policy::Auto { table, deviation } => {
                let timm = timm(deviation, 10, 0.45);
                let mut lines = table.lines();
                let line = lines.swap_remove(random.range(lines.len()));
                for (name, probability, magnitude) in line {
                    timm.step(canvas, name, probability, magnitude, random);
                }
            }
            Policy::Rand(rand) => {
                let timm = timm(rand.deviation, rand.most, 0.45);
                let magnitude = f64::from(rand.magnitude);
                for name in rand.draw(random) {
                    timm.step(canvas, name, rand.probability, magnitude, random);
                }
            }
            Policy::AugMix(augmix) => {
                augmix.apply(canvas, &timm(augmix.deviation, 10, 0.3), random);
            }
            Policy::Learned(dataset) => {
                for (name, probability, bin) in dataset.table()[random.range(25)] {
                    if random.unit() < probability {
                        let operation =
                            name.at(signed(name, &torchvision::AUTO, bin, size, random));
                        torchvision(canvas, operation, random);
                    }
                }
            }
            Policy::Ra { magnitude, count } => {
                for _ in 0..count {
                    let name = torchvision::CHOICES[random.range(torchvision::CHOICES.len())];
                    let operation =
                        name.at(signed(name, &torchvision::RAND, magnitude, size, random));
                    torchvision(canvas, operation, random);
                }
            }
            Policy::TrivialWide => {
                let space = torchvision::WIDE;
                let name = torchvision::CHOICES[random.range(torchvision::CHOICES.len())];
                let bin = if name.graded() { random.range(space.bins) } else { 0 };
                let operation = name.at(signed(name, &space, bin, size, random));
                torchvision(canvas, operation, random);
            }
            Policy::Mixed { severity } => {
                let [own, share] = [0, 1].map({
                    let shares = random.dirichlet(1.0, 2);
                    move |number: usize| shares[number] as f32
                });
                let weights: Vec<f32> = random
                    .dirichlet(1.0, CHAINS)
                    .into_iter()
                    .map(|weight| weight as f32 * share)
                    .collect();
                let original = canvas.clone();
                let chains: Vec<Canvas> = (0..CHAINS)
                    .map(|_| {
                        let mut chain = original.clone();
                        for _ in 0..=random.range(3) {
                            let choices = torchvision::MIX_CHOICES;
                            let name = choices[random.range(choices.len())];
                            let bin = if name.graded() { random.range(severity) } else { 0 };
                            let magnitude = signed(name, &torchvision::MIX, bin, size, random);
                            torchvision(&mut chain, name.at(magnitude), random);
                        }
                        chain
                    })
                    .collect();
                mix_in(canvas, own, &chains, &weights);
            }
        }
    }
}

/// Chains of torchvision's AugMix.
const CHAINS: usize = 3;

/// torchvision's magnitude with a random sign where there is one.
fn signed(
    name: torchvision::Name,
    space: &torchvision::Space,
    bin: usize,
    size: [usize; 2],
    random: &mut Counter,
) -> f64 {
    let magnitude = name.magnitude(space, bin, size);
    if name.signed() && random.range(2) == 1 { -magnitude } else { magnitude }
}

/// How timm carries a step out.
pub(crate) struct Timm {
    deviation: f64,
    most: f64,
    translate: f64,
    size: [usize; 2],
    filter: Filter,
    fill: [u8; 3],
}

impl Timm {
    /// Does an operation with its probability, at a magnitude with noise.
    pub(crate) fn step(
        &self,
        canvas: &mut Canvas,
        name: timm::Name,
        probability: f64,
        magnitude: f64,
        random: &mut Counter,
    ) {
        if probability < 1.0 && random.unit() >= probability {
            return;
        }
        let magnitude = drawn_magnitude(magnitude, self.deviation, self.most, random);
        let operation = name.at(magnitude, self.size, self.translate, random);
        operation.apply(canvas, Resample { filter: self.filter.draw(random), fill: self.fill });
    }
}

/// timm's noise on a magnitude: normal, or uniform below it where the deviation is infinite; cut to [0, most].
pub fn drawn_magnitude(magnitude: f64, deviation: f64, most: f64, random: &mut Counter) -> f64 {
    let drawn = if deviation == f64::INFINITY {
        random.uniform(0.0, magnitude)
    } else if deviation > 0.0 {
        magnitude + deviation * random.normal()
    } else {
        magnitude
    };
    drawn.clamp(0.0, most)
}

impl Table {
    /// Its lines: the operations of an image, one after another.
    #[must_use]
    pub fn lines(self) -> Vec<Vec<timm::Step>> {
        let lines = |table: &[[timm::Step; 2]]| table.iter().map(|line| line.to_vec()).collect();
        match self {
            Table::Original | Table::OriginalResearch => self.research(lines(&timm::ORIGINAL)),
            Table::V0 | Table::V0Research => self.research(lines(&timm::V0)),
            Table::Three => timm::THREE.iter().map(|line| line.to_vec()).collect(),
        }
    }

    /// The same with the posterize of the research code, in the two tables that have it.
    fn research(self, mut lines: Vec<Vec<timm::Step>>) -> Vec<Vec<timm::Step>> {
        if matches!(self, Table::OriginalResearch | Table::V0Research) {
            for step in lines.iter_mut().flatten() {
                if matches!(step.0, timm::Name::PosterizeOriginal | timm::Name::Posterize) {
                    step.0 = timm::Name::PosterizeIncreasing;
                }
            }
        }
        lines
    }
}

impl Dataset {
    /// torchvision's table.
    #[must_use]
    pub fn table(self) -> &'static [[torchvision::Step; 2]; 25] {
        match self {
            Dataset::ImageNet => &torchvision::IMAGENET,
            Dataset::Cifar10 => &torchvision::CIFAR10,
            Dataset::Svhn => &torchvision::SVHN,
        }
    }
}

impl Rand {
    /// Names for one image: independent, or without repetition where they have weights (as numpy's `choice`).
    pub fn draw(&self, random: &mut Counter) -> Vec<timm::Name> {
        let even = |names: &[timm::Name], random: &mut Counter| {
            (0..self.count).map(|_| names[random.range(names.len())]).collect()
        };
        match self.choice {
            Choice::All if self.increasing => even(&timm::RAND_INCREASING, random),
            Choice::All => even(&timm::RAND, random),
            Choice::Three => even(&timm::RAND_THREE, random),
            Choice::Weighted => weighted(&timm::RAND_WEIGHTED, self.count, random),
            Choice::ThreeWeighted => weighted(&timm::RAND_THREE_WEIGHTED, self.count, random),
        }
    }
}

/// `count` different names, each draw by the weights of what is left.
fn weighted(names: &[(timm::Name, f64)], count: usize, random: &mut Counter) -> Vec<timm::Name> {
    let mut left = names.to_vec();
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count && !left.is_empty() {
        let mut at = random.unit() * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let index = left.iter().position(|(_, weight)| {
            at -= weight;
            at < 0.0
        });
        drawn.push(left.remove(index.unwrap_or(left.len() - 1)).0);
    }
    drawn
}
