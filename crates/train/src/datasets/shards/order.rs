//! The order of an epoch that is read from front to back: files in turn, and what lies together
//! shuffled in windows.
//!
//! A function of seed, epoch, the length of a window and what the files hold; so a batch can be
//! found again, and a part of the order be another reader's. Neighbours: `shards/window.rs` reads
//! what it says.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::tar_reader::TarReader;
use transforms::random::Counter;

/// Purpose of the counter that draws the order of the files.
const FILES: u64 = 0x5F;

/// Purpose of the counter that draws where the epoch begins.
const BEGIN: u64 = 0x5B;

/// Purpose of the counter that shuffles a window.
const WINDOW: u64 = 0x5D;

/// The images of a folder of shards, file by file, and how many make a window.
#[derive(Debug)]
pub(crate) struct WindowShuffle {
    shards: Arc<TarReader>,
    /// For every file: its items, from its first byte to its last.
    files: Vec<Vec<usize>>,
    size: usize,
}

/// The order of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WindowedOrder {
    /// Indices of the items, in the order of the epoch.
    pub(crate) indices: Vec<usize>,
    /// Where each window begins in it, and where the last one ends.
    pub(crate) bounds: Vec<usize>,
    /// For every file: its turn in the order.
    pub(crate) turns: Vec<usize>,
}

impl WindowShuffle {
    /// The files of a folder of shards; `None` for a folder of images.
    ///
    /// # Panics
    /// When a window holds nothing.
    pub(crate) fn new(folder: &ImageFolder, size: usize) -> Option<Self> {
        assert!(size > 0, "a window holds at least 1 image, got 0");
        let shards = Arc::clone(folder.shards.as_ref()?);
        let mut files = vec![Vec::new(); shards.files()];
        for (item, (path, _)) in folder.items.iter().enumerate() {
            files[shards.entry(path).file].push(item);
        }
        let from = |item: &usize| shards.entry(&folder.items[*item].0).from;
        files.iter_mut().for_each(|items| items.sort_by_cached_key(from));
        Some(Self { shards, files, size })
    }

    /// The files.
    pub(crate) fn shards(&self) -> &Arc<TarReader> {
        &self.shards
    }

    /// The order of an epoch of the items `range.0` to `range.1`.
    ///
    /// The files stand in a random order and the epoch begins at a random image of them (the first
    /// ones come last), so that windows are cut elsewhere each time and no image is always among
    /// those left out at the end. Windows are as equal as can be.
    pub(crate) fn order(&self, range: &Range<usize>, seed: u64, epoch: u64) -> WindowedOrder {
        let mut files: Vec<usize> = (0..self.files.len()).collect();
        Counter::new(seed, epoch, 0, FILES).shuffle(&mut files);
        let mut turns = vec![0; files.len()];
        files.iter().enumerate().for_each(|(turn, file)| turns[*file] = turn);
        let items = files.iter().flat_map(|file| &self.files[*file]);
        let mut indices: Vec<usize> = items.filter(|item| range.contains(item)).copied().collect();
        let count = indices.len();
        if count > 0 {
            indices.rotate_left(Counter::new(seed, epoch, 0, BEGIN).range(count));
        }
        let windows = count.div_ceil(self.size);
        let bound =
            |window: usize| (window as u128 * count as u128 / windows.max(1) as u128) as usize;
        let bounds: Vec<usize> = (0..=windows).map(bound).collect();
        for (window, ends) in bounds.windows(2).enumerate() {
            let own = &mut indices[ends[0]..ends[1]];
            Counter::new(seed, epoch, window as u64, WINDOW).shuffle(own);
        }
        WindowedOrder { indices, bounds, turns }
    }

    /// Bytes of memory that two windows take, of the mean image.
    pub(crate) fn bytes(&self, folder: &ImageFolder) -> u64 {
        let of = |path: &Path| self.shards.entry(path).count as u64;
        let all: u64 = folder.items.iter().map(|(path, _)| of(path)).sum();
        let count = folder.items.len().max(1) as u64;
        (u128::from(all) * (2 * self.size as u64).min(count) as u128 / u128::from(count)) as u64
    }

    /// Notes for the user about training in these windows.
    pub(crate) fn notes(&self, folder: &ImageFolder, seed: u64) -> Vec<String> {
        let count = folder.items.len();
        let windowed = self.order(&(0..count), seed, 0);
        let windows = windowed.bounds.len().saturating_sub(1).max(1);
        let mut notes = vec![format!(
            "note: shards are read in {windows} windows of {} images, of which two take about {:.1} MB of memory",
            count.div_ceil(windows),
            self.bytes(folder) as f64 / f64::from(1 << 20)
        )];
        let classes = |ends: &[usize]| {
            let labels =
                windowed.indices[ends[0]..ends[1]].iter().map(|item| folder.items[*item].1);
            labels.collect::<HashSet<usize>>().len()
        };
        let found = windowed.bounds.windows(2).map(classes).sum::<usize>() as f64 / windows as f64;
        // A class with this share of the images is missing from n draws with probability (1 -
        // share)^n.
        let draws = (count / windows) as f64;
        let missing = |own: usize| (1.0 - own as f64 / count.max(1) as f64).powf(draws);
        let expected: f64 = folder
            .class_counts()
            .into_iter()
            .filter(|own| *own > 0)
            .map(|own| 1.0 - missing(own))
            .sum();
        if found < 0.7 * expected {
            notes.push(format!(
                "note: a window has images of {found:.1} classes where {expected:.1} would be usual, because these shards \
                 hold class after class; shard the folder again without --no-shuffle, or widen --shard-window"
            ));
        }
        notes
    }
}

