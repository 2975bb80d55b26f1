//! How far an accuracy on few images can be trusted.

/// The 95 % quantile of both sides of the normal distribution.
const Z: f64 = 1.959_964;

/// The 95 % interval of a share of which `correct` of `images` were seen, by Wilson's score: unlike
/// p ± z·sqrt(p(1-p)/n) it holds for few images and for shares near 0 and 1.
///
/// Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
pub fn wilson(correct: u64, images: u64) -> (f64, f64) {
    if images == 0 {
        return (0.0, 1.0);
    }
    let (n, z2) = (images as f64, Z * Z);
    let p = correct as f64 / n;
    let middle = p + z2 / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    let low = ((middle - reach) / (1.0 + z2 / n)).max(0.0);
    let high = ((middle + reach) / (1.0 + z2 / n)).min(1.0);
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::wilson;

    /// Values of scipy 1.17 (binomtest, proportion_ci, method="wilson").
    ///
    /// Mutations caught: the second term of the square root left out.
    #[test]
    fn the_interval_is_scipys() {
        for (correct, images, low, high) in [
            (396, 500, 0.754_264, 0.825_284),
            (500, 500, 0.992_376, 1.0),
            (0, 50, 0.0, 0.071_348),
            (9374, 10_000, 0.932_482, 0.941_982),
            (37_637, 50_000, 0.748_939, 0.756_502),
        ] {
            let got = wilson(correct, images);
            let off = (got.0 - low).abs().max((got.1 - high).abs());
            assert!(off < 1e-6, "{correct} of {images}: {got:?}");
        }
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}
