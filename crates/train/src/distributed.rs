//! Several processes that train one network: their number, and how they combine values.
//!
//! Whoever trains asks a [`communicator::Communicator`]. One process alone is
//! [`communicator::Alone`], for which every operation is the identity.

#[cfg(any(feature = "mpi", test))]
mod bf16;
pub mod communicator;
pub mod launch;
#[cfg(feature = "mpi")]
mod mpi;
