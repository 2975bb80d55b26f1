//! Compressed luma and chroma without JPEG, as libtiff converts them: chroma is repeated, and the
//! tags may name other coefficients and levels.

use crate::decode::error::DecodeError;
use crate::decode::tiff::ifd::Ifd;
use crate::decode::tiff::kind::refused;

/// The conversion that the tags of a file name.
pub(super) struct YCbCr {
    /// Pixels that share a sample of chroma, across and down.
    pub(super) shared: [usize; 2],
    luma: [i32; 256],
    red: [i32; 256],
    green: [[i32; 256]; 2],
    blue: [i32; 256],
}

/// Fractional bits of the tables.
const BITS: u32 = 16;

impl YCbCr {
    /// Reads YCbCrSubSampling (530), YCbCrCoefficients (529) and ReferenceBlackWhite (532).
    /// `unnamed` is the subsampling of a file that names none.
    pub(super) fn of(ifd: &Ifd, unnamed: [usize; 2]) -> Result<Self, DecodeError> {
        let shared = match ifd.values(530)?.as_deref() {
            None => unnamed,
            Some(&[h @ (1 | 2 | 4), v @ (1 | 2 | 4)]) if v <= h || (h, v) == (1, 2) => {
                [h as usize, v as usize]
            }
            Some(other) => return refused(&format!("with chroma subsampled by {other:?}")),
        };
        let [red, green, blue] = ifd.fractions(529).unwrap_or([0.299, 0.587, 0.114]);
        let levels = ifd.fractions(532).unwrap_or([0.0, 255.0, 128.0, 255.0, 128.0, 255.0]);
        // A code as a level, libtiff's `Code2V`.
        let level = |code: i32, black: f32, white: f32, range: f32| {
            let span = if white - black == 0.0 { 1.0 } else { white - black };
            let level = (code.wrapping_sub(black as i32) as f32 * range) / span;
            level.clamp(-128.0 * 32.0, 128.0 * 32.0) as i32
        };
        let fixed = |factor: f32| {
            let factor = factor.clamp(0.0, 2.0);
            (f64::from(factor * (1 << BITS) as f32) + 0.5) as i32
        };
        let (to_red, to_blue) = (2.0 - 2.0 * red, 2.0 - 2.0 * blue);
        let factors = [
            fixed(to_red),
            -fixed(red * to_red / green),
            fixed(to_blue),
            -fixed(blue * to_blue / green),
        ];
        let half = 1 << (BITS - 1);
        let code = |i: usize| i as i32 - 128;
        let cr = |i| level(code(i), levels[4] - 128.0, levels[5] - 128.0, 127.0);
        let cb = |i| level(code(i), levels[2] - 128.0, levels[3] - 128.0, 127.0);
        Ok(Self {
            shared,
            luma: std::array::from_fn(|i| level(i as i32, levels[0], levels[1], 255.0)),
            red: std::array::from_fn(|i| (factors[0] * cr(i) + half) >> BITS),
            green: [
                std::array::from_fn(|i| factors[3] * cb(i) + half),
                std::array::from_fn(|i| factors[1] * cr(i)),
            ],
            blue: std::array::from_fn(|i| (factors[2] * cb(i) + half) >> BITS),
        })
    }

    /// Bytes of `rows` rows of `width` pixels.
    pub(super) fn bytes(&self, rows: usize, width: usize) -> usize {
        let [h, v] = self.shared;
        width.div_ceil(h) * rows.div_ceil(v) * (h * v + 2)
    }

    /// Appends the colours of the row `y` of a strip or tile of `width` pixels: its first `count`.
    pub(super) fn colours(
        &self,
        data: &[u8],
        y: usize,
        width: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) {
        let [h, v] = self.shared;
        let block = h * v + 2;
        let row = &data[y / v * width.div_ceil(h) * block..];
        for x in 0..count {
            let block = &row[x / h * block..][..block];
            let luma = block[y % v * h + x % h];
            out.extend(self.colour(luma, block[h * v], block[h * v + 1]));
        }
    }

    fn colour(&self, y: u8, cb: u8, cr: u8) -> [u8; 3] {
        let (y, cb, cr) = (self.luma[usize::from(y)], usize::from(cb), usize::from(cr));
        let green = (self.green[0][cb] + self.green[1][cr]) >> BITS;
        [y + self.red[cr], y + green, y + self.blue[cb]].map(|level| level.clamp(0, 255) as u8)
    }
}
