//! Automatic augmentation: timm's and torchvision's policies with their numbers, and how they
//! augment an image. `grammar` reads and writes them as text, `magnitude` draws the strength of an
//! operation.

use serde::{Deserialize, Serialize};

use crate::augment::augmix::{AugMix, mix_in};
use crate::augment::canvas::Canvas;
use crate::augment::magnitude::{Filter, TimmParams, TorchvisionParams};
use crate::augment::timm::{TimmName, TimmStep};
use crate::augment::torchvision::TorchvisionStep;
use crate::augment::{timm, torchvision};
use crate::random::Counter;

/// A policy and its numbers. It is serialised as the text that [`Policy`] parses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// timm's AutoAugment.
    Auto {
        /// The table of operations.
        table: AutoAugmentTable,
        /// Standard deviation of the magnitudes.
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
    /// torchvision's TrivialAugmentWide: one operation of any magnitude.
    TrivialWide,
    /// torchvision's AugMix: three chains of one to three operations, mixed with one another and
    /// with the image, all shares equally likely (arXiv:1912.02781).
    Mixed {
        /// Number of bins to draw from, of ten, from the weakest on.
        severity: usize,
    },
}

/// The tables of timm's AutoAugment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the tables stand in `timm`")]
pub enum AutoAugmentTable {
    Original,
    OriginalResearch,
    V0,
    V0Research,
    Three,
}

/// The data set on which a policy of torchvision was searched.
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
    /// Magnitude, 0 to `max`.
    pub magnitude: u32,
    /// Operations on an image.
    pub count: usize,
    /// Probability of each operation.
    pub probability: f64,
    /// Standard deviation of the magnitude; infinite means uniform from 0 to the magnitude.
    pub deviation: f64,
    /// Largest magnitude after the draw.
    pub max: u32,
    /// Whether every operation grows stronger with the magnitude.
    pub increasing: bool,
    /// The set of operations to choose from.
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

impl Policy {
    /// Whether colour jitter stays on beside the policy, as in timm.
    #[must_use]
    pub fn keeps_jitter(&self) -> bool {
        match self {
            Policy::Auto { table, .. } => *table == AutoAugmentTable::Three,
            Policy::Rand(rand) => matches!(rand.choice, Choice::Three | Choice::ThreeWeighted),
            _ => false,
        }
    }

    /// Augments an image. Pixels from outside of it get the colour `mean` in timm's policies and
    /// black in torchvision's.
    pub fn apply(&self, canvas: &mut Canvas, filter: Filter, mean: [u8; 3], random: &mut Counter) {
        let size = [canvas.height(), canvas.width()];
        let timm = |deviation, max: u32, translate| TimmParams {
            deviation,
            max: f64::from(max),
            translate,
            size,
            filter,
            fill: mean,
        };
        let torchvision = |space| TorchvisionParams { space, size, filter };
        match *self {
            Policy::Auto { table, deviation } => {
                let mut lines = table.lines();
                let line = lines.swap_remove(random.range(lines.len()));
                for (name, probability, magnitude) in line {
                    let params = timm(deviation, 10, 0.45);
                    params.apply(canvas, name, probability, magnitude, random);
                }
            }
            Policy::Rand(rand) => {
                let params = timm(rand.deviation, rand.max, 0.45);
                let magnitude = f64::from(rand.magnitude);
                for name in rand.draw(random) {
                    params.apply(canvas, name, rand.probability, magnitude, random);
                }
            }
            Policy::AugMix(augmix) => {
                augmix.apply(canvas, &timm(augmix.deviation, 10, 0.3), random);
            }
            Policy::Learned(dataset) => {
                for (name, probability, bin) in dataset.table()[random.range(25)] {
                    if random.unit() < probability {
                        torchvision(torchvision::AUTO).apply(canvas, name, bin, random);
                    }
                }
            }
            Policy::Ra { magnitude, count } => {
                for _ in 0..count {
                    let name = torchvision::CHOICES[random.range(torchvision::CHOICES.len())];
                    torchvision(torchvision::RAND).apply(canvas, name, magnitude, random);
                }
            }
            Policy::TrivialWide => {
                let params = torchvision(torchvision::WIDE);
                let name = torchvision::CHOICES[random.range(torchvision::CHOICES.len())];
                params.apply_any_bin(canvas, name, params.space.bins, random);
            }
            Policy::Mixed { severity } => {
                augmix_of_torchvision(canvas, severity, &torchvision(torchvision::MIX), random);
            }
        }
    }
}

