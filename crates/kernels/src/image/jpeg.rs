//! The arithmetic of a JPEG decoder behind the entropy code: inverse DCT, upsampling of chroma,
//! YCbCr to RGB.
//!
//! Every operation is integer arithmetic with one rounding rule, so that every instruction set
//! gives the same bytes: those of the IJG library's accurate integer DCT (`islow`) and smooth
//! ("fancy") upsampling, which Pillow uses. The portable functions are the reference of the vector
//! ones. `transforms::jpeg` reads the markers and the entropy code.

pub mod reduced;

use crate::isa::Isa;

/// Fractional bits of the cosines.
const COSINE_BITS: i32 = 13;
/// Fractional bits between the two passes.
const PASS_BITS: i32 = 2;

// round(2^13 c) of the constants of Loeffler, Ligtenberg and Moschytz (1989).
const C_0_298: i32 = 2446;
const C_0_390: i32 = 3196;
const C_0_541: i32 = 4433;
const C_0_765: i32 = 6270;
const C_0_899: i32 = 7373;
const C_1_175: i32 = 9633;
const C_1_501: i32 = 12299;
const C_1_847: i32 = 15137;
const C_1_961: i32 = 16069;
const C_2_053: i32 = 16819;
const C_2_562: i32 = 20995;
const C_3_072: i32 = 25172;

/// Inverse DCT of one block, written as eight rows of eight samples, `stride` apart.
///
/// `coefficients` are dequantised, in natural order (row by row).
///
/// # Panics
/// When `out` does not hold `7 stride + 8` samples.
#[inline]
pub fn inverse_dct(isa: Isa, coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
    assert!(out.len() >= 7 * stride + 8, "{} samples for rows {stride} apart", out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made from the instructions that this machine reports; the rows
        // fit.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::inverse_dct(coefficients, out, stride) },
        _ => inverse_dct_portable(coefficients, out, stride),
    }
}

/// The block of a constant coefficient alone, `edge` samples high and wide: the same bytes as those
/// of [`inverse_dct`] and of the [`reduced`] transforms.
#[inline]
pub fn inverse_dct_constant(constant: i16, edge: usize, out: &mut [u8], stride: usize) {
    // The full transform's rounding, its first pass wrapped to 16 bits; the reduced ones do not
    // wrap.
    let first = if edge == 8 {
        wrapped_16(i32::from(constant) << PASS_BITS)
    } else {
        i32::from(constant) << PASS_BITS
    };
    let sample = (((first + 16) >> 5) + 128).clamp(0, 255) as u8;
    for row in out.chunks_mut(stride).take(edge) {
        row[..edge].fill(sample);
    }
}

/// One pass over eight vectors of eight lanes; `rounding` is added before the shift.
fn butterflies(v: [[i32; 8]; 8], rounding: i32, shift: i32) -> [[i32; 8]; 8] {
    let mut out = [[0; 8]; 8];
    for lane in 0..8 {
        let x = v.map(|row| row[lane]);
        let m = i32::wrapping_mul;
        let z = (x[2] + x[6]).wrapping_mul(C_0_541);
        let (t2, t3) = (z.wrapping_sub(m(x[6], C_1_847)), z.wrapping_add(m(x[2], C_0_765)));
        let t0 = (wrapped_16(x[0] + x[4]) << COSINE_BITS).wrapping_add(rounding);
        let t1 = (wrapped_16(x[0] - x[4]) << COSINE_BITS).wrapping_add(rounding);
        let even =
            [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];
        let (z3, z4) = (wrapped_16(x[7] + x[3]), wrapped_16(x[5] + x[1]));
        let z5 = m(z3 + z4, C_1_175);
        let (z1, z2) = (m(x[7] + x[1], -C_0_899), m(x[5] + x[3], -C_2_562));
        let (z3, z4) = (z5.wrapping_sub(m(z3, C_1_961)), z5.wrapping_sub(m(z4, C_0_390)));
        let sum = |a: i32, b: i32, c: i32| a.wrapping_add(b).wrapping_add(c);
        let odd = [
            sum(m(x[1], C_1_501), z1, z4),
            sum(m(x[3], C_3_072), z2, z3),
            sum(m(x[5], C_2_053), z2, z4),
            sum(m(x[7], C_0_298), z1, z3),
        ];
        for k in 0..4 {
            out[k][lane] = even[k].wrapping_add(odd[k]) >> shift;
            out[7 - k][lane] = even[k].wrapping_sub(odd[k]) >> shift;
        }
    }
    out
}

