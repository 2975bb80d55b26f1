//! Batch norm with the activation behind it, on matrices `[m, c]`: a row is a pixel, a column a
//! channel.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::activation::FusedActivation;
use crate::cpu::matmul::{shared_rows, tile_rows};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// Count, mean and sum of squared deviations of some values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// The moments of both sets together (Chan, Golub, LeVeque 1979).
    fn merge(self, other: Self) -> Self {
        let count = self.count + other.count;
        if count == 0.0 {
            return self;
        }
        let apart = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * other.count / count,
            squares: self.squares
                + other.squares
                + apart * apart * self.count * other.count / count,
        }
    }
}

/// Mean and biased variance of every column.
///
/// The sums of a tile are relative to its first row, in f32, and merged in f64: nothing cancels
/// where the mean is large against the deviation. The bits do not depend on the number of threads.
pub fn f32_batch_norm_moments(isa: Isa, y: &[f32], c: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = y.len() / c;
    let tile = tile_rows(c);
    let parts: Vec<Vec<f32>> = y
        .par_chunks(tile * c)
        .map(|tile| {
            let mut sums = vec![0.0; 2 * c];
            isa.run(MomentSums { y: tile, c, to: sums.as_mut_ptr() });
            sums
        })
        .collect();
    let (mut means, mut variances) = (Vec::with_capacity(c), Vec::with_capacity(c));
    for channel in 0..c {
        let mut total = Moments::default();
        for (i, sums) in parts.iter().enumerate() {
            let first = i * tile;
            let count = tile.min(rows - first) as f64;
            let (sum, squares) = (f64::from(sums[channel]), f64::from(sums[c + channel]));
            let squares = squares - sum * sum / count;
            let part = Moments {
                count,
                mean: f64::from(y[first * c + channel]) + sum / count,
                // Rounding can make it negative. `max` would make 0 of NaN.
                squares: if squares < 0.0 { 0.0 } else { squares },
            };
            total = total.merge(part);
        }
        means.push(total.mean as f32);
        variances.push((total.squares / total.count) as f32);
    }
    (means, variances)
}

/// The sums of `y - first row` and of its square, for every column.
struct MomentSums<'a> {
    y: &'a [f32],
    c: usize,
    to: *mut f32,
}

impl Kernel for MomentSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (c, rows) = (self.c, self.y.len() / self.c);
        for channel in (0..c).step_by(S::LANES) {
            let count = (c - channel).min(S::LANES);
            // SAFETY: the channels lie in the row.
            unsafe {
                let mut row = self.y.as_ptr().add(channel);
                let shift = S::load_some(row, count);
                // Two sums each: no addition waits for the one before.
                let (mut even, mut odd) = (S::zero(), S::zero());
                let (mut even_squares, mut odd_squares) = (S::zero(), S::zero());
                for _ in 0..rows / 2 {
                    let value = S::sub(S::load_some(row, count), shift);
                    even = S::add(even, value);
                    even_squares = S::fma(value, value, even_squares);
                    let value = S::sub(S::load_some(row.add(c), count), shift);
                    odd = S::add(odd, value);
                    odd_squares = S::fma(value, value, odd_squares);
                    row = row.add(2 * c);
                }
                if rows % 2 == 1 {
                    let value = S::sub(S::load_some(row, count), shift);
                    even = S::add(even, value);
                    even_squares = S::fma(value, value, even_squares);
                }
                S::store_some(self.to.add(channel), count, S::add(even, odd));
                S::store_some(self.to.add(c + channel), count, S::add(even_squares, odd_squares));
            }
        }
    }
}

/// `activation(y * scale + shift) + skip`, scale and shift `[c]`.
pub fn f32_batch_norm(
    isa: Isa,
    y: &[f32],
    scale: &[f32],
    shift: &[f32],
    activation: FusedActivation,
    skip: Option<&[f32]>,
) -> Vec<f32> {
    let c = scale.len();
    let rows = shared_rows(y.len() / c, 2 * c, y.len());
    // SAFETY: every value of every tile is written.
    unsafe {
        allocator::written(y.len(), |out| {
            out.par_chunks_mut(rows * c).enumerate().for_each(|(i, out)| {
                let from = i * rows * c;
                let y = &y[from..from + out.len()];
                let skip = skip.map(|skip| &skip[from..from + out.len()]);
                isa.run(NormApply { y, scale, shift, activation, skip, out });
            });
        })
    }
}