/// Chains of torchvision's AugMix.
const CHAINS: usize = 3;

/// torchvision's AugMix: three chains of one to three operations, mixed with the image.
fn augmix_of_torchvision(
    canvas: &mut Canvas,
    severity: usize,
    params: &TorchvisionParams,
    random: &mut Counter,
) {
    let shares = random.dirichlet(1.0, 2);
    let [own, share] = [0, 1].map(|number: usize| shares[number] as f32);
    let weights: Vec<f32> =
        random.dirichlet(1.0, CHAINS).into_iter().map(|weight| weight as f32 * share).collect();
    let original = canvas.clone();
    let chains: Vec<Canvas> = (0..CHAINS)
        .map(|_| {
            let mut chain = original.clone();
            for _ in 0..=random.range(3) {
                let choices = torchvision::MIX_CHOICES;
                let name = choices[random.range(choices.len())];
                params.apply_any_bin(&mut chain, name, severity, random);
            }
            chain
        })
        .collect();
    mix_in(canvas, own, &chains, &weights);
}

impl AutoAugmentTable {
    /// The lines of the table: each the operations of one image, one after another.
    #[must_use]
    pub fn lines(self) -> Vec<Vec<TimmStep>> {
        let lines = |table: &[[TimmStep; 2]]| table.iter().map(|line| line.to_vec()).collect();
        match self {
            AutoAugmentTable::Original | AutoAugmentTable::OriginalResearch => {
                self.research(lines(&timm::ORIGINAL))
            }
            AutoAugmentTable::V0 | AutoAugmentTable::V0Research => self.research(lines(&timm::V0)),
            AutoAugmentTable::Three => timm::THREE.iter().map(|line| line.to_vec()).collect(),
        }
    }

    /// Replaces posterize by that of the research code, in the two tables that have it.
    fn research(self, mut lines: Vec<Vec<TimmStep>>) -> Vec<Vec<TimmStep>> {
        if matches!(self, AutoAugmentTable::OriginalResearch | AutoAugmentTable::V0Research) {
            for step in lines.iter_mut().flatten() {
                if matches!(step.0, TimmName::PosterizeOriginal | TimmName::Posterize) {
                    step.0 = TimmName::PosterizeIncreasing;
                }
            }
        }
        lines
    }
}

impl Dataset {
    /// The table of torchvision's policy.
    #[must_use]
    pub fn table(self) -> &'static [[TorchvisionStep; 2]; 25] {
        match self {
            Dataset::ImageNet => &torchvision::IMAGENET,
            Dataset::Cifar10 => &torchvision::CIFAR10,
            Dataset::Svhn => &torchvision::SVHN,
        }
    }
}

impl Rand {
    /// Draws the operations of one image: independently, or without repetition where they have
    /// weights (as numpy's `choice`).
    pub fn draw(&self, random: &mut Counter) -> Vec<TimmName> {
        let even = |names: &[TimmName], random: &mut Counter| {
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

/// Draws `count` different names, each by the weights of the names that are left.
fn weighted(names: &[(TimmName, f64)], count: usize, random: &mut Counter) -> Vec<TimmName> {
    let mut left = names.to_vec();
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count && !left.is_empty() {
        let mut rest = random.unit() * left.iter().map(|(_, weight)| weight).sum::<f64>();
        let index = left.iter().position(|(_, weight)| {
            rest -= weight;
            rest < 0.0
        });
        drawn.push(left.remove(index.unwrap_or(left.len() - 1)).0);
    }
    drawn
}
