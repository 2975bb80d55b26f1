//! The coefficients of a block in each kind of scan: sequential, and the four of progressive files.
//!
//! After ITU T.81, figures F.13 and G.1 to G.7. `low` is the lowest bit that the scan tells.

use crate::jpeg::huffman::{Bits, Damaged, HuffmanTable};
use crate::jpeg::tables::ZIGZAG;

/// Coefficients in natural order, not dequantised.
pub(super) type Block = [i16; 64];

/// The position in natural order. Positions past the last one are the last, as in libjpeg.
fn natural(k: usize) -> usize {
    usize::from(*ZIGZAG.get(k).unwrap_or(&63))
}

/// All coefficients of a block of a sequential scan. `before` is the constant of the block before.
pub(super) fn sequential(
    bits: &mut Bits,
    dc: &HuffmanTable,
    ac: &HuffmanTable,
    before: &mut i32,
    block: &mut Block,
) -> Result<(), Damaged> {
    constant(bits, dc, before, 0, block)?;
    let mut k = 1;
    while k < 64 {
        match zeros_and_size(bits, ac)? {
            (15, 0) => k += 16,
            (_, 0) => return Ok(()),
            (zeros, size) => {
                k += zeros;
                block[natural(k)] = bits.value(size) as i16;
                k += 1;
            }
        }
    }
    if k > 64 { Err(Damaged) } else { Ok(()) }
}

/// The constant of a block, in its first scan.
pub(super) fn constant(
    bits: &mut Bits,
    dc: &HuffmanTable,
    before: &mut i32,
    low: u32,
    block: &mut Block,
) -> Result<(), Damaged> {
    let size = u32::from(bits.symbol(dc)?);
    if size > 15 {
        return Err(Damaged);
    }
    *before = before.wrapping_add(bits.value(size));
    block[0] = (*before << low) as i16;
    Ok(())
}

/// One more bit of the constant.
pub(super) fn refined_constant(bits: &mut Bits, low: u32, block: &mut Block) {
    block[0] |= (bits.number(1) << low) as i16;
}

/// A band of coefficients in their first scan. `ended` counts the blocks, from this one on, that
/// have no more coefficients in the band.
pub(super) fn band(
    bits: &mut Bits,
    ac: &HuffmanTable,
    (first, last): (usize, usize),
    low: u32,
    ended: &mut u32,
    block: &mut Block,
) -> Result<(), Damaged> {
    if *ended > 0 {
        *ended -= 1;
        return Ok(());
    }
    let mut k = first;
    while k <= last {
        match zeros_and_size(bits, ac)? {
            (15, 0) => k += 16,
            (run, 0) => {
                *ended = blocks_without(bits, run) - 1;
                return Ok(());
            }
            (zeros, size) => {
                k += zeros;
                block[natural(k)] = (bits.value(size) << low) as i16;
                k += 1;
            }
        }
    }
    if k > 64 { Err(Damaged) } else { Ok(()) }
}

/// One more bit of a band of coefficients, and the coefficients that begin with it. `ended` as in
/// [`band`].
pub(super) fn refined_band(
    bits: &mut Bits,
    ac: &HuffmanTable,
    (first, last): (usize, usize),
    low: u32,
    ended: &mut u32,
    block: &mut Block,
) -> Result<(), Damaged> {
    let bit = 1_i16 << low;
    let mut k = first;
    while *ended == 0 && k <= last {
        let (mut zeros, size) = zeros_and_size(bits, ac)?;
        let value = match (zeros, size) {
            (15, 0) => 0,
            (run, 0) => {
                *ended = blocks_without(bits, run);
                break;
            }
            _ if bits.number(1) == 1 => bit,
            _ => -bit,
        };
        // Coefficients that are known already are refined on the way, and not counted.
        while k <= last {
            let coefficient = &mut block[natural(k)];
            if *coefficient != 0 {
                refine(bits, bit, coefficient);
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            k += 1;
        }
        // In a broken file it stands behind the band, as in libjpeg.
        if value != 0 {
            block[natural(k)] = value;
        }
        k += 1;
    }
    if *ended > 0 {
        for k in k..=last {
            let coefficient = &mut block[natural(k)];
            if *coefficient != 0 {
                refine(bits, bit, coefficient);
            }
        }
        *ended -= 1;
    }
    Ok(())
}

fn refine(bits: &mut Bits, bit: i16, coefficient: &mut i16) {
    if bits.number(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient > 0 { bit } else { -bit });
    }
}

/// The zeros before a coefficient, and the bits of its value.
fn zeros_and_size(bits: &mut Bits, ac: &HuffmanTable) -> Result<(usize, u32), Damaged> {
    let symbol = bits.symbol(ac)?;
    Ok((usize::from(symbol >> 4), u32::from(symbol & 15)))
}

/// The blocks, from this one on, that have no more coefficients in the band.
fn blocks_without(bits: &mut Bits, run: usize) -> u32 {
    (1 << run) + bits.number(run as u32)
}
