//! Which images an epoch takes, and in which order: a function of seed and epoch alone.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use transforms::random::{Counter, permutation};

use crate::datasets::image_folder::ImageFolder;
use crate::datasets::shards::interleave::Interleave;
use crate::datasets::shards::order::{WindowShuffle, WindowedOrder};

/// Purpose of the counter that draws classes and their images.
const BALANCE: u64 = 0xBA;

/// The part of every batch that one of several ranks prepares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchShare {
    /// Number of the rank, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
}

impl BatchShare {
    /// The whole batch.
    pub const WHOLE: Self = Self { rank: 0, world: 1 };

    /// The rows of a batch of `count` images that this rank prepares; together the ranks have each
    /// row once, and their shares differ by one image at most.
    ///
    /// With `pairs`, row `i` and row `count - 1 - i` stay together, and stand as far from the two
    /// ends of the share: mixup and CutMix take the one as the partner of the other. Shares differ
    /// by two images at most then.
    pub(crate) fn rows(self, count: usize, pairs: bool) -> Vec<usize> {
        let part = |all: usize| self.rank * all / self.world..(self.rank + 1) * all / self.world;
        if !pairs {
            return part(count).collect();
        }
        let fronts = part(count.div_ceil(2));
        let backs = fronts.clone().rev().map(|row| count - 1 - row);
        // The row in the middle of an odd batch is its own partner.
        let backs = backs.filter(|back| *back >= count.div_ceil(2));
        fronts.clone().chain(backs).collect()
    }
}

/// Draws the indices of an epoch's images.
#[derive(Clone)]
pub(crate) struct Sampler {
    draw: Draw,
    /// The items of the folder to take from.
    range: Range<usize>,
    seed: u64,
    /// How often an image comes in a row (Berman et al., arXiv:1902.05509). The epoch stays as
    /// long, of fewer images.
    repeats: usize,
    /// How the orders of canonical nodes become one.
    interleave: Interleave,
}

#[derive(Clone)]
enum Draw {
    /// All items in their order: evaluation.
    Sequential,
    /// A permutation.
    Shuffled,
    /// Every class equally often, with replacement; the items of each class.
    Balanced(Arc<Vec<Vec<usize>>>),
    /// Shards from front to back, shuffled within windows.
    Windowed(Arc<WindowShuffle>),
}

/// The order of an epoch.
pub(crate) struct EpochOrder {
    /// Indices into the folder's items.
    pub(crate) indices: Vec<usize>,
    /// The windows in which shards are read, with the order before repeats, for each canonical
    /// node; none where shards are not read in windows.
    pub(crate) windowed: Vec<WindowedOrder>,
}

impl Sampler {
    /// All `count` items in their order, once each.
    pub(crate) fn sequential(count: usize, seed: u64) -> Self {
        let interleave = Interleave::ONE;
        Self { draw: Draw::Sequential, range: 0..count, seed, repeats: 1, interleave }
    }

    /// A permutation of `count` items, of which each comes `repeats` times in a row.
    pub(crate) fn shuffled(count: usize, seed: u64, repeats: usize) -> Self {
        let interleave = Interleave::ONE;
        Self { draw: Draw::Shuffled, range: 0..count, seed, repeats, interleave }
    }

    /// Draws every class equally often, with replacement, as many images as there are. Has no
    /// effect on a sequential or windowed order.
    pub(crate) fn balanced(mut self, folder: &ImageFolder) -> Self {
        if matches!(self.draw, Draw::Shuffled) {
            let mut classes = vec![Vec::new(); folder.classes.len()];
            for (index, (_, label)) in folder.items.iter().enumerate() {
                classes[*label].push(index);
            }
            self.draw = Draw::Balanced(Arc::new(classes));
        }
        self
    }

    /// Reads shards from front to back and shuffles within windows of `size` images. Has no effect
    /// on a sequential order, on folders without shards, and where `size` is 0.
    pub(crate) fn windowed(mut self, folder: &ImageFolder, size: usize) -> Self {
        if !matches!(self.draw, Draw::Sequential)
            && size > 0
            && let Some(shuffle) = WindowShuffle::new(folder, size)
        {
            self.draw = Draw::Windowed(Arc::new(shuffle));
        }
        self
    }

    /// Deals the shards to canonical nodes, from each of which every batch has as many images; the
    /// order is one of whole batches then. Has no effect without windows.
    ///
    /// # Panics
    /// When a batch has no two images of every node, or an image is to come several times.
    pub(crate) fn with_nodes(mut self, interleave: Interleave) -> Self {
        let Interleave { nodes, batch } = interleave;
        if let (2.., Draw::Windowed(shuffle)) = (nodes, &self.draw) {
            assert!(batch.is_multiple_of(2 * nodes), "{batch} images of {nodes} canonical nodes");
            assert_eq!(self.repeats, 1, "canonical nodes with repeated images");
            let shuffle = (**shuffle).clone().with_nodes(nodes);
            self.draw = Draw::Windowed(Arc::new(shuffle));
            self.interleave = interleave;
        }
        self
    }

