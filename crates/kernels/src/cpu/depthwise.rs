//! Depthwise convolutions: `channels_last` is the kernel, `reference` the definition that tests
//! compare it with. Extents are in [`crate::cpu::geometry`].

pub mod channels_last;
pub mod reference;
