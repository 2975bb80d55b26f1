//! The two passes of a resize of RGB bytes with weights in fixed point.
//!
//! Sums are exact 32-bit integers: the order in which a vector adds does not matter, and every
//! instruction set gives the same bytes. The portable functions are the reference of the vector
//! ones. `transforms::resize` computes the filters and decides which samples are needed.

use crate::isa::Isa;

/// Bits after the point of a weight: 32 less 8 for the sample less 2 for overshoot (Pillow's
/// `Resample.c`).
pub const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// One half in fixed point, to round.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// The taps of a resize filter: for each output sample its input samples and their weights.
#[derive(Clone, Debug, Default)]
pub struct FilterTaps {
    /// The first input sample of each output sample, and how many it reads.
    spans: Vec<(usize, usize)>,
    /// `step` weights for each output sample, the unused ones 0.
    weights: Vec<i32>,
    step: usize,
    /// Input samples of the line; no tap lies beyond.
    bound: usize,
}

impl FilterTaps {
    /// Clears the taps for a line of `inputs` samples with at most `most` weights for each output
    /// sample. Memory is reused.
    pub fn begin(&mut self, most: usize, inputs: usize) {
        self.spans.clear();
        self.weights.clear();
        // The vector code reads two taps at a time.
        self.step = most.next_multiple_of(2);
        self.bound = inputs;
    }

    /// Adds an output sample: the weights of the input samples from `first` on.
    ///
    /// # Panics
    /// When there are no weights or more than announced, taps beyond the last input sample, or taps
    /// before those of the previous output sample.
    pub fn push(&mut self, first: usize, weights: impl Iterator<Item = i32>) {
        let at = self.weights.len();
        self.weights.extend(weights);
        let count = self.weights.len() - at;
        assert!((1..=self.step).contains(&count), "{count} weights, at most {}", self.step);
        assert!(first + count <= self.bound, "{first} + {count} of {} samples", self.bound);
        let before = self.spans.last().map_or(0, |span| span.0);
        assert!(first >= before, "sample {first} after one that begins with {before}");
        self.weights.resize(at + self.step, 0);
        self.spans.push((first, count));
    }

    /// The range of input samples that are read: from, to.
    pub fn reach(&self) -> (usize, usize) {
        let first = self.spans.first().map_or(0, |span| span.0);
        (first, self.spans.iter().map(|span| span.0 + span.1).max().unwrap_or(0))
    }

    /// Output samples.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no output sample.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The first input sample of an output sample, and its weights.
    fn at(&self, index: usize) -> (usize, &[i32]) {
        let (start, count) = self.spans[index];
        (start, &self.weights[index * self.step..index * self.step + count])
    }
}

/// Resizes the width: every row of `source` to the pixels of `taps`.
///
/// Rows of `source` begin `stride` bytes apart, with pixel `first`; rows of `out` are contiguous.
///
/// # Shapes
/// `out` `[rows, taps.len(), 3]`.
///
/// # Panics
/// When `source` ends before the last pixel that is read.
pub fn horizontal(
    isa: Isa,
    source: &[u8],
    stride: usize,
    first: usize,
    taps: &FilterTaps,
    out: &mut [u8],
) {
    if taps.is_empty() || out.is_empty() {
        return;
    }
    let width = taps.len() * 3;
    let rows = out.len() / width;
    let (from, to) = taps.reach();
    assert!(out.len() == rows * width, "{} bytes for rows of {width}", out.len());
    assert!(from >= first, "pixel {from} is read of rows that begin with {first}");
    let length = (to - first) * 3;
    assert!(
        source.len() >= (rows - 1) * stride + length,
        "{} bytes hold no {rows} rows of {length}, {stride} apart",
        source.len()
    );
    let mut row = 0;
    #[cfg(target_arch = "x86_64")]
    if matches!(isa, Isa::Avx2 | Isa::Avx512) {
        while row + 4 <= rows {
            let lines: [&[u8]; 4] =
                std::array::from_fn(|i| &source[(row + i) * stride..(row + i) * stride + length]);
            // SAFETY: an `Isa` is only made from the instructions that this machine reports.
            unsafe { x86::four_rows(lines, first, taps, &mut out[row * width..][..4 * width]) };
            row += 4;
        }
    }
    let _ = isa;
    for (row, out) in (row..rows).zip(out[row * width..].chunks_exact_mut(width)) {
        pixels(&source[row * stride..row * stride + length], first, taps, 0, out);
    }
}

