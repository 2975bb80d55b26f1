//! Batch norm with the activation behind it, on channels-last data `[m, c]`, m the places of all images.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::allocator;
use crate::cpu::activation::Activation;
use crate::cpu::matmul::{shared_rows, tile_rows};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, unrolled};

/// Mean and sum of squared deviations of some values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Those of both (Chan, Golub, LeVeque 1979).
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
/// Sums of a tile are taken relative to its first row, in f32, and merged in f64: no cancellation where the
/// mean is large against the deviation. The bits do not depend on the number of threads.
pub fn moments(isa: Isa, y: &[f32], c: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = y.len() / c;
    let tile = tile_rows(c);
    let parts: Vec<Vec<f32>> = y
        .par_chunks(tile * c)
        .map(|tile| {
            let mut sums = vec![0.0; 2 * c];
            isa.run(Sums { y: tile, c, to: sums.as_mut_ptr() });
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
            let part = Moments {
                count,
                mean: f64::from(y[first * c + channel]) + sum / count,
                squares: (squares - sum * sum / count).max(0.0),
            };
            total = total.merge(part);
        }
        means.push(total.mean as f32);
        variances.push((total.squares / total.count) as f32);
    }
    (means, variances)
}

/// Per column the sum of `y - first row` and of its square.
struct Sums<'a> {
    y: &'a [f32],
    c: usize,
    to: *mut f32,
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (c, rows) = (self.c, self.y.len() / self.c);
        for channel in (0..c).step_by(S::LANES) {
            let own = (c - channel).min(S::LANES);
            // SAFETY: the channels lie in the row.
            unsafe {
                let mut place = self.y.as_ptr().add(channel);
                let shift = S::load_some(place, own);
                // Two sums each: one addition does not wait for the one before.
                let (mut even, mut odd) = (S::zero(), S::zero());
                let (mut even_squares, mut odd_squares) = (S::zero(), S::zero());
                for _ in 0..rows / 2 {
                    let value = S::sub(S::load_some(place, own), shift);
                    even = S::add(even, value);
                    even_squares = S::fma(value, value, even_squares);
                    let value = S::sub(S::load_some(place.add(c), own), shift);
                    odd = S::add(odd, value);
                    odd_squares = S::fma(value, value, odd_squares);
                    place = place.add(2 * c);
                }
                if rows % 2 == 1 {
                    let value = S::sub(S::load_some(place, own), shift);
                    even = S::add(even, value);
                    even_squares = S::fma(value, value, even_squares);
                }
                S::store_some(self.to.add(channel), own, S::add(even, odd));
                S::store_some(self.to.add(c + channel), own, S::add(even_squares, odd_squares));
            }
        }
    }
}

/// `activation(y * scale + shift) + skip`.
pub fn apply(
    isa: Isa,
    y: &[f32],
    scale: &[f32],
    shift: &[f32],
    activation: Activation,
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
                isa.run(Apply { y, scale, shift, activation, skip, out });
            });
        })
    }
}

struct Apply<'a> {
    y: &'a [f32],
    scale: &'a [f32],
    shift: &'a [f32],
    activation: Activation,
    skip: Option<&'a [f32]>,
    out: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // One loop for each activation, so that none is asked for inside.
        // SAFETY: the caller's.
        unsafe {
            match self.activation {
                Activation::Linear => self.rows::<S>(Activation::Linear),
                Activation::Relu => self.rows::<S>(Activation::Relu),
                Activation::Relu6 => self.rows::<S>(Activation::Relu6),
                Activation::HardSwish => self.rows::<S>(Activation::HardSwish),
            }
        }
    }
}

impl Apply<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(self, activation: Activation) {
        let c = self.scale.len();
        let out: *mut f32 = self.out.as_mut_ptr().cast();
        let y = self.y.as_ptr();
        for first in (0..self.y.len()).step_by(c) {
            for channel in (0..c).step_by(S::LANES) {
                let own = (c - channel).min(S::LANES);
                // SAFETY: the places lie in the tile.
                unsafe {
                    let scale = S::load_some(self.scale.as_ptr().add(channel), own);
                    let shift = S::load_some(self.shift.as_ptr().add(channel), own);
                    let place = first + channel;
                    let z = S::fma(S::load_some(y.add(place), own), scale, shift);
                    let mut value = activation.apply::<S>(z);
                    if let Some(skip) = self.skip {
                        value = S::add(value, S::load_some(skip.as_ptr().add(place), own));
                    }
                    S::store_some(out.add(place), own, value);
                }
            }
        }
    }
}

