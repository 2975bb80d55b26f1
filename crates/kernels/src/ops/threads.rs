//! Rayon's global pool of threads, and work that should start inside it.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::ops::cpu_tensor::supports;

/// Runs `work` on a thread of the pool. Outside the pool, every kernel call would hand its work
/// over and sleep until it is done; inside, the calling thread takes part.
pub fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let mut result = None;
    rayon::scope(|_| result = Some(work()));
    result.expect("the scope has ended")
}

/// Inference image by image, as many images at a time as there are threads: the maps between two
/// layers of one image stay in the cache, those of a whole batch would not. The whole batch at once
/// where the kernels do not support the tensor.
///
/// # Shapes
/// `images` `[b, c, h, w]`; the result of `infer` has as many rows as it gets images.
pub fn image_by_image<const D: usize>(
    images: Tensor<4>,
    infer: impl Fn(Tensor<4>) -> Tensor<D> + Sync,
) -> Tensor<D> {
    let [batch, _, _, _] = images.dims();
    if batch == 1 || images.device().is_autodiff() || !supports(&images) {
        return infer(images);
    }
    let rows: Vec<Tensor<D>> = (0..batch)
        .into_par_iter()
        .with_max_len(1)
        .map(|i| infer(images.clone().narrow(0, i, 1)))
        .collect();
    Tensor::cat(rows, 0)
}