fn inverse_dct_portable(coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
    const FIRST: i32 = COSINE_BITS - PASS_BITS;
    const SECOND: i32 = COSINE_BITS + PASS_BITS + 3;
    let rows: [[i32; 8]; 8] =
        std::array::from_fn(|r| std::array::from_fn(|c| i32::from(coefficients[r * 8 + c])));
    let halfway = match coefficients[8..].iter().all(|&coefficient| coefficient == 0) {
        true => [rows[0].map(|x| wrapped_16(x << PASS_BITS)); 8],
        false => butterflies(rows, 1 << (FIRST - 1), FIRST).map(|row| row.map(saturate_16)),
    };
    let samples = butterflies(transposed(halfway), 1 << (SECOND - 1), SECOND);
    for (row, out) in transposed(samples).iter().zip(out.chunks_mut(stride)) {
        for (&sample, out) in row.iter().zip(out) {
            // Samples are stored around 128.
            *out = (sample.clamp(-128, 127) + 128) as u8;
        }
    }
}

/// Wraps to 16 bits where the vector code of the IJG library does: only broken files exceed them.
fn wrapped_16(value: i32) -> i32 {
    i32::from(value as i16)
}

/// Saturates to 16 bits, as the vector code does: only broken files exceed them.
fn saturate_16(value: i32) -> i32 {
    value.clamp(-32_768, 32_767)
}

fn transposed(v: [[i32; 8]; 8]) -> [[i32; 8]; 8] {
    std::array::from_fn(|r| std::array::from_fn(|c| v[c][r]))
}

/// Doubles the samples of a row of chroma: three quarters of `near` and a quarter of `far`, each
/// doubled in width.
///
/// `tall` false doubles the width alone, whose rounding differs; `far` is then the same row as
/// `near`. Samples outside the row equal its outermost ones. `range` selects the samples of the
/// rows that are doubled.
///
/// # Panics
/// When the range is not inside the rows, or `out` is not twice as long as it.
pub fn double_row(
    isa: Isa,
    near: &[u8],
    far: &[u8],
    range: std::ops::Range<usize>,
    tall: bool,
    sums: &mut Vec<i16>,
    out: &mut [u8],
) {
    assert!(near.len() == far.len() && range.end <= near.len() && range.start < range.end);
    assert!(out.len() == 2 * range.len(), "{} samples for {range:?} doubled", out.len());
    // A neighbour on either side; the outermost sample is repeated at the borders of the image.
    let (first, last) = (range.start.saturating_sub(1), (range.end + 1).min(near.len()));
    sums.clear();
    sums.resize(range.len() + 2, 0);
    let at = 1 - (range.start - first);
    let inner = &mut sums[at..at + last - first];
    let (near, far) = (&near[first..last], &far[first..last]);
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made from the instructions that this machine reports.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::column_sums(near, far, tall, inner) },
        _ => column_sums(near, far, tall, inner),
    }
    if range.start == first {
        sums[0] = sums[1];
    }
    if range.end == last {
        sums[range.len() + 1] = sums[range.len()];
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::doubled(sums, tall, out) },
        _ => doubled(sums, tall, out),
    }
}

