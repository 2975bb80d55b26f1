//! Pooling with torch's conventions: the maximum pads with minus infinity, the mean counts the
//! padding.

use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use kernels::cpu::max_pool::PoolWindow;
use kernels::ops::pooling;
pub use kernels::ops::pooling::global_mean;

use crate::geometry::Pool;

/// The maximum of each window.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`, `[h', w'] =` [`Pool::output_size`]`([h, w])`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nn::block::pooling::max_pool;
/// use nn::geometry::Pool;
///
/// let x = Tensor::zeros([1, 8, 112, 112], &Device::flex());
/// assert_eq!(max_pool(x, Pool::new(3, 2).ceil()).dims(), [1, 8, 56, 56]);
/// ```
pub fn max_pool(x: Tensor<4>, pool: Pool) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let window = PoolWindow {
        kernel: pool.kernel,
        stride: pool.stride,
        before: pool.padding,
        output: pool.output_size([h, w]),
    };
    pooling::max_pool(x, window)
}

/// The mean of each window, the zeros of the padding counted.
///
/// # Shapes
/// `[b, c, h, w]` to `[b, c, h', w']`, `[h', w'] =` [`Pool::output_size`]`([h, w])`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nn::block::pooling::mean_pool;
/// use nn::geometry::Pool;
///
/// let y = mean_pool(Tensor::ones([1, 1, 3, 3], &Device::flex()), Pool::new(3, 1).padded(1));
/// // The window at a corner holds 4 ones and 5 zeros.
/// assert_eq!(y.slice([0..1, 0..1, 0..1, 0..1]).into_scalar::<f32>(), 4.0 / 9.0);
/// ```
pub fn mean_pool(x: Tensor<4>, pool: Pool) -> Tensor<4> {
    if !pool.ceil {
        return pooling::mean_pool(x, pool.kernel, pool.stride, pool.padding);
    }
    let options = AvgPoolOptions {
        kernel_size: [pool.kernel; 2],
        stride: [pool.stride; 2],
        padding: [(pool.padding, pool.padding); 2],
        count_include_pad: true,
        ceil_mode: true,
    };
    avg_pool2d(x, options)
}
