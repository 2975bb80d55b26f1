//! Maps on the device, channels last.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Whether the kernels take a tensor's values. They compute in f32 and read and write maps of f32
/// or f16.
pub(crate) fn supports(tensor: &CubeTensor) -> bool {
    matches!(tensor.dtype, DType::F32 | DType::F16) && tensor.qparams.is_none()
}

/// The type of a map's values as the compiler of kernels calls it.
pub(crate) fn element(dtype: DType) -> ElemType {
    match dtype {
        DType::F32 => ElemType::Float(FloatKind::F32),
        DType::F16 => ElemType::Float(FloatKind::F16),
        other => panic!("a map of {other:?}: the kernels read f32 and f16"),
    }
}

/// A tensor of the same values whose strides are permuted: no value moves.
fn permuted(mut tensor: CubeTensor, axes: [usize; 4]) -> CubeTensor {
    tensor.meta.permute(&axes).expect("four axes");
    tensor
}

/// The values of a map `[b, c, h, w]` in the order `[b, h, w, c]`; copied only where they lie in
/// another order.
pub(crate) fn to_nhwc(map: CubeTensor) -> CubeTensor {
    into_contiguous(permuted(map, [0, 2, 3, 1]))
}

/// The map `[b, c, h, w]` of values `[b, h, w, c]`.
pub(crate) fn from_nhwc(values: CubeTensor) -> CubeTensor {
    permuted(values, [0, 3, 1, 2])
}

/// The same values under another shape.
///
/// # Panics
/// When the values are not contiguous, or of another number.
pub(crate) fn reshaped(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    assert!(tensor.is_contiguous(), "a reshape of strided values");
    let count: usize = shape.iter().product();
    assert_eq!(tensor.shape().num_elements(), count, "values of another shape");
    let CubeTensor { client, handle, device, dtype, .. } = tensor;
    CubeTensor::new_contiguous(client, device, Shape::from(shape.to_vec()), handle, dtype)
}

/// A contiguous tensor with uninitialised values, where `like` lies.
pub(crate) fn empty(like: &CubeTensor, shape: &[usize], dtype: DType) -> CubeTensor {
    let shape = Shape::from(shape.to_vec());
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
}

/// Rows times channels in tiles of units: which unit of a cube takes which channels and rows.
///
/// Units along x take neighbouring channels, units along y neighbouring rows, so that a cube reads
/// a contiguous piece of the map. A cube has 256 units, the most that every adapter offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    /// Neighbouring channels that one unit reads at once: 4, 2 or 1.
    pub(crate) width: usize,
    /// Vectors of channels, `channels / width`.
    pub(crate) vectors: usize,
    /// Units of a cube along the channels, a power of two.
    pub(crate) x: usize,
    /// Units of a cube along the rows, a power of two.
    pub(crate) y: usize,
    /// Rows that one unit takes.
    pub(crate) rows_per_unit: usize,
    /// Cubes along the rows.
    pub(crate) parts: usize,
}

/// Units of a cube.
pub(crate) const UNITS: usize = 256;
/// The most cubes along one axis that every adapter offers.
const MOST_CUBES: usize = 65_535;

impl Tiles {
    /// Tiles of a matrix `[rows, channels]` of which a unit takes about `rows_per_unit` rows, in at
    /// most `most_parts` cubes along the rows and `most_x` units of a cube along the channels.
    pub(crate) fn new(
        [rows, channels]: [usize; 2],
        rows_per_unit: usize,
        most_parts: usize,
        most_x: usize,
    ) -> Self {
        let width = if channels.is_multiple_of(4) { 4 } else { 1 };
        let vectors = channels / width;
        let x = vectors.next_power_of_two().min(most_x);
        let y = UNITS / x;
        let parts = rows.div_ceil(y * rows_per_unit).clamp(1, most_parts.min(MOST_CUBES));
        let rows_per_unit = rows.div_ceil(y * parts).max(1);
        let parts = rows.div_ceil(y * rows_per_unit).max(1);
        Self { width, vectors, x, y, rows_per_unit, parts }
    }

    /// Cubes: channels along x, rows along y.
    pub(crate) fn cubes(&self) -> CubeCount {
        CubeCount::Static(self.vectors.div_ceil(self.x) as u32, self.parts as u32, 1)
    }

    /// Units of a cube.
    pub(crate) fn units(&self) -> CubeDim {
        CubeDim::new_2d(self.x as u32, self.y as u32)
    }
}
