//! Dropout without a random generator: the mask is a function of a seed and the element's index.

use burn::tensor::{Tensor, TensorData};

use crate::init::uniform;

/// Inverted dropout: an element is zeroed with `probability` and otherwise scaled by
/// `1 / (1 - probability)`.
///
/// The mask is computed on the CPU. It is therefore the same on every backend, and a resumed run
/// repeats it.
///
/// # Shapes
/// `[b, c]`, in and out.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nn::block::dropout::drop_out;
///
/// let ones = || Tensor::<2>::ones([4, 1000], &Device::flex());
/// let mean = drop_out(ones(), 0.2, 7).mean().into_scalar::<f32>();
/// assert!((mean - 1.0).abs() < 0.05);
/// assert_eq!(drop_out(ones(), 0.0, 7).sum().into_scalar::<f32>(), 4000.0);
/// ```
pub fn drop_out(x: Tensor<2>, probability: f64, seed: u64) -> Tensor<2> {
    if probability == 0.0 {
        return x;
    }
    let [b, c] = x.dims();
    let scale = (1.0 / (1.0 - probability)) as f32;
    let mask: Vec<f32> = (0..(b * c) as u64)
        .map(|i| if uniform(seed, i) < probability { 0.0 } else { scale })
        .collect();
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [b, c]), &x.device());
    x * mask
}
