//! A decoder for the JPEGs that data sets consist of, made to decode a part of them.
//!
//! Sequential, Huffman-coded, 8 bits, gray or YCbCr with chroma of full, half width, half height or both: what
//! cameras and Pillow write. [`Jpeg::parse`] gives `None` for everything else (progressive, arithmetic, CMYK,
//! RGB, broken), and `decode` goes on with the general decoder. A random crop needs a part of the picture alone:
//! rows below it are not read, blocks beside it are stepped over without arithmetic.
//!
//! The result is that of libjpeg and so of Pillow in every bit (`kernels::jpeg`; `tests/jpeg.rs` compares). After
//! ITU T.81; the tables that give a code's coefficient at once are an old trick of many decoders.

use kernels::isa::Isa;
use kernels::jpeg::{between_rows, double_row, inverse_dct, inverse_dct_constant, ycc_to_rgb};

use crate::preprocess::Region;

/// The place in natural order of each coefficient in the order of the file (T.81, figure A.6).
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A file that [`Jpeg::parse`] has understood.
#[derive(Debug)]
pub struct Jpeg<'a> {
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// The body of the first EXIF segment, from its TIFF header on.
    pub exif: Option<&'a [u8]>,
    components: Vec<Component>,
    quantisation: [[u16; 64]; 4],
    /// Lengths and symbols: DC tables 0 to 3, AC tables 0 to 3.
    codes: [Option<Codes<'a>>; 8],
    restart_interval: usize,
    /// The entropy-coded bytes, and whatever follows them.
    scan: &'a [u8],
}

/// How many codes of each length, and their symbols, as they stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Codes<'a> {
    counts: &'a [u8],
    symbols: &'a [u8],
}

#[derive(Clone, Debug)]
struct Component {
    id: u8,
    /// Blocks of an MCU.
    h: usize,
    v: usize,
    quantisation: usize,
    dc: usize,
    ac: usize,
}

/// The entropy code is damaged or ends too early.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged;

