//! Access to the values of tensors on the two CPU backends: kernels read them as slices and return
//! slices, channels last inside and as a strided view outside.

use std::sync::LazyLock;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, NdArray, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

use crate::cpu::layout::f32_nchw_to_nhwc;

/// Implements a backend extension for the two CPU backends with one body.
macro_rules! impl_for_cpu_backends {
    (impl $extension:ident { $($body:tt)* }) => {
        impl $extension for burn::backend::NdArray { $($body)* }
        impl $extension for burn::backend::Flex { $($body)* }
    };
}

pub(crate) use impl_for_cpu_backends;

/// Whether `KINDLING_KERNELS=stock` asks for Burn's own operations and Burn's own autodiff, as a
/// reference to compare with.
pub(crate) fn burn_ops_requested() -> bool {
    static REQUESTED: LazyLock<bool> =
        LazyLock::new(|| std::env::var("KINDLING_KERNELS").is_ok_and(|value| value == "stock"));
    *REQUESTED
}

/// Whether the kernels support a tensor: f32 on ndarray or flex, unless Burn's own operations are
/// requested. The values of such a tensor lie in this process's memory, channels last behind a
/// kernel. Callers of this crate's operations need not ask: an operation takes any tensor.
pub fn supports<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    !burn_ops_requested()
        && x.dtype() == DType::F32
        && (device == Device::flex() || device == Device::ndarray())
}

/// The permutation of `[b, c, h, w]` to `[b, h, w, c]`.
const TO_NHWC: [usize; 4] = [0, 2, 3, 1];
/// The permutation of `[b, h, w, c]` to `[b, c, h, w]`.
const TO_NCHW: [usize; 4] = [0, 3, 1, 2];

/// A backend whose tensors lie in this process's memory.
pub trait CpuBackend: Backend {
    /// Whether the kernels support this tensor; otherwise an operation takes its reference.
    fn supports(tensor: &FloatTensor<Self>) -> bool {
        tensor.dtype() == DType::F32 && !burn_ops_requested()
    }

    /// Reads the values in row-major order; they are copied only where they are strided.
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R;

    /// The values themselves, where the tensor is their only owner and they lie in row-major order.
    fn try_into_values(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>>;

    /// A tensor of these values, which are not copied.
    fn from_values(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;

    /// Whether the values lie in row-major order.
    fn is_contiguous(tensor: &FloatTensor<Self>) -> bool;

    /// Reads a map `[b, c, h, w]` as values `[b, h, w, c]`.
    fn with_nhwc<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        let [b, c, h, w] = tensor.shape().dims();
        // Burn copies a strided part of a map run by run; a map in torch's order is transposed
        // here.
        if !Self::is_contiguous(tensor) || c == 1 || h * w == 1 {
            return Self::with_values(&Self::float_permute(tensor.clone(), &TO_NHWC), read);
        }
        Self::with_values(tensor, |values| read(&f32_nchw_to_nhwc(values, b, c, h * w)))
    }

    /// [`CpuBackend::try_into_values`] of a map `[b, c, h, w]`, as values `[b, h, w, c]`.
    fn try_into_nhwc(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
        Self::try_into_values(Self::float_permute(tensor, &TO_NHWC))
            .map_err(|tensor| Self::float_permute(tensor, &TO_NCHW))
    }

    /// A map `[b, c, h, w]` of values `[b, h, w, c]`, which are not copied.
    fn from_nhwc(values: Vec<f32>, [b, c, h, w]: [usize; 4]) -> FloatTensor<Self> {
        Self::float_permute(Self::from_values(values, Shape::from([b, h, w, c])), &TO_NCHW)
    }
}

impl CpuBackend for NdArray {
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        match tensor {
            FloatTensor::<Self>::F32(storage) => {
                let view = storage.view();
                match view.as_slice() {
                    Some(values) => read(values),
                    None => read(&view.iter().copied().collect::<Vec<f32>>()),
                }
            }
            other => panic!("expected f32, found {:?}", other.dtype()),
        }
    }

    fn try_into_values(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
        match tensor {
            FloatTensor::<Self>::F32(storage)
                if storage.is_unique() && storage.view().as_slice().is_some() =>
            {
                let count = storage.len();
                let (values, offset) = storage.into_owned().into_owned().into_raw_vec_and_offset();
                match (offset.unwrap_or(0), values.len() == count) {
                    (0, true) => Ok(values),
                    (offset, _) => Ok(values[offset..offset + count].to_vec()),
                }
            }
            other => Err(other),
        }
    }

    fn from_values(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape))
    }

    fn is_contiguous(tensor: &FloatTensor<Self>) -> bool {
        match tensor {
            FloatTensor::<Self>::F32(storage) => storage.view().as_slice().is_some(),
            _ => false,
        }
    }
}

impl CpuBackend for Flex {
    fn with_values<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        match tensor.as_slice::<f32>() {
            Some(values) => read(values),
            None => read(tensor.to_contiguous().as_slice::<f32>().expect("contiguous")),
        }
    }

    fn try_into_values(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
        let whole = tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
        if !(tensor.is_unique() && whole && Self::is_contiguous(&tensor)) {
            return Err(tensor);
        }
        Ok(tensor.into_data().try_into_vec::<f32>().expect("values of f32"))
    }

    fn from_values(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape))
    }

    fn is_contiguous(tensor: &FloatTensor<Self>) -> bool {
        tensor.as_slice::<f32>().is_some()
    }
}
