//! What is learned from a batch: losses, one forward and backward pass, evaluation, and the guards
//! around them (out of memory, losses that are not finite, statistics of batch norm). No plan, no
//! file of a run and no console.

pub mod bn_statistics;
pub mod confusion;
pub mod device_images;
pub mod evaluate;
pub mod forward_backward;
pub mod interval;
pub mod loss;
pub mod nan_guard;
pub mod objective;
pub mod out_of_memory;
