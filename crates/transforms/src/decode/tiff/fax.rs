//! The fax codes of bilevel TIFFs: runs of T.4 in one dimension (compression 2 and 3), in two (3),
//! and T.6 (4). The code tables are those of the `fax` crate.

use fax::BitReader;
use fax::maps::{Mode, black, mode, white};

use crate::decode::error::DecodeError;

/// Which fax code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fax {
    /// Rows of runs that begin at a byte, without ends of lines (compression 2).
    Runs,
    /// T.4, group 3; every row may refer to the one before.
    Group3 { two_dimensional: bool },
    /// T.6, group 4.
    Group4,
}

/// Bits of a file, highest first; zeros follow its end.
struct FaxBits<'a> {
    bytes: &'a [u8],
    /// Position of the next bit.
    at: usize,
}

impl BitReader for FaxBits<'_> {
    type Error = DecodeError;

    fn peek(&self, bits: u8) -> Option<u16> {
        let byte = |number: usize| u32::from(self.bytes.get(number).copied().unwrap_or(0));
        let first = self.at / 8;
        let three = byte(first) << 16 | byte(first + 1) << 8 | byte(first + 2);
        let shift = 24 - self.at % 8 - usize::from(bits);
        Some((three >> shift) as u16 & (u16::MAX >> (16 - bits)))
    }

    fn consume(&mut self, bits: u8) -> Result<(), DecodeError> {
        self.at += usize::from(bits);
        if self.at > self.bytes.len() * 8 { Err(DecodeError::Truncated) } else { Ok(()) }
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        (self.at.wrapping_neg() % 8) as u8
    }
}

/// The columns at which the colour of a row changes, beginning with white.
#[derive(Default)]
struct Row(Vec<usize>);

impl Row {
    /// Adds a change. Two at the same column are none.
    fn change(&mut self, column: usize) {
        match self.0.last() {
            Some(&last) if last == column => drop(self.0.pop()),
            _ => self.0.push(column),
        }
    }

    /// The first change behind `column` (at it too, at the start of a row) to the colour that is
    /// not `black`, and the one behind it: T.4's b1 and b2.
    fn reference(&self, column: Option<usize>, black: bool, width: usize) -> [usize; 2] {
        let is_behind = |at: &usize| column.is_none_or(|column| *at > column);
        let mut first = self.0.iter().position(is_behind).unwrap_or(self.0.len());
        // Even changes turn to black.
        first += usize::from((first % 2 == 1) != black);
        let change = |number: usize| self.0.get(number).copied().unwrap_or(width).min(width);
        [change(first), change(first + 1)]
    }
}

/// Decodes `height` rows of `width` pixels to bits, black 1, each row from a byte on.
///
/// # Errors
/// [`DecodeError::Damaged`] at an unknown code, [`DecodeError::Truncated`] when rows are missing,
/// [`DecodeError::Unsupported`] for T.4's uncompressed mode.
pub(super) fn decode(
    bytes: &[u8],
    fax: Fax,
    [height, width]: [usize; 2],
) -> Result<Vec<u8>, DecodeError> {
    let mut bits = FaxBits { bytes, at: 0 };
    let mut before = Row::default();
    let stride = width.div_ceil(8);
    let mut out: Vec<u8> = Vec::new();
    for _ in 0..height {
        let row = match fax {
            Fax::Runs => {
                bits.at = bits.at.next_multiple_of(8);
                runs(&mut bits, width)?
            }
            Fax::Group3 { two_dimensional } => {
                end_of_line(&mut bits)?;
                let refers = two_dimensional && bits.peek(1) == Some(0);
                if two_dimensional {
                    bits.consume(1)?;
                }
                if refers { referring(&mut bits, &before, width)? } else { runs(&mut bits, width)? }
            }
            Fax::Group4 => referring(&mut bits, &before, width)?,
        };
        let start = out.len();
        out.resize(start + stride, 0);
        for run in row.0.chunks(2) {
            let last = run.get(1).copied().unwrap_or(width);
            for column in run[0]..last {
                out[start + column / 8] |= 0x80 >> (column % 8);
            }
        }
        before = row;
    }
    Ok(out)
}

/// Goes behind the next end of a line: eleven zeros or more, and a one.
fn end_of_line(bits: &mut FaxBits) -> Result<(), DecodeError> {
    while bits.peek(11) != Some(0) {
        bits.consume(1)?;
    }
    while bits.peek(1) == Some(0) {
        bits.consume(1)?;
    }
    bits.consume(1)
}

/// A run of a colour: make-up codes and a terminating code.
fn run(bits: &mut FaxBits, is_black: bool) -> Result<usize, DecodeError> {
    let mut length = 0;
    loop {
        let code = if is_black { black::decode(bits) } else { white::decode(bits) };
        let code = code.ok_or_else(|| unknown(bits))?;
        length += usize::from(code);
        if code < 64 {
            return Ok(length);
        }
    }
}

fn unknown(bits: &FaxBits) -> DecodeError {
    match bits.at + 16 > bits.bytes.len() * 8 {
        true => DecodeError::Truncated,
        false => DecodeError::damaged("an unknown fax code"),
    }
}

/// A row of runs, white and black in turn.
fn runs(bits: &mut FaxBits, width: usize) -> Result<Row, DecodeError> {
    let (mut row, mut column, mut is_black) = (Row::default(), 0, false);
    while column < width {
        column += run(bits, is_black)?;
        is_black = !is_black;
        if column < width {
            row.change(column);
        }
    }
    if column > width { Err(DecodeError::damaged("a fax row that is too long")) } else { Ok(row) }
}

/// A row of changes that refer to those of the row before.
fn referring(bits: &mut FaxBits, before: &Row, width: usize) -> Result<Row, DecodeError> {
    let mut row = Row::default();
    // T.4's a0; none stands before the first pixel.
    let (mut column, mut is_black) = (None, false);
    while column.unwrap_or(0) < width {
        let [b1, b2] = before.reference(column, is_black, width);
        let next = match mode::decode(bits).ok_or_else(|| unknown(bits))? {
            Mode::Pass => {
                column = Some(b2);
                continue;
            }
            Mode::Vertical(by) => {
                is_black = !is_black;
                b1.checked_add_signed(by.into()).unwrap_or(usize::MAX)
            }
            Mode::Horizontal => {
                let first = column.unwrap_or(0) + run(bits, is_black)?;
                if first < width {
                    row.change(first);
                }
                first + run(bits, !is_black)?
            }
            Mode::Extension => {
                return Err(DecodeError::unsupported("a TIFF of uncompressed fax rows"));
            }
            Mode::EOF => return Err(DecodeError::Truncated),
        };
        if next > width || column.is_some_and(|column| next < column) {
            return Err(DecodeError::damaged("a fax row that is too long"));
        }
        if next < width {
            row.change(next);
        }
        column = Some(next);
    }
    Ok(row)
}
