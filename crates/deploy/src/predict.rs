//! The answer of a classifier: a probability for every class, and the first k of them.

use std::sync::Arc;

use serde::Serialize;

/// One class that an image may show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guess {
    /// Class name.
    pub class: String,
    /// Index of the class among the logits.
    pub index: usize,
    /// Softmax of the logits.
    pub probability: f32,
}

/// The probabilities of all classes for one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    classes: Arc<[String]>,
    logits: Vec<f32>,
    probabilities: Vec<f32>,
}

impl Prediction {
    /// `logits` and `probabilities` belong to `classes`, in this order.
    pub(crate) fn new(classes: Arc<[String]>, logits: Vec<f32>, probabilities: Vec<f32>) -> Self {
        assert_eq!(classes.len(), probabilities.len(), "a probability for every class");
        assert_eq!(classes.len(), logits.len(), "a logit for every class");
        Self { classes, logits, probabilities }
    }

    /// A logit for every class.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// A probability for every class, in the order of the logits.
    pub fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    /// The most probable class.
    pub fn best(&self) -> Guess {
        self.top(1).swap_remove(0)
    }

    /// The `k` most probable classes, best first; all of them where there are fewer. Of equal
    /// probabilities the smaller index comes first.
    pub fn top(&self, k: usize) -> Vec<Guess> {
        let values = &self.probabilities;
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
        let guess = |index: usize| Guess {
            class: self.classes[index].clone(),
            index,
            probability: values[index],
        };
        order.into_iter().take(k).map(guess).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Prediction;

    /// Mutations caught: of equal probabilities the larger index first.
    #[test]
    fn the_first_k_are_the_most_probable() {
        let classes = ["a", "b", "c", "d"].map(str::to_owned);
        let prediction = Prediction::new(classes.into(), vec![0.0; 4], vec![0.1, 0.35, 0.2, 0.35]);
        let names = |k| -> Vec<String> { prediction.top(k).into_iter().map(|g| g.class).collect() };
        assert_eq!(names(3), ["b", "d", "c"]);
        assert_eq!(names(9), ["b", "d", "c", "a"]);
        assert!(names(0).is_empty());
        let best = prediction.best();
        assert_eq!((best.index, best.probability), (1, 0.35));
    }
}
