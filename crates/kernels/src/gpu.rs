//! GPU kernels in CubeCL, behind the operations on every device of the `Cube` backend: no operation
//! of Burn's autodiff stands here.
//!
//! Maps are channels last, as on the CPU. Kernels compute in f32 and read and write maps of f32 or
//! f16. They are portable: shared memory of at most 16 KB and 256 units a cube; no subgroup
//! operations, which software adapters lack, and no atomics on floats, which WGSL lacks. So every
//! sum has a fixed order and the same bits at every run. Where a kernel does not apply, an
//! operation takes its default body in `ops::reference`, which is also the kernel's twin in tests.

#![allow(
    clippy::cast_possible_truncation,
    clippy::duplicate_underscore_argument,
    clippy::used_underscore_binding,
    reason = "the macro of a kernel expands to both"
)]

pub(crate) mod activation;
pub(crate) mod batch_norm;
pub(crate) mod depthwise;
pub(crate) mod elementwise;
pub(crate) mod images;
pub(crate) mod map;
pub(crate) mod matmul;
pub(crate) mod max_pool;
pub mod multi_tensor;
pub(crate) mod products;
pub(crate) mod running_statistics;
pub(crate) mod spatial;
pub(crate) mod squeeze_excite;
pub(crate) mod sums;
pub mod traffic;
