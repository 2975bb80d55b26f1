//! Which classes are taken for which. Of 10,000 classes few pairs occur, so that only those are
//! held.

use std::collections::BTreeMap;

/// How often images of one class were predicted as another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion(BTreeMap<(usize, usize), u64>);

impl Confusion {
    /// Counts an image of class `label` that was predicted as class `predicted`.
    pub fn add(&mut self, label: usize, predicted: usize) {
        self.add_many(label, predicted, 1);
    }

    /// Every pair that occurred: label, predicted, images.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, usize, u64)> {
        self.0.iter().map(|(&(label, predicted), &images)| (label, predicted, images))
    }

    /// Counts `images` of class `label` that were predicted as class `predicted`.
    pub(super) fn add_many(&mut self, label: usize, predicted: usize, images: u64) {
        *self.0.entry((label, predicted)).or_default() += images;
    }

    /// The number of images of class `label` that were predicted as class `predicted`.
    pub fn count(&self, label: usize, predicted: usize) -> u64 {
        self.0.get(&(label, predicted)).copied().unwrap_or_default()
    }

    /// The `most` largest counts of wrong predictions, as (label, predicted, images); the largest
    /// first, equal ones in the order of the classes.
    pub fn top(&self, most: usize) -> Vec<(usize, usize, u64)> {
        let wrong = self.0.iter().filter(|((label, predicted), _)| label != predicted);
        let mut pairs: Vec<_> =
            wrong.map(|(&(label, predicted), &images)| (label, predicted, images)).collect();
        pairs.sort_by_key(|(label, predicted, images)| (u64::MAX - images, *label, *predicted));
        pairs.truncate(most);
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::Confusion;

    /// Mutations caught, each alone: the pairs in the order of the classes; right answers among
    /// the confusions.
    #[test]
    fn the_largest_confusions_come_first_and_right_answers_are_none() {
        let mut confusion = Confusion::default();
        for (label, predicted, images) in [(0, 0, 9), (3, 1, 2), (1, 0, 2), (2, 0, 1), (9999, 2, 5)]
        {
            (0..images).for_each(|_| confusion.add(label, predicted));
        }
        assert_eq!(confusion.top(3), [(9999, 2, 5), (1, 0, 2), (3, 1, 2)]);
        assert_eq!(confusion.top(100).len(), 4);
        assert_eq!(
            [confusion.count(0, 0), confusion.count(9999, 2), confusion.count(5, 5)],
            [9, 5, 0]
        );
    }
}