/// The output pixels of one row from number `begin` on.
fn pixels(line: &[u8], first: usize, taps: &FilterTaps, begin: usize, out: &mut [u8]) {
    for (index, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (start, weights) = taps.at(begin + index);
        let mut sums = [HALF; 3];
        let start = start - first;
        let (pixels, _) = line[start * 3..(start + weights.len()) * 3].as_chunks::<3>();
        for (&[r, g, b], &weight) in pixels.iter().zip(weights) {
            sums[0] += i32::from(r) * weight;
            sums[1] += i32::from(g) * weight;
            sums[2] += i32::from(b) * weight;
        }
        *pixel = sums.map(clip);
    }
}

/// Resizes the height: each output row is the weighted sum of rows of `source`, which lie `stride`
/// bytes apart and begin with row `first`.
///
/// # Shapes
/// `out` `[taps.len(), width]`, `width` bytes of each row of `source`.
///
/// # Panics
/// When `source` ends before the last row that is read.
pub fn vertical(
    isa: Isa,
    source: &[u8],
    stride: usize,
    first: usize,
    taps: &FilterTaps,
    width: usize,
    out: &mut [u8],
) {
    assert!(out.len() == taps.len() * width, "{} bytes for {} rows", out.len(), taps.len());
    for (index, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
        let (start, weights) = taps.at(index);
        assert!(start >= first, "row {start} is read of rows from {first}");
        let source = &source[(start - first) * stride..];
        assert!(
            source.len() >= (weights.len() - 1) * stride + width,
            "{} bytes hold no {} rows of {width}, {stride} apart",
            source.len(),
            weights.len()
        );
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` is only made from the instructions that this machine reports.
            Isa::Avx512 => unsafe { x86::row_avx512(source, stride, weights, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::row_avx2(source, stride, weights, out) },
            _ => row_of(source, stride, weights, out),
        }
    }
}

/// Samples whose sums stay in registers while the rows are added.
const BLOCK: usize = 64;

#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn row_of(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    let width = out.len();
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    for (index, out) in blocks.iter_mut().enumerate() {
        let mut sums = [HALF; BLOCK];
        for (row, &weight) in weights.iter().enumerate() {
            let at = row * stride + index * BLOCK;
            let line: &[u8; BLOCK] = source[at..at + BLOCK].try_into().expect("a block");
            for (sum, &byte) in sums.iter_mut().zip(line) {
                *sum += i32::from(byte) * weight;
            }
        }
        *out = sums.map(clip);
    }
    let at = width - rest.len();
    for (column, out) in rest.iter_mut().enumerate() {
        let samples = weights
            .iter()
            .enumerate()
            .map(|(row, &weight)| i32::from(source[row * stride + at + column]) * weight);
        *out = clip(HALF + samples.sum::<i32>());
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "a body of each instruction set's function")]
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "a dozen intrinsics")]
    use std::arch::x86_64::*;

    use super::{FilterTaps, HALF, WEIGHT_BITS};

    #[target_feature(enable = "avx2")]
    pub(super) fn row_avx2(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        super::row_of(source, stride, weights, out);
    }

    #[target_feature(enable = "avx512f,avx2")]
    pub(super) fn row_avx512(source: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
        super::row_of(source, stride, weights, out);
    }

    /// Four rows at once: a weight is broadcast to its lanes once for all of them.
    #[target_feature(enable = "avx2")]
    pub(super) fn four_rows(lines: [&[u8]; 4], first: usize, taps: &FilterTaps, out: &mut [u8]) {
        match taps.step / 2 {
            1 => four_rows_of::<1>(lines, first, taps, out),
            2 => four_rows_of::<2>(lines, first, taps, out),
            3 => four_rows_of::<3>(lines, first, taps, out),
            _ => four_rows_of::<0>(lines, first, taps, out),
        }
    }

    /// Reads `PAIRS` of taps for every pixel, those beyond its span with weight 0; `PAIRS` 0 means
    /// as many as there are.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn four_rows_of<const PAIRS: usize>(
        lines: [&[u8]; 4],
        first: usize,
        taps: &FilterTaps,
        out: &mut [u8],
    ) {
        let pairs = if PAIRS > 0 { PAIRS } else { taps.step / 2 };
        let width = taps.len() * 3;
        let length = lines[0].len();
        assert!(out.len() == 4 * width && lines.iter().all(|line| line.len() == length));
        // A pair is 6 bytes, read as 8. The vector code computes the pixels whose reads fit in the
        // row; spans never move left, so these are the first ones.
        let fits = |index: usize| (taps.spans[index].0 - first) * 3 + (pairs - 1) * 6 + 8 <= length;
        let mut count = taps.len();
        // The last pixel of a row of `out` is written as three bytes, by the portable code.
        while count > 0 && (count == taps.len() || !fits(count - 1)) {
            count -= 1;
        }
        let apart = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
        let spread = _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 0, 0, 0, 0, 0, 0, 0, 0);
        let half = _mm_set1_epi32(HALF);
        for index in 0..count {
            let start = (taps.spans[index].0 - first) * 3;
            debug_assert!(start + (pairs - 1) * 6 + 8 <= length);
            let mut sums = [_mm256_setzero_si256(); 4];
            for pair in 0..pairs {
                let at = index * taps.step + pair * 2;
                // SAFETY: `step` weights belong to each pixel; the bytes were checked by `fits`.
                unsafe {
                    let two = taps.weights.as_ptr().add(at).cast::<i64>().read_unaligned();
                    let weights = _mm256_permutevar8x32_epi32(_mm256_set1_epi64x(two), apart);
                    for (sum, line) in sums.iter_mut().zip(lines) {
                        let eight = _mm_loadl_epi64(line.as_ptr().add(start + pair * 6).cast());
                        let samples = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(eight, spread));
                        *sum = _mm256_add_epi32(*sum, _mm256_mullo_epi32(samples, weights));
                    }
                }
            }
            let [a, b, c, d] = sums.map(|sum| {
                let both =
                    _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
                _mm_srai_epi32::<{ WEIGHT_BITS as i32 }>(_mm_add_epi32(both, half))
            });
            let pixels = _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
            let four = [
                _mm_extract_epi32::<0>(pixels),
                _mm_extract_epi32::<1>(pixels),
                _mm_extract_epi32::<2>(pixels),
                _mm_extract_epi32::<3>(pixels),
            ];
            for (row, pixel) in four.into_iter().enumerate() {
                // SAFETY: the fourth byte belongs to the next pixel, written after this one.
                unsafe {
                    let to = out.as_mut_ptr().add(row * width + index * 3);
                    to.cast::<i32>().write_unaligned(pixel);
                }
            }
        }
        for (line, out) in lines.iter().zip(out.chunks_exact_mut(width)) {
            super::pixels(line, first, taps, count, &mut out[count * 3..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FilterTaps, WEIGHT_BITS, horizontal, vertical};
    use crate::isa::Isa;

    fn noise(count: usize) -> Vec<u8> {
        (0..count).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    /// Spans of at most `most` samples of `from`, with weights that over- and undershoot.
    fn taps(from: usize, to: usize, most: usize) -> FilterTaps {
        let mut taps = FilterTaps::default();
        taps.begin(most, from);
        for index in 0..to {
            let start = index * from / to;
            let count = (1 + index % most).min(from - start);
            taps.push(
                start,
                (0..count).map(|k| {
                    let sign = if (index + k) % 3 == 0 { -1 } else { 1 };
                    sign * ((1 << WEIGHT_BITS) / count as i32 + 12_345 * k as i32)
                }),
            );
        }
        taps
    }

    /// The definition: the sum sample by sample, in 64 bits.
    fn definition(sample: impl Fn(usize) -> u8, taps: &FilterTaps, index: usize) -> u8 {
        let (start, weights) = taps.at(index);
        let sum: i64 = weights
            .iter()
            .enumerate()
            .map(|(k, &weight)| i64::from(sample(start + k)) * i64::from(weight))
            .sum();
        let half = 1 << (WEIGHT_BITS - 1);
        ((sum + half) >> WEIGHT_BITS).clamp(0, 255) as u8
    }

    const SIZES: [usize; 9] = [1, 2, 3, 5, 7, 8, 21, 22, 64];

    /// Mutations caught: the last pixels of a row moved, a pixel read one too far left, two samples
    /// exchanged, no rounding.
    #[test]
    fn widths_equal_the_definition_on_every_set() {
        for (from, to) in SIZES.into_iter().flat_map(|a| SIZES.map(|b| (a, b))) {
            for (most, rows, first) in
                [(1, 1, 0), (2, 4, 0), (3, 5, 0), (5, 9, 0), (7, 4, 0), (12, 8, 0)]
            {
                let taps = taps(from, to, most);
                let stride = from * 3 + 2;
                let source = noise(rows * stride);
                for isa in Isa::available() {
                    let mut out = vec![9; rows * to * 3];
                    horizontal(isa, &source[first..], stride, first, &taps, &mut out);
                    for (at, &byte) in out.iter().enumerate() {
                        let (row, x, c) = (at / (to * 3), at / 3 % to, at % 3);
                        let right = definition(|x| source[row * stride + x * 3 + c], &taps, x);
                        assert_eq!(byte, right, "{isa:?} {from} to {to}, {most}: {row} {x} {c}");
                    }
                }
            }
        }
    }

    /// Mutations caught: a row's weight applied to the next row, the rest of a block omitted.
    #[test]
    fn heights_equal_the_definition_on_every_set() {
        for (from, to) in SIZES.into_iter().flat_map(|a| SIZES.map(|b| (a, b))) {
            for (most, width) in [(1, 1), (2, 63), (3, 64), (5, 65), (9, 200)] {
                let taps = taps(from, to, most);
                let stride = width + 3;
                let source = noise(from * stride);
                for isa in Isa::available() {
                    let mut out = vec![9; to * width];
                    vertical(isa, &source, stride, 0, &taps, width, &mut out);
                    for (at, &byte) in out.iter().enumerate() {
                        let (row, x) = (at / width, at % width);
                        let right = definition(|y| source[y * stride + x], &taps, row);
                        assert_eq!(byte, right, "{isa:?} {from} to {to}, {most}: {row} {x}");
                    }
                }
            }
        }
    }

    /// A source may begin with a later pixel or row than number 0.
    #[test]
    fn a_source_may_begin_with_a_later_sample() {
        let mut taps = FilterTaps::default();
        taps.begin(2, 40);
        (0..20).for_each(|i| taps.push(10 + i, [1 << 21, 1 << 21].into_iter()));
        let source = noise(40 * 3 * 8);
        for isa in Isa::available() {
            let (mut whole, mut part) = (vec![0; 8 * 60], vec![0; 8 * 60]);
            horizontal(isa, &source, 120, 0, &taps, &mut whole);
            horizontal(isa, &source[30..], 120, 10, &taps, &mut part);
            assert_eq!(whole, part);
            let (mut whole, mut part) = (vec![0; 20 * 20], vec![0; 20 * 20]);
            vertical(isa, &source, 20, 0, &taps, 20, &mut whole);
            vertical(isa, &source[200..], 20, 10, &taps, 20, &mut part);
            assert_eq!(whole, part);
        }
    }
}
