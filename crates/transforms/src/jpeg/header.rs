//! The markers of a JPEG: size, tables, components, up to the entropy code of its one scan.

/// The index in natural order of each coefficient in the order of the file (T.81, figure A.6).
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The header of a JPEG that [`Jpeg::parse`] supports, and its entropy-coded bytes.
#[derive(Debug)]
pub struct Jpeg<'a> {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// The body of the first EXIF segment, from its TIFF header on.
    pub exif: Option<&'a [u8]>,
    pub(super) components: Vec<Component>,
    pub(super) quantisation: [[u16; 64]; 4],
    /// Lengths and symbols: DC tables 0 to 3, AC tables 0 to 3.
    pub(super) codes: [Option<Codes<'a>>; 8],
    pub(super) restart_interval: usize,
    /// The entropy-coded bytes, and whatever follows them.
    pub(super) scan: &'a [u8],
}

/// A Huffman table as the file has it: the number of codes of each length, and their symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Codes<'a> {
    pub(super) counts: &'a [u8],
    pub(super) symbols: &'a [u8],
}

/// A colour component: its sampling factors and the numbers of its tables.
#[derive(Clone, Debug)]
pub(super) struct Component {
    id: u8,
    /// Blocks of an MCU, across.
    pub(super) h: usize,
    /// Blocks of an MCU, down.
    pub(super) v: usize,
    pub(super) quantisation: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the markers up to the one scan. `None` for a file that is broken or truncated, or of a
    /// kind that the general decoder reads.
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
        let (mut offset, mut adobe, mut jfif) = (2, None, false);
        loop {
            let &[0xFF, marker] = bytes.get(offset..offset + 2)? else { return None };
            if marker == 0xFF {
                offset += 1;
                continue;
            }
            let length = usize::from(u16::from_be_bytes(
                bytes.get(offset + 2..offset + 4)?.try_into().ok()?,
            ));
            let body = bytes.get(offset + 4..offset + 2 + length.max(2))?;
            offset += 2 + length.max(2);
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
                // Other frames, DNL, hierarchical files, and markers that may not stand here.
                _ => return None,
            }
        }
        // Three components are YCbCr unless a marker or their names say RGB, in libjpeg's order of
        // precedence.
        let ids: Vec<u8> = jpeg.components.iter().map(|c| c.id).collect();
        let rgb = !jfif && (adobe == Some(0) || (adobe.is_none() && ids == *b"RGB"));
        if ids.len() == 3 && rgb {
            return None;
        }
        jpeg.scan = bytes.get(offset..)?;
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
            for (k, natural) in ZIGZAG.into_iter().enumerate() {
                table[usize::from(natural)] = match bytes {
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
        // Only one scan with all components is supported.
        if usize::from(count) != self.components.len() || self.components.is_empty() {
            return None;
        }
        for (component, pair) in self.components.iter_mut().zip(rest.chunks_exact(2)) {
            let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
            if pair[0] != component.id || dc > 3 || ac > 3 {
                return None;
            }
            // A table of zeros was never defined.
            (self.quantisation[component.quantisation] != [0; 64]).then_some(())?;
            self.codes[dc].as_ref()?;
            self.codes[4 + ac].as_ref()?;
            (component.dc, component.ac) = (dc, ac);
        }
        (rest.len() == self.components.len() * 2 + 3 && rest[rest.len() - 3..] == [0, 63, 0])
            .then_some(())
    }
}

/// Whether the bytes after the header of the scan hold EOI. It usually ends the file; otherwise
/// every marker is examined.
fn is_whole(scan: &[u8]) -> bool {
    scan.ends_with(&[0xFF, 0xD9]) || scan.windows(2).any(|pair| pair == [0xFF, 0xD9])
}
