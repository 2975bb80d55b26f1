//! Rows of samples to colours, as Pillow 13 converts them.

use crate::byte_order::ByteOrder;
use crate::decode::palette::{Palette, unpack};
use crate::decode::sixteen_bits::rounded;
use crate::decode::tiff::kind::{Colour, Kind};

/// Appends `count` samples of a row as bytes: numbers below 256 as they are, the higher byte of 16
/// bits, gray of 16 bits rounded.
pub(super) fn to_bytes(row: &[u8], count: usize, kind: &Kind, order: ByteOrder, out: &mut Vec<u8>) {
    let gray = matches!(kind.colour, Colour::Gray { .. });
    match kind.bits {
        8 => out.extend_from_slice(&row[..count]),
        16 => out.extend(row.chunks_exact(2).take(count).map(|two| {
            let sample = order.u16(two, 0).expect("two bytes");
            if gray { rounded(sample) } else { (sample >> 8) as u8 }
        })),
        bits => out.extend(unpack(bits, row).take(count)),
    }
}

/// Undoes the differences of a row (predictor 2): every sample was stored less the same sample of
/// the pixel before.
pub(super) fn undo_differences(row: &mut [u8], samples: usize, bits: usize, order: ByteOrder) {
    if bits == 8 {
        for i in samples..row.len() {
            row[i] = row[i].wrapping_add(row[i - samples]);
        }
        return;
    }
    for i in (2 * samples..row.len().saturating_sub(1)).step_by(2) {
        let number = |at| order.u16(row, at).expect("inside the row");
        let sum = number(i).wrapping_add(number(i - 2 * samples));
        let bytes = if order == ByteOrder::Little { sum.to_le_bytes() } else { sum.to_be_bytes() };
        row[i..i + 2].copy_from_slice(&bytes);
    }
}

/// Appends the colours of a row whose samples are bytes, `samples` to a pixel.
pub(super) fn colours(row: &[u8], kind: &Kind, palette: &Palette, out: &mut Vec<u8>) {
    let pixels = row.chunks_exact(kind.samples);
    match kind.colour {
        Colour::Gray { white_is_zero } => {
            // Gray of few bits spreads over all levels.
            let most = u8::MAX >> 8_usize.saturating_sub(kind.bits);
            let invert = if white_is_zero { 255 } else { 0 };
            out.extend(pixels.flat_map(|p| [(p[0] * (255 / most)) ^ invert; 3]));
        }
        Colour::Palette => out.extend(pixels.flat_map(|p| palette.colour(p[0]))),
        Colour::Rgb if kind.samples == 3 => out.extend_from_slice(row),
        Colour::Rgb => out.extend(pixels.flat_map(|p| [p[0], p[1], p[2]])),
        Colour::Premultiplied => out.extend(pixels.flat_map(|p| {
            let share = |sample: u8| match p[3] {
                0 => 0,
                alpha => (u32::from(sample) * 255 / u32::from(alpha)).min(255) as u8,
            };
            [share(p[0]), share(p[1]), share(p[2])]
        })),
        Colour::Cmyk => out.extend(pixels.flat_map(|p| {
            let white = 255 - u32::from(p[3]);
            let colour = |ink: u8| {
                let product = u32::from(ink) * white + 128;
                (white - (((product >> 8) + product) >> 8)) as u8
            };
            [colour(p[0]), colour(p[1]), colour(p[2])]
        })),
        Colour::YCbCr => out.extend(pixels.flat_map(|p| ycbcr(p[0], p[1], p[2]))),
    }
}

/// JFIF's conversion with Pillow's tables, which have 6 fractional bits and are rounded up from
/// below zero.
fn ycbcr(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let part =
        |factor: f64, chroma: u8| (factor * f64::from(i32::from(chroma) - 128) * 64.0 + 0.5) as i32;
    let level = |difference: i32| (i32::from(y) + (difference >> 6)).clamp(0, 255) as u8;
    [
        level(part(1.402, cr)),
        level(part(-0.344_14, cb) + part(-0.714_14, cr)),
        level(part(1.772, cb)),
    ]
}
