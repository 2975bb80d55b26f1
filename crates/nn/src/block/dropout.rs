//! Dropout without a random generator: the mask is a function of a seed and the element's index.

use burn::tensor::{Tensor, TensorData};

use crate::init::uniform;

/// Which masks dropout draws for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropoutSeed {
    seed: u64,
    /// For each image its row in the batch of the step; none where the images are that batch.
    rows: Option<Vec<usize>>,
}

impl From<u64> for DropoutSeed {
    /// The masks of a whole batch.
    fn from(seed: u64) -> Self {
        Self { seed, rows: None }
    }
}

impl DropoutSeed {
    /// The masks that the images have in the batch of which they are these rows.
    pub fn of_rows(seed: u64, rows: Vec<usize>) -> Self {
        Self { seed, rows: Some(rows) }
    }

    /// The seed of another layer, which has masks of its own.
    pub(crate) fn of_layer(&self, number: u64) -> Self {
        Self { seed: self.seed.wrapping_add(number), rows: self.rows.clone() }
    }

    /// The number that a mask has for column `j` of row `i`, with `columns` columns.
    fn draw(&self, i: usize, j: usize, columns: usize) -> f64 {
        let row = self.rows.as_ref().map_or(i, |rows| rows[i]);
        uniform(self.seed, (row * columns + j) as u64)
    }
}

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
/// let mean = drop_out(ones(), 0.2, &7.into()).mean().into_scalar::<f32>();
/// assert!((mean - 1.0).abs() < 0.05);
/// assert_eq!(drop_out(ones(), 0.0, &7.into()).sum().into_scalar::<f32>(), 4000.0);
/// ```
pub fn drop_out(x: Tensor<2>, probability: f64, seed: &DropoutSeed) -> Tensor<2> {
    if probability == 0.0 {
        return x;
    }
    let [b, c] = x.dims();
    let scale = (1.0 / (1.0 - probability)) as f32;
    let mask: Vec<f32> = (0..b * c)
        .map(|i| if seed.draw(i / c, i % c, c) < probability { 0.0 } else { scale })
        .collect();
    let mask = Tensor::<2>::from_data(TensorData::new(mask, [b, c]), &x.device());
    x * mask
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// Mutations caught: the rows taken for those of a whole batch.
    #[test]
    fn images_keep_their_mask_wherever_they_are() {
        let mask = |rows: usize, seed: &DropoutSeed| {
            let x = Tensor::<2>::ones([rows, 5], &Device::flex());
            drop_out(x, 0.5, seed).into_data().try_into_vec::<f32>().unwrap()
        };
        let whole = mask(8, &7.into());
        let part = mask(3, &DropoutSeed::of_rows(7, vec![6, 1, 2]));
        let expected = [&whole[30..35], &whole[5..10], &whole[10..15]].concat();
        assert_eq!(part, expected);
        assert_ne!(part, whole[..15]);
    }
}
