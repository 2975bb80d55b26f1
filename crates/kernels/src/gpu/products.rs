//! Matrix products in the registers of single units, a tile of four rows and four columns each: for
//! adapters without subgroups, which compute on a CPU. There most take less time than Burn's
//! kernels, whose shared memory such an adapter only imitates.

use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::cpu::activation::FusedActivation;
use crate::gpu::activation::activate_one;
use crate::gpu::batch_norm::Norm;
use crate::gpu::map::{element, empty};
use crate::gpu::sums::sum_parts;

/// Rows and columns of a unit's tile.
const TILE: usize = 4;
/// Units of a cube: few, because a unit has much to do.
const UNITS: usize = 64;
/// The fewest terms of a part of a weight gradient, and the most parts.
const FEWEST_TERMS: usize = 256;
const MOST_PARTS: usize = 1024;

/// Terms of a part of a weight gradient over `m` rows.
pub(crate) fn terms(m: usize) -> usize {
    m.div_ceil(MOST_PARTS).max(FEWEST_TERMS)
}

/// Whether these products suit the device of a tensor better than Burn's.
pub(crate) fn suit(tensor: &CubeTensor) -> bool {
    tensor.client.properties().features.plane.is_empty()
}

/// `y [rows, columns] = x [rows, terms] w [columns, terms]`.
#[cube(launch)]
fn product_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    w: &[Vector<E, N>],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    skip: &[E],
    y: &mut [E],
    epsilon: f32,
    rows: usize,
    terms: usize,
    columns: usize,
    tiles: usize,
    #[comptime] norms: bool,
    #[comptime] skips: bool,
    #[comptime] activation: FusedActivation,
    #[define(E)] _dtype: ElemType,
) {
    let column_tiles = columns.div_ceil(TILE);
    if ABSOLUTE_POS < tiles {
        let column = (ABSOLUTE_POS % column_tiles) * TILE;
        let row = (ABSOLUTE_POS / column_tiles) * TILE;
        let mut sums = Array::<Vector<f32, N>>::new(comptime!(TILE * TILE));
        #[unroll]
        for i in 0..comptime!(TILE * TILE) {
            sums[i] = Vector::new(0.0f32);
        }
        for term in 0..terms {
            let mut own = Array::<Vector<f32, N>>::new(TILE);
            #[unroll]
            for j in 0..TILE {
                // A tile that reaches past the end reads the last one again.
                let c = usize::min(column + j, columns - 1);
                own[j] = Vector::<f32, N>::cast_from(w[c * terms + term]);
            }
            #[unroll]
            for i in 0..TILE {
                let r = usize::min(row + i, rows - 1);
                let value = Vector::<f32, N>::cast_from(x[r * terms + term]);
                #[unroll]
                for j in 0..TILE {
                    sums[comptime!(i * TILE + j)] += value * own[j];
                }
            }
        }
        #[unroll]
        for i in 0..TILE {
            #[unroll]
            for j in 0..TILE {
                if row + i < rows && column + j < columns {
                    let lanes = sums[comptime!(i * TILE + j)];
                    let mut sum = lanes.extract(0usize);
                    #[unroll]
                    for lane in 1..N::value() {
                        sum += lanes.extract(lane);
                    }
                    let (at, c) = ((row + i) * columns + column + j, column + j);
                    if comptime!(norms) {
                        let scale = gamma[c] / (variance[c] + epsilon).sqrt();
                        sum = activate_one((sum - mean[c]) * scale + beta[c], activation);
                    }
                    if comptime!(skips) {
                        sum += f32::cast_from(skip[at]);
                    }
                    y[at] = E::cast_from(sum);
                }
            }
        }
    }
}

/// What follows a product in the same launch: a norm and its activation, then the addition of a skip
/// path.
pub(crate) struct Epilogue {
    pub(crate) norm: Norm,
    pub(crate) activation: FusedActivation,
    pub(crate) skip: Option<CubeTensor>,
}

/// `x [m, k]` times the transpose of `w [n, k]`, and the epilogue.
pub(crate) fn product(
    x: &CubeTensor,
    w: &CubeTensor,
    [m, k, n]: [usize; 3],
    epilogue: Option<Epilogue>,
) -> CubeTensor {
    let norms = epilogue.is_some();
    // Where there is no epilogue, the weights stand in: a kernel has no optional operand.
    let Epilogue { norm, activation, skip } = epilogue.unwrap_or_else(|| Epilogue {
        norm: Norm::of_none(w),
        activation: FusedActivation::Linear,
        skip: None,
    });
    let skips = skip.is_some();
    let width = if k.is_multiple_of(4) { 4 } else { 1 };
    let y = empty(x, &[m, n], x.dtype);
    let tiles = n.div_ceil(TILE) * m.div_ceil(TILE);
    let units = CubeDim::new_1d(UNITS as u32);
    product_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, tiles, units),
        units,
        width,
        x.clone().into_buffer_arg(),
        w.clone().into_buffer_arg(),
        norm.gamma.into_buffer_arg(),
        norm.beta.into_buffer_arg(),
        norm.mean.into_buffer_arg(),
        norm.variance.into_buffer_arg(),
        skip.unwrap_or_else(|| w.clone()).into_buffer_arg(),
        y.clone().into_buffer_arg(),
        norm.epsilon,
        m,
        k / width,
        n,
        tiles,
        norms,
        skips,
        activation,
        element(x.dtype),
    );
    y
}

