//! The markers of a JPEG, up to each of its scans: frame, tables, colour space.
//!
//! After ITU T.81, annex B. Where a file leaves something open, libjpeg's reading is followed:
//! bytes between segments are skipped, and the colour space is guessed in its order.

use crate::jpeg::error::JpegError;
use crate::jpeg::tables::Tables;

/// Most blocks of a unit of a scan of several components (T.81, B.2.3).
const BLOCKS_OF_A_UNIT: usize = 10;

/// A reader of markers.
#[derive(Debug)]
pub(super) struct Markers<'a> {
    bytes: &'a [u8],
    /// Behind the last segment, that is at the entropy code of the last scan.
    pub(super) offset: usize,
    pub(super) tables: Tables<'a>,
    pub(super) frame: Option<Frame>,
    jfif: bool,
    /// The colour transform of an Adobe segment.
    adobe: Option<u8>,
}

/// Size and components.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) progressive: bool,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
}

/// A colour component: its sampling factors and the number of its table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Component {
    id: u8,
    /// Blocks of a unit, across.
    pub(super) h: usize,
    /// Blocks of a unit, down.
    pub(super) v: usize,
    pub(super) quantisation: usize,
}

/// The header of a scan.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient, in the order of the file.
    pub(super) band: (usize, usize),
    /// The bits below which the coefficients were known before this scan; 0 in the first.
    pub(super) high: u32,
    /// The bits below which they are unknown after it.
    pub(super) low: u32,
}

/// A component of a scan: its number in the frame, and its Huffman tables of [`Tables::codes`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanComponent {
    pub(super) number: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// What the components mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourSpace {
    Gray,
    Ycc,
    Rgb,
    Cmyk,
    Ycck,
}

