//! Random tensors on the CPU backends, and their values.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::random::random;

/// The backends that have kernels.
#[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
pub(crate) fn hosts() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

/// A tensor of random values in the given type; on an autodiff device it requires a gradient.
pub(crate) fn tensor<const D: usize>(
    seed: u64,
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let values = random(seed, shape.iter().product());
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, dtype));
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("floats")
}