/// `y [rows, columns] = x [rows, terms] w [terms, columns]`; a unit has four rows and four vectors of
/// columns.
#[cube(launch)]
fn product_by_rows_kernel<E: Float, N: Size>(
    x: &[E],
    w: &[Vector<E, N>],
    y: &mut [Vector<E, N>],
    rows: usize,
    terms: usize,
    columns: usize,
    tiles: usize,
    #[define(E)] _dtype: ElemType,
) {
    let column_tiles = columns.div_ceil(TILE);
    if ABSOLUTE_POS < tiles {
        let column = (ABSOLUTE_POS % column_tiles) * TILE;
        let row = (ABSOLUTE_POS / column_tiles) * TILE;
        let mut sums = Array::<Vector<f32, N>>::new(comptime!(TILE * TILE));
        #[unroll]
        for i in 0..comptime!(TILE * TILE) {
            sums[i] = Vector::new(0.0f32);
        }
        for term in 0..terms {
            let mut own = Array::<Vector<f32, N>>::new(TILE);
            #[unroll]
            for j in 0..TILE {
                // A tile that reaches past the end reads the last one again.
                let c = usize::min(column + j, columns - 1);
                own[j] = Vector::<f32, N>::cast_from(w[term * columns + c]);
            }
            #[unroll]
            for i in 0..TILE {
                let r = usize::min(row + i, rows - 1);
                let value = Vector::<f32, N>::new(f32::cast_from(x[r * terms + term]));
                #[unroll]
                for j in 0..TILE {
                    sums[comptime!(i * TILE + j)] += value * own[j];
                }
            }
        }
        #[unroll]
        for i in 0..TILE {
            #[unroll]
            for j in 0..TILE {
                if row + i < rows && column + j < columns {
                    y[(row + i) * columns + column + j] =
                        Vector::cast_from(sums[comptime!(i * TILE + j)]);
                }
            }
        }
    }
}

/// `x [m, k]` times `w [k, n]`, as both lie.
pub(crate) fn product_by_rows(x: &CubeTensor, w: &CubeTensor, [m, k, n]: [usize; 3]) -> CubeTensor {
    let width = if n.is_multiple_of(4) { 4 } else { 1 };
    let columns = n / width;
    let y = empty(x, &[m, n], x.dtype);
    let tiles = columns.div_ceil(TILE) * m.div_ceil(TILE);
    let units = CubeDim::new_1d(UNITS as u32);
    product_by_rows_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, tiles, units),
        units,
        width,
        x.clone().into_buffer_arg(),
        w.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        m,
        k,
        columns,
        tiles,
        element(x.dtype),
    );
    y
}

/// `[parts, n, k]`: the sums over the rows of each part of `dy [m, n]` times `x [m, k]`.
#[cube(launch)]
fn gradient_kernel<E: Float, N: Size>(
    x: &[Vector<E, N>],
    dy: &[E],
    parts: &mut [Vector<f32, N>],
    m: usize,
    k: usize,
    n: usize,
    units: usize,
    terms: usize,
    #[define(E)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < units {
        let tiles = n.div_ceil(TILE);
        let column = ABSOLUTE_POS % k;
        let rest = ABSOLUTE_POS / k;
        let row = (rest % tiles) * TILE;
        let part = rest / tiles;
        let mut sums = Array::<Vector<f32, N>>::new(TILE);
        #[unroll]
        for j in 0..TILE {
            sums[j] = Vector::new(0.0f32);
        }
        let first = part * terms;
        let last = usize::min(first + terms, m);
        for term in first..last {
            let value = Vector::<f32, N>::cast_from(x[term * k + column]);
            #[unroll]
            for j in 0..TILE {
                let at = term * n + usize::min(row + j, n - 1);
                sums[j] += value * Vector::new(f32::cast_from(dy[at]));
            }
        }
        #[unroll]
        for j in 0..TILE {
            if row + j < n {
                parts[(part * n + row + j) * k + column] = sums[j];
            }
        }
    }
}

/// The transpose of `dy [m, n]` times `x [m, k]`, `[n, k]` in f32; two launches.
pub(crate) fn gradient(x: &CubeTensor, dy: &CubeTensor, [m, k, n]: [usize; 3]) -> CubeTensor {
    let width = if k.is_multiple_of(4) { 4 } else { 1 };
    let terms = terms(m);
    let count = m.div_ceil(terms);
    let parts = empty(x, &[count, n, k], DType::F32);
    let units = count * n.div_ceil(TILE) * (k / width);
    let dim = CubeDim::new_1d(UNITS as u32);
    gradient_kernel::launch(
        &x.client,
        cubecl::calculate_cube_count_elemwise(&x.client, units, dim),
        dim,
        width,
        x.clone().into_buffer_arg(),
        dy.clone().into_buffer_arg(),
        parts.clone().into_buffer_arg(),
        m,
        k / width,
        n,
        units,
        terms,
        element(x.dtype),
    );
    sum_parts(parts, count, &[n, k])
}