/// What normalised the values, as the gradient needs it; one value for every column.
#[derive(Clone, Copy)]
pub struct Normalised<'a> {
    /// Of the batch.
    pub mean: &'a [f32],
    /// `gamma / sqrt(var + eps)`.
    pub scale: &'a [f32],
    /// `beta - mean * scale`.
    pub shift: &'a [f32],
    /// `1 / sqrt(var + eps)`.
    pub deviation: &'a [f32],
    /// What followed.
    pub activation: Activation,
}

/// The gradient of a norm once its sums over the batch are known.
///
/// With `g = da * slope(z)` the gradient of the norm is
/// `dy = scale * (g - mean(g) - xhat * mean(g * xhat))`, xhat = (y - mean) * deviation.
pub struct Slopes<'a> {
    norm: Normalised<'a>,
    /// `dy = scale * g + slope * (y - mean) + offset`.
    slope: Vec<f32>,
    offset: Vec<f32>,
    /// The gradients of gamma and of beta.
    pub dgamma: Vec<f32>,
    /// See `dgamma`.
    pub dbeta: Vec<f32>,
}

impl<'a> Slopes<'a> {
    /// From the values before the norm and the gradient after the activation.
    pub fn new(isa: Isa, y: &[f32], da: &[f32], norm: Normalised<'a>) -> Self {
        let c = norm.scale.len();
        let rows = y.len() / c;
        let tile = tile_rows(2 * c);
        let parts: Vec<Vec<f32>> = y
            .par_chunks(tile * c)
            .zip(da.par_chunks(tile * c))
            .map(|(y, da)| {
                let mut sums = vec![0.0; 2 * c];
                isa.run(GradientSums { y, da, norm, to: sums.as_mut_ptr() });
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

    /// The gradient of some rows of values before the norm, by the calling thread.
    pub(crate) fn apply(&self, isa: Isa, y: &[f32], da: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!([y.len(), da.len()], [out.len(); 2], "values of so many rows");
        let out = out.as_mut_ptr().cast();
        let Self { norm, slope, offset, .. } = self;
        isa.run(GradientApply { y, da: da.as_ptr(), norm: *norm, slope, offset, out });
    }

    /// [`Slopes::apply`] where the gradient lies.
    fn apply_over(&self, isa: Isa, y: &[f32], da: &mut [f32]) {
        assert_eq!(y.len(), da.len(), "values of so many rows");
        let out = da.as_mut_ptr();
        let Self { norm, slope, offset, .. } = self;
        isa.run(GradientApply { y, da: out, norm: *norm, slope, offset, out });
    }
}

/// The gradients of the values before the norm (written over `da` where that may be), of gamma and of beta, from that
/// after the activation.
pub fn backward(
    isa: Isa,
    y: &[f32],
    da: Gradient<'_>,
    norm: Normalised<'_>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let c = norm.scale.len();
    let slopes = Slopes::new(isa, y, da.values(), norm);
    let part = shared_rows(y.len() / c, 2 * c, y.len()) * c;
    let dy = match da {
        Gradient::Owned(mut values) => {
            let parts = values.par_chunks_mut(part).zip(y.par_chunks(part));
            parts.for_each(|(da, y)| slopes.apply_over(isa, y, da));
            values
        }
        // SAFETY: every value of every tile is written.
        Gradient::Shared(values) => unsafe {
            allocator::written(y.len(), |out| {
                let read = y.par_chunks(part).zip(values.par_chunks(part));
                let parts = out.par_chunks_mut(part).zip(read);
                parts.for_each(|(out, (y, da))| slopes.apply(isa, y, da, out));
            })
        },
    };
    (dy, slopes.dgamma, slopes.dbeta)
}

/// A gradient that may be written over, or not.
pub enum Gradient<'a> {
    /// Nobody else reads it.
    Owned(Vec<f32>),
    /// Somebody may.
    Shared(&'a [f32]),
}

impl Gradient<'_> {
    /// To be read.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Owned(values) => values,
            Self::Shared(values) => values,
        }
    }
}

/// The values of some columns.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
unsafe fn column<S: Simd>(values: &[f32], channel: usize, own: usize) -> S::Vector {
    // SAFETY: the caller's.
    unsafe { S::load_some(values.as_ptr().add(channel), own) }
}

/// Per column the sum of `g` and of `g * (y - mean)`.
struct GradientSums<'a> {
    y: &'a [f32],
    da: &'a [f32],
    norm: Normalised<'a>,
    to: *mut f32,
}