struct NormApply<'a> {
    y: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    activation: FusedActivation,
    skip: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl Kernel for NormApply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // One loop for each activation, so that no loop tests for it.
        // SAFETY: the caller's.
        unsafe {
            match self.activation {
                FusedActivation::Linear => self.rows::<S>(FusedActivation::Linear),
                FusedActivation::Relu => self.rows::<S>(FusedActivation::Relu),
                FusedActivation::Relu6 => self.rows::<S>(FusedActivation::Relu6),
                FusedActivation::HardSwish => self.rows::<S>(FusedActivation::HardSwish),
            }
        }
    }
}

impl NormApply<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(self, activation: FusedActivation) {
        let c = self.scale.len();
        let out: *mut f32 = self.out.as_mut_ptr().cast();
        let y = self.y.as_ptr();
        for first in (0..self.y.len()).step_by(c) {
            for channel in (0..c).step_by(S::LANES) {
                let count = (c - channel).min(S::LANES);
                // SAFETY: the offsets lie in the tile.
                unsafe {
                    let scale = S::load_some(self.scale.as_ptr().add(channel), count);
                    let shift = S::load_some(self.shift.as_ptr().add(channel), count);
                    let offset = first + channel;
                    let z = S::fma(S::load_some(y.add(offset), count), scale, shift);
                    let mut value = activation.apply::<S>(z);
                    if let Some(skip) = self.skip {
                        value = S::add(value, S::load_some(skip.as_ptr().add(offset), count));
                    }
                    S::store_some(out.add(offset), count, value);
                }
            }
        }
    }
}

/// The coefficients of a batch norm that its gradient needs; one value for every column.
#[derive(Clone, Copy)]
pub struct NormCoefficients<'a> {
    /// The mean of the batch.
    pub mean: &'a [f32],
    /// `gamma / sqrt(var + eps)`.
    pub scale: &'a [f32],
    /// `beta - mean * scale`.
    pub shift: &'a [f32],
    /// `1 / sqrt(var + eps)`.
    pub deviation: &'a [f32],
    /// The activation behind the norm.
    pub activation: FusedActivation,
}

/// The gradient of a batch norm once its sums over the batch are known.
///
/// With `g = da * activation'(z)` the gradient of the norm is
/// `dy = scale * (g - mean(g) - xhat * mean(g * xhat))`, xhat = (y - mean) * deviation.
pub struct NormGradient<'a> {
    norm: NormCoefficients<'a>,
    /// `dy = scale * g + slope * (y - mean) + offset`.
    slope: Vec<f32>,
    offset: Vec<f32>,
    /// The gradient of gamma.
    pub dgamma: Vec<f32>,
    /// The gradient of beta.
    pub dbeta: Vec<f32>,
}

impl<'a> NormGradient<'a> {
    /// Sums over the values `y` before the norm and the gradient `da` behind the activation.
    pub fn new(isa: Isa, y: &[f32], da: &[f32], norm: NormCoefficients<'a>) -> Self {
        let c = norm.scale.len();
        let rows = y.len() / c;
        let tile = tile_rows(2 * c);
        let parts: Vec<Vec<f32>> = y
            .par_chunks(tile * c)
            .zip(da.par_chunks(tile * c))
            .map(|(y, da)| {
                let mut sums = vec![0.0; 2 * c];
                isa.run(NormGradientSums { y, da, norm, to: sums.as_mut_ptr() });
                sums
            })
            .collect();
        let mut totals = vec![0.0_f64; 2 * c];
        for part in &parts {
            totals.iter_mut().zip(part).for_each(|(total, sum)| *total += f64::from(*sum));
        }
        let count = rows as f64;
        let column = |i: usize| (totals[i], totals[c + i], f64::from(norm.deviation[i]));
        let dbeta = (0..c).map(|i| column(i).0 as f32).collect();
        let dgamma = (0..c).map(|i| (column(i).1 * column(i).2) as f32).collect();
        let slope = (0..c)
            .map(|i| {
                let (_, product, deviation) = column(i);
                (-f64::from(norm.scale[i]) * deviation * deviation * product / count) as f32
            })
            .collect();
        let offset =
            (0..c).map(|i| (-f64::from(norm.scale[i]) * column(i).0 / count) as f32).collect();
        Self { norm, slope, offset, dgamma, dbeta }
    }

