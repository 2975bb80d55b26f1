//! Samples of 16 bits.

/// 16 bits to 8: round(v / 257), so that 0 and 65535 become 0 and 255. (Pillow clips gray instead.)
pub(super) fn rounded(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

#[cfg(test)]
mod tests {
    use super::rounded;

    /// Mutations caught: truncated.
    #[test]
    fn sixteen_bits_are_rounded() {
        let check = |from, to| assert_eq!(rounded(from), to, "{from}");
        check(0, 0);
        check(128, 0);
        check(129, 1);
        check(257, 1);
        check(65_535, 255);
        check(65_406, 254);
        check(65_407, 255);
    }
}
