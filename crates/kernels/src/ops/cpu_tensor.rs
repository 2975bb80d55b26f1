//! How the kernels reach the values of a tensor on the two CPU backends, and make one from values: always
//! channels last inside, as a strided view outside.

#![allow(deprecated, reason = "burn-ndarray is one of the backends asked for")]

use std::sync::LazyLock;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, NdArray, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};

/// Whether `KINDLING_KERNELS=stock` asks for Burn's own operations and Burn's own autodiff, to compare with.
pub(crate) fn stock() -> bool {
    static STOCK: LazyLock<bool> =
        LazyLock::new(|| std::env::var("KINDLING_KERNELS").is_ok_and(|value| value == "stock"));
    *STOCK
}

/// Whether a tensor is one that the kernels serve: f32 on ndarray or flex, unless stock operations are asked for. Its
/// values then lie in this process's memory, and in channels-last order behind a kernel. The operations of this
/// crate need not be asked: they take what serves.
pub fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    !stock() && x.dtype() == DType::F32 && (device == Device::flex() || device == Device::ndarray())
}

/// Where to find channels-last order in `[b, c, h, w]`, and the way back.
const LAST: [usize; 4] = [0, 2, 3, 1];
const FIRST: [usize; 4] = [0, 3, 1, 2];

/// A backend whose tensors lie in this process's memory.
pub trait Host: Backend {
    /// Whether the kernels serve this tensor; the composed operations do otherwise.
    fn serves(tensor: &FloatTensor<Self>) -> bool {
        tensor.dtype() == DType::F32 && !stock()
    }

    /// The values in row-major order, copied only where they are strided.
    fn with<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R;

    /// The values themselves, where nobody else holds them and they lie in row-major order.
    fn take(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>>;

    /// A tensor of these values, not copied.
    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self>;

    /// Whether the values lie in row-major order.
    fn in_order(tensor: &FloatTensor<Self>) -> bool;

    /// A map `[b, c, h, w]` as values `[b, h, w, c]`.
    fn with_map<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        let [b, c, h, w] = tensor.shape().dims();
        let last = Self::float_permute(tensor.clone(), &LAST);
        // A part of a map's channels is copied run by run; only a map in torch's order is turned.
        if !Self::in_order(tensor) || c == 1 || h * w == 1 {
            return Self::with(&last, read);
        }
        Self::with(tensor, |values| read(&crate::cpu::layout::channels_last(values, b, c, h * w)))
    }

    /// [`Host::take`] of a map, its values `[b, h, w, c]`.
    fn take_map(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
        Self::take(Self::float_permute(tensor, &LAST))
            .map_err(|tensor| Self::float_permute(tensor, &FIRST))
    }

    /// A map `[b, c, h, w]` of values `[b, h, w, c]`.
    fn make_map(values: Vec<f32>, [b, c, h, w]: [usize; 4]) -> FloatTensor<Self> {
        Self::float_permute(Self::make(values, Shape::from([b, h, w, c])), &FIRST)
    }
}

impl Host for NdArray {
    fn with<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
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

    fn take(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
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

    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape))
    }

    fn in_order(tensor: &FloatTensor<Self>) -> bool {
        match tensor {
            FloatTensor::<Self>::F32(storage) => storage.view().as_slice().is_some(),
            _ => false,
        }
    }
}

impl Host for Flex {
    fn with<R>(tensor: &FloatTensor<Self>, read: impl FnOnce(&[f32]) -> R) -> R {
        match tensor.as_slice::<f32>() {
            Some(values) => read(values),
            None => read(tensor.to_contiguous().as_slice::<f32>().expect("contiguous")),
        }
    }

    fn take(tensor: FloatTensor<Self>) -> Result<Vec<f32>, FloatTensor<Self>> {
        let whole = tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
        if !(tensor.is_unique() && whole && Self::in_order(&tensor)) {
            return Err(tensor);
        }
        Ok(tensor.into_data().try_into_vec::<f32>().expect("values of f32"))
    }

    fn make(values: Vec<f32>, shape: Shape) -> FloatTensor<Self> {
        FloatTensor::<Self>::from_data(TensorData::new(values, shape))
    }

    fn in_order(tensor: &FloatTensor<Self>) -> bool {
        tensor.as_slice::<f32>().is_some()
    }
}
