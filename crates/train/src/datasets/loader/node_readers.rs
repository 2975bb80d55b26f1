//! The readers of shards of a running epoch: one for each canonical node of which this rank has
//! images.

use std::path::Path;

use crate::datasets::shards::interleave::Interleave;
use crate::datasets::shards::order::WindowedOrder;
use crate::datasets::shards::read_ahead::ReadAhead;

/// The reader of a canonical node.
pub(super) struct NodeReader {
    pub(super) reader: ReadAhead,
    /// The node's order, before repeats.
    pub(super) order: WindowedOrder,
    /// For every position of it: whether a batch of this rank has its image.
    pub(super) read: Vec<bool>,
}

/// The readers of an epoch.
pub(super) struct NodeReaders {
    /// For each canonical node its reader; none where this rank has no image of it.
    pub(super) nodes: Vec<Option<NodeReader>>,
    pub(super) interleave: Interleave,
    /// How often an image comes in a row.
    pub(super) repeats: usize,
}

impl NodeReaders {
    fn each(&self) -> impl Iterator<Item = &NodeReader> {
        self.nodes.iter().flatten()
    }

    /// See [`ReadAhead::take`]; `position` is one of the epoch's order.
    pub(super) fn take(&self, position: usize, bytes: &mut Vec<u8>) -> bool {
        let (node, at) = self.interleave.place(position / self.repeats);
        self.nodes[node].as_ref().is_some_and(|own| own.reader.take(at, bytes))
    }

    /// A batch is made, or given up.
    pub(super) fn made(&self, batch: usize) {
        self.each().for_each(|own| own.reader.made(batch));
    }

    /// Ends the reading.
    pub(super) fn stop(&self) {
        self.each().for_each(|own| own.reader.stop());
    }

    /// Reads ahead until the epoch ends or is stopped: a thread for each node. `unread` gives the
    /// path of an item that has to be read.
    pub(super) fn read_ahead<'a>(&self, unread: impl Fn(usize) -> Option<&'a Path> + Sync) {
        let read = |own: &NodeReader| {
            own.reader.read_ahead(|at| unread(own.read[at].then(|| own.order.indices[at])?));
        };
        std::thread::scope(|scope| {
            let mut all = self.each();
            let own = all.next();
            for other in all {
                let work = || read(other);
                if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    // Its images are read one by one.
                    other.reader.stop();
                }
            }
            own.into_iter().for_each(read);
        });
    }
}
