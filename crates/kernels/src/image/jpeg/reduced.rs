//! Inverse DCTs to blocks of 4x4 or 2x2 samples: each sample is the mean of the 2x2 or 4x4 samples
//! of the full transform ([`super::inverse_dct`]), before their rounding.
//!
//! The mean of neighbours is taken within the cosines. The mean of cos((2x + 1) u pi / 16) over the
//! two x of a pair is cos((2n + 1) u pi / 8) cos(u pi / 16), which is 0 for u = 4; over the four x
//! of a half it is 0 for every even u but 0. Fixed point and rounding are those of the full
//! transform, so the bytes are those of libjpeg's decoding at 1/2 and 1/4 of the size. (The mean of
//! a whole block is its constant: [`super::inverse_dct_constant`] with an edge of 1.)

use crate::image::jpeg::{COSINE_BITS, PASS_BITS, saturate_16};
use crate::isa::Isa;

// round(2^13 2 sqrt(2) cos((2n + 1) u pi / 8) cos(u pi / 16)): the mean of a pair, twice as large.
const EVEN_2: i32 = 15137; // 1.8478
const EVEN_6: i32 = 6270; // .7654
/// The first pair (n = 0) at u = 1, 3, 5, 7: 2.5629, .9000, -.6013, -.5098.
const OUTER: [i32; 4] = [20995, 7373, -4926, -4176];
/// The second (n = 1): 1.0616, -2.1727, 1.4518, -.2112.
const INNER: [i32; 4] = [8697, -17799, 11893, -1730];
/// round(2^13 sqrt(2) (sum of cos((2x + 1) u pi / 16), x = 0 .. 3)): the mean of a half, four times
/// as large; 3.6245, -1.2728, .8504, -.7210.
const HALF: [i32; 4] = [29692, -10426, 6967, -5906];

/// Inverse DCT of one block at half its size: four rows of four samples, `stride` apart.
///
/// `coefficients` are dequantised, in natural order (row by row).
///
/// # Panics
/// When `out` does not hold `3 stride + 4` samples.
#[inline]
pub fn inverse_dct_4(isa: Isa, coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
    assert!(out.len() >= 3 * stride + 4, "{} samples for rows {stride} apart", out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made from the instructions that this machine reports.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::inverse_dct_4(coefficients, out, stride) },
        _ => reduced::<4>(coefficients, out, stride),
    }
}

/// Inverse DCT of one block at a quarter of its size: two rows of two samples, `stride` apart.
///
/// `coefficients` are dequantised, in natural order (row by row).
///
/// # Panics
/// When `out` does not hold `stride + 2` samples.
#[inline]
pub fn inverse_dct_2(isa: Isa, coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
    assert!(out.len() >= stride + 2, "{} samples for rows {stride} apart", out.len());
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: an `Isa` is only made from the instructions that this machine reports.
        Isa::Avx2 | Isa::Avx512 => unsafe { x86::inverse_dct_2(coefficients, out, stride) },
        _ => reduced::<2>(coefficients, out, stride),
    }
}

/// One block at `EDGE / 8` of its size, `EDGE` 4 or 2.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn reduced<const EDGE: usize>(coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
    // The constants are twice as large for the mean of a pair, four times for that of a half.
    let scale = (8 / EDGE).ilog2() as i32;
    let (first, second) = (COSINE_BITS - PASS_BITS + scale, COSINE_BITS + PASS_BITS + 3 + scale);
    let rows: [[i32; 8]; 8] =
        std::array::from_fn(|r| std::array::from_fn(|c| i32::from(coefficients[r * 8 + c])));
    let halfway = means::<EDGE, 8>(&rows, 1 << (first - 1), first);
    let columns: [[i32; EDGE]; 8] =
        std::array::from_fn(|c| std::array::from_fn(|r| saturate_16(halfway[r][c])));
    // Samples are stored around 128.
    let samples = means::<EDGE, EDGE>(&columns, (1 << (second - 1)) + (128 << second), second);
    for (r, out) in out.chunks_mut(stride).take(EDGE).enumerate() {
        let row: [u8; EDGE] = std::array::from_fn(|c| samples[c][r].clamp(0, 255) as u8);
        out[..EDGE].copy_from_slice(&row);
    }
}

