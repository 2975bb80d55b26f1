//! Images that are there more than once: for certain, by the hash of file and pixels, and by their
//! looks.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::datasets::check::file::{ImageFile, same_bytes};
use crate::datasets::check::image_hash::{HashIndex, ImageHash};
use crate::datasets::check::report::{Finding, Item};

/// What was found, and which images a quarantine would list for it.
pub(super) struct Copies {
    pub(super) findings: Vec<Finding>,
    /// Training images that are in the evaluation split too.
    pub(super) leaks: Vec<(usize, String)>,
    /// Images that carry several labels.
    pub(super) contradictions: Vec<(usize, String)>,
    /// All but the first of equal images of a class.
    pub(super) duplicates: Vec<(usize, String)>,
    /// Training images that look like one of the evaluation split.
    pub(super) suspicions: Vec<(usize, String)>,
}

/// How near two looks must be for a suspicion.
#[derive(Clone, Copy)]
pub(super) struct Nearness {
    /// Bits of the difference hash.
    pub(super) distance: u32,
    /// Mean difference of the cells' colours, in levels of 255.
    pub(super) difference: f64,
}

/// Share of the contrast that the deviation may be, for each level of difference: .07 at the
/// default of two levels. Sandals before a black ground, which is most of the image, are different
/// products from .088 on (Fashion-MNIST); what a person takes for the same photo has at most .052.
const SHARE: f64 = 0.035;

/// Levels of deviation that are an encoder's rounding whatever the contrast, for each level of
/// difference.
const ROUNDING: f64 = 0.375;

impl Nearness {
    /// Whether two looks are near enough in every measure.
    pub(super) fn alike(self, a: &ImageHash, b: &ImageHash) -> bool {
        (a.hash() ^ b.hash()).count_ones() <= self.distance
            && a.difference(b) <= self.difference
            && a.deviation(b) <= self.deviation(a.contrast().min(b.contrast()))
    }

    /// The largest deviation of a suspected copy, in levels of 255.
    fn deviation(self, contrast: f64) -> f64 {
        self.difference * (SHARE * contrast).max(ROUNDING)
    }
}

/// Compares every image with every other.
pub(super) fn copies(root: &Path, images: &[ImageFile], nearness: Nearness) -> Copies {
    let mut found = exact(root, images);
    let leaked: Vec<bool> = {
        let mut leaked = vec![false; images.len()];
        for group in groups(images).values().filter(|g| splits(images, g) > 1) {
            group.iter().for_each(|&i| leaked[i] = true);
        }
        leaked
    };
    let pairs = alike(images, &leaked, nearness);
    let items = pairs.iter().map(|pair| {
        let how = if pair.mirrored { "mirrored, " } else { "" };
        let label = match images[pair.train].class == images[pair.val].class {
            true => "",
            false => ", another class",
        };
        Item::of(root, &images[pair.val].path)
            .other(Item::of(root, &images[pair.train].path).path)
            .detail(&format!("{how}{} bits, {:.1} levels apart{label}", pair.bits, pair.levels))
    });
    found.findings.push(Finding::warning(
        "suspected_leak",
        "images to evaluate on that look like one of the training: look at them",
        items.collect(),
    ));
    for pair in &pairs {
        let val = Item::of(root, &images[pair.val].path).path;
        found.suspicions.push((pair.train, format!("looks like {val}")));
    }
    found
}

/// Numbers of the images with equal pixels, by the first of them; only where there are two or more.
fn groups(images: &[ImageFile]) -> BTreeMap<usize, Vec<usize>> {
    let mut by_hash: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (i, image) in images.iter().enumerate() {
        if let Ok(seen) = &image.decoded {
            by_hash.entry(seen.pixel_hash).or_default().push(i);
        }
    }
    by_hash.into_values().filter(|g| g.len() > 1).map(|group| (group[0], group)).collect()
}

fn splits(images: &[ImageFile], group: &[usize]) -> usize {
    let mut splits: Vec<usize> = group.iter().map(|&i| images[i].split).collect();
    splits.sort_unstable();
    splits.dedup();
    splits.len()
}