impl Kernel for GradientSums<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            match self.norm.activation {
                Activation::Linear => self.columns::<S>(Activation::Linear),
                Activation::Relu => self.columns::<S>(Activation::Relu),
                Activation::Relu6 => self.columns::<S>(Activation::Relu6),
                Activation::HardSwish => self.columns::<S>(Activation::HardSwish),
            }
        }
    }
}

/// Rows whose values of a column are added up before the column's sum is loaded and stored once for all of them.
const GROUP: usize = 8;

impl GradientSums<'_> {
    /// Row after row, as they lie in memory; the sums stay in the first-level cache.
    #[inline(always)]
    unsafe fn columns<S: Simd>(self, activation: Activation) {
        let c = self.norm.scale.len();
        let rows = self.y.len() / c;
        for first in (0..rows).step_by(GROUP) {
            for channel in (0..c).step_by(S::LANES) {
                let own = (c - channel).min(S::LANES);
                let place = first * c + channel;
                // SAFETY: the places lie in the tile, the sums in the columns.
                unsafe {
                    let mean = column::<S>(self.norm.mean, channel, own);
                    let scale = column::<S>(self.norm.scale, channel, own);
                    let shift = column::<S>(self.norm.shift, channel, own);
                    // Two sums each: one addition does not wait for the one before.
                    let (mut even, mut odd) = ([S::zero(); 2], [S::zero(); 2]);
                    if first + GROUP <= rows {
                        unrolled!(i < 4 => {
                            let place = place + 2 * i * c;
                            self.with::<S>(activation, place, own, [mean, scale, shift], &mut even);
                            self.with::<S>(activation, place + c, own, [mean, scale, shift], &mut odd);
                        });
                    } else {
                        for row in 0..rows - first {
                            let place = place + row * c;
                            self.with::<S>(activation, place, own, [mean, scale, shift], &mut even);
                        }
                    }
                    for (half, to) in
                        [self.to.add(channel), self.to.add(c + channel)].into_iter().enumerate()
                    {
                        let sum = S::add(even[half], odd[half]);
                        S::store_some(to, own, S::add(S::load_some(to, own), sum));
                    }
                }
            }
        }
    }

    /// Adds the value at `place` to both sums.
    #[inline(always)]
    unsafe fn with<S: Simd>(
        &self,
        activation: Activation,
        place: usize,
        own: usize,
        [mean, scale, shift]: [S::Vector; 3],
        sums: &mut [S::Vector; 2],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let y = S::load_some(self.y.as_ptr().add(place), own);
            let da = S::load_some(self.da.as_ptr().add(place), own);
            let g = activation.slope::<S>(S::fma(y, scale, shift), da);
            sums[0] = S::add(sums[0], g);
            sums[1] = S::fma(g, S::sub(y, mean), sums[1]);
        }
    }
}

struct GradientApply<'a> {
    y: &'a [f32],
    /// May be `out`.
    da: *const f32,
    norm: Normalised<'a>,
    slope: &'a [f32],
    offset: &'a [f32],
    out: *mut f32,
}

impl Kernel for GradientApply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's.
        unsafe {
            match self.norm.activation {
                Activation::Linear => self.rows::<S>(Activation::Linear),
                Activation::Relu => self.rows::<S>(Activation::Relu),
                Activation::Relu6 => self.rows::<S>(Activation::Relu6),
                Activation::HardSwish => self.rows::<S>(Activation::HardSwish),
            }
        }
    }
}

impl GradientApply<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd>(self, activation: Activation) {
        let c = self.norm.scale.len();
        for first in (0..self.y.len()).step_by(c) {
            for channel in (0..c).step_by(S::LANES) {
                let own = (c - channel).min(S::LANES);
                // SAFETY: the places lie in the tile; a value is read before it is written over.
                unsafe {
                    let scale = column::<S>(self.norm.scale, channel, own);
                    let shift = column::<S>(self.norm.shift, channel, own);
                    let mean = column::<S>(self.norm.mean, channel, own);
                    let slope = column::<S>(self.slope, channel, own);
                    let offset = column::<S>(self.offset, channel, own);
                    let place = first + channel;
                    let y = S::load_some(self.y.as_ptr().add(place), own);
                    let da = S::load_some(self.da.add(place), own);
                    let g = activation.slope::<S>(S::fma(y, scale, shift), da);
                    let linear = S::fma(S::sub(y, mean), slope, offset);
                    S::store_some(self.out.add(place), own, S::fma(g, scale, linear));
                }
            }
        }
    }
}
