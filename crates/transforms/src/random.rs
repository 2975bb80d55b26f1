//! Randomness without a state to save: every number is a function of (seed, epoch, index, purpose).
//!
//! A generator that is advanced from image to image would make the result depend on the number
//! of workers and would have to be stored in checkpoints. Here each use has a [`Counter`] of its
//! own, keyed by what it is for, so that a resumed run draws what the uninterrupted run would have
//! drawn. Neighbours: `loader` (order, augmentation), `fit` (dropout).
//!
//! Not for cryptography.

use kernels::random::{GOLDEN, mix, splitmix64};

/// Key of the order of an epoch, see [`permutation`].
const ORDER: u64 = 0x0D;

/// A short stream of random numbers that belongs to one (seed, epoch, index, purpose).
///
/// splitmix64 (Steele, Lea, Flood 2014) begun at a hash of the four numbers.
#[derive(Clone, Debug)]
pub struct Counter {
    state: u64,
}

impl Counter {
    /// The stream of these four numbers; equal numbers give equal streams on every machine.
    ///
    /// `purpose` keeps apart what is drawn for the same image for different reasons.
    #[must_use]
    pub fn new(seed: u64, epoch: u64, index: u64, purpose: u64) -> Self {
        let state = [epoch, index, purpose]
            .into_iter()
            // Turned, or a word would commute with the seed: (0, 1, ..) and (1, 0, ..) were equal.
            .fold(splitmix64(seed), |state, next| mix(state.rotate_left(23) ^ splitmix64(next)));
        Self { state }
    }

    /// The next 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform among 0, 1, .., `count` - 1. The bias is below `count` / 2^64.
    ///
    /// # Panics
    /// When `count` is 0.
    pub fn range(&mut self, count: usize) -> usize {
        assert!(count > 0, "a number below 0 was asked for: range needs count >= 1");
        ((u128::from(self.u64()) * count as u128) >> 64) as usize
    }

    /// Two independent normal numbers, mean 0, deviation 1 (Box and Muller 1958).
    pub fn normals(&mut self) -> [f64; 2] {
        // 1 - unit is never 0.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.unit()).sin_cos();
        [radius * cos, radius * sin]
    }

    /// A normal number, mean 0, deviation 1.
    pub fn normal(&mut self) -> f64 {
        self.normals()[0]
    }

    /// The logarithm of a number with the Gamma distribution of this shape and scale 1 (Marsaglia
    /// and Tsang 2000). The logarithm, because at small shapes the number itself is below what f64
    /// holds.
    fn ln_gamma(&mut self, shape: f64) -> f64 {
        // Below shape 1: the number of shape + 1 times the shape-th root of a uniform number.
        let root = if shape < 1.0 { (1.0 - self.unit()).ln() / shape } else { 0.0 };
        let d = if shape < 1.0 { shape + 1.0 } else { shape } - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v <= 0.0 {
                continue;
            }
            if (1.0 - self.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln() + root;
            }
        }
    }

    /// A number of the Beta distribution, in [0, 1].
    ///
    /// # Panics
    /// When a shape is not above 0.
    pub fn beta(&mut self, a: f64, b: f64) -> f64 {
        assert!(a > 0.0 && b > 0.0, "Beta({a}, {b}): both shapes are above 0");
        let (x, y) = (self.ln_gamma(a), self.ln_gamma(b));
        1.0 / (1.0 + (y - x).exp())
    }

    /// `count` numbers with the sum 1, of the Dirichlet distribution with all shapes `alpha`.
    ///
    /// # Panics
    /// When `alpha` is not above 0.
    pub fn dirichlet(&mut self, alpha: f64, count: usize) -> Vec<f64> {
        assert!(alpha > 0.0, "Dirichlet({alpha}): the shape is above 0");
        let logs: Vec<f64> = (0..count).map(|_| self.ln_gamma(alpha)).collect();
        let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let parts: Vec<f64> = logs.iter().map(|log| (log - max).exp()).collect();
        let sum: f64 = parts.iter().sum();
        parts.into_iter().map(|part| part / sum).collect()
    }

    /// Puts `items` into a random order, each order equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.range(last + 1));
        }
    }
}

