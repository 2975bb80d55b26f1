//! The flat values of a parameter, of its gradient or of an optimizer's state: plain memory where
//! our kernels run, a tensor of the device elsewhere.
//!
//! Work that touches every value of a network once per step is done on slices, in one pass. A dozen
//! small tensor operations for each of 170 parameters would cost more than the arithmetic.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use kernels::ops::cpu_tensor::supports;
use rayon::prelude::*;

/// Values that one thread works on at a time. Sums are taken part by part in this order, so that
/// they do not depend on the number of threads.
pub(crate) const PART: usize = 1 << 14;

/// A flat list of f32.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few hundred of them hold millions of values")]
pub enum Buffer {
    /// In the memory of this process.
    Host(Vec<f32>),
    /// A tensor on the device.
    Device(Tensor<1>),
}

impl Buffer {
    /// The values of a tensor without autodiff, moved out of the tensor if this is its only handle.
    pub fn of<const D: usize>(tensor: Tensor<D>) -> Self {
        match supports(&tensor) {
            true => Buffer::Host(read(tensor)),
            false => Buffer::Device(tensor.reshape([-1])),
        }
    }

    /// A buffer of the length and kind of `self` with `value` everywhere.
    pub fn filled(&self, value: f32) -> Self {
        match self {
            Buffer::Host(own) => Buffer::Host(vec![value; own.len()]),
            Buffer::Device(own) => Buffer::Device(own.full_like(value)),
        }
    }

    /// The tensor of this shape on `device`.
    pub fn into_tensor<const D: usize>(self, shape: [usize; D], device: &Device) -> Tensor<D> {
        match self {
            Buffer::Host(own) => Tensor::from_data(TensorData::new(own, shape), device),
            Buffer::Device(own) => own.reshape(shape),
        }
    }

    /// A copy in the memory of this process.
    pub fn to_vec(&self) -> Vec<f32> {
        match self {
            Buffer::Host(own) => own.clone(),
            Buffer::Device(own) => read(own.clone()),
        }
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Buffer::Host(own) => own.len(),
            Buffer::Device(own) => own.dims()[0],
        }
    }

    /// Whether the buffer has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Multiplies every value by `factor`.
    pub fn scale(&mut self, factor: f64) {
        let factor = factor as f32;
        match self {
            Buffer::Host(own) => parts(own, |own| own.iter_mut().for_each(|v| *v *= factor)),
            Buffer::Device(own) => *own = own.clone().mul_scalar(factor),
        }
    }

    /// Clamps every value to `[-bound, bound]`. NaN stays NaN.
    pub fn clamp(&mut self, bound: f64) {
        let bound = bound as f32;
        match self {
            Buffer::Host(own) => {
                parts(own, |own| own.iter_mut().for_each(|v| *v = v.clamp(-bound, bound)));
            }
            Buffer::Device(own) => *own = own.clone().clamp(-bound, bound),
        }
    }

    /// Moves the values to `self + (new - self) * weight`: a moving average with decay
    /// `1 - weight`.
    ///
    /// # Panics
    /// When `new` has another length or is of the other kind.
    pub fn lerp(&mut self, new: &Buffer, weight: f64) {
        let weight = weight as f32;
        match (self, new) {
            (Buffer::Host(own), Buffer::Host(new)) => {
                assert_eq!(own.len(), new.len(), "an average of {} values", own.len());
                pairs(own, new, |own, new| {
                    for (own, new) in own.iter_mut().zip(new) {
                        *own += (new - *own) * weight;
                    }
                });
            }
            (Buffer::Device(own), Buffer::Device(new)) => {
                *own = own.clone() + (new.clone() - own.clone()).mul_scalar(weight);
            }
            _ => panic!("an average of buffers of two kinds"),
        }
    }
}

/// The values of a tensor in row-major order.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("a float tensor")
}

/// Runs `work` on every part of a slice. The threads share the parts.
pub(crate) fn parts(values: &mut [f32], work: impl Fn(&mut [f32]) + Sync + Send) {
    match values.len() <= PART {
        true => work(values),
        false => values.par_chunks_mut(PART).for_each(work),
    }
}

/// Runs `work` on every part of two slices of one length. The threads share the parts.
pub(crate) fn pairs(a: &mut [f32], b: &[f32], work: impl Fn(&mut [f32], &[f32]) + Sync + Send) {
    match a.len() <= PART {
        true => work(a, b),
        false => a.par_chunks_mut(PART).zip(b.par_chunks(PART)).for_each(|(a, b)| work(a, b)),
    }
}

/// The sum of the squared values.
pub(crate) fn squares(values: &[f32]) -> f64 {
    let sum = |part: &[f32]| -> f64 {
        // Eight sums side by side: a single one would wait for each addition.
        let mut lanes = [0.0_f64; 8];
        let rows = part.chunks_exact(8);
        let rest: f64 = rows.remainder().iter().map(|v| f64::from(*v).powi(2)).sum();
        for row in rows {
            for (lane, v) in lanes.iter_mut().zip(row) {
                *lane += f64::from(*v) * f64::from(*v);
            }
        }
        lanes.iter().sum::<f64>() + rest
    };
    match values.len() <= PART {
        true => sum(values),
        false => values.par_chunks(PART).map(sum).collect::<Vec<f64>>().iter().sum(),
    }
}

/// The parameter with its values changed by `change`; it requires a gradient and stays on its
/// autodiff device.
pub(crate) fn changed<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(&mut Buffer),
) -> Param<Tensor<D>> {
    let (id, tensor, mapper) = param.consume();
    let tensor = tensor.inner();
    let (shape, device) = (tensor.dims(), tensor.device());
    let mut values = Buffer::of(tensor);
    change(&mut values);
    let tensor = Tensor::from_inner(values.into_tensor(shape, &device)).set_require_grad(true);
    Param::from_mapped_value(id, tensor, mapper)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mutations caught: the remainder omitted.
    #[test]
    fn a_sum_of_squares_is_exact_at_every_length() {
        for count in [0, 1, 7, 8, 9, PART - 1, PART, PART + 1, 3 * PART + 5] {
            let values: Vec<f32> = (0..count).map(|i| (i % 5) as f32).collect();
            let expected: f64 = (0..count).map(|i| ((i % 5) * (i % 5)) as f64).sum();
            assert_eq!(squares(&values), expected, "{count} values");
        }
    }
}
