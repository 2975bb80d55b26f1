//! What a person looks at after a run: curves, confusion, mistakes, as one page and as files.

mod compare;
mod curves;
mod history;
pub(crate) mod metrics;
mod page;
mod pictures;
mod predictions;
mod worst;
mod write;

pub use compare::compare;
pub use pictures::{label, tile};
pub use predictions::{Prediction, predictions_csv};
pub use write::{Written, write};
