//! One paper per file: its tables, its list of layers and its module. `variants` lists every
//! published name with its configuration and accuracy. No paper imports another; shared code is in
//! `block`.

pub mod googlenet;
pub mod inception_v3;
pub mod mobilenet_v1;
pub mod mobilenet_v2;
pub mod mobilenet_v3;
pub mod variants;
pub mod xception;
pub mod xception_aligned;
