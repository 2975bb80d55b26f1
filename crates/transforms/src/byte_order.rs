//! Numbers in the bytes of a file, in the file's byte order.

/// The order of the bytes of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// Lowest byte first (Intel, `II`).
    Little,
    /// Highest byte first (Motorola, `MM`).
    Big,
}

impl ByteOrder {
    /// The number of `N` bytes at `at`, at most 8; `None` past the end.
    fn number<const N: usize>(self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(N)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(match self {
            Self::Little => bytes.iter().rev().fold(0, add),
            Self::Big => bytes.iter().fold(0, add),
        })
    }

    pub(crate) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        self.number::<2>(bytes, at).map(|number| number as u16)
    }

    pub(crate) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        self.number::<4>(bytes, at).map(|number| number as u32)
    }

    pub(crate) fn u64(self, bytes: &[u8], at: usize) -> Option<u64> {
        self.number::<8>(bytes, at)
    }
}
