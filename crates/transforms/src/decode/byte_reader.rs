//! A position in the bytes of a file.

use crate::byte_order::ByteOrder;
use crate::decode::error::DecodeError;

/// Reads a file from front to back, numbers lowest byte first; its end is
/// [`DecodeError::Truncated`].
#[derive(Clone, Copy)]
pub(super) struct ByteReader<'a> {
    bytes: &'a [u8],
    /// Offset of the next byte.
    pub(super) at: usize,
}

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.rest().get(..count).ok_or(DecodeError::Truncated)?;
        self.at += count;
        Ok(taken)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        ByteOrder::Little.u16(self.take(2)?, 0).ok_or(DecodeError::Truncated)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        ByteOrder::Little.u32(self.take(4)?, 0).ok_or(DecodeError::Truncated)
    }
}
