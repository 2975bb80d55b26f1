//! The entropy code of a JPEG: Huffman tables and the bits they are read from.
//!
//! After ITU T.81, annex F. As in many decoders, a table gives a short code's coefficient in one
//! look-up.

use crate::jpeg::tables::{Codes, ZIGZAG};

/// The entropy code is damaged or ends too early.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

/// Bits of one look-up.
const LOOKUP_BITS: u32 = 11;

/// The entry of [`HuffmanTable::lookup`] for codes that need more than one look-up.
const LONG: u32 = 0;

/// End of block, as a number of zeros.
const END: u32 = 128;

/// A Huffman table.
#[derive(Clone, Default)]
pub(super) struct HuffmanTable {
    counts: Vec<u8>,
    symbols: Vec<u8>,
    /// Entry by the next [`LOOKUP_BITS`] bits: bits 0 to 7 are the length of the code with the bits
    /// of its value, 8 to 15 the zeros before it or [`END`], 16 to 31 the value; [`LONG`] where
    /// they are longer.
    lookup: Vec<u32>,
    /// Entry by the next [`LOOKUP_BITS`] bits: length of the code alone and symbol; length 0 where
    /// the code is longer.
    short: Vec<(u8, u8)>,
    /// For codes of each length (from 1): the first value past the last code, aligned to 16 bits,
    /// and the index of the first symbol less the first code.
    bounds: [(u32, i32); 17],
}

impl HuffmanTable {
    pub(super) fn is_of(&self, codes: Codes) -> bool {
        self.counts == codes.counts && self.symbols == codes.symbols
    }

