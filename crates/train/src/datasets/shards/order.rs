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

/// Counters of two canonical nodes are so far apart: more than a node has windows.
const NODE: u64 = 1 << 32;

/// The images of a folder of shards, file by file, and how many make a window.
#[derive(Clone, Debug)]
pub(crate) struct WindowShuffle {
    shards: Arc<TarReader>,
    /// For every file: its items, from its first byte to its last.
    files: Vec<Vec<usize>>,
    size: usize,
    /// Canonical nodes, which share the files.
    nodes: usize,
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
        Some(Self { shards, files, size, nodes: 1 })
    }

    /// Deals the files to so many canonical nodes, which have their windows each; together these
    /// are as large.
    pub(crate) fn with_nodes(self, nodes: usize) -> Self {
        Self { size: (self.size / nodes).max(1), nodes, ..self }
    }

    /// The files.
    pub(crate) fn shards(&self) -> &Arc<TarReader> {
        &self.shards
    }

    /// The items of each canonical node, file by file: equal parts of the items `range.0` to
    /// `range.1` as they lie in the files. Where the files do not divide evenly, two nodes have a
    /// part of one file each.
    pub(crate) fn parts(&self, range: &Range<usize>) -> Vec<Vec<Vec<usize>>> {
        let inside = |items: &Vec<usize>| -> Vec<usize> {
            items.iter().copied().filter(|item| range.contains(item)).collect()
        };
        let files: Vec<Vec<usize>> = self.files.iter().map(inside).collect();
        if self.nodes == 1 {
            return vec![files];
        }
        let count: usize = files.iter().map(Vec::len).sum();
        let mut parts = vec![vec![Vec::new(); files.len()]; self.nodes];
        let items = files
            .iter()
            .enumerate()
            .flat_map(|(file, items)| items.iter().map(move |i| (file, *i)));
        for (position, (file, item)) in items.enumerate() {
            let node = (position as u128 * self.nodes as u128 / count as u128) as usize;
            parts[node][file].push(item);
        }
        parts
    }

    /// The order of an epoch of the items `range.0` to `range.1`, for each canonical node.
    pub(crate) fn orders(&self, range: &Range<usize>, seed: u64, epoch: u64) -> Vec<WindowedOrder> {
        let parts = self.parts(range).into_iter().enumerate();
        parts.map(|(node, files)| self.order(&files, node as u64, seed, epoch)).collect()
    }

    /// The order of an epoch of one canonical node, which has these items of every file.
    ///
    /// The files stand in a random order and the epoch begins at a random image of them (the first
    /// ones come last), so that windows are cut elsewhere each time and no image is always among
    /// those left out at the end. Windows are as equal as can be.
    fn order(&self, items: &[Vec<usize>], node: u64, seed: u64, epoch: u64) -> WindowedOrder {
        let node = node * NODE;
        let mut files: Vec<usize> = (0..items.len()).collect();
        Counter::new(seed, epoch, node, FILES).shuffle(&mut files);
        let mut turns = vec![0; files.len()];
        files.iter().enumerate().for_each(|(turn, file)| turns[*file] = turn);
        let mut indices: Vec<usize> =
            files.iter().flat_map(|file| &items[*file]).copied().collect();
        let count = indices.len();
        if count > 0 {
            indices.rotate_left(Counter::new(seed, epoch, node, BEGIN).range(count));
        }
        let windows = count.div_ceil(self.size);
        let bound =
            |window: usize| (window as u128 * count as u128 / windows.max(1) as u128) as usize;
        let bounds: Vec<usize> = (0..=windows).map(bound).collect();
        for (window, ends) in bounds.windows(2).enumerate() {
            let own = &mut indices[ends[0]..ends[1]];
            Counter::new(seed, epoch, node + window as u64, WINDOW).shuffle(own);
        }
        WindowedOrder { indices, bounds, turns }
    }

    /// Bytes of memory that two windows take, of the mean image.
    pub(crate) fn bytes(&self, folder: &ImageFolder) -> u64 {
        let of = |path: &Path| self.shards.entry(path).count as u64;
        let all: u64 = folder.items.iter().map(|(path, _)| of(path)).sum();
        let count = folder.items.len().max(1) as u64;
        (u128::from(all) * (2 * (self.size * self.nodes) as u64).min(count) as u128
            / u128::from(count)) as u64
    }

    /// Notes for the user about training in these windows.
    pub(crate) fn notes(&self, folder: &ImageFolder, seed: u64) -> Vec<String> {
        let count = folder.items.len();
        let orders = self.orders(&(0..count), seed, 0);
        let windows = orders.iter().map(|order| order.bounds.len() - 1).sum::<usize>().max(1);
        let mut notes = vec![format!(
            "note: shards are read in {windows} windows of {} images, of which two take about {:.1} MB of memory",
            count.div_ceil(windows),
            self.bytes(folder) as f64 / f64::from(1 << 20)
        )];
        let classes = |order: &WindowedOrder| -> usize {
            let of = |ends: &[usize]| {
                let own = order.indices[ends[0]..ends[1]].iter();
                own.map(|item| folder.items[*item].1).collect::<HashSet<usize>>().len()
            };
            order.bounds.windows(2).map(of).sum()
        };
        let found = orders.iter().map(classes).sum::<usize>() as f64 / windows as f64;
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
        WindowShuffle { shards, files, size, nodes: 1 }
    }

    /// The order of one canonical node.
    fn order_of(
        layout: &WindowShuffle,
        range: Range<usize>,
        seed: u64,
        epoch: u64,
    ) -> WindowedOrder {
        let mut orders = layout.orders(&range, seed, epoch);
        assert_eq!(orders.len(), 1);
        orders.remove(0)
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
                let order = order_of(&layout, 0..30, 5, epoch);
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
        let order = |seed, epoch| order_of(&layout, 0..30, seed, epoch);
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
        let order = order_of(&layout(4), 8..27, 5, 1);
        let mut sorted = order.indices.clone();
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(8..27));
        assert_eq!(order.bounds.len(), 19_usize.div_ceil(4) + 1);
        assert_eq!(order_of(&layout(4), 8..8, 5, 1).bounds, [0]);
    }

    /// The order of before canonical nodes, which checkpoints hold, stays: 4 nodes of 30 items have
    /// 7 or 8 each, of at most 3 files, and windows of their own.
    ///
    /// Mutations caught, each alone: nodes that share an item; whole files dealt in turn, so that a
    /// node has 18 items and another none; all nodes shuffled alike.
    #[test]
    fn canonical_nodes_have_equal_parts_of_the_files_and_orders_of_their_own() {
        let nodes = layout(8).with_nodes(4);
        let orders = nodes.orders(&(0..30), 5, 2);
        let mut all: Vec<usize> = orders.iter().flat_map(|order| order.indices.clone()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..30));
        for order in &orders {
            assert!([7, 8].contains(&order.indices.len()), "{order:?}");
            assert!(order.bounds.windows(2).all(|ends| ends[1] - ends[0] <= 2), "{order:?}");
        }
        let files = |part: &Vec<Vec<usize>>| part.iter().filter(|items| !items.is_empty()).count();
        assert!(nodes.parts(&(0..30)).iter().map(files).eq([2, 1, 1, 2]));
        // One file of 4 nodes of 8 items each: the same draws would give the same places in a node.
        let one_file = WindowShuffle { files: vec![(0..32).collect()], ..layout(32).with_nodes(4) };
        let places: HashSet<Vec<usize>> = one_file
            .orders(&(0..32), 5, 2)
            .iter()
            .map(|order| order.indices.iter().map(|item| item % 8).collect())
            .collect();
        assert_eq!(places.len(), 4, "{places:?}");
        let one = layout(8);
        let order = one.orders(&(0..30), 5, 2).remove(0);
        assert_eq!(crc32fast::hash(format!("{order:?}").as_bytes()), 0x6558_e966);
    }
}
