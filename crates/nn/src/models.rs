//! One paper per file: tables, layers and module; `variants` lists every name with its accuracy and
//! source. No paper imports another.

pub mod googlenet;
pub mod inception_v3;
pub mod mobilenet_v1;
pub mod mobilenet_v2;
pub mod mobilenet_v3;
pub mod variants;
pub mod xception;
