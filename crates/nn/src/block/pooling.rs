//! Pooling with torch's conventions: max pads with minus infinity, average counts the padding.

use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
pub use kernels::ops::pooling::global_mean;
use kernels::ops::pooling::{Window, max_pool, mean_pool};

/// A square window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Height and width.
    pub kernel: usize,
    /// Stride of both axes.
    pub stride: usize,
    /// Padding of every side.
    pub padding: usize,
    /// Whether a last window that begins inside the input may reach past its end.
    pub ceil: bool,
}

impl Pool {
    /// A window without padding.
    pub const fn new(kernel: usize, stride: usize) -> Self {
        Self { kernel, stride, padding: 0, ceil: false }
    }

    /// The same with so much padding on every side.
    #[must_use]
    pub const fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The same with torch's `ceil_mode`.
    #[must_use]
    pub const fn ceil(self) -> Self {
        Self { ceil: true, ..self }
    }

    /// Extents of the output for an input of `size`.
    ///
    /// ```
    /// use nn::block::pooling::Pool;
    /// assert_eq!(Pool::new(3, 2).output_size([112, 111]), [55, 55]);
    /// assert_eq!(Pool::new(3, 2).ceil().output_size([112, 111]), [56, 55]);
    /// ```
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| {
            let room = side + 2 * self.padding;
            assert!(room >= self.kernel, "{room} padded pixels for a window of {}", self.kernel);
            let room = room - self.kernel;
            match self.ceil {
                false => room / self.stride + 1,
                true => {
                    let count = room.div_ceil(self.stride) + 1;
                    // A window that would begin in the padding behind the input does not exist.
                    count - usize::from((count - 1) * self.stride >= side + self.padding)
                }
            }
        })
    }

    /// The largest value of each window.
    ///
    /// # Shapes
    /// `[b, c, h, w]` to `[b, c, h', w']`, `[h', w'] =` [`Pool::output_size`]`([h, w])`.
    pub fn max(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let window = Window {
            kernel: self.kernel,
            stride: self.stride,
            before: self.padding,
            output: self.output_size([h, w]),
        };
        max_pool(x, window)
    }

    /// The mean of each window, zeros of the padding counted.
    ///
    /// # Shapes
    /// As [`Pool::max`].
    pub fn mean(&self, x: Tensor<4>) -> Tensor<4> {
        if !self.ceil {
            return mean_pool(x, self.kernel, self.stride, self.padding);
        }
        let options = AvgPoolOptions {
            kernel_size: [self.kernel; 2],
            stride: [self.stride; 2],
            padding: [(self.padding, self.padding); 2],
            count_include_pad: true,
            ceil_mode: self.ceil,
        };
        avg_pool2d(x, options)
    }
}
