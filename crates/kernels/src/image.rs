//! Arithmetic of image files on slices: inverse DCT and colours of JPEG, the passes of a resize.
//! File formats stand in `transforms`.

pub mod jpeg;
pub mod resize;
