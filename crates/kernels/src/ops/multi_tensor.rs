//! Many small tensors of a GPU as one flat vector: an optimizer's update, a moving average and a
//! norm are then one launch each, and not one for every parameter.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Cube, Dispatch, Flex, NdArray, backend_extension};
use burn::tensor::{DType, Device, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::gpu::multi_tensor::{self, Formula, Rates, padded};
use crate::ops::cpu_tensor::burn_ops_requested;

/// Operations on flat vectors of many tensors.
#[backend_extension(NdArray, Flex, Cube, Fusion: cfg(feature = "fusion"))]
pub trait MultiTensorOps: Backend {
    /// `count` values from `offset` on.
    #[fusion(default)]
    fn part(flat: FloatTensor<Self>, offset: usize, count: usize) -> FloatTensor<Self> {
        let _ = flat;
        panic!("{count} values at {offset}: see `supports`")
    }

    /// The sum of the squared values, `[1]`.
    #[fusion(default)]
    fn squares(flat: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(Self::float_mul(flat.clone(), flat))
    }

    /// `old + (new - old) * weight`.
    #[fusion(default)]
    fn lerped(old: FloatTensor<Self>, new: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        let moved = Self::float_mul_scalar(Self::float_sub(new, old.clone()), weight.into());
        Self::float_add(old, moved)
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
        guard: FloatTensor<Self>,
        guarded: bool,
        formula: Formula,
        rates: Rates,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = (values, gradients, first, second, scales, decays, guard, guarded, rates);
        panic!("{formula:?}: see `supports`")
    }
}

impl MultiTensorOps for NdArray {}
impl MultiTensorOps for Flex {}

impl MultiTensorOps for CubeBackend {
    fn part(flat: FloatTensor<Self>, offset: usize, count: usize) -> FloatTensor<Self> {
        multi_tensor::part(flat, offset, count)
    }

    fn squares(flat: FloatTensor<Self>) -> FloatTensor<Self> {
        multi_tensor::squares(flat)
    }

    fn lerped(old: FloatTensor<Self>, new: FloatTensor<Self>, weight: f64) -> FloatTensor<Self> {
        multi_tensor::lerp(old, new, weight as f32)
    }

    fn updated(
        values: FloatTensor<Self>,
        gradients: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        decays: FloatTensor<Self>,
        guard: FloatTensor<Self>,
        guarded: bool,
        formula: Formula,
        rates: Rates,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (states, places) = ([first, second], [scales, decays]);
        let guard = guarded.then_some(guard);
        multi_tensor::update(values, gradients, states, places, guard, formula, rates)
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

/// Where the values of a tensor lie.
struct Place {
    /// The address of what owns the memory.
    memory: usize,
    /// The first byte in it.
    begin: u64,
}

/// Where the values of a tensor on a GPU lie; none for a tensor that lies elsewhere.
fn place_of(tensor: &Tensor<1>) -> Option<Place> {
    let tensor = tensor.clone().try_into_primitive::<Cube>().ok()?;
    Some(multi_tensor::place(&tensor)).map(|(memory, begin)| Place { memory, begin })
}

/// The values of the tensors of a flat vector, one after the other.
pub struct Parts<'a> {
    values: &'a [f32],
    lengths: std::slice::Iter<'a, usize>,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [f32];

    fn next(&mut self) -> Option<&'a [f32]> {
        let length = *self.lengths.next()?;
        let (own, rest) = self.values.split_at(padded(length));
        self.values = rest;
        Some(&own[..length])
    }
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
        let on_cube = |tensor: &Tensor<1>| {
            let tensor = tensor.clone().try_into_primitive::<CubeBackend>();
            into_contiguous(tensor.expect("a tensor on a GPU"))
        };
        let tensors: Vec<CubeTensor> = tensors.iter().map(on_cube).collect();
        let flat = Tensor::from_primitive::<CubeBackend>(multi_tensor::gather(&tensors));
        Self { flat, lengths }
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

    /// Whether these tensors are the parts of this vector, as [`FlatTensors::tensors`] gives them.
    pub fn holds(&self, tensors: &[Tensor<1>]) -> bool {
        let Some(flat) = place_of(&self.flat) else { return false };
        let mut begin = flat.begin;
        tensors.len() == self.lengths.len()
            && tensors.iter().zip(&self.lengths).all(|(tensor, length)| {
                let here = begin;
                begin += 4 * padded(*length) as u64;
                tensor.dims()[0] == *length
                    && place_of(tensor)
                        .is_some_and(|own| own.memory == flat.memory && own.begin == here)
            })
    }

    /// The values moved towards those of `new` by `weight`: a moving average with decay
    /// `1 - weight`.
    ///
    /// # Panics
    /// When the vectors have other places.
    #[must_use]
    pub fn lerp(&self, new: &Self, weight: f64) -> Self {
        assert_eq!(self.lengths, new.lengths, "vectors of other places");
        let [old, new] = [self, new].map(|tensors| tensors.flat.clone().into_dispatch());
        let moved = <Dispatch as MultiTensorOps>::lerped(old, new, weight);
        self.with_flat(Tensor::from_dispatch(moved))
    }

    /// The Euclidean norm of all values; not finite where a value is not finite.
    pub fn norm(&self) -> f64 {
        f64::from(self.squares().into_scalar::<f32>()).sqrt()
    }

    /// The sum of the squares of all values, `[1]`, which stays on the device.
    pub fn squares(&self) -> Tensor<1> {
        let flat = self.flat.clone().into_dispatch();
        Tensor::from_dispatch(<Dispatch as MultiTensorOps>::squares(flat))
    }

    /// The parts of `values`, the values of the whole vector, in the order of the tensors.
    pub fn parts_of<'a>(&'a self, values: &'a [f32]) -> Parts<'a> {
        Parts { values, lengths: self.lengths.iter() }
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

    /// One step of an optimizer: new values, new states. With a `guard`, whose last value is
    /// [`FlatTensors::squares`] of the gradients, nothing changes where one of
    /// its values is not finite; nobody has to read it before.
    ///
    /// # Panics
    /// When the vectors have other places.
    pub fn update(
        &self,
        gradients: &Self,
        states: [&Self; 2],
        [scales, decays]: [&Tensor<1>; 2],
        guard: Option<&Tensor<1>>,
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
            guard.unwrap_or(decays).clone().into_dispatch(),
            guard.is_some(),
            formula,
            rates,
        );
        let [values, first, second] =
            [values, first, second].map(|flat| self.with_flat(Tensor::from_dispatch(flat)));
        (values, [first, second])
    }
}
