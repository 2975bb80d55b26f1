//! The first directory of a TIFF or BigTIFF: tags and their values.

use crate::byte_order::ByteOrder;
use crate::decode::error::DecodeError;

/// The first image file directory.
pub(super) struct Ifd<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) order: ByteOrder,
    entries: Vec<Entry>,
}

/// A tag: its type, the number of its values, and the offset of the first.
struct Entry {
    tag: u16,
    kind: u16,
    count: usize,
    at: usize,
}

/// Bytes of a value of a type (TIFF 6.0, section 2; BigTIFF's 16 to 18).
fn value_bytes(kind: u16) -> Option<usize> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 | 17 | 18 => Some(8),
        _ => None,
    }
}

impl<'a> Ifd<'a> {
    /// Reads the first directory.
    pub(super) fn first(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let order = if bytes.starts_with(b"II") { ByteOrder::Little } else { ByteOrder::Big };
        // A magic number in the wrong byte order is passed over, as by Pillow.
        let big = bytes.get(2..4).is_some_and(|magic| magic.contains(&43));
        let offset = |at| match big {
            true => {
                order.u64(bytes, at).map(|offset| usize::try_from(offset).unwrap_or(usize::MAX))
            }
            false => order.u32(bytes, at).map(|offset| offset as usize),
        };
        // The sizes of the number of tags, of a tag, and of an offset.
        let (head, size, pointer) = if big { (8, 20, 8) } else { (2, 12, 4) };
        let from = offset(pointer).ok_or(DecodeError::Truncated)?;
        let count = match big {
            true => {
                order.u64(bytes, from).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
            }
            false => order.u16(bytes, from).map(usize::from),
        };
        let count = count.ok_or(DecodeError::Truncated)?;
        let all = count.checked_mul(size).and_then(|all| (from + head).checked_add(all));
        if all.is_none_or(|end| end > bytes.len()) {
            return Err(DecodeError::Truncated);
        }
        let entry = |number: usize| {
            let at = from + head + number * size;
            let (tag, kind) = (order.u16(bytes, at)?, order.u16(bytes, at + 2)?);
            let (count, value) = (offset(at + 4)?, at + 4 + pointer);
            let is_inline = count.checked_mul(value_bytes(kind)?)? <= pointer;
            let at = if is_inline { value } else { offset(value)? };
            Some(Entry { tag, kind, count, at })
        };
        Ok(Self { bytes, order, entries: (0..count).filter_map(entry).collect() })
    }

    /// The bytes of a tag's values; `None` without the tag.
    fn raw(&self, tag: u16) -> Result<Option<(u16, &'a [u8])>, DecodeError> {
        let Some(entry) = self.entries.iter().rev().find(|entry| entry.tag == tag) else {
            return Ok(None);
        };
        let size = value_bytes(entry.kind).unwrap_or(1) * entry.count;
        let end = entry.at.checked_add(size).ok_or(DecodeError::Truncated)?;
        let bytes = self.bytes.get(entry.at..end).ok_or(DecodeError::Truncated)?;
        Ok(Some((entry.kind, bytes)))
    }

    /// The whole numbers of a tag; none for another type.
    pub(super) fn values(&self, tag: u16) -> Result<Option<Vec<u64>>, DecodeError> {
        let Some((kind, bytes)) = self.raw(tag)? else { return Ok(None) };
        let value = |at: usize| match kind {
            1 | 6 | 7 => bytes.get(at).map(|&byte| u64::from(byte)),
            3 | 8 => self.order.u16(bytes, at).map(u64::from),
            4 | 9 | 13 => self.order.u32(bytes, at).map(u64::from),
            16..=18 => self.order.u64(bytes, at),
            _ => None,
        };
        let size = value_bytes(kind).unwrap_or(1);
        let values: Vec<u64> = (0..bytes.len()).step_by(size).filter_map(value).collect();
        Ok(Some(values).filter(|values| !values.is_empty()))
    }

    /// The first whole number of a tag.
    pub(super) fn value(&self, tag: u16) -> Result<Option<u64>, DecodeError> {
        Ok(self.values(tag)?.map(|values| values[0]))
    }

    /// The fractions of a tag, as f32.
    pub(super) fn fractions<const N: usize>(&self, tag: u16) -> Option<[f32; N]> {
        let (kind, bytes) = self.raw(tag).ok()??;
        let part = |at: usize| self.order.u32(bytes, at);
        let fraction = |number: usize| match kind {
            5 => Some((f64::from(part(number * 8)?) / f64::from(part(number * 8 + 4)?)) as f32),
            11 => part(number * 4).map(f32::from_bits),
            3 => self.order.u16(bytes, number * 2).map(f32::from),
            4 => part(number * 4).map(|whole| whole as f32),
            _ => None,
        };
        let all: Vec<f32> = (0..N).map_while(fraction).collect();
        all.try_into().ok()
    }

    /// The bytes of a tag.
    pub(super) fn data(&self, tag: u16) -> Option<&'a [u8]> {
        Some(self.raw(tag).ok()??.1)
    }
}