    /// Writes the gradient of some rows of `y`, on the calling thread.
    pub(crate) fn apply(&self, isa: Isa, y: &[f32], da: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!([y.len(), da.len()], [out.len(); 2], "values of so many rows");
        let out = out.as_mut_ptr().cast();
        let Self { norm, slope, offset, .. } = self;
        isa.run(NormGradientApply { y, da: da.as_ptr(), norm: *norm, slope, offset, out });
    }

    /// [`NormGradient::apply`] over `da`.
    fn apply_over(&self, isa: Isa, y: &[f32], da: &mut [f32]) {
        assert_eq!(y.len(), da.len(), "values of so many rows");
        let out = da.as_mut_ptr();
        let Self { norm, slope, offset, .. } = self;
        isa.run(NormGradientApply { y, da: out, norm: *norm, slope, offset, out });
    }
}

/// The gradients of the values `y` before the norm (written over an owned `da`), of gamma and of
/// beta, from the gradient `da` behind the activation.
pub fn f32_batch_norm_backward(
    isa: Isa,
    y: &[f32],
    da: OutputGradient<'_>,
    norm: NormCoefficients<'_>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let c = norm.scale.len();
    let gradient = NormGradient::new(isa, y, da.values(), norm);
    let part = shared_rows(y.len() / c, 2 * c, y.len()) * c;
    let dy = match da {
        OutputGradient::Owned(mut values) => {
            let parts = values.par_chunks_mut(part).zip(y.par_chunks(part));
            parts.for_each(|(da, y)| gradient.apply_over(isa, y, da));
            values
        }
        // SAFETY: every value of every tile is written.
        OutputGradient::Shared(values) => unsafe {
            allocator::written(y.len(), |out| {
                let read = y.par_chunks(part).zip(values.par_chunks(part));
                let parts = out.par_chunks_mut(part).zip(read);
                parts.for_each(|(out, (y, da))| gradient.apply(isa, y, da, out));
            })
        },
    };
    (dy, gradient.dgamma, gradient.dbeta)
}

/// A gradient that may be written over, or not.
pub enum OutputGradient<'a> {
    /// It may be written over.
    Owned(Vec<f32>),
    /// Others may read it later.
    Shared(&'a [f32]),
}

impl OutputGradient<'_> {
    /// The values, to read.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Owned(values) => values,
            Self::Shared(values) => values,
        }
    }
}

/// The values of `count` columns from `channel` on.
///
/// # Safety
/// The contract of [`Simd`].
#[inline(always)]
unsafe fn column<S: Simd>(values: &[f32], channel: usize, count: usize) -> S::Vector {
    // SAFETY: the caller's.
    unsafe { S::load_some(values.as_ptr().add(channel), count) }
}

/// The sums of `g` and of `g * (y - mean)`, for every column.
struct NormGradientSums<'a> {
    y: &'a [f32],
    da: &'a [f32],
    norm: NormCoefficients<'a>,
    to: *mut f32,
}

impl Kernel for NormGradientSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            match self.norm.activation {
                FusedActivation::Linear => self.columns::<S>(FusedActivation::Linear),
                FusedActivation::Relu => self.columns::<S>(FusedActivation::Relu),
                FusedActivation::Relu6 => self.columns::<S>(FusedActivation::Relu6),
                FusedActivation::HardSwish => self.columns::<S>(FusedActivation::HardSwish),
            }
        }
    }
}

/// Rows whose values are added up in registers before a column's sum is loaded and stored.
const GROUP: usize = 8;