/// Doubles the height alone: three quarters of `near` and a quarter of `far`, the row above or
/// below. `below` selects the rounding.
///
/// # Panics
/// When the three rows differ in length.
pub fn between_rows(near: &[u8], far: &[u8], below: bool, out: &mut [u8]) {
    assert!(near.len() == out.len() && far.len() == out.len());
    let rounding = if below { 2 } else { 1 };
    for ((&near, &far), out) in near.iter().zip(far).zip(out) {
        *out = ((3 * u16::from(near) + u16::from(far) + rounding) >> 2) as u8;
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn column_sums(near: &[u8], far: &[u8], tall: bool, sums: &mut [i16]) {
    for ((&near, &far), sum) in near.iter().zip(far).zip(sums) {
        *sum = if tall { 3 * i16::from(near) + i16::from(far) } else { i16::from(near) };
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn doubled(sums: &[i16], tall: bool, out: &mut [u8]) {
    let (pairs, _) = out.as_chunks_mut::<2>();
    let count = pairs.len();
    let (before, this, after) = (&sums[..count], &sums[1..=count], &sums[2..count + 2]);
    // The rounding alternates, so that it has no bias.
    let (left, right, shift) = if tall { (8, 7, 4) } else { (1, 2, 2) };
    for (((pair, &b), &t), &a) in pairs.iter_mut().zip(before).zip(this).zip(after) {
        *pair = [((3 * t + b + left) >> shift) as u8, ((3 * t + a + right) >> shift) as u8];
    }
}

/// Converts a row of YCbCr (JFIF: BT.601, full range) to RGB.
///
/// # Panics
/// When the rows differ in length or `rgb` is not three times as long.
pub fn ycc_to_rgb(isa: Isa, y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    assert!(cb.len() == y.len() && cr.len() == y.len() && rgb.len() == 3 * y.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made from the instructions that this machine reports.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::ycc_to_rgb(y, cb, cr, rgb) },
        _ => ycc_to_rgb_portable(y, cb, cr, rgb),
    }
}

// round(2^16 c) of the factors of JFIF.
const CR_TO_R: i32 = 91_881;
const CB_TO_B: i32 = 116_130;
const CR_TO_G: i32 = 46_802;
const CB_TO_G: i32 = 22_554;
const HALF: i32 = 1 << 15;

fn ycc_to_rgb_portable(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    for (((&y, &cb), &cr), rgb) in y.iter().zip(cb).zip(cr).zip(rgb.as_chunks_mut::<3>().0) {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        let red = y + ((CR_TO_R * cr + HALF) >> 16);
        let green = y + ((-CB_TO_G * cb - CR_TO_G * cr + HALF) >> 16);
        let blue = y + ((CB_TO_B * cb + HALF) >> 16);
        *rgb = [red, green, blue].map(|sample| sample.clamp(0, 255) as u8);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "two dozen intrinsics")]
    use std::arch::x86_64::*;

    use super::{
        C_0_298, C_0_390, C_0_541, C_0_765, C_0_899, C_1_175, C_1_501, C_1_847, C_1_961, C_2_053,
        C_2_562, C_3_072, CB_TO_B, CB_TO_G, COSINE_BITS, CR_TO_G, CR_TO_R, HALF, PASS_BITS,
    };

    /// # Safety
    /// The machine has AVX2; `out` holds `7 stride + 8` samples.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn inverse_dct(coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
        const FIRST: i32 = COSINE_BITS - PASS_BITS;
        const SECOND: i32 = COSINE_BITS + PASS_BITS + 3;
        // SAFETY: eight coefficients are read of each of eight rows; the caller's for the samples.
        unsafe {
            let row = |r: usize| _mm_loadu_si128(coefficients.as_ptr().add(r * 8).cast());
            let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            let below = rows[2..].iter().fold(rows[1], |any, &row| _mm_or_si128(any, row));
            let pairs = if _mm_testz_si128(below, below) == 1 {
                [_mm256_broadcastsi128_si256(_mm_slli_epi16::<PASS_BITS>(rows[0])); 4]
            } else {
                let wide = rows.map(|row| _mm256_cvtepi16_epi32(row));
                let v = butterflies::<FIRST>(wide, 1 << (FIRST - 1));
                // To 16 bits and back: the saturation of `saturate_16`.
                let narrow = |a, b| _mm256_permute4x64_epi64::<0xD8>(_mm256_packs_epi32(a, b));
                [narrow(v[0], v[1]), narrow(v[2], v[3]), narrow(v[4], v[5]), narrow(v[6], v[7])]
            };
            let v = butterflies::<SECOND>(transposed(pairs), 1 << (SECOND - 1));
            // Vectors are columns now. Four columns of four rows fill 128 bits. Samples are stored
            // around 128.
            let four = |a, b, c, d| {
                let around_zero =
                    _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
                _mm256_xor_si256(around_zero, _mm256_set1_epi8(-128))
            };
            let turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
            ));
            let left = _mm256_shuffle_epi8(four(v[0], v[1], v[2], v[3]), turn);
            let right = _mm256_shuffle_epi8(four(v[4], v[5], v[6], v[7]), turn);
            let (low, high) =
                (_mm256_unpacklo_epi32(left, right), _mm256_unpackhi_epi32(left, right));
            let first = out.as_mut_ptr();
            let to = |r: usize| first.add(r * stride);
            let parts = [
                (0, _mm256_castsi256_si128(low)),
                (2, _mm256_castsi256_si128(high)),
                (4, _mm256_extracti128_si256::<1>(low)),
                (6, _mm256_extracti128_si256::<1>(high)),
            ];
            for (r, part) in parts {
                _mm_storel_epi64(to(r).cast(), part);
                _mm_storel_epi64(to(r + 1).cast(), _mm_unpackhi_epi64(part, part));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn butterflies<const SHIFT: i32>(x: [__m256i; 8], rounding: i32) -> [__m256i; 8] {
        let add = |a, b| _mm256_add_epi32(a, b);
        let sub = |a, b| _mm256_sub_epi32(a, b);
        let mul = |a, c| _mm256_mullo_epi32(a, _mm256_set1_epi32(c));
        let z = mul(add(x[2], x[6]), C_0_541);
        let (t2, t3) = (sub(z, mul(x[6], C_1_847)), add(z, mul(x[2], C_0_765)));
        let rounding = _mm256_set1_epi32(rounding);
        // `wrapped_16`, and the shift by `COSINE_BITS` where it follows.
        let wrapped = |v| _mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(v));
        let scaled = |v| _mm256_srai_epi32::<{ 16 - COSINE_BITS }>(_mm256_slli_epi32::<16>(v));
        let t0 = add(scaled(add(x[0], x[4])), rounding);
        let t1 = add(scaled(sub(x[0], x[4])), rounding);
        let even = [add(t0, t3), add(t1, t2), sub(t1, t2), sub(t0, t3)];
        let (z3, z4) = (wrapped(add(x[7], x[3])), wrapped(add(x[5], x[1])));
        let z5 = mul(add(z3, z4), C_1_175);
        let (z1, z2) = (mul(add(x[7], x[1]), -C_0_899), mul(add(x[5], x[3]), -C_2_562));
        let (z3, z4) = (sub(z5, mul(z3, C_1_961)), sub(z5, mul(z4, C_0_390)));
        let odd = [
            add(mul(x[1], C_1_501), add(z1, z4)),
            add(mul(x[3], C_3_072), add(z2, z3)),
            add(mul(x[5], C_2_053), add(z2, z4)),
            add(mul(x[7], C_0_298), add(z1, z3)),
        ];
        let up = |k: usize| _mm256_srai_epi32::<SHIFT>(add(even[k], odd[k]));
        let down = |k: usize| _mm256_srai_epi32::<SHIFT>(sub(even[k], odd[k]));
        [up(0), up(1), up(2), up(3), down(3), down(2), down(1), down(0)]
    }

    /// Four pairs of rows of 16 bits to eight columns of 32.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transposed(pairs: [__m256i; 4]) -> [__m256i; 8] {
        let row = |r: usize| match r % 2 {
            0 => _mm256_castsi256_si128(pairs[r / 2]),
            _ => _mm256_extracti128_si256::<1>(pairs[r / 2]),
        };
        // 16-bit pairs of rows r and r + 1, then of four rows, then of eight.
        let two = |r: usize| {
            (_mm_unpacklo_epi16(row(r), row(r + 1)), _mm_unpackhi_epi16(row(r), row(r + 1)))
        };
        let ((a0, a1), (b0, b1), (c0, c1), (d0, d1)) = (two(0), two(2), two(4), two(6));
        let four = |a, b| (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
        let ((p01, p23), (p45, p67)) = (four(a0, b0), four(a1, b1));
        let ((q01, q23), (q45, q67)) = (four(c0, d0), four(c1, d1));
        let even = |p, q| _mm256_cvtepi16_epi32(_mm_unpacklo_epi64(p, q));
        let odd = |p, q| _mm256_cvtepi16_epi32(_mm_unpackhi_epi64(p, q));
        [
            even(p01, q01),
            odd(p01, q01),
            even(p23, q23),
            odd(p23, q23),
            even(p45, q45),
            odd(p45, q45),
            even(p67, q67),
            odd(p67, q67),
        ]
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn column_sums(near: &[u8], far: &[u8], tall: bool, sums: &mut [i16]) {
        match tall {
            true => super::column_sums(near, far, true, sums),
            false => super::column_sums(near, far, false, sums),
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn doubled(sums: &[i16], tall: bool, out: &mut [u8]) {
        match tall {
            true => super::doubled(sums, true, out),
            false => super::doubled(sums, false, out),
        }
    }

    /// # Safety
    /// The machine has AVX2; the rows have one length, `rgb` three times that.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn ycc_to_rgb(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
        // Each step writes 28 bytes for its 8 pixels; the next step writes the last four again.
        let steps = (y.len() * 3).saturating_sub(4) / 24;
        let steps = steps.min(y.len() / 8);
        let close = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,
        ));
        let splat = |value| _mm256_set1_epi32(value);
        for step in 0..steps {
            let at = step * 8;
            // SAFETY: `at + 8` is within the rows, `3 at + 28` within `rgb`.
            unsafe {
                let load = |from: &[u8]| {
                    _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().add(at).cast()))
                };
                let y = load(y);
                let cb = _mm256_sub_epi32(load(cb), splat(128));
                let cr = _mm256_sub_epi32(load(cr), splat(128));
                let part = |sum| _mm256_add_epi32(y, _mm256_srai_epi32::<16>(sum));
                let times = |a, c| _mm256_mullo_epi32(a, splat(c));
                let red = part(_mm256_add_epi32(times(cr, CR_TO_R), splat(HALF)));
                let green = _mm256_add_epi32(times(cb, -CB_TO_G), times(cr, -CR_TO_G));
                let green = part(_mm256_add_epi32(green, splat(HALF)));
                let blue = part(_mm256_add_epi32(times(cb, CB_TO_B), splat(HALF)));
                let clamp =
                    |v| _mm256_min_epi32(_mm256_max_epi32(v, _mm256_setzero_si256()), splat(255));
                let (red, green, blue) = (clamp(red), clamp(green), clamp(blue));
                let pixels = _mm256_or_si256(
                    red,
                    _mm256_or_si256(_mm256_slli_epi32::<8>(green), _mm256_slli_epi32::<16>(blue)),
                );
                let pixels = _mm256_shuffle_epi8(pixels, close);
                let to = rgb.as_mut_ptr().add(at * 3);
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(pixels));
                _mm_storeu_si128(to.add(12).cast(), _mm256_extracti128_si256::<1>(pixels));
            }
        }
        let at = steps * 8;
        super::ycc_to_rgb_portable(&y[at..], &cb[at..], &cr[at..], &mut rgb[at * 3..]);
    }
}