/// Eight vectors of lanes to `EDGE`: the means of pairs for 4, of halves for 2. `rounding` is added
/// before the shift.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn means<const EDGE: usize, const LANES: usize>(
    v: &[[i32; LANES]; 8],
    rounding: i32,
    shift: i32,
) -> [[i32; LANES]; EDGE] {
    let mut out = [[0; LANES]; EDGE];
    for lane in 0..LANES {
        let x: [i32; 8] = std::array::from_fn(|u| v[u][lane]);
        if EDGE == 2 {
            let t = (x[0] << (COSINE_BITS + 2)).wrapping_add(rounding);
            let odd = odd(&x, HALF);
            out[0][lane] = t.wrapping_add(odd) >> shift;
            out[1][lane] = t.wrapping_sub(odd) >> shift;
        } else {
            let t = (x[0] << (COSINE_BITS + 1)).wrapping_add(rounding);
            let even = x[2].wrapping_mul(EVEN_2).wrapping_sub(x[6].wrapping_mul(EVEN_6));
            let (outer, inner) = (odd(&x, OUTER), odd(&x, INNER));
            let (above, below) = (t.wrapping_add(even), t.wrapping_sub(even));
            out[0][lane] = above.wrapping_add(outer) >> shift;
            out[1][lane] = below.wrapping_add(inner) >> shift;
            out[2][lane] = below.wrapping_sub(inner) >> shift;
            out[3][lane] = above.wrapping_sub(outer) >> shift;
        }
    }
    out
}

/// The sum over the odd coefficients.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn odd(x: &[i32; 8], [one, three, five, seven]: [i32; 4]) -> i32 {
    let m = i32::wrapping_mul;
    let sum = m(x[1], one).wrapping_add(m(x[3], three));
    sum.wrapping_add(m(x[5], five)).wrapping_add(m(x[7], seven))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[target_feature(enable = "avx2")]
    pub(super) fn inverse_dct_4(coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
        super::reduced::<4>(coefficients, out, stride);
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn inverse_dct_2(coefficients: &[i16; 64], out: &mut [u8], stride: usize) {
        super::reduced::<2>(coefficients, out, stride);
    }
}

#[cfg(test)]
mod tests {
    use super::{inverse_dct_2, inverse_dct_4};
    use crate::image::jpeg::inverse_dct_constant;
    use crate::image::jpeg::tests::{cosines, noise};
    use crate::isa::Isa;

    /// Against the definition in f64 (means of the full transform), and every set against the
    /// portable one in every bit.
    ///
    /// Mutations caught: the sign of a constant of the inner pairs, of one of the halves.
    #[test]
    fn a_reduced_block_is_the_mean_of_the_full_one_on_every_set() {
        let mut next = noise(3);
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
            let exact = cosines(&block);
            for edge in [4, 2] {
                let stride = edge + round % 5;
                let run = |isa, block: &[i16; 64]| {
                    let mut out = vec![7; (edge - 1) * stride + edge];
                    match edge {
                        4 => inverse_dct_4(isa, block, &mut out, stride),
                        _ => inverse_dct_2(isa, block, &mut out, stride),
                    }
                    out
                };
                let portable = run(Isa::Portable, &block);
                let of = 8 / edge;
                for at in (0..edge * edge).filter(|_| range < 60_000) {
                    let (row, column) = (at / edge, at % edge);
                    let sum: f64 = (0..of * of)
                        .map(|k| exact[(row * of + k / of) * 8 + column * of + k % of])
                        .sum();
                    let mean = (sum / (of * of) as f64).clamp(0.0, 255.0);
                    let sample = f64::from(portable[row * stride + column]);
                    assert!((sample - mean).abs() < 0.6, "{round}: {edge}: {at}: {sample} {mean}");
                }
                for isa in Isa::available() {
                    assert_eq!(run(isa, &block), portable, "{isa:?}");
                }
                let mut flat = [0; 64];
                flat[0] = block[0];
                let mut short = vec![7; (edge - 1) * stride + edge];
                inverse_dct_constant(flat[0], edge, &mut short, stride);
                assert_eq!(short, run(Isa::Portable, &flat), "{}", flat[0]);
            }
        }
    }
}
