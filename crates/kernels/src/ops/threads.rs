//! The one pool of threads, rayon's, and work that is better begun inside it.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::ops::cpu_tensor::serves;

/// Runs `work` on a thread of the pool. Outside, every kernel would hand its work over and sleep until it is
/// done; inside, the thread takes part.
pub fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let mut result = None;
    rayon::scope(|_| result = Some(work()));
    result.expect("the scope has ended")
}

/// Inference image by image, as many at a time as there are threads: what an image's layers pass on stays
/// in the cache, where a whole batch's would not. Where the kernels do not serve, the batch as it is.
///
/// # Shapes
/// `images` `[b, c, h, w]`; `infer` gives one of something for every image.
pub fn image_by_image<const D: usize>(
    images: Tensor<4>,
    infer: impl Fn(Tensor<4>) -> Tensor<D> + Sync,
) -> Tensor<D> {
    let [batch, _, _, _] = images.dims();
    if batch == 1 || images.device().is_autodiff() || !serves(&images) {
        return infer(images);
    }
    let rows: Vec<Tensor<D>> = (0..batch)
        .into_par_iter()
        .with_max_len(1)
        .map(|i| infer(images.clone().narrow(0, i, 1)))
        .collect();
    Tensor::cat(rows, 0)
}