impl<'a> Jpeg<'a> {
    /// Reads the markers up to the one scan. `None`: broken, truncated, or of a kind that is left to others.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut jpeg = Self {
            width: 0,
            height: 0,
            exif: None,
            components: Vec::new(),
            quantisation: [[0; 64]; 4],
            codes: [None; 8],
            restart_interval: 0,
            scan: &[],
        };
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return None;
        }
        let (mut at, mut adobe, mut jfif) = (2, None, false);
        loop {
            let &[0xFF, marker] = bytes.get(at..at + 2)? else { return None };
            if marker == 0xFF {
                at += 1;
                continue;
            }
            let length =
                usize::from(u16::from_be_bytes(bytes.get(at + 2..at + 4)?.try_into().ok()?));
            let body = bytes.get(at + 4..at + 2 + length.max(2))?;
            at += 2 + length.max(2);
            match marker {
                0xC0 | 0xC1 => jpeg.frame(body)?,
                0xC4 => jpeg.huffman(body)?,
                0xDB => jpeg.quantisers(body)?,
                0xDD => {
                    jpeg.restart_interval = usize::from(u16::from_be_bytes(body.try_into().ok()?));
                }
                0xDA => {
                    jpeg.header_of_scan(body)?;
                    break;
                }
                0xE0 => jfif |= body.starts_with(b"JFIF\0"),
                0xE1 if jpeg.exif.is_none() => jpeg.exif = body.strip_prefix(b"Exif\0\0"),
                0xEE if body.starts_with(b"Adobe") => adobe = body.get(11).copied(),
                0xE0..=0xEF | 0xFE => {}
                // Other frames, DNL, hierarchical files; markers that have no place here.
                _ => return None,
            }
        }
        // Three components are YCbCr unless a marker or their names say RGB; libjpeg's order of belief.
        let ids: Vec<u8> = jpeg.components.iter().map(|c| c.id).collect();
        let rgb = !jfif && (adobe == Some(0) || (adobe.is_none() && ids == *b"RGB"));
        if ids.len() == 3 && rgb {
            return None;
        }
        jpeg.scan = bytes.get(at..)?;
        is_whole(jpeg.scan).then_some(jpeg)
    }

    fn frame(&mut self, body: &[u8]) -> Option<()> {
        let &[8, h1, h0, w1, w0, count, ref rest @ ..] = body else { return None };
        let edge = |high, low| usize::from(u16::from_be_bytes([high, low]));
        (self.height, self.width) = (edge(h1, h0), edge(w1, w0));
        if !self.components.is_empty() || self.height == 0 || self.width == 0 {
            return None;
        }
        let (triples, rest) = rest.as_chunks::<3>();
        if triples.len() != usize::from(count) || !rest.is_empty() {
            return None;
        }
        for &[id, sampling, table] in triples {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            let quantisation = usize::from(table);
            (quantisation < 4).then_some(())?;
            self.components.push(Component { id, h, v, quantisation, dc: 0, ac: 0 });
        }
        match self.components.as_mut_slice() {
            // The only component's blocks follow one another row by row, whatever its factors.
            [gray] => (gray.h, gray.v) = (1, 1),
            [y, cb, cr] => {
                let chroma = (cb.h, cb.v, cr.h, cr.v) == (1, 1, 1, 1);
                (chroma && matches!((y.h, y.v), (1 | 2, 1 | 2))).then_some(())?;
            }
            _ => return None,
        }
        Some(())
    }

    fn quantisers(&mut self, mut body: &[u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let table = self.quantisation.get_mut(usize::from(head & 15))?;
            let bytes = if head >> 4 == 0 { 64 } else { 128 };
            let (values, rest) = rest.split_at_checked(bytes)?;
            for (k, place) in ZIGZAG.into_iter().enumerate() {
                table[usize::from(place)] = match bytes {
                    64 => u16::from(values[k]),
                    _ => u16::from_be_bytes([values[2 * k], values[2 * k + 1]]),
                };
            }
            body = rest;
        }
        Some(())
    }

    fn huffman(&mut self, mut body: &'a [u8]) -> Option<()> {
        while let Some((&head, rest)) = body.split_first() {
            let (class, number) = (usize::from(head >> 4), usize::from(head & 15));
            (class < 2 && number < 4).then_some(())?;
            let (counts, rest) = rest.split_at_checked(16)?;
            let total = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(total)?;
            self.codes[class * 4 + number] = Some(Codes { counts, symbols });
            body = rest;
        }
        Some(())
    }

    fn header_of_scan(&mut self, body: &[u8]) -> Option<()> {
        let (&count, rest) = body.split_first()?;
        // One scan with everything in it.
        if usize::from(count) != self.components.len() || self.components.is_empty() {
            return None;
        }
        for (component, pair) in self.components.iter_mut().zip(rest.chunks_exact(2)) {
            let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            if pair[0] != component.id || dc > 3 || ac > 3 {
                return None;
            }
            // A table of zeros is one that was never given.
            (self.quantisation[component.quantisation] != [0; 64]).then_some(())?;
            self.codes[dc].as_ref()?;
            self.codes[4 + ac].as_ref()?;
            (component.dc, component.ac) = (dc, ac);
        }
        (rest.len() == self.components.len() * 2 + 3 && rest[rest.len() - 3..] == [0, 63, 0])
            .then_some(())
    }

    /// Decodes a part of the picture to RGB; gray is repeated.
    ///
    /// Blocks outside are read as far as the code asks and no further: a fault below the region is not seen.
    ///
    /// # Shapes
    /// Fills `rgb` with `[region.height, region.width, 3]`.
    ///
    /// # Errors
    /// [`Damaged`] when the entropy code has no such code or ends too early.
    ///
    /// # Panics
    /// When the region is empty or not inside the picture.
    pub fn decode(
        &self,
        region: Region,
        space: &mut Space,
        rgb: &mut Vec<u8>,
    ) -> Result<(), Damaged> {
        let Region { top, left, height, width } = region;
        assert!(
            height > 0 && width > 0 && top + height <= self.height && left + width <= self.width,
            "{region:?} is empty or not inside {} x {} pixels",
            self.height,
            self.width
        );
        let isa = Isa::chosen();
        space.learn(self)?;
        // MCUs that hold the region and a sample of chroma more on every side.
        let (h, v) = (self.components[0].h, self.components[0].v);
        let columns =
            (left.saturating_sub(h) / (8 * h), (left + width + h).min(self.width).div_ceil(8 * h));
        let rows =
            (top.saturating_sub(v) / (8 * v), (top + height + v).min(self.height).div_ceil(8 * v));
        let wanted = Wanted { columns, rows, per_row: self.width.div_ceil(8 * h) };
        self.blocks(&wanted, isa, space)?;
        rgb.resize(height * width * 3, 0);
        self.colours(region, &wanted, isa, space, rgb);
        Ok(())
    }

    /// Entropy code to planes of samples.
    fn blocks(&self, wanted: &Wanted, isa: Isa, space: &mut Space) -> Result<(), Damaged> {
        let Space { tables, planes, .. } = space;
        let across = wanted.columns.1 - wanted.columns.0;
        let down = wanted.rows.1 - wanted.rows.0;
        for (component, plane) in self.components.iter().zip(planes.iter_mut()) {
            // Every sample is written below.
            plane.resize(across * component.h * 8 * down * component.v * 8, 0);
        }
        let mut bits = Bits::new(self.scan);
        let mut before = [0_i32; 3];
        let mut block = [0_i16; 64];
        let mut until_restart = self.restart_interval;
        for row in 0..wanted.rows.1 {
            let row_wanted = row >= wanted.rows.0;
            for column in 0..wanted.per_row {
                if self.restart_interval > 0 {
                    if until_restart == 0 {
                        bits.restart()?;
                        before = [0; 3];
                        until_restart = self.restart_interval;
                    }
                    until_restart -= 1;
                }
                if row_wanted && column == wanted.columns.1 && row + 1 == wanted.rows.1 {
                    break;
                }
                let keep = row_wanted && (wanted.columns.0..wanted.columns.1).contains(&column);
                for (number, component) in self.components.iter().enumerate() {
                    let (dc, ac) = (&tables[component.dc], &tables[4 + component.ac]);
                    let before = &mut before[number];
                    if !keep {
                        for _ in 0..component.h * component.v {
                            bits.skip_block(dc, ac, before)?;
                        }
                        continue;
                    }
                    let quantisation = &self.quantisation[component.quantisation];
                    let stride = across * component.h * 8;
                    for y in 0..component.v {
                        for x in 0..component.h {
                            let top = ((row - wanted.rows.0) * component.v + y) * 8;
                            let left = ((column - wanted.columns.0) * component.h + x) * 8;
                            let out = &mut planes[number][top * stride + left..];
                            let varies = bits.block(dc, ac, quantisation, before, &mut block)?;
                            match varies {
                                true => inverse_dct(isa, &block, out, stride),
                                false => inverse_dct_constant(block[0], out, stride),
                            }
                        }
                    }
                }
            }
            bits.check()?;
        }
        Ok(())
    }

    /// Planes of samples to RGB.
    fn colours(
        &self,
        region: Region,
        wanted: &Wanted,
        isa: Isa,
        space: &mut Space,
        rgb: &mut [u8],
    ) {
        let Region { top, left, width, .. } = region;
        let Space { planes, sums, chroma, .. } = space;
        let (h, v) = (self.components[0].h, self.components[0].v);
        let across = (wanted.columns.1 - wanted.columns.0) * 8;
        let (origin_x, origin_y) = (wanted.columns.0 * 8 * h, wanted.rows.0 * 8 * v);
        let luma_stride = across * h;
        // Chroma: all samples that the picture has within the MCUs, and those that the region needs.
        let samples = self.width.div_ceil(h).min(wanted.columns.1 * 8) - wanted.columns.0 * 8;
        let lines = self.height.div_ceil(v).min(wanted.rows.1 * 8) - wanted.rows.0 * 8;
        let first = (left - origin_x) / h;
        let last = (left + width - origin_x).div_ceil(h);
        let [blue, red] = chroma;
        for (row, out) in (top..).zip(rgb.chunks_exact_mut(width * 3)) {
            let at = (row - origin_y) * luma_stride + left - origin_x;
            let luma = &planes[0][at..at + width];
            if self.components.len() == 1 {
                for (pixel, &gray) in out.as_chunks_mut::<3>().0.iter_mut().zip(luma) {
                    *pixel = [gray; 3];
                }
                continue;
            }
            let line = (row - origin_y) / v;
            // Of two rows of pixels the upper leans on the chroma above, the lower on that below.
            let below = (row - origin_y) % v == 1;
            let other = match (v, below) {
                (1, _) => line,
                (_, true) => (line + 1).min(lines - 1),
                (_, false) => line.saturating_sub(1),
            };
            for (plane, out) in planes[1..].iter().zip([&mut *blue, &mut *red]) {
                let near = &plane[line * across..line * across + samples];
                let far = &plane[other * across..other * across + samples];
                out.resize((last - first) * h, 0);
                match (h, v) {
                    // libjpeg repeats the samples of pictures so narrow that there is nothing between.
                    (2, _) if self.width.div_ceil(2) <= 2 => {
                        for (i, sample) in out.iter_mut().enumerate() {
                            *sample = near[first + i / 2];
                        }
                    }
                    (2, _) => double_row(isa, near, far, first..last, v == 2, sums, out),
                    (_, 2) => between_rows(&near[first..last], &far[first..last], below, out),
                    _ => out.copy_from_slice(&near[first..last]),
                }
            }
            let skip = left - origin_x - first * h;
            ycc_to_rgb(isa, luma, &blue[skip..skip + width], &red[skip..skip + width], out);
        }
    }
}