#[cfg(test)]
mod tests {
    use super::{between_rows, double_row, inverse_dct, inverse_dct_constant, ycc_to_rgb};
    use crate::isa::Isa;

    pub(super) fn noise(seed: u32) -> impl FnMut() -> u32 {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state >> 8
        }
    }

    /// The definition, in f64: centred on 128, not clamped to bytes.
    pub(super) fn cosines(coefficients: &[i16; 64]) -> [f64; 64] {
        let c = |u: usize| if u == 0 { std::f64::consts::FRAC_1_SQRT_2 } else { 1.0 };
        let cos = |x: usize, u: usize| {
            ((2 * x + 1) as f64 * u as f64 * std::f64::consts::PI / 16.0).cos()
        };
        std::array::from_fn(|at| {
            let (row, column) = (at / 8, at % 8);
            let sum: f64 = (0..64)
                .map(|k| {
                    let (v, u) = (k / 8, k % 8);
                    c(u) * c(v) * f64::from(coefficients[k]) * cos(column, u) * cos(row, v)
                })
                .sum();
            sum / 4.0 + 128.0
        })
    }

    /// Against the definition within the rounding of 13 bits, and every set against the portable
    /// one in every bit.
    ///
    /// Mutations caught: rows and columns exchanged, another constant, no saturation.
    #[test]
    fn the_inverse_dct_equals_the_definition_on_every_set() {
        let mut next = noise(1);
        for round in 0..400 {
            let mut block = [0_i16; 64];
            let (count, range) = match round % 4 {
                0 => (1, 2000),
                1 => (6, 600),
                2 => (64, 60),
                _ => (64, 60_000), // not an image: saturates
            };
            for _ in 0..count {
                block[next() as usize % 64] = (next() % range) as i16 - (range / 2) as i16;
            }
            let stride = 8 + round % 5;
            let run = |isa| {
                let mut out = vec![7; 7 * stride + 8];
                inverse_dct(isa, &block, &mut out, stride);
                out
            };
            let portable = run(Isa::Portable);
            if range < 60_000 {
                for (at, exact) in cosines(&block).map(|x| x.clamp(0.0, 255.0)).iter().enumerate() {
                    let sample = f64::from(portable[at / 8 * stride + at % 8]);
                    assert!((sample - exact).abs() < 0.6, "{round}: {at}: {sample} {exact}");
                }
            }
            Isa::available().into_iter().for_each(|isa| assert_eq!(run(isa), portable, "{isa:?}"));
            let mut flat = [0; 64];
            flat[0] = block[0];
            let (mut short, mut long) = (vec![7; 7 * stride + 8], vec![7; 7 * stride + 8]);
            inverse_dct_constant(flat[0], 8, &mut short, stride);
            inverse_dct(Isa::Portable, &flat, &mut long, stride);
            assert_eq!(short, long, "{}", flat[0]);
        }
    }

    /// Every pair of chroma values.
    ///
    /// Mutations caught: no rounding, Cb and Cr exchanged, a pixel of the tail omitted.
    #[test]
    fn colours_equal_the_definition_on_every_set() {
        let cb: Vec<u8> = (0..65_536).map(|i| (i % 256) as u8).collect();
        let cr: Vec<u8> = (0..65_536).map(|i| (i / 256) as u8).collect();
        let y: Vec<u8> = (0..65_536_u32).map(|i| (i.wrapping_mul(40_503) >> 7) as u8).collect();
        for count in [0, 1, 7, 8, 9, 10, 15, 16, 17, 23, 65_536] {
            let run = |isa| {
                let mut rgb = vec![3; 3 * count];
                ycc_to_rgb(isa, &y[..count], &cb[..count], &cr[..count], &mut rgb);
                rgb
            };
            let portable = run(Isa::Portable);
            Isa::available().into_iter().for_each(|isa| assert_eq!(run(isa), portable, "{isa:?}"));
            for (at, rgb) in portable.chunks(3).enumerate() {
                let (y, b, r) = (y[at] as f64, cb[at] as f64 - 128.0, cr[at] as f64 - 128.0);
                let exact = [y + 1.402 * r, y - 0.344_136_3 * b - 0.714_136_3 * r, y + 1.772 * b];
                for (&got, exact) in rgb.iter().zip(exact) {
                    assert!((f64::from(got) - exact.clamp(0.0, 255.0)).abs() < 0.51);
                }
            }
        }
    }

    /// Against the formula sample by sample, on parts of rows of critical lengths.
    ///
    /// Mutations caught: a border that is not repeated, the same rounding on both sides.
    #[test]
    fn doubling_is_the_triangle_filter_with_repeated_borders() {
        let mut next = noise(5);
        for count in [1_usize, 2, 3, 15, 16, 17, 33] {
            let near: Vec<u8> = (0..count).map(|_| next() as u8).collect();
            let far: Vec<u8> = (0..count).map(|_| next() as u8).collect();
            for (start, end) in [(0, count), (count / 2, count), (0, count.div_ceil(2))] {
                if start == end {
                    continue;
                }
                for (tall, isa) in [false, true]
                    .into_iter()
                    .flat_map(|tall| Isa::available().into_iter().map(move |isa| (tall, isa)))
                {
                    let mut out = vec![0; 2 * (end - start)];
                    double_row(isa, &near, &far, start..end, tall, &mut Vec::new(), &mut out);
                    for (i, pair) in out.chunks(2).enumerate() {
                        let sum = |at: usize| match tall {
                            true => 3 * u32::from(near[at]) + u32::from(far[at]),
                            false => u32::from(near[at]),
                        };
                        let at = start + i;
                        let (before, after) =
                            (sum(at.saturating_sub(1)), sum((at + 1).min(count - 1)));
                        let (l, r, shift) = if tall { (8, 7, 4) } else { (1, 2, 2) };
                        assert_eq!(u32::from(pair[0]), (3 * sum(at) + before + l) >> shift);
                        assert_eq!(u32::from(pair[1]), (3 * sum(at) + after + r) >> shift);
                    }
                }
            }
            let mut out = vec![0; count];
            between_rows(&near, &far, true, &mut out);
            assert_eq!(out[0], ((3 * u32::from(near[0]) + u32::from(far[0]) + 2) >> 2) as u8);
        }
    }
}
