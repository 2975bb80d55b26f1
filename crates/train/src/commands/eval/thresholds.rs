//! Where to put a threshold on the probability: what is answered above it, and how much of that is
//! right.

use serde::Serialize;

use crate::out;
use crate::report::Prediction;

/// The probabilities that are tried.
const TRIED: [f32; 9] = [0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

/// What happens at a threshold.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct OperatingPoint {
    /// Probability below which an image is called unknown.
    threshold: f32,
    /// Share of images that are answered, percent.
    answered: f64,
    /// Share of the answers that are right, percent; none without an answer.
    right: Option<f64>,
    /// Wrong answers that are left.
    wrong: usize,
}

/// The points of all thresholds.
pub(super) fn thresholds(predictions: &[Prediction]) -> Vec<OperatingPoint> {
    let point = |&threshold: &f32| {
        let answered: Vec<&Prediction> =
            predictions.iter().filter(|one| one.probability >= threshold).collect();
        let right = answered.iter().filter(|one| one.is_right()).count();
        let percent = |part: usize, all: usize| 100.0 * part as f64 / all.max(1) as f64;
        OperatingPoint {
            threshold,
            answered: percent(answered.len(), predictions.len()),
            right: (!answered.is_empty()).then(|| percent(right, answered.len())),
            wrong: answered.len() - right,
        }
    };
    TRIED.iter().map(point).collect()
}

/// Prints the table.
pub(super) fn print_thresholds(predictions: &[Prediction]) {
    out!("threshold  answered   right    wrong answers");
    for point in thresholds(predictions) {
        let right = point.right.map_or_else(|| "     -".to_owned(), |r| format!("{r:5.1} %"));
        out!("{:>9.2} {:>7.1} % {right:>8} {:>12}", point.threshold, point.answered, point.wrong);
    }
    out!("below the threshold `predict --threshold P` says `unknown`");
}

#[cfg(test)]
mod tests {
    use super::thresholds;
    use crate::report::Prediction;

    /// Mutations caught, each alone: answers below the threshold; the share of all images in place
    /// of the answers.
    #[test]
    fn a_higher_threshold_answers_less() {
        let one = |probability: f32, right: bool| Prediction {
            index: 0,
            label: 0,
            guess: usize::from(!right),
            probability,
            label_probability: 0.0,
        };
        let predictions = [one(0.4, false), one(0.6, true), one(0.95, true), one(0.97, false)];
        let points = thresholds(&predictions);
        let at = |p: f32| points.iter().find(|point| point.threshold == p).unwrap();
        assert_eq!((at(0.0).answered, at(0.0).right, at(0.0).wrong), (100.0, Some(50.0), 2));
        assert_eq!((at(0.9).answered, at(0.9).right, at(0.9).wrong), (50.0, Some(50.0), 1));
        assert_eq!((at(0.5).answered, at(0.5).wrong), (75.0, 1));
        assert_eq!((at(0.99).answered, at(0.99).right), (0.0, None));
    }
}