/// Megabytes that the windows of `--shard-window` take; 0 without them.
pub fn window_mb(folder: &ImageFolder, images: usize) -> f64 {
    let layout = if images > 0 { WindowShuffle::new(folder, images) } else { None };
    layout.map_or(0.0, |layout| layout.bytes(folder) as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 30 items in 4 files, one of them without any.
    fn layout(size: usize) -> WindowShuffle {
        let shards = Arc::new(TarReader::default());
        let files = vec![
            vec![3, 9, 1, 28, 0, 5, 6],
            vec![],
            (10..28).rev().collect(),
            vec![29, 2, 4, 7, 8],
        ];
        WindowShuffle { shards, files, size }
    }

    /// What the files hold one after the other, by their turns.
    fn in_turn(layout: &WindowShuffle, order: &WindowedOrder) -> Vec<usize> {
        let mut files: Vec<usize> = (0..layout.files.len()).collect();
        files.sort_by_key(|file| order.turns[*file]);
        files.into_iter().flat_map(|file| layout.files[file].clone()).collect()
    }

    /// Mutations caught, each alone: a shuffle over the end of a window, one image twice for
    /// another, windows of one image too many, the turns of the files turned round.
    #[test]
    fn an_order_is_a_permutation_shuffled_within_windows_of_what_the_files_hold_in_turn() {
        for size in [1, 4, 7, 30, 99] {
            let layout = layout(size);
            for epoch in 0..20 {
                let order = layout.order(&(0..30), 5, epoch);
                let mut sorted = order.indices.clone();
                sorted.sort_unstable();
                assert!(sorted.into_iter().eq(0..30), "every item once");
                let count = 30_usize.div_ceil(size);
                assert_eq!(
                    (order.bounds.len(), order.bounds[0], order.bounds[count]),
                    (count + 1, 0, 30)
                );
                let mut files = in_turn(&layout, &order);
                let mut lengths = Vec::new();
                // Some turn of the files' content has in each window what the order has there.
                let fits = |files: &Vec<usize>| {
                    order.bounds.windows(2).all(|ends| {
                        let own = |all: &[usize]| {
                            all[ends[0]..ends[1]].iter().copied().collect::<HashSet<_>>()
                        };
                        own(files) == own(&order.indices)
                    })
                };
                let turned = (0..30).any(|_| {
                    files.rotate_left(1);
                    fits(&files)
                });
                assert!(turned, "size {size}, epoch {epoch}: a window holds what is not together");
                order.bounds.windows(2).for_each(|ends| lengths.push(ends[1] - ends[0]));
                let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
                assert!(*most <= size && most - least <= 1, "{lengths:?}");
            }
        }
    }

    /// Mutations caught, each alone: the epoch or the seed left out of a counter (files, begin,
    /// windows), the begin always at the first image, all windows shuffled alike.
    #[test]
    fn an_order_is_a_function_of_seed_and_epoch_and_every_part_of_it_changes_with_both() {
        let layout = layout(10);
        let order = |seed, epoch| layout.order(&(0..30), seed, epoch);
        assert_eq!(order(5, 3), order(5, 3));
        let mut keys: Vec<(u64, u64)> = (0..12).map(|epoch| (5, epoch)).collect();
        keys.extend((6..17).map(|seed| (seed, 0)));
        // How an order is cut, and how a window is shuffled, which 10! orders make different for
        // certain.
        let cut = |order: &WindowedOrder| {
            let files = in_turn(&layout, order);
            let first: HashSet<usize> = order.indices[..10].iter().copied().collect();
            (0..30).find(|at| (0..10).all(|i| first.contains(&files[(at + i) % 30]))).unwrap()
        };
        let shuffled = |order: &WindowedOrder, window: usize| -> Vec<usize> {
            let own = &order.indices[order.bounds[window]..order.bounds[window + 1]];
            let mut ranks: Vec<usize> = (0..10).collect();
            let files = in_turn(&layout, order);
            let start = cut(order) + order.bounds[window];
            let position = |item: &usize| {
                (files.iter().position(|own| own == item).unwrap() + 30 - start % 30) % 30
            };
            ranks.sort_by_key(|at| position(&own[*at]));
            ranks
        };
        for keys in [&keys[..12], &keys[12..]] {
            let orders: Vec<WindowedOrder> =
                keys.iter().map(|(seed, epoch)| order(*seed, *epoch)).collect();
            let different = |what: &dyn Fn(&WindowedOrder) -> Vec<usize>| {
                orders.iter().map(what).collect::<HashSet<_>>().len()
            };
            assert!(different(&|order| order.turns.clone()) > 5, "the files' turns");
            assert!(different(&|order| vec![cut(order)]) > 5, "where it begins");
            assert_eq!(different(&|order| shuffled(order, 0)), orders.len(), "the first window");
            assert_eq!(different(&|order| shuffled(order, 2)), orders.len(), "the last window");
        }
        let first = order(5, 0);
        assert_ne!(shuffled(&first, 0), shuffled(&first, 1), "each window has an order of its own");
    }

    /// Mutations caught: items outside the range taken too.
    #[test]
    fn a_range_of_the_items_has_an_order_of_its_own() {
        let order = layout(4).order(&(8..27), 5, 1);
        let mut sorted = order.indices.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(8..27));
        assert_eq!(order.bounds.len(), 19_usize.div_ceil(4) + 1);
        assert_eq!(layout(4).order(&(8..8), 5, 1).bounds, [0]);
    }
}
