//! The scans of a JPEG of any Huffman-coded kind: one or several of them, sequential or
//! progressive, with any sampling factors.
//!
//! After ITU T.81, annexes A, E and G. What is missing between two restart markers becomes what
//! libjpeg makes of it, mostly gray; a file that ends too early is refused.

use kernels::image::jpeg::{inverse_dct, inverse_dct_constant};
use kernels::isa::Isa;

use crate::jpeg::coefficients::{self, Block};
use crate::jpeg::error::JpegError;
use crate::jpeg::huffman::{Bits, Damaged, HuffmanTable};
use crate::jpeg::markers::{Frame, Scan};
use crate::jpeg::tables::Tables;

/// The samples of a component. Blocks beyond its own fill up the last units.
pub(super) struct Plane {
    /// Sampling factors, across and down.
    pub(super) h: usize,
    pub(super) v: usize,
    /// Samples of the image.
    pub(super) width: usize,
    pub(super) height: usize,
    /// Samples from one row to the next.
    pub(super) stride: usize,
    pub(super) samples: Vec<u8>,
    /// The number of the quantisation table, and the table since the first scan.
    quantiser: usize,
    quantisation: Option<[u16; 64]>,
    /// The coefficients of a progressive image, row after row of blocks.
    coefficients: Vec<Block>,
    /// The lowest bit that is known of each coefficient in the order of the file; `None` before its
    /// first scan.
    known: [Option<u32>; 64],
}

/// All components of an image, to which each scan adds.
pub(super) struct Planes {
    pub(super) components: Vec<Plane>,
    /// Units of a scan of several components, across and down.
    units: (usize, usize),
    progressive: bool,
    isa: Isa,
}

impl Planes {
    /// Gray samples of a frame.
    pub(super) fn new(frame: &Frame) -> Self {
        let wide = frame.components.iter().map(|c| c.h).max().expect("components");
        let tall = frame.components.iter().map(|c| c.v).max().expect("components");
        let units = (frame.width.div_ceil(8 * wide), frame.height.div_ceil(8 * tall));
        let planes = frame.components.iter().map(|component| {
            let (h, v) = (component.h, component.v);
            let (across, down) = (units.0 * h, units.1 * v);
            Plane {
                h,
                v,
                width: (frame.width * h).div_ceil(wide),
                height: (frame.height * v).div_ceil(tall),
                stride: across * 8,
                samples: vec![128; across * down * 64],
                quantiser: component.quantisation,
                quantisation: None,
                coefficients: vec![[0; 64]; if frame.progressive { across * down } else { 0 }],
                known: [None; 64],
            }
        });
        Self {
            components: planes.collect(),
            units,
            progressive: frame.progressive,
            isa: Isa::chosen(),
        }
    }

    /// Reads the entropy code of a scan. Returns the number of bytes that it takes.
    pub(super) fn read(
        &mut self,
        scan: &Scan,
        tables: &Tables,
        bytes: &[u8],
    ) -> Result<usize, JpegError> {
        for component in &scan.components {
            let plane = &mut self.components[component.number];
            plane.quantisation = plane.quantisation.or(tables.quantisation[plane.quantiser]);
            if plane.quantisation.is_none() {
                return Err(JpegError::Damaged("a quantisation table is missing"));
            }
            plane.known[scan.band.0..=scan.band.1].fill(Some(scan.low));
        }
        let codes = codes(scan, tables)?;
        let numbers: Vec<usize> = scan.components.iter().map(|c| c.number).collect();
        // The blocks of a component alone are coded without those that fill up units.
        let (alone, (across, down)) = match numbers[..] {
            [number] => {
                let plane = &self.components[number];
                (true, (plane.width.div_ceil(8), plane.height.div_ceil(8)))
            }
            _ => (false, self.units),
        };
        let mut reader = ScanReader::new(bytes, tables.restart_interval);
        for row in 0..down {
            for column in 0..across {
                if !reader.begin_unit()? {
                    continue;
                }
                for (index, &number) in numbers.iter().enumerate() {
                    let plane = &mut self.components[number];
                    let (h, v) = if alone { (1, 1) } else { (plane.h, plane.v) };
                    for block in 0..h * v {
                        let at = [row * v + block / h, column * h + block % h];
                        let mut coded = Coded { scan, codes: &codes[index], index };
                        match self.progressive {
                            true => coded.refine(&mut reader, plane, at)?,
                            false => coded.decode(&mut reader, plane, at, self.isa)?,
                        }
                    }
                }
                reader.end_unit()?;
            }
        }
        Ok(reader.bits.seek_marker().1)
    }

    /// Completes the samples of the last scan.
    pub(super) fn finish(&mut self) -> Result<(), JpegError> {
        for plane in &mut self.components {
            // libjpeg guesses low frequencies whose scans are missing; every other reader differs.
            if plane.known[0].is_none() || plane.known[1..10].iter().any(|&low| low != Some(0)) {
                return Err(JpegError::Truncated);
            }
            let factors = plane.quantisation.expect("a scan was read");
            let blocks = plane.stride / 8;
            for (number, block) in std::mem::take(&mut plane.coefficients).iter().enumerate() {
                plane.transform([number / blocks, number % blocks], block, &factors, self.isa);
            }
        }
        Ok(())
    }
}

/// The Huffman tables that each component of a scan needs, DC and AC.
fn codes(scan: &Scan, tables: &Tables) -> Result<Vec<[HuffmanTable; 2]>, JpegError> {
    let build = |needed: bool, number: usize| {
        if !needed {
            return Ok(HuffmanTable::default());
        }
        let missing = JpegError::Damaged("a Huffman table is missing");
        let broken = JpegError::Damaged("a Huffman table with more codes than its bits allow");
        HuffmanTable::new(tables.codes[number].ok_or(missing)?).map_err(|Damaged| broken)
    };
    let (dc, ac) = (scan.band.0 == 0 && scan.high == 0, scan.band.1 > 0);
    scan.components.iter().map(|c| Ok([build(dc, c.dc)?, build(ac, c.ac)?])).collect()
}

