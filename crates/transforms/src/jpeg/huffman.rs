//! The entropy code of a JPEG: Huffman tables and the bits they are read from.
//!
//! After ITU T.81, annex F; the tables that give a code's coefficient at once are an old trick of many decoders.

use crate::jpeg::header::Codes;
use crate::jpeg::{Damaged, ZIGZAG};

/// Bits that are looked up at once.
const LOOK: u32 = 11;

/// What [`Table::look`] holds where more than a look is needed.
const LONG: u32 = 0;

/// End of block, as a number of zeros.
const END: u32 = 128;

/// A Huffman table.
#[derive(Clone, Default)]
pub(super) struct Table {
    counts: Vec<u8>,
    symbols: Vec<u8>,
    /// By the next [`LOOK`] bits: bits 0 to 7 the length of the code with the bits of its value, 8 to 15 zeros
    /// before it or [`END`], 16 to 31 the value; [`LONG`] where they are longer.
    look: Vec<u32>,
    /// By the same bits: length of the code alone and symbol, length 0 where the code is longer.
    short: Vec<(u8, u8)>,
    /// For codes of each length (from 1): past the last code, aligned to 16 bits; index of its first symbol less
    /// its first code.
    bounds: [(u32, i32); 17],
}

impl Table {
    pub(super) fn is_of(&self, codes: Codes) -> bool {
        self.counts == codes.counts && self.symbols == codes.symbols
    }

