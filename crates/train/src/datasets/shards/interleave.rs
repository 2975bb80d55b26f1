//! The order of an epoch whose shards are dealt to nodes: each canonical node has an order of its
//! own, and every batch takes as many images from each (MosaicML's `num_canonical_nodes`).
//!
//! The canonical nodes belong to the run, not to the machines: one process reads all of them, and
//! ranks whose number divides theirs read whole ones. So any number of ranks sees the same batches.

/// How the orders of canonical nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interleave {
    /// Canonical nodes.
    pub(crate) nodes: usize,
    /// Images of a batch.
    pub(crate) batch: usize,
}

impl Interleave {
    /// The one order of one canonical node, in batches of any size.
    pub(crate) const ONE: Self = Self { nodes: 1, batch: 1 };

    /// Images of a batch that come from one canonical node.
    pub(crate) fn node_batch(self) -> usize {
        self.batch / self.nodes
    }

    /// The canonical node of a position in the order of the epoch, and the position in the node's
    /// own order.
    ///
    /// Rows `i` and `batch - 1 - i` belong to one node, and the nodes follow each other from both
    /// ends of a batch to its middle: so do the shares of the ranks
    /// ([`crate::datasets::sampler::BatchShare`]), which keep the two images that mixup pairs.
    pub(crate) fn place(self, position: usize) -> (usize, usize) {
        if self.nodes == 1 {
            return (0, position);
        }
        let (number, row) = (position / self.batch, position % self.batch);
        let half = self.node_batch() / 2;
        let (row, back) = match row < self.batch / 2 {
            true => (row, 0),
            false => (self.batch - 1 - row, half),
        };
        (row / half, number * self.node_batch() + back + row % half)
    }
}

#[cfg(test)]
mod tests {
    use super::Interleave;
    use crate::datasets::sampler::BatchShare;

    /// Mutations caught, each alone: nodes contiguous in a batch, which mixup's pairs are not; both
    /// halves of a batch the same images; the images of batch 0 for ever.
    #[test]
    fn a_batch_has_as_many_images_of_every_node_and_ranks_have_whole_nodes() {
        for (nodes, batch) in [(2, 8), (3, 12), (4, 8), (6, 24), (12, 24)] {
            let interleave = Interleave { nodes, batch };
            let mut seen = vec![Vec::new(); nodes];
            for position in 0..3 * batch {
                let (node, at) = interleave.place(position);
                assert_eq!(at / interleave.node_batch(), position / batch, "of its batch");
                seen[node].push(at);
            }
            for own in &mut seen {
                own.sort_unstable();
                assert!(own.iter().copied().eq(0..3 * batch / nodes), "{nodes} nodes: {own:?}");
            }
            for world in (1..=nodes).filter(|world| nodes % world == 0) {
                for rank in 0..world {
                    let rows = BatchShare { rank, world }.rows(batch, true);
                    let whole = rank * nodes / world..(rank + 1) * nodes / world;
                    assert!(rows.iter().all(|row| whole.contains(&interleave.place(*row).0)));
                }
            }
        }
        assert_eq!(Interleave::ONE.place(17), (0, 17));
    }
}