impl Plane {
    /// Writes the samples of a block.
    fn transform(
        &mut self,
        [row, column]: [usize; 2],
        block: &Block,
        factors: &[u16; 64],
        isa: Isa,
    ) {
        // Products are truncated to 16 bits, as libjpeg's vector code does.
        let product = |k: usize| block[k].wrapping_mul(factors[k] as i16);
        let out = &mut self.samples[row * 8 * self.stride + column * 8..];
        if block[1..].iter().all(|&coefficient| coefficient == 0) {
            inverse_dct_constant(product(0), 8, out, self.stride);
        } else {
            inverse_dct(isa, &std::array::from_fn(product), out, self.stride);
        }
    }
}

/// How a scan codes the blocks of one of its components.
struct Coded<'a> {
    scan: &'a Scan,
    codes: &'a [HuffmanTable; 2],
    /// The number of the component in the scan.
    index: usize,
}

impl Coded<'_> {
    /// Decodes a block of a sequential scan to samples.
    fn decode(
        &mut self,
        reader: &mut ScanReader,
        plane: &mut Plane,
        at: [usize; 2],
        isa: Isa,
    ) -> Result<(), JpegError> {
        let [dc, ac] = self.codes;
        let mut block = [0; 64];
        let before = &mut reader.before[self.index];
        let result = coefficients::sequential(&mut reader.bits, dc, ac, before, &mut block);
        reader.judge(result)?;
        let factors = plane.quantisation.expect("checked before the scan");
        plane.transform(at, &block, &factors, isa);
        Ok(())
    }

    /// Adds what a progressive scan tells of a block.
    fn refine(
        &mut self,
        reader: &mut ScanReader,
        plane: &mut Plane,
        [row, column]: [usize; 2],
    ) -> Result<(), JpegError> {
        let [dc, ac] = self.codes;
        let Scan { band, high, low, .. } = *self.scan;
        let block = &mut plane.coefficients[row * plane.stride / 8 + column];
        let ScanReader { bits, before, ended, .. } = reader;
        let result = match (band.0, high) {
            (0, 0) => coefficients::constant(bits, dc, &mut before[self.index], low, block),
            (0, _) => {
                coefficients::refined_constant(bits, low, block);
                Ok(())
            }
            (_, 0) => coefficients::band(bits, ac, band, low, ended, block),
            (..) => coefficients::refined_band(bits, ac, band, low, ended, block),
        };
        reader.judge(result)
    }
}

/// The state of the entropy code from one unit to the next.
struct ScanReader<'a> {
    bits: Bits<'a>,
    restart_interval: usize,
    until_restart: usize,
    /// The number of the restart marker that comes next, modulo 8.
    next_restart: u8,
    /// The constant of the last block of each component of the scan.
    before: [i32; 4],
    /// Blocks to come without coefficients in the band.
    ended: u32,
    /// Whether no bits are left before the next marker.
    exhausted: bool,
}

impl<'a> ScanReader<'a> {
    fn new(bytes: &'a [u8], restart_interval: usize) -> Self {
        Self {
            bits: Bits::new(bytes),
            restart_interval,
            until_restart: restart_interval,
            next_restart: 0,
            before: [0; 4],
            ended: 0,
            exhausted: false,
        }
    }

    /// Passes a restart marker where one is due. Returns whether the unit has bits.
    fn begin_unit(&mut self) -> Result<bool, JpegError> {
        if self.restart_interval > 0 {
            if self.until_restart == 0 {
                self.restart()?;
                (self.until_restart, self.ended, self.before) = (self.restart_interval, 0, [0; 4]);
            }
            self.until_restart -= 1;
        }
        Ok(!self.exhausted)
    }

    /// Moves behind the next restart marker. A marker that comes one or two too early means that
    /// markers were lost: it stays, and the units before it have no bits. One that comes too late
    /// is passed over. The rule is libjpeg's.
    fn restart(&mut self) -> Result<(), JpegError> {
        let expected = self.next_restart;
        self.next_restart = (expected + 1) % 8;
        loop {
            match self.bits.seek_marker().0 {
                Some(marker @ 0xD0..=0xD7) => match (marker - 0xD0).wrapping_sub(expected) % 8 {
                    1 | 2 => return Ok(()),
                    6 | 7 => self.bits.pass_marker(),
                    _ => {
                        self.bits.pass_marker();
                        self.exhausted = false;
                        return Ok(());
                    }
                },
                Some(..0xC0) => self.bits.pass_marker(),
                _ => return Err(JpegError::Truncated),
            }
        }
    }

    /// Fails if the bits ran out, unless a restart marker shows that more follow.
    fn end_unit(&mut self) -> Result<(), JpegError> {
        if self.bits.check().is_ok() {
            return Ok(());
        }
        self.exhausted = true;
        match self.bits.seek_marker().0 {
            Some(0xD0..=0xD7) if self.restart_interval > 0 => Ok(()),
            _ => Err(JpegError::Truncated),
        }
    }

    /// What follows a lost marker is read as zeros, which need not be a code.
    fn judge(&self, result: Result<(), Damaged>) -> Result<(), JpegError> {
        match result {
            Err(Damaged) if self.bits.check().is_ok() => {
                Err(JpegError::Damaged("the entropy code is broken"))
            }
            _ => Ok(()),
        }
    }
}
