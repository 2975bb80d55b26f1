//! Numbers of an evaluation that its accuracy does not tell: precision, recall and F1 of each
//! class, calibration.

use crate::learner::evaluate::ClassRow;
use crate::plot::calibration::Bin;
use crate::report::predictions::Prediction;

/// Bins of the calibration (Guo et al., On Calibration of Modern Neural Networks, 2017).
pub(super) const BINS: usize = 15;

/// Precision, recall and F1 of a class, 0 where nothing defines them (scikit-learn's
/// `zero_division=0`).
pub(super) fn scores(row: &ClassRow) -> [f64; 3] {
    let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
    let (precision, recall) = (share(row.correct, row.predicted), share(row.correct, row.images));
    let sum = precision + recall;
    [precision, recall, if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 }]
}

/// The bins of top-1 confidence, and the expected calibration error: the mean of |accuracy -
/// confidence| over the bins, weighted by images.
pub(crate) fn calibration(predictions: &[Prediction]) -> (Vec<Bin>, f64) {
    let mut sums = [(0_u64, 0_u64, 0.0_f64); BINS];
    for prediction in predictions {
        let confidence = f64::from(prediction.probability);
        // Bins (a, b] as in the paper; 0 is in the first.
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        sums[bin].0 += 1;
        sums[bin].1 += u64::from(prediction.guess == prediction.label);
        sums[bin].2 += confidence;
    }
    let bins: Vec<Bin> = sums
        .iter()
        .map(|&(images, right, confidence)| {
            let all = images.max(1) as f64;
            Bin { images, accuracy: right as f64 / all, confidence: confidence / all }
        })
        .collect();
    let all = predictions.len().max(1) as f64;
    let error = bins.iter().map(|b| b.images as f64 / all * (b.accuracy - b.confidence).abs());
    let error = error.sum();
    (bins, error)
}

/// The exact two-sided p-value of McNemar's test: `b` images are right in one run alone, `c` in the
/// other alone.
pub(crate) fn mcnemar(b: u64, c: u64) -> f64 {
    let (n, k) = (b + c, b.min(c));
    if n == 0 {
        return 1.0;
    }
    // The sum of binomial(n, i) / 2^n for i up to k, in logarithms.
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = log.exp();
    for i in 0..k {
        log += ((n - i) as f64 / (i + 1) as f64).ln();
        sum += log.exp();
    }
    (2.0 * sum).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of scipy 1.17 (binomtest). Mutations caught: one side alone.
    #[test]
    fn mcnemars_test_is_scipys() {
        for (b, c, p) in [(10, 25, 0.016_674), (1, 6, 0.125), (30, 30, 1.0), (120, 160, 0.019_607)]
        {
            assert!((mcnemar(b, c) - p).abs() < 1e-6, "{b} {c}: {}", mcnemar(b, c));
        }
    }

    /// Mutations caught: bins not weighted.
    #[test]
    fn calibration_is_the_weighted_gap_between_confidence_and_accuracy() {
        let prediction = |probability, right: bool| Prediction {
            index: 0,
            label: 0,
            guess: usize::from(!right),
            probability,
            label_probability: probability,
        };
        // Three at 1.0, two of them right; one at 0.5, wrong.
        let all = [(1.0, true), (1.0, true), (1.0, false), (0.5, false)];
        let all = all.map(|(probability, right)| prediction(probability, right));
        let (bins, error) = calibration(&all);
        assert_eq!((bins[14].images, bins[7].images), (3, 1));
        let expected = 0.75 * (1.0 - 2.0 / 3.0) + 0.25 * 0.5;
        assert!((error - expected).abs() < 1e-12, "{error}");
    }

    /// As scikit-learn with `zero_division=0`.
    #[test]
    fn a_class_that_is_never_predicted_has_zeros() {
        let row =
            |images, correct, predicted| ClassRow { class: "a".into(), images, correct, predicted };
        assert_eq!(scores(&row(10, 0, 0)), [0.0, 0.0, 0.0]);
        let [precision, recall, f1] = scores(&row(10, 5, 20));
        assert_eq!((precision, recall), (0.25, 0.5));
        assert!((f1 - 1.0 / 3.0).abs() < 1e-12);
    }
}
