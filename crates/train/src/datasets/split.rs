//! Both splits out of one: a share of every class is set aside for the evaluation. Photos of one
//! series look alike; one of them in training and one in evaluation would be an accuracy on what
//! the network has seen.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use transforms::random::permutation;

use crate::datasets::check::look_alikes::look_alikes;
use crate::datasets::data_error::DataError;
use crate::datasets::image_folder::ImageFolder;
use crate::datasets::layout::train_folder;
use crate::datasets::shards;

/// Images up to which near-duplicates are looked for: each has to be decoded.
pub const MOST_COMPARED: usize = 50_000;

/// How images are shared between training and evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitRule {
    /// Share of the images to evaluate on, above 0 and below 1.
    pub share: f64,
    /// Seed of the choice.
    pub seed: u64,
    /// Whether near-duplicates stay on one side.
    pub group_duplicates: bool,
}

/// An image with its label.
type Item = (PathBuf, usize);

impl ImageFolder {
    /// Both splits out of one: a share of every class's images goes to the evaluation, chosen by
    /// the seed and the image's number alone. `root` holds `train/<class>/*`, or the class folders
    /// themselves.
    ///
    /// # Errors
    /// The errors of [`ImageFolder::open_train`]; a class of a single image, which cannot be split.
    ///
    /// # Panics
    /// When the share is not between 0 and 1.
    pub fn split(root: &Path, rule: SplitRule) -> Result<(Self, Self), DataError> {
        let SplitRule { share, seed, group_duplicates } = rule;
        assert!(share > 0.0 && share < 1.0, "a share of {share} of the images");
        let all = Self::open_whole(root)?;
        let groups = match group_duplicates && all.items.len() <= MOST_COMPARED {
            true => look_alikes(&all),
            false => (0..all.items.len()).collect(),
        };
        let mut by_class = vec![Vec::new(); all.classes.len()];
        all.items.iter().enumerate().for_each(|(i, item)| by_class[item.1].push(i));
        let mut chosen = HashSet::new();
        for ((label, class), own) in all.classes.iter().enumerate().zip(&by_class) {
            if own.len() < 2 {
                let why =
                    "a single image cannot be shared between training and evaluation; add one";
                return Err(DataError::folder(&all.root.join(class), why));
            }
            let wanted = ((own.len() as f64 * share).round() as usize).clamp(1, own.len() - 1);
            let order = permutation(own.len(), seed, label as u64);
            let shuffled: Vec<usize> = order.into_iter().map(|index| own[index]).collect();
            chosen.extend(choose(&shuffled, &groups, wanted));
        }
        let (val, train): (Vec<(usize, &Item)>, _) =
            all.items.iter().enumerate().partition(|(i, _)| chosen.contains(i));
        let items =
            |of: Vec<(usize, &Item)>| of.into_iter().map(|(_, item)| item.clone()).collect();
        let mut note =
            format!("{} of {} images set aside for evaluation", val.len(), all.items.len());
        if group_duplicates {
            note += match all.items.len() <= MOST_COMPARED {
                true => ", near-duplicates on one side",
                false => {
                    "; near-duplicates were not looked for among so many: `kindling data check` finds them"
                }
            };
        }
        let val = Self { items: items(val), notes: vec![note], ..all.clone() };
        Ok((Self { items: items(train), ..all }, val))
    }

    /// All images of a data set without an evaluation split: `root/train/<class>/*`, or
    /// `root/<class>/*`.
    ///
    /// # Errors
    /// The errors of [`ImageFolder::open_train`].
    pub fn open_whole(root: &Path) -> Result<Self, DataError> {
        let splits = train_folder(root).is_some() || root.join(shards::INDEX).is_file();
        Self::open_train(root, if splits { None } else { Some("") })
    }
}

/// Chooses about `wanted` of the images of a class, whole groups only. `shuffled` gives the order,
/// and `groups` the group of every image of the data set.
///
/// A group that is too large stays in training; where no group is small enough, as in a class of
/// one series of photos, single images are chosen.
fn choose(shuffled: &[usize], groups: &[usize], wanted: usize) -> Vec<usize> {
    let mut chosen = Vec::new();
    let mut seen = HashSet::new();
    for &image in shuffled {
        if chosen.len() >= wanted || !seen.insert(groups[image]) {
            continue;
        }
        let group = shuffled.iter().copied().filter(|other| groups[*other] == groups[image]);
        let group: Vec<usize> = group.collect();
        if chosen.len() + group.len() <= wanted + wanted / 10 {
            chosen.extend(group);
        }
    }
    match chosen.is_empty() {
        true => shuffled[..wanted].to_vec(),
        false => chosen,
    }
}

#[cfg(test)]
mod tests {
    use super::choose;

    /// Mutations caught: a group that is too large taken.
    #[test]
    fn whole_groups_are_chosen_and_never_a_whole_class() {
        // Images 0 and 3 are one group, 1, 2 and 4 another.
        let groups = [0, 1, 1, 0, 1, 5, 6, 7, 8, 9];
        let order: Vec<usize> = (0..10).collect();
        assert_eq!(choose(&order, &groups, 2), [0, 3]);
        assert_eq!(choose(&order, &groups, 3), [0, 3, 5]);
        assert_eq!(choose(&order, &[0; 10], 2), [0, 1]);
        let single: Vec<usize> = (0..10).collect();
        assert_eq!(choose(&order, &single, 2), [0, 1]);
    }
}
