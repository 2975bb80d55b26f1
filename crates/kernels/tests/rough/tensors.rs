//! Tensors without pattern on the CPU backends, and their values.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::rough::rough;

/// The backends that the kernels serve.
#[expect(deprecated, reason = "burn-ndarray is one of the backends asked for")]
pub(crate) fn hosts() -> [Device; 2] {
    [Device::flex(), Device::ndarray()]
}

/// A tensor of rough values in the given type, its gradient wanted on an autodiff device.
pub(crate) fn tensor<const D: usize>(
    seed: u64,
    shape: [usize; D],
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    let values = rough(seed, shape.iter().product());
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, dtype));
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec::<f32>().expect("floats")
}