/// MCUs that are needed: from, to.
struct Wanted {
    columns: (usize, usize),
    rows: (usize, usize),
    /// All of a row.
    per_row: usize,
}

/// Whether what follows the header of the scan ends with EOI. Usually it is the end of the file; else every marker
/// is looked at.
fn is_whole(scan: &[u8]) -> bool {
    scan.ends_with(&[0xFF, 0xD9]) || scan.windows(2).any(|pair| pair == [0xFF, 0xD9])
}

/// Memory that decoding uses again from picture to picture, and the tables of the last one.
#[derive(Default)]
pub struct Space {
    tables: [Table; 8],
    /// Samples of each component, as they are in the file.
    planes: [Vec<u8>; 3],
    /// A row of doubled chroma.
    chroma: [Vec<u8>; 2],
    sums: Vec<i16>,
}

impl Space {
    /// Tables of the file; those that it shares with the last one are there already.
    fn learn(&mut self, jpeg: &Jpeg) -> Result<(), Damaged> {
        for component in &jpeg.components {
            for number in [component.dc, 4 + component.ac] {
                let codes = jpeg.codes[number].expect("looked at by the scan's header");
                if self.tables[number].is_of(codes) {
                    continue;
                }
                self.tables[number] = Table::new(codes)?;
            }
        }
        Ok(())
    }
}

/// Bits that are looked up at once.
const LOOK: u32 = 11;

/// What [`Table::look`] holds where more than a look is needed.
const LONG: u32 = 0;

/// End of block, as a number of zeros.
const END: u32 = 128;

/// A Huffman table.
#[derive(Clone, Default)]
struct Table {
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
    fn is_of(&self, codes: Codes) -> bool {
        self.counts == codes.counts && self.symbols == codes.symbols
    }

    fn new(codes: Codes) -> Result<Self, Damaged> {
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
struct Bits<'a> {
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
    fn new(bytes: &'a [u8]) -> Self {
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
    fn check(&self) -> Result<(), Damaged> {
        if self.padding > self.count { Err(Damaged) } else { Ok(()) }
    }

    /// Goes on behind the next restart marker.
    fn restart(&mut self) -> Result<(), Damaged> {
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
    fn block(
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

    /// Goes behind the next block.
    #[inline]
    fn skip_block(&mut self, dc: &Table, ac: &Table, before: &mut i32) -> Result<(), Damaged> {
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
