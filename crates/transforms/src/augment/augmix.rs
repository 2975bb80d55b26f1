//! AugMix: chains of operations on an image, mixed with one another and with the image.

use crate::augment::canvas::Canvas;
use crate::augment::colour::blend_over;
use crate::augment::magnitude::TimmParams;
use crate::augment::timm;
use crate::random::Counter;

/// timm's AugMix (Hendrycks et al., arXiv:1912.02781): chains of operations, mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugMix {
    /// Severity.
    pub magnitude: u32,
    /// Number of chains.
    pub width: usize,
    /// Operations of a chain; none means 1, 2 or 3 by chance.
    pub depth: Option<usize>,
    /// Shape of the Dirichlet and the Beta distribution.
    pub alpha: f64,
    /// Whether the chains are blended into the image one by one instead of being summed first.
    pub blended: bool,
    /// Standard deviation of the magnitude; infinite means uniform from 0 to the magnitude.
    pub deviation: f64,
}

impl AugMix {
    pub(crate) fn apply(&self, canvas: &mut Canvas, params: &TimmParams, random: &mut Counter) {
        let weights = random.dirichlet(self.alpha, self.width);
        let share = random.beta(self.alpha, self.alpha) as f32;
        let magnitude = f64::from(self.magnitude);
        let original = canvas.clone();
        let mut chain = || {
            let mut chain = original.clone();
            let depth = self.depth.unwrap_or_else(|| 1 + random.range(3));
            for _ in 0..depth {
                let name = timm::AUGMIX[random.range(timm::AUGMIX.len())];
                params.apply(&mut chain, name, 1.0, magnitude, random);
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

/// Blends the weighted sum of the chains into the image by `share`, as timm does: the sum in f32,
/// truncated to bytes.
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

/// timm's `b1`: blends one chain after another into the image, by shares that give each chain its
/// weight.
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

/// Sums the image by its share `own` and every chain by its weight, in f32 in this order, and
/// truncates to bytes, as torchvision does.
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
