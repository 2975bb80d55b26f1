//! Sums of f32 values that travel as bf16: half the bytes.
//!
//! Every rank adds up one part of the values. A rank gets its part from all ranks, adds in f32 in
//! the order of the ranks, rounds once, and sends the sum to all: they have the same bits, whatever
//! the network does. A sum whose additions were bf16 too would lose a bit with every rank.

/// Bytes of a value.
const BYTES: usize = 2;

/// The nearest bf16, as its upper half of an f32; of two as near the even one. Infinity stays, and
/// NaN stays NaN.
fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        // The bits that would be left may all be zero, which is infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn widen(bytes: &[u8]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([bytes[0], bytes[1]])) << 16)
}

/// Values in each of the parts of `count` values that `world` ranks add up; the last parts may be
/// short of some.
fn part(count: usize, world: usize) -> usize {
    count.div_ceil(world)
}

/// The values as bf16, in `world` parts of one length, zeros behind the last value.
pub(super) fn rounded(values: &[f32], world: usize) -> Vec<u8> {
    let mut bytes = vec![0; BYTES * part(values.len(), world) * world];
    for (to, value) in bytes.chunks_exact_mut(BYTES).zip(values) {
        to.copy_from_slice(&round(*value).to_le_bytes());
    }
    bytes
}

/// The sum, as bf16, of one part as `world` ranks have sent it, one after the other.
pub(super) fn sum_of(parts: &[u8], world: usize) -> Vec<u8> {
    let length = parts.len() / world;
    let mut sums = vec![0.0_f32; length / BYTES];
    for part in parts.chunks_exact(length.max(1)) {
        for (sum, value) in sums.iter_mut().zip(part.chunks_exact(BYTES)) {
            *sum += widen(value);
        }
    }
    rounded(&sums, 1)
}

/// Replaces the values by those of [`rounded`].
pub(super) fn read(bytes: &[u8], values: &mut [f32]) {
    for (value, from) in values.iter_mut().zip(bytes.chunks_exact(BYTES)) {
        *value = widen(from);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::bf16;

    use super::{read, round, rounded, sum_of};

    /// Mutations caught, each alone: truncation; half rounded up always; NaN with its bits in the
    /// lower half as infinity.
    #[test]
    fn a_value_becomes_the_nearest_bf16() {
        let edges = [0.0, -0.0, 1.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-45];
        let ties = [0x3f80_8000, 0x3f81_8000, 0x3f80_7fff, 0x3f80_8001, 0x0000_8000, 0x7f7f_8000];
        let draws = (0..100_000_u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for value in edges.into_iter().chain(ties.map(f32::from_bits)).chain(draws) {
            let (own, expected) = (round(value), bf16::from_f32(value));
            match value.is_nan() {
                true => assert!(bf16::from_bits(own).is_nan(), "{:x}", value.to_bits()),
                false => assert_eq!(own, expected.to_bits(), "{:x}", value.to_bits()),
            }
        }
        assert!(bf16::from_bits(round(f32::from_bits(0x7f80_0001))).is_nan());
    }

    /// 7 values on 3 ranks, of which the last part is short of two. Of 1 and 255 times 2^-9, bf16
    /// would add nothing to the 1.
    ///
    /// Mutations caught: bf16 additions; the last part as long as the values.
    #[test]
    fn a_sum_is_rounded_once() {
        let own = |rank: usize| -> Vec<f32> {
            (0..7).map(|i| (i + 1) as f32 * 10_f32.powi(rank as i32)).collect()
        };
        let sent: Vec<Vec<u8>> = (0..3).map(|rank| rounded(&own(rank), 3)).collect();
        let sums: Vec<u8> = (0..3)
            .flat_map(|part| {
                let of = |bytes: &Vec<u8>| bytes[6 * part..6 * (part + 1)].to_vec();
                sum_of(&sent.iter().flat_map(of).collect::<Vec<u8>>(), 3)
            })
            .collect();
        let mut got = [0.0; 7];
        read(&sums, &mut got);
        let expected = [111.0, 222.0, 333.0, 444.0, 555.0, 666.0, 777.0];
        for (got, expected) in got.into_iter().zip(expected) {
            assert_eq!(got, bf16::from_f32(expected).to_f32());
        }
        let many: Vec<u8> =
            [1.0].into_iter().chain([2_f32.powi(-9); 255]).flat_map(|v| rounded(&[v], 1)).collect();
        let mut got = [0.0];
        read(&sum_of(&many, 256), &mut got);
        assert_eq!(got[0], 1.5);
        assert!(sum_of(&[], 3).is_empty());
    }
}