impl NormGradientSums<'_> {
    /// Row after row, in the order of memory; the sums stay in the first-level cache.
    #[inline(always)]
    unsafe fn columns<S: Simd>(self, activation: FusedActivation) {
        let c = self.norm.scale.len();
        let rows = self.y.len() / c;
        for first in (0..rows).step_by(GROUP) {
            for channel in (0..c).step_by(S::LANES) {
                let count = (c - channel).min(S::LANES);
                let offset = first * c + channel;
                // SAFETY: the offsets lie in the tile, the sums in the columns.
                unsafe {
                    let mean = column::<S>(self.norm.mean, channel, count);
                    let scale = column::<S>(self.norm.scale, channel, count);
                    let shift = column::<S>(self.norm.shift, channel, count);
                    // Two sums each: no addition waits for the one before.
                    let (mut even, mut odd) = ([S::zero(); 2], [S::zero(); 2]);
                    let norm = [mean, scale, shift];
                    if first + GROUP <= rows {
                        unrolled!(i < 4 => {
                            let offset = offset + 2 * i * c;
                            self.with::<S>(activation, offset, count, norm, &mut even);
                            self.with::<S>(activation, offset + c, count, norm, &mut odd);
                        });
                    } else {
                        for row in 0..rows - first {
                            let offset = offset + row * c;
                            self.with::<S>(
                                activation,
                                offset,
                                count,
                                [mean, scale, shift],
                                &mut even,
                            );
                        }
                    }
                    for (half, to) in
                        [self.to.add(channel), self.to.add(c + channel)].into_iter().enumerate()
                    {
                        let sum = S::add(even[half], odd[half]);
                        S::store_some(to, count, S::add(S::load_some(to, count), sum));
                    }
                }
            }
        }
    }

    /// Adds the value at `offset` to both sums.
    #[inline(always)]
    unsafe fn with<S: Simd>(
        &self,
        activation: FusedActivation,
        offset: usize,
        count: usize,
        [mean, scale, shift]: [S::Vector; 3],
        sums: &mut [S::Vector; 2],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let y = S::load_some(self.y.as_ptr().add(offset), count);
            let da = S::load_some(self.da.as_ptr().add(offset), count);
            let g = activation.slope::<S>(S::fma(y, scale, shift), da);
            sums[0] = S::add(sums[0], g);
            sums[1] = S::fma(g, S::sub(y, mean), sums[1]);
        }
    }
}

struct NormGradientApply<'a> {
    y: &'a [f32],
    /// May equal `out`.
    da: *const f32,
    norm: NormCoefficients<'a>,
    slope: &'a [f32],
    offset: &'a [f32],
    out: *mut f32,
}

impl Kernel for NormGradientApply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            match self.norm.activation {
                FusedActivation::Linear => self.rows::<S>(FusedActivation::Linear),
                FusedActivation::Relu => self.rows::<S>(FusedActivation::Relu),
                FusedActivation::Relu6 => self.rows::<S>(FusedActivation::Relu6),
                FusedActivation::HardSwish => self.rows::<S>(FusedActivation::HardSwish),
            }
        }
    }
}

impl NormGradientApply<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(self, activation: FusedActivation) {
        let c = self.norm.scale.len();
        for first in (0..self.y.len()).step_by(c) {
            for channel in (0..c).step_by(S::LANES) {
                let count = (c - channel).min(S::LANES);
                // SAFETY: the offsets lie in the tile; a value is read before it is written over.
                unsafe {
                    let scale = column::<S>(self.norm.scale, channel, count);
                    let shift = column::<S>(self.norm.shift, channel, count);
                    let mean = column::<S>(self.norm.mean, channel, count);
                    let slope = column::<S>(self.slope, channel, count);
                    let offset = column::<S>(self.offset, channel, count);
                    let at = first + channel;
                    let y = S::load_some(self.y.as_ptr().add(at), count);
                    let da = S::load_some(self.da.add(at), count);
                    let g = activation.slope::<S>(S::fma(y, scale, shift), da);
                    let linear = S::fma(S::sub(y, mean), slope, offset);
                    S::store_some(self.out.add(at), count, S::fma(g, scale, linear));
                }
            }
        }
    }
}