    pub(super) fn new(codes: Codes) -> Result<Self, Damaged> {
        let size = 1 << LOOKUP_BITS;
        let mut table = Self {
            counts: codes.counts.to_vec(),
            symbols: codes.symbols.to_vec(),
            lookup: vec![LONG; size],
            short: vec![(0, 0); size],
            bounds: [(0, 0); 17],
        };
        let (mut code, mut index) = (0_u32, 0_usize);
        for length in 1..=16_u32 {
            let count = usize::from(codes.counts[length as usize - 1]);
            table.bounds[length as usize].1 = index as i32 - code as i32;
            for &symbol in &codes.symbols[index..index + count] {
                if code >= 1 << length {
                    return Err(Damaged);
                }
                if length <= LOOKUP_BITS {
                    table.enter(code, length, symbol);
                }
                code += 1;
            }
            index += count;
            table.bounds[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    /// Enters all continuations of a code.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let rest = LOOKUP_BITS - length;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        for tail in 0..1_u32 << rest {
            let index = (code << rest | tail) as usize;
            self.short[index] = (length as u8, symbol);
            self.lookup[index] = match (symbol, size) {
                // Sixteen zeros are fifteen zeros and a coefficient of zero.
                (0xF0, _) => zeros << 8 | length,
                (_, 0) => END << 8 | length,
                (_, size) if size <= rest => {
                    let value = extend(tail >> (rest - size), size);
                    u32::from(value as i16 as u16) << 16 | zeros << 8 | (length + size)
                }
                _ => LONG,
            };
        }
    }
}

/// The value that `size` bits stand for (T.81, figure F.12).
fn extend(bits: u32, size: u32) -> i32 {
    let negative = bits >> (size - 1) == 0;
    bits as i32 - if negative { (1 << size) - 1 } else { 0 }
}

/// Reader of the entropy-coded bits, which removes the stuffing.
///
/// The type is `Copy`: the loops work on a copy, which stays in registers because the rare cases
/// take it by value and return it.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    offset: usize,
    /// The next bits, the first in the highest position.
    next: u64,
    /// Number of valid bits in `next`.
    count: u32,
    /// Zero bits appended past the end.
    padding: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0, next: 0, count: 0, padding: 0 }
    }

    /// Fills up to at least 56 valid bits.
    #[inline]
    fn fill(&mut self) {
        if let Some(bytes) = self.bytes.get(self.offset..self.offset + 8) {
            let word = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            // Whether a byte is 0xFF.
            let ones = (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if ones == 0 {
                self.next |= word >> self.count;
                let taken = (63 - self.count) / 8;
                self.offset += taken as usize;
                self.count += taken * 8;
                return;
            }
        }
        *self = self.filled_slowly();
    }

    #[cold]
    #[inline(never)]
    fn filled_slowly(mut self) -> Self {
        while self.count <= 56 {
            let byte = match self.bytes.get(self.offset..self.offset + 2) {
                Some(&[0xFF, 0]) => {
                    self.offset += 2;
                    0xFF
                }
                Some(&[byte, _]) if byte != 0xFF => {
                    self.offset += 1;
                    byte
                }
                // A marker, or the end.
                _ => {
                    self.padding += 8;
                    0
                }
            };
            // Bits that the fast path left beyond the valid ones are bits of this same byte.
            self.next |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    #[inline]
    fn take(&mut self, count: u32) {
        self.next <<= count;
        self.count -= count;
    }

    /// Fails if more bits were taken than the file has.
    pub(super) fn check(&self) -> Result<(), Damaged> {
        if self.padding > self.count { Err(Damaged) } else { Ok(()) }
    }

    /// Continues after the next restart marker.
    pub(super) fn restart(&mut self) -> Result<(), Damaged> {
        // Whole bytes that were read ahead lie before the marker; an undamaged file has none.
        if self.count - self.padding.min(self.count) >= 8 {
            return Err(Damaged);
        }
        self.check()?;
        while let Some(&[0xFF, 0xFF]) = self.bytes.get(self.offset..self.offset + 2) {
            self.offset += 1;
        }
        match self.bytes.get(self.offset..self.offset + 2) {
            Some(&[0xFF, 0xD0..=0xD7]) => self.offset += 2,
            _ => return Err(Damaged),
        }
        (self.next, self.count, self.padding) = (0, 0, 0);
        Ok(())
    }

    /// [`Bits::code`] for codes that need more than one look-up.
    #[cold]
    #[inline(never)]
    fn long(mut self, table: &HuffmanTable) -> (Self, u32, i32) {
        const NONE: u32 = END / 2;
        let (length, symbol) = match table.short[(self.next >> (64 - LOOKUP_BITS)) as usize] {
            (0, _) => match self.long_symbol(table) {
                Some(found) => found,
                None => return (self, NONE, 0),
            },
            (length, symbol) => (u32::from(length), symbol),
        };
        self.take(length);
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            return (self, if symbol == 0xF0 { zeros } else { END }, 0);
        }
        let bits = (self.next >> (64 - size)) as u32;
        self.take(size);
        (self, zeros, extend(bits, size))
    }

    /// The next symbol.
    #[inline]
    pub(super) fn symbol(&mut self, table: &HuffmanTable) -> Result<u8, Damaged> {
        if self.count < 32 {
            self.fill();
        }
        let (length, symbol) = match table.short.get((self.next >> (64 - LOOKUP_BITS)) as usize) {
            Some(&(length @ 1.., symbol)) => (u32::from(length), symbol),
            _ => self.long_symbol(table).ok_or(Damaged)?,
        };
        self.take(length);
        Ok(symbol)
    }

    /// The length of the next code, of more than [`LOOKUP_BITS`] bits, and its symbol. `None` for
    /// bits that are no code.
    fn long_symbol(&self, table: &HuffmanTable) -> Option<(u32, u8)> {
        let word = (self.next >> 48) as u32;
        let length = (LOOKUP_BITS + 1..=16).find(|&l| word < table.bounds[l as usize].0)?;
        let index = (word >> (16 - length)) as i32 + table.bounds[length as usize].1;
        let symbol = usize::try_from(index).ok().and_then(|i| table.symbols.get(i))?;
        Some((length, *symbol))
    }

    /// The next `size` bits, at most 16, as a number.
    #[inline]
    pub(super) fn number(&mut self, size: u32) -> u32 {
        if self.count < 16 {
            self.fill();
        }
        // In two steps: a shift by 64 has no meaning.
        let bits = (self.next >> 1 >> (63 - size)) as u32;
        self.take(size);
        bits
    }

    /// The value that the next `size` bits, at most 15, stand for; 0 for none.
    #[inline]
    pub(super) fn value(&mut self, size: u32) -> i32 {
        match size {
            0 => 0,
            size => extend(self.number(size), size),
        }
    }

    /// Drops the bits before the next marker. Returns the marker and its offset, which is the end
    /// of the bytes where none follows.
    pub(super) fn seek_marker(&mut self) -> (Option<u8>, usize) {
        (self.next, self.count, self.padding) = (0, 0, 0);
        while let Some(&[first, marker]) = self.bytes.get(self.offset..self.offset + 2) {
            if first == 0xFF && !matches!(marker, 0 | 0xFF) {
                return (Some(marker), self.offset);
            }
            self.offset += 1;
        }
        self.offset = self.bytes.len();
        (None, self.offset)
    }

    /// Passes over the marker that [`Bits::seek_marker`] found.
    pub(super) fn pass_marker(&mut self) {
        self.offset += 2;
    }

    /// The zeros before the next coefficient, and its value. The zeros are [`END`] at the end of
    /// the block, and half of that for bits that are no code.
    #[inline]
    fn code(&mut self, table: &HuffmanTable) -> (u32, i32) {
        // The longest code and its value are 31 bits.
        if self.count < 32 {
            self.fill();
        }
        let lookup: &[u32; 1 << LOOKUP_BITS] =
            table.lookup.as_slice().try_into().expect("a table's size");
        let entry = lookup[(self.next >> (64 - LOOKUP_BITS)) as usize];
        if entry == LONG {
            let (zeros, value);
            (*self, zeros, value) = self.long(table);
            return (zeros, value);
        }
        self.take(entry & 0xFF);
        (entry >> 8 & 0xFF, i32::from((entry >> 16) as u16 as i16))
    }

    /// Reads the next block, dequantised, in natural order. Returns whether it has more than its
    /// constant.
    #[inline]
    pub(super) fn block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        quantisation: &[u16; 64],
        before: &mut i32,
        block: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        *block = [0; 64];
        let mut bits = *self;
        bits.constant(dc, before)?;
        // Products are truncated to 16 bits, as libjpeg's vector code does.
        block[0] = before.wrapping_mul(i32::from(quantisation[0])) as i16;
        let mut k = 1;
        while k < 64 {
            let (zeros, value) = bits.code(ac);
            k += zeros;
            if k > 63 {
                // The end of the block, or a coefficient past the last one.
                k += u32::from(zeros < END);
                break;
            }
            let natural = usize::from(ZIGZAG[k as usize & 63]) & 63;
            block[natural] = value.wrapping_mul(i32::from(quantisation[natural])) as i16;
            k += 1;
        }
        *self = bits;
        // Zeros past the last coefficient, or bits that are no code.
        if k > 64 && k < END { Err(Damaged) } else { Ok(k != 1 + END) }
    }

    /// Reads only the constant of the next block, dequantised, into `block[0]`. Returns false: no
    /// other coefficient is used.
    #[inline]
    pub(super) fn constant_block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        quantisation: &[u16; 64],
        before: &mut i32,
        block: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        self.skip_block(dc, ac, before)?;
        block[0] = before.wrapping_mul(i32::from(quantisation[0])) as i16;
        Ok(false)
    }

    /// Skips the next block.
    #[inline]
    pub(super) fn skip_block(
        &mut self,
        dc: &HuffmanTable,
        ac: &HuffmanTable,
        before: &mut i32,
    ) -> Result<(), Damaged> {
        let mut bits = *self;
        bits.constant(dc, before)?;
        let mut k = 1;
        while k < 64 {
            k += bits.code(ac).0 + 1;
        }
        *self = bits;
        if k > 64 && k < END { Err(Damaged) } else { Ok(()) }
    }

    #[inline]
    fn constant(&mut self, dc: &HuffmanTable, before: &mut i32) -> Result<(), Damaged> {
        match self.code(dc) {
            // The end of a block means a difference of zero here.
            (0 | END, difference) => *before = before.wrapping_add(difference),
            _ => return Err(Damaged),
        }
        Ok(())
    }
}
