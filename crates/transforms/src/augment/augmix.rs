//! AugMix: chains of operations on an image, mixed with one another and with the image.

use crate::augment::canvas::Canvas;
use crate::augment::colour::blend_over;
use crate::augment::policy::Timm;
use crate::augment::timm;
use crate::random::Counter;

/// timm's AugMix (Hendrycks et al., arXiv:1912.02781): chains of operations, mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugMix {
    /// Severity.
    pub magnitude: u32,
    /// Chains.
    pub width: usize,
    /// Operations of a chain; none: 1, 2 or 3.
    pub depth: Option<usize>,
    /// Of the Dirichlet and the Beta distribution.
    pub alpha: f64,
    /// Whether the chains are blended into the image one after another.
    pub blended: bool,
    /// Deviation of the magnitude; infinite: uniform from 0 to the magnitude.
    pub deviation: f64,
}

impl AugMix {
    pub(crate) fn apply(&self, canvas: &mut Canvas, timm: &Timm, random: &mut Counter) {
        let weights = random.dirichlet(self.alpha, self.width);
        let share = random.beta(self.alpha, self.alpha) as f32;
        let magnitude = f64::from(self.magnitude);
        let original = canvas.clone();
        let mut chain = || {
            let mut chain = original.clone();
            let depth = self.depth.unwrap_or_else(|| 1 + random.range(3));
            for _ in 0..depth {
                let name = timm::AUGMIX[random.range(timm::AUGMIX.len())];
                timm.step(&mut chain, name, 1.0, magnitude, random);
            }
            chain
        };
        let weights: Vec<f32> = weights.into_iter().map(|weight| weight as f32).collect();
        let chains = weights.iter().map(|_| chain()).collect::<Vec<_>>();
        if self.blended {
            blend_in_turn(canvas, &chains, &weights, share);
        } else {
            mix(canvas, &chains, &weights, share);
        }
    }
}

/// `blend(image, sum of weighted chains, share)`, the sum in f32 and cut to bytes, as timm does it.
pub fn mix(canvas: &mut Canvas, chains: &[Canvas], weights: &[f32], share: f32) {
    let mut sums = vec![0.0_f32; canvas.pixels().len()];
    for (chain, weight) in chains.iter().zip(weights) {
        for (sum, &byte) in sums.iter_mut().zip(chain.pixels()) {
            *sum += weight * f32::from(byte);
        }
    }
    canvas.redraw(|from, to| {
        let mut mixed = Canvas::new(sums.iter().map(|&sum| sum as u8).collect(), 1, sums.len() / 3);
        blend_over(from, &mut mixed, share);
        to.copy_from_slice(mixed.pixels());
    });
}

/// timm's `b1`: every chain blended into what there is, by shares that come to the same weights.
pub fn blend_in_turn(canvas: &mut Canvas, chains: &[Canvas], weights: &[f32], share: f32) {
    let mut left = 1.0_f32;
    let shares: Vec<f32> = weights
        .iter()
        .rev()
        .map(|weight| {
            let alpha = weight * share / left;
            left *= 1.0 - alpha;
            alpha
        })
        .collect();
    for (chain, &share) in chains.iter().zip(shares.iter().rev()) {
        canvas.redraw(|from, to| {
            let mut chain = chain.clone();
            blend_over(from, &mut chain, share);
            to.copy_from_slice(chain.pixels());
        });
    }
}

/// The image by its share and every chain by its weight, summed in f32 in this order and cut to bytes, as torchvision
/// does it.
pub fn mix_in(canvas: &mut Canvas, own: f32, chains: &[Canvas], weights: &[f32]) {
    canvas.redraw(|from, to| {
        let mut sums: Vec<f32> = from.iter().map(|&byte| own * f32::from(byte)).collect();
        for (chain, weight) in chains.iter().zip(weights) {
            for (sum, &byte) in sums.iter_mut().zip(chain.pixels()) {
                *sum += weight * f32::from(byte);
            }
        }
        to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as u8);
    });
}