    pub(super) fn new(codes: Codes) -> Result<Self, Damaged> {
        let size = 1 << LOOK;
        let mut table = Self {
            counts: codes.counts.to_vec(),
            symbols: codes.symbols.to_vec(),
            look: vec![LONG; size],
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
                if length <= LOOK {
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

    /// All continuations of a code.
    fn enter(&mut self, code: u32, length: u32, symbol: u8) {
        let rest = LOOK - length;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        for tail in 0..1_u32 << rest {
            let at = (code << rest | tail) as usize;
            self.short[at] = (length as u8, symbol);
            self.look[at] = match (symbol, size) {
                (0x00, _) => END << 8 | length,
                // Sixteen zeros: fifteen, and a coefficient that is zero.
                (_, 0) => zeros << 8 | length,
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

/// The entropy-coded bits, stuffing removed.
///
/// A value: the loops work on a copy, which stays in registers because the rare cases take it and give it back.
#[derive(Clone, Copy)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits, the first on top.
    next: u64,
    /// How many of them are good.
    count: u32,
    /// Zeros put in behind the end.
    padding: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, next: 0, count: 0, padding: 0 }
    }

    /// At least 56 good bits.
    #[inline]
    fn fill(&mut self) {
        if let Some(bytes) = self.bytes.get(self.at..self.at + 8) {
            let word = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            // Whether a byte is 0xFF.
            let ones = (!word).wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080;
            if ones == 0 {
                self.next |= word >> self.count;
                let taken = (63 - self.count) / 8;
                self.at += taken as usize;
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
            let byte = match self.bytes.get(self.at..self.at + 2) {
                Some(&[0xFF, 0]) => {
                    self.at += 2;
                    0xFF
                }
                Some(&[byte, _]) if byte != 0xFF => {
                    self.at += 1;
                    byte
                }
                // A marker, or the end.
                _ => {
                    self.padding += 8;
                    0
                }
            };
            // Bits that the fast way left beyond the good ones are those of this very byte.
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

    /// Whether no more was taken than there is.
    pub(super) fn check(&self) -> Result<(), Damaged> {
        if self.padding > self.count { Err(Damaged) } else { Ok(()) }
    }

    /// Goes on behind the next restart marker.
    pub(super) fn restart(&mut self) -> Result<(), Damaged> {
        // Whole bytes that were read ahead would be before the marker: there are none in a good file.
        if self.count - self.padding.min(self.count) >= 8 {
            return Err(Damaged);
        }
        self.check()?;
        while let Some(&[0xFF, 0xFF]) = self.bytes.get(self.at..self.at + 2) {
            self.at += 1;
        }
        match self.bytes.get(self.at..self.at + 2) {
            Some(&[0xFF, 0xD0..=0xD7]) => self.at += 2,
            _ => return Err(Damaged),
        }
        (self.next, self.count, self.padding) = (0, 0, 0);
        Ok(())
    }

    /// [`Bits::code`] where a look was not enough.
    #[cold]
    #[inline(never)]
    fn long(mut self, table: &Table) -> (Self, u32, i32) {
        const NONE: u32 = END / 2;
        let (length, symbol) = match table.short[(self.next >> (64 - LOOK)) as usize] {
            (0, _) => {
                let word = (self.next >> 48) as u32;
                let longer = LOOK + 1..=16;
                let length = longer.into_iter().find(|&l| word < table.bounds[l as usize].0);
                let Some(length) = length else { return (self, NONE, 0) };
                let index = (word >> (16 - length)) as i32 + table.bounds[length as usize].1;
                let symbol = usize::try_from(index).ok().and_then(|i| table.symbols.get(i));
                let Some(&symbol) = symbol else { return (self, NONE, 0) };
                (length, symbol)
            }
            (length, symbol) => (u32::from(length), symbol),
        };
        self.take(length);
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            return (self, if symbol == 0 { END } else { zeros }, 0);
        }
        let bits = (self.next >> (64 - size)) as u32;
        self.take(size);
        (self, zeros, extend(bits, size))
    }

    /// Zeros before the next coefficient and its value; [`END`] for the end of the block, half of it where there is
    /// no such code.
    #[inline]
    fn code(&mut self, table: &Table) -> (u32, i32) {
        // The longest code and its value are 31 bits.
        if self.count < 32 {
            self.fill();
        }
        let look: &[u32; 1 << LOOK] = table.look.as_slice().try_into().expect("a table's size");
        let entry = look[(self.next >> (64 - LOOK)) as usize];
        if entry == LONG {
            let (zeros, value);
            (*self, zeros, value) = self.long(table);
            return (zeros, value);
        }
        self.take(entry & 0xFF);
        (entry >> 8 & 0xFF, i32::from((entry >> 16) as u16 as i16))
    }

    /// The next block, dequantised, in natural order. Whether it has more than its constant.
    #[inline]
    pub(super) fn block(
        &mut self,
        dc: &Table,
        ac: &Table,
        quantisation: &[u16; 64],
        before: &mut i32,
        block: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        *block = [0; 64];
        let mut bits = *self;
        bits.constant(dc, before)?;
        // Products are cut to 16 bits, as libjpeg's vectors do.
        block[0] = before.wrapping_mul(i32::from(quantisation[0])) as i16;
        let mut k = 1;
        while k < 64 {
            let (zeros, value) = bits.code(ac);
            k += zeros;
            if k > 63 {
                break;
            }
            let place = usize::from(ZIGZAG[k as usize & 63]) & 63;
            block[place] = value.wrapping_mul(i32::from(quantisation[place])) as i16;
            k += 1;
        }
        *self = bits;
        // Zeros past the last coefficient, or no code.
        if k > 64 && k < END { Err(Damaged) } else { Ok(k != 1 + END) }
    }

    /// The constant of the next block alone, dequantised, at its place; there is nothing more, so false.
    #[inline]
    pub(super) fn constant_block(
        &mut self,
        dc: &Table,
        ac: &Table,
        quantisation: &[u16; 64],
        before: &mut i32,
        block: &mut [i16; 64],
    ) -> Result<bool, Damaged> {
        self.skip_block(dc, ac, before)?;
        block[0] = before.wrapping_mul(i32::from(quantisation[0])) as i16;
        Ok(false)
    }

    /// Goes behind the next block.
    #[inline]
    pub(super) fn skip_block(
        &mut self,
        dc: &Table,
        ac: &Table,
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
    fn constant(&mut self, dc: &Table, before: &mut i32) -> Result<(), Damaged> {
        match self.code(dc) {
            // The end of a block stands for a difference of zero here.
            (0 | END, difference) => *before = before.wrapping_add(difference),
            _ => return Err(Damaged),
        }
        Ok(())
    }
}