fn exact(root: &Path, images: &[ImageFile]) -> Copies {
    let name = |i: usize| Item::of(root, &images[i].path).path;
    let how = |a: usize, b: usize| {
        let (a, b) = (&images[a], &images[b]);
        let file = a.file_hash == b.file_hash && a.bytes == b.bytes && same_bytes(&a.path, &b.path);
        if file { "same file" } else { "same pixels" }
    };
    let (mut leaks, mut contradictions, mut duplicates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut leaked, mut contradicted, mut doubled) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups(images).values() {
        let first = group[0];
        let of_split =
            |split: usize| group.iter().copied().filter(move |&i| images[i].split == split);
        if let (Some(train), Some(_)) = (of_split(0).next(), of_split(1).next()) {
            for val in of_split(1) {
                leaks.push(
                    Item::of(root, &images[val].path).other(name(train)).detail(how(train, val)),
                );
            }
            let val = of_split(1).next().expect("there is one");
            leaked.extend(of_split(0).map(|i| (i, format!("leak: equals {}", name(val)))));
        }
        let label = |i: &usize| images[*i].class;
        if let Some(&other) = group.iter().find(|i| label(i) != label(&first)) {
            let item = Item::of(root, &images[first].path).other(name(other));
            contradictions.push(item.detail(how(first, other)));
            let reason = |i: usize| if i == first { name(other) } else { name(first) };
            contradicted
                .extend(group.iter().map(|&i| (i, format!("contradiction: equals {}", reason(i)))));
        }
        for split in 0..2 {
            let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
            for i in of_split(split) {
                match seen.get(&images[i].class) {
                    None => drop(seen.insert(images[i].class, i)),
                    Some(&one) => {
                        let item = Item::of(root, &images[i].path).other(name(one));
                        duplicates.push(item.detail(how(one, i)));
                        doubled.push((i, format!("duplicate: equals {}", name(one))));
                    }
                }
            }
        }
    }
    let findings = vec![
        Finding::error(
            "leak",
            "images to evaluate on that the training has seen: the accuracy is not what it seems",
            leaks,
        ),
        Finding::error("contradiction", "the same image under several labels", contradictions),
        Finding::warning("duplicate", "the same image again in its class", duplicates),
    ];
    Copies {
        findings,
        leaks: leaked,
        contradictions: contradicted,
        duplicates: doubled,
        suspicions: Vec::new(),
    }
}

struct SimilarPair {
    val: usize,
    train: usize,
    mirrored: bool,
    bits: u32,
    levels: f64,
    /// Standard deviation of the difference, see `ImageHash::deviation`.
    deviation: f64,
    /// Contrast of the image with less.
    contrast: f64,
}

/// For every image to evaluate on the training image that looks most like it, if one is near
/// enough.
fn alike(images: &[ImageFile], leaked: &[bool], nearness: Nearness) -> Vec<SimilarPair> {
    let of_split = |split: usize| -> Vec<(usize, &ImageHash)> {
        let look = |(i, image): (usize, &'_ ImageFile)| {
            let facts = image.decoded.as_ref().ok()?;
            let usable = image.split == split && !leaked[i] && !facts.image_hash.is_flat();
            usable.then_some(i)
        };
        let numbers = images.iter().enumerate().filter_map(look);
        numbers.filter_map(|i| Some((i, &images[i].decoded.as_ref().ok()?.image_hash))).collect()
    };
    let (train, val) = (of_split(0), of_split(1));
    let index = HashIndex::new(train.par_iter().map(|(_, look)| look.hash()).collect());
    val.par_iter()
        .filter_map(|&(number, look)| {
            let best = [(look.clone(), false), (look.mirrored(), true)].into_iter().flat_map(
                |(look, mirrored)| {
                    let hash = look.hash();
                    let near = index.within(hash, nearness.distance);
                    let pair = |candidate: usize| SimilarPair {
                        val: number,
                        train: train[candidate].0,
                        mirrored,
                        bits: (train[candidate].1.hash() ^ hash).count_ones(),
                        levels: train[candidate].1.difference(&look),
                        deviation: train[candidate].1.deviation(&look),
                        contrast: train[candidate].1.contrast().min(look.contrast()),
                    };
                    near.into_iter().map(pair).collect::<Vec<_>>()
                },
            );
            best.filter(|pair| pair.levels <= nearness.difference)
                .filter(|pair| pair.deviation <= nearness.deviation(pair.contrast))
                .min_by(|a, b| a.levels.total_cmp(&b.levels).then(a.train.cmp(&b.train)))
        })
        .collect()
}
