//! Many small tensors of a GPU as one flat vector: an optimizer's update, a moving average and a
//! norm are then one launch each, and not one for every parameter.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, NdArray, backend_extension};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;

use crate::gpu::multi_tensor::{self, AT_ONCE, Formula, Rates, padded};
use crate::ops::cpu_tensor::burn_ops_requested;

/// Operations on flat vectors of many tensors.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"))]
pub trait MultiTensorOps: Backend {
    /// `flat` with the first `count` of the tensors from `offset` on.
    #[fusion(default)]
    fn gathered(
        flat: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        count: usize,
        offset: usize,
    ) -> FloatTensor<Self> {
        let _ = (flat, a, b, c, d, e, f, g, h);
        panic!("{count} tensors at {offset}: see `supports`")
    }

    /// `count` values from `offset` on.
    #[fusion(default)]
    fn part(flat: FloatTensor<Self>, offset: usize, count: usize) -> FloatTensor<Self> {
        let _ = flat;
        panic!("{count} values at {offset}: see `supports`")
    }

    /// An optimizer's update: new values and states.
    #[fusion(default)]
    fn updated(
        values: FloatTensor<Self>,
        gradients: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        decays: FloatTensor<Self>,
        formula: Formula,
        rates: Rates,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = (values, gradients, first, second, scales, decays, rates);
        panic!("{formula:?}: see `supports`")
    }
}

impl MultiTensorOps for NdArray {}
impl MultiTensorOps for Flex {}

impl MultiTensorOps for CubeBackend {
    fn gathered(
        flat: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
        f: FloatTensor<Self>,
        g: FloatTensor<Self>,
        h: FloatTensor<Self>,
        count: usize,
        offset: usize,
    ) -> FloatTensor<Self> {
        let tensors = [a, b, c, d, e, f, g, h].map(into_contiguous);
        multi_tensor::gather(&flat, tensors.each_ref(), count, offset);
        flat
    }

    fn part(flat: FloatTensor<Self>, offset: usize, count: usize) -> FloatTensor<Self> {
        multi_tensor::part(flat, offset, count)
    }

    fn updated(
        values: FloatTensor<Self>,
        gradients: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        decays: FloatTensor<Self>,
        formula: Formula,
        rates: Rates,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        multi_tensor::update(values, gradients, [first, second], [scales, decays], formula, rates)
    }
}

/// Whether flat vectors of this tensor's kind exist: f32 on a GPU.
pub fn supports<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    tensor.dtype() == DType::F32
        && !device.is_autodiff()
        && device != Device::flex()
        && !is_ndarray(&device)
        && !burn_ops_requested()
}

#[allow(deprecated, reason = "burn-ndarray is one of the supported backends")]
fn is_ndarray(device: &Device) -> bool {
    *device == Device::ndarray()
}

/// A flat vector, and where its tensors lie in it.
#[derive(Clone, Debug)]
pub struct FlatTensors {
    flat: Tensor<1>,
    lengths: Vec<usize>,
}

impl FlatTensors {
    /// The tensors, one behind the other.
    ///
    /// # Panics
    /// Without a tensor, or for tensors that [`supports`] does not name.
    pub fn new(tensors: &[Tensor<1>]) -> Self {
        let first = tensors.first().expect("a tensor");
        assert!(supports(first), "flat vectors are for f32 on a GPU");
        let lengths: Vec<usize> = tensors.iter().map(|tensor| tensor.dims()[0]).collect();
        let all: usize = lengths.iter().map(|length| padded(*length)).sum();
        let mut flat = Tensor::<1>::empty([all], &first.device()).into_dispatch();
        let mut offset = 0;
        for tensors in tensors.chunks(AT_ONCE) {
            let count = tensors.len();
            let mut eight = tensors.iter().cloned().map(Tensor::into_dispatch).collect::<Vec<_>>();
            eight.resize(AT_ONCE, eight[0].clone());
            let [a, b, c, d, e, f, g, h] = <[_; AT_ONCE]>::try_from(eight).expect("eight");
            flat =
                <Dispatch as MultiTensorOps>::gathered(flat, a, b, c, d, e, f, g, h, count, offset);
            offset += tensors.iter().map(|tensor| padded(tensor.dims()[0])).sum::<usize>();
        }
        Self { flat: Tensor::from_dispatch(flat), lengths }
    }

    /// Vectors of the same places with `value` everywhere.
    #[must_use]
    pub fn filled(&self, value: f32) -> Self {
        Self { flat: self.flat.full_like(value), lengths: self.lengths.clone() }
    }

    /// The values of every tensor's places, in the order of the tensors: what [`FlatTensors::update`]
    /// takes as scales and decays.
    pub fn of_places(&self, values: impl Fn(usize) -> f32) -> Tensor<1> {
        let places: Vec<f32> = self
            .lengths
            .iter()
            .enumerate()
            .flat_map(|(i, length)| {
                std::iter::repeat_n(values(i), padded(*length) / multi_tensor::ALIGNMENT)
            })
            .collect();
        Tensor::from_floats(places.as_slice(), &self.flat.device())
    }

    /// The whole vector; zeros between the tensors.
    pub fn flat(&self) -> &Tensor<1> {
        &self.flat
    }

    /// The same places in another vector.
    ///
    /// # Panics
    /// When the vector has another length.
    #[must_use]
    pub fn with_flat(&self, flat: Tensor<1>) -> Self {
        assert_eq!(flat.dims(), self.flat.dims(), "a vector of other places");
        Self { flat, lengths: self.lengths.clone() }
    }

    /// The tensors; no value is copied.
    pub fn tensors(&self) -> Vec<Tensor<1>> {
        let mut offset = 0;
        let mut tensors = Vec::with_capacity(self.lengths.len());
        for length in &self.lengths {
            let flat = self.flat.clone().into_dispatch();
            tensors.push(Tensor::from_dispatch(<Dispatch as MultiTensorOps>::part(
                flat, offset, *length,
            )));
            offset += padded(*length);
        }
        tensors
    }

    /// One step of an optimizer: new values, new states.
    ///
    /// # Panics
    /// When the vectors have other places.
    pub fn update(
        &self,
        gradients: &Self,
        states: [&Self; 2],
        [scales, decays]: [&Tensor<1>; 2],
        formula: Formula,
        rates: Rates,
    ) -> (Self, [Self; 2]) {
        for other in [gradients, states[0], states[1]] {
            assert_eq!(self.lengths, other.lengths, "vectors of other places");
        }
        let (values, first, second) = <Dispatch as MultiTensorOps>::updated(
            self.flat.clone().into_dispatch(),
            gradients.flat.clone().into_dispatch(),
            states[0].flat.clone().into_dispatch(),
            states[1].flat.clone().into_dispatch(),
            scales.clone().into_dispatch(),
            decays.clone().into_dispatch(),
            formula,
            rates,
        );
        let [values, first, second] =
            [values, first, second].map(|flat| self.with_flat(Tensor::from_dispatch(flat)));
        (values, [first, second])
    }
}