    /// How the orders of canonical nodes become one.
    pub(crate) fn interleave(&self) -> Interleave {
        self.interleave
    }

    /// The files of shards whose images the places of the epoch's first batch come from, and those
    /// of every batch where these are whole canonical nodes; none without windows.
    pub(crate) fn files_of(&self, rows: &[usize]) -> Vec<usize> {
        let Draw::Windowed(shuffle) = &self.draw else { return Vec::new() };
        let nodes: BTreeSet<usize> = rows.iter().map(|row| self.interleave.place(*row).0).collect();
        let parts = shuffle.parts(&self.range);
        let own = nodes.iter().flat_map(|node| parts[*node].iter().enumerate());
        let files = own.filter(|(_, items)| !items.is_empty()).map(|(file, _)| file);
        files.collect::<BTreeSet<usize>>().into_iter().collect()
    }

    /// Takes only the images `start..end` of the range.
    pub(crate) fn with_range(mut self, start: usize, end: usize) -> Self {
        let end = end.min(self.range.len());
        self.range = self.range.start + start..self.range.start + end;
        self
    }

    /// The number of images of an epoch.
    pub(crate) fn images(&self) -> usize {
        self.range.len()
    }

    /// How often an image comes in a row.
    pub(crate) fn repeats(&self) -> usize {
        self.repeats
    }

    /// The seed of the order.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The windows in which shards are shuffled; none where all images are shuffled together.
    pub(crate) fn window_shuffle(&self) -> Option<&Arc<WindowShuffle>> {
        match &self.draw {
            Draw::Windowed(shuffle) => Some(shuffle),
            _ => None,
        }
    }

    /// The order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> EpochOrder {
        let mut windowed = Vec::new();
        let drawn: Vec<usize> = match &self.draw {
            Draw::Sequential => self.range.clone().collect(),
            Draw::Shuffled => {
                let order = permutation(self.images(), self.seed, epoch);
                order.into_iter().map(|position| self.range.start + position).collect()
            }
            Draw::Balanced(classes) => self.draw_balanced(classes, epoch),
            Draw::Windowed(shuffle) => {
                windowed = shuffle.orders(&self.range, self.seed, epoch);
                self.interleaved(&windowed)
            }
        };
        let repeated = (0..drawn.len()).map(|position| drawn[position / self.repeats]);
        EpochOrder { indices: repeated.collect(), windowed }
    }

    /// The one order of the canonical nodes: all whole batches.
    fn interleaved(&self, orders: &[WindowedOrder]) -> Vec<usize> {
        let Interleave { nodes, batch } = self.interleave;
        if nodes == 1 {
            return orders[0].indices.clone();
        }
        let whole = self.images() / batch * batch;
        let image = |position: usize| {
            let (node, at) = self.interleave.place(position);
            orders[node].indices[at]
        };
        (0..whole).map(image).collect()
    }

    fn draw_balanced(&self, classes: &[Vec<usize>], epoch: u64) -> Vec<usize> {
        let inside = |items: &Vec<usize>| -> Vec<usize> {
            items.iter().copied().filter(|index| self.range.contains(index)).collect()
        };
        let mut classes: Vec<Vec<usize>> = classes.iter().map(inside).collect();
        classes.retain(|items| !items.is_empty());
        let mut draw = Counter::new(self.seed, epoch, 0, BALANCE);
        self.range
            .clone()
            .map(|_| {
                let items = &classes[draw.range(classes.len())];
                items[draw.range(items.len())]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::BatchShare;

    /// Mutations caught: shares of `count / world` rows, which leave the rest out; the middle of an
    /// odd batch twice.
    #[test]
    fn ranks_share_every_batch_and_pairs_stay_together() {
        for (count, world) in [(16, 2), (15, 2), (16, 3), (7, 3), (2, 3), (0, 2), (9, 1)] {
            for pairs in [false, true] {
                let shares: Vec<Vec<usize>> =
                    (0..world).map(|rank| BatchShare { rank, world }.rows(count, pairs)).collect();
                let mut all = shares.concat();
                all.sort_unstable();
                assert_eq!(all, (0..count).collect::<Vec<_>>(), "{count} on {world}, {pairs}");
                let sizes = || shares.iter().map(Vec::len);
                let most = if pairs { 2 } else { 1 };
                assert!(sizes().max().unwrap() - sizes().min().unwrap() <= most);
                for share in shares.iter().filter(|_| pairs) {
                    let mirrored = share.iter().rev().map(|row| count - 1 - row);
                    assert!(mirrored.eq(share.iter().copied()), "{share:?} of {count}");
                }
            }
        }
        assert_eq!(BatchShare::WHOLE.rows(5, true), [0, 1, 2, 3, 4]);
    }
}
