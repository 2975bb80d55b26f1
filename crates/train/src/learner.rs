//! One batch forward and backward, losses, evaluation, and the guards around them. No file of a run
//! is written here.

pub mod bn_statistics;
pub mod evaluate;
pub mod forward_backward;
pub mod loss;
pub mod nan_guard;
pub mod objective;
pub mod out_of_memory;