impl<'a> Markers<'a> {
    /// `None` for bytes that do not begin like a JPEG.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        bytes.starts_with(&[0xFF, 0xD8]).then(|| Self {
            bytes,
            offset: 2,
            tables: Tables::default(),
            frame: None,
            jfif: false,
            adobe: None,
        })
    }

    /// Reads on to the next scan. `None` at the end of the image.
    pub(super) fn next_scan(&mut self) -> Result<Option<Scan>, JpegError> {
        loop {
            let marker = self.next_marker()?;
            match marker {
                // They stand alone, and mean nothing here.
                0x01 | 0xD0..=0xD7 => continue,
                0xD8 => return Err(JpegError::Damaged("a second image begins inside")),
                0xD9 => return Ok(None),
                _ => {}
            }
            let body = self.body()?;
            match marker {
                0xC4 | 0xDB | 0xDD => {
                    let broken = JpegError::Damaged("a table that is not complete");
                    self.tables.read(marker, body).ok_or(broken)?;
                }
                0xC0..=0xCF if !matches!(marker, 0xC8 | 0xCC) => self.frame(marker, body)?,
                0xDA => return self.scan(body).map(Some),
                0xE0 => self.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
                0xEE if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    self.adobe = Some(body[11]);
                }
                0xDE | 0xDF => return Err(JpegError::Unsupported("a hierarchical JPEG")),
                0xC8 | 0xF7 => return Err(JpegError::Unsupported("a JPEG-LS or extended JPEG")),
                // Comments, applications, arithmetic conditioning, the number of lines.
                0xCC | 0xDC | 0xE0..=0xEF | 0xFE => {}
                _ => return Err(JpegError::Damaged("an unknown marker")),
            }
        }
    }

    /// Bytes that are no marker are skipped.
    fn next_marker(&mut self) -> Result<u8, JpegError> {
        while let Some(&[first, marker]) = self.bytes.get(self.offset..self.offset + 2) {
            self.offset += 1;
            if first == 0xFF && !matches!(marker, 0 | 0xFF) {
                self.offset += 1;
                return Ok(marker);
            }
        }
        Err(JpegError::Truncated)
    }

    /// The body of the segment whose marker was read.
    fn body(&mut self) -> Result<&'a [u8], JpegError> {
        let rest = &self.bytes[self.offset..];
        let &[high, low, ..] = rest else { return Err(JpegError::Truncated) };
        let length = usize::from(u16::from_be_bytes([high, low])).max(2);
        self.offset += length;
        rest.get(2..length).ok_or(JpegError::Truncated)
    }

    fn frame(&mut self, marker: u8, body: &[u8]) -> Result<(), JpegError> {
        let progressive = match marker {
            0xC0 | 0xC1 => false,
            0xC2 => true,
            0xC9 | 0xCA => return Err(JpegError::Unsupported("a JPEG with arithmetic coding")),
            0xC3 | 0xCB => return Err(JpegError::Unsupported("a lossless JPEG")),
            _ => return Err(JpegError::Unsupported("a hierarchical JPEG")),
        };
        if self.frame.is_some() {
            return Err(JpegError::Damaged("a second frame"));
        }
        let short = JpegError::Damaged("a frame that is not complete");
        let &[bits, h1, h0, w1, w0, count, ref rest @ ..] = body else { return Err(short) };
        let edge = |high, low| usize::from(u16::from_be_bytes([high, low]));
        let (height, width) = (edge(h1, h0), edge(w1, w0));
        match (bits, height, width, count) {
            (12 | 16, ..) => return Err(JpegError::Unsupported("a JPEG of 12 bits a sample")),
            (8, 0, ..) => {
                let kind = "a JPEG that names its height behind its pixels";
                return Err(JpegError::Unsupported(kind));
            }
            (8, _, 1.., 1 | 3 | 4) => {}
            (8, _, 1.., 2) => return Err(JpegError::Unsupported("a JPEG of two components")),
            _ => return Err(JpegError::Damaged("a frame of no size, depth or components")),
        }
        let (triples, rest) = rest.as_chunks::<3>();
        if triples.len() != usize::from(count) || !rest.is_empty() {
            return Err(short);
        }
        let mut components = Vec::with_capacity(triples.len());
        for &[id, sampling, table] in triples {
            let (h, v) = (usize::from(sampling >> 4), usize::from(sampling & 15));
            if !(1..=4).contains(&h) || !(1..=4).contains(&v) || table > 3 {
                return Err(JpegError::Damaged("a sampling factor or table out of range"));
            }
            components.push(Component { id, h, v, quantisation: usize::from(table) });
        }
        // The only component's blocks follow one another row by row, whatever its factors.
        if let [gray] = components.as_mut_slice() {
            (gray.h, gray.v) = (1, 1);
        }
        let multiples = |factor: fn(&Component) -> usize| {
            let most = components.iter().map(factor).max();
            components.iter().all(|c| most.is_some_and(|most| most % factor(c) == 0))
        };
        if !multiples(|c| c.h) || !multiples(|c| c.v) {
            let kind = "a JPEG whose sampling factors are not multiples of each other";
            return Err(JpegError::Unsupported(kind));
        }
        self.frame = Some(Frame { progressive, width, height, components });
        Ok(())
    }

    fn scan(&self, body: &[u8]) -> Result<Scan, JpegError> {
        let broken = JpegError::Damaged("a scan whose header is not right");
        let frame = self.frame.as_ref().ok_or(JpegError::Damaged("a scan before the frame"))?;
        let (&count, rest) = body.split_first().ok_or(broken)?;
        let (pairs, rest) = rest.as_chunks::<2>();
        // Three bytes follow the pairs: the last pair is not one, and one byte is left over.
        let ([pairs @ .., [first, last]], [bits]) = (pairs, rest) else { return Err(broken) };
        if pairs.len() != usize::from(count) || pairs.is_empty() {
            return Err(broken);
        }
        let mut components: Vec<ScanComponent> = Vec::with_capacity(pairs.len());
        for &[id, tables] in pairs {
            // Some files give several components one name: the first that is free is meant.
            let number = (0..frame.components.len())
                .filter(|&number| frame.components[number].id == id)
                .find(|&number| components.iter().all(|c| c.number != number))
                .ok_or(broken)?;
            let (dc, ac) = (usize::from(tables >> 4), usize::from(tables & 15));
            if dc > 3 || ac > 3 {
                return Err(broken);
            }
            components.push(ScanComponent { number, dc, ac: 4 + ac });
        }
        let blocks =
            |c: &ScanComponent| frame.components[c.number].h * frame.components[c.number].v;
        if components.len() > 1 && components.iter().map(blocks).sum::<usize>() > BLOCKS_OF_A_UNIT {
            return Err(JpegError::Damaged("a unit of more than ten blocks"));
        }
        let (first, last) = (usize::from(*first), usize::from(*last));
        let (high, low) = (u32::from(bits >> 4), u32::from(bits & 15));
        // T.81, G.1.1.1.1.
        let allowed = match first {
            0 => last == 0,
            _ => first <= last && last < 64 && components.len() == 1,
        };
        if frame.progressive && !(allowed && low <= 13 && (high == 0 || high == low + 1)) {
            return Err(broken);
        }
        // libjpeg ignores them in a sequential file.
        Ok(match frame.progressive {
            true => Scan { components, band: (first, last), high, low },
            false => Scan { components, band: (0, 63), high: 0, low: 0 },
        })
    }

    /// The colour space: an Adobe marker or the names of the components say RGB, libjpeg's order
    /// of precedence decides.
    pub(super) fn colour_space(&self) -> ColourSpace {
        let ids: Vec<u8> = self.frame.iter().flat_map(|f| &f.components).map(|c| c.id).collect();
        match (ids.len(), self.adobe) {
            (1, _) => ColourSpace::Gray,
            (4, None | Some(0)) => ColourSpace::Cmyk,
            (4, Some(_)) => ColourSpace::Ycck,
            _ if self.jfif => ColourSpace::Ycc,
            (_, Some(0)) => ColourSpace::Rgb,
            (_, None) if ids == *b"RGB" => ColourSpace::Rgb,
            _ => ColourSpace::Ycc,
        }
    }
}