/// The numbers 0, 1, .., `count` - 1 in the order of this epoch.
#[must_use]
pub fn permutation(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    Counter::new(seed, epoch, 0, ORDER).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::{Counter, permutation};

    /// The published first outputs of splitmix64 from state 1234567.
    #[test]
    fn the_stream_is_splitmix64() {
        let mut counter = Counter { state: 1_234_567 };
        let drawn: Vec<u64> = (0..3).map(|_| counter.u64()).collect();
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    /// Changing these changes what every stored checkpoint continues with.
    #[test]
    fn streams_and_orders_are_fixed_for_ever() {
        assert_eq!(Counter::new(0, 0, 0, 0).u64(), FIRST[0]);
        assert_eq!(Counter::new(42, 3, 7, 1).u64(), FIRST[1]);
        assert_eq!(permutation(10, 42, 0), ORDER_0);
        assert_eq!(permutation(10, 42, 1), ORDER_1);
    }

    const FIRST: [u64; 2] = [7_068_660_001_090_716_444, 15_778_207_746_137_218_907];
    const ORDER_0: [usize; 10] = [3, 5, 2, 6, 8, 4, 7, 0, 9, 1];
    const ORDER_1: [usize; 10] = [4, 8, 6, 1, 2, 9, 7, 5, 3, 0];

    #[test]
    fn every_key_matters_and_their_order_too() {
        let first = |a, b, c, d| Counter::new(a, b, c, d).u64();
        let mut seen = std::collections::HashSet::new();
        for word in 0..81_u64 {
            let [a, b, c, d] = [word % 3, word / 3 % 3, word / 9 % 3, word / 27];
            assert!(seen.insert(first(a, b, c, d)), "{a} {b} {c} {d} repeats another stream");
        }
    }

    #[test]
    fn ranges_are_even_and_inside() {
        let mut counter = Counter::new(1, 2, 3, 4);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[counter.range(7)] += 1;
            assert!((0.0..1.0).contains(&counter.unit()));
            assert!((0.25..0.5).contains(&counter.uniform(0.25, 0.5)));
        }
        // 10,000 expected, deviation 93: five of them.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 465), "{counts:?}");
    }

    /// Mean and variance of 40,000 draws.
    fn moments(mut draw: impl FnMut() -> f64) -> [f64; 2] {
        let drawn: Vec<f64> = (0..40_000).map(|_| draw()).collect();
        let mean = drawn.iter().sum::<f64>() / 40_000.0;
        let variance = drawn.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 40_000.0;
        [mean, variance]
    }

    /// Mutations caught: a radius without the factor 2, no root below shape 1, shape for `d`, the
    /// two Gammas of a Beta alike.
    #[test]
    fn normal_beta_and_dirichlet_have_their_moments() {
        let mut counter = Counter::new(5, 6, 7, 8);
        let [mean, variance] = moments(|| counter.normal());
        assert!(mean.abs() < 0.025 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        let fourth = moments(|| counter.normal().powi(4))[0];
        assert!((fourth - 3.0).abs() < 0.25, "{fourth}");
        for (a, b) in [(0.1, 0.1), (0.2, 0.2), (0.4, 0.8), (1.0, 1.0), (2.0, 5.0), (30.0, 30.0)] {
            let [mean, variance] = moments(|| counter.beta(a, b));
            let expected = a / (a + b);
            let spread = a * b / ((a + b) * (a + b) * (a + b + 1.0));
            // Five deviations of a mean of 40,000; the variance's own deviation is at most about a
            // half more.
            let slack = 5.0 * (spread / 40_000.0).sqrt();
            assert!((mean - expected).abs() < slack, "Beta({a}, {b}): mean {mean}");
            assert!((variance / spread - 1.0).abs() < 0.04, "Beta({a}, {b}): variance {variance}");
        }
        // Far below 1 everything is at 0 or 1, and still a number.
        for _ in 0..1000 {
            assert!((0.0..=1.0).contains(&counter.beta(1e-3, 1e-3)));
        }
        // A component of Dirichlet(1, 1, 1) is a Beta(1, 2): mean 1/3, variance 1/18.
        let [mean, variance] = moments(|| counter.dirichlet(1.0, 3)[1]);
        assert!((mean - 1.0 / 3.0).abs() < 0.006, "{mean}");
        assert!((variance * 18.0 - 1.0).abs() < 0.04, "{variance}");
        let parts = counter.dirichlet(0.3, 5);
        assert!((parts.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{parts:?}");
    }

    #[test]
    fn an_order_holds_every_number_once() {
        for count in [0, 1, 2, 1000] {
            let mut order = permutation(count, 5, 9);
            order.sort_unstable();
            assert_eq!(order, (0..count).collect::<Vec<_>>());
        }
    }
}
