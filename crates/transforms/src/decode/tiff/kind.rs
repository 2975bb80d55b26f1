//! What the samples of a TIFF mean: the kinds that Pillow 13 opens (`OPEN_INFO`), or the name of
//! one that is not supported.

use crate::byte_order::ByteOrder;
use crate::decode::error::DecodeError;
use crate::decode::tiff::ifd::Ifd;

/// What the samples of a pixel are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// A level of gray, 0 black or white; further samples are dropped.
    Gray { white_is_zero: bool },
    /// The number of a colour.
    Palette,
    /// Red, green, blue; further samples are dropped.
    Rgb,
    /// Red, green and blue multiplied by the fourth sample.
    Premultiplied,
    /// Cyan, magenta, yellow, black.
    Cmyk,
    /// Luma and chroma.
    YCbCr,
}

/// Samples of a TIFF.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) colour: Colour,
    /// Bits of a sample: 1, 2, 4, 8 or 16.
    pub(super) bits: usize,
    /// Samples of a pixel that are read.
    pub(super) samples: usize,
    /// The first pixel stands in the lowest bits of a byte (FillOrder 2).
    pub(super) lowest_first: bool,
    /// Every sample has a plane of its own.
    pub(super) planar: bool,
}

impl Kind {
    /// The kind that the tags name.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] for a kind that Pillow does not open, or gives other pixels of
    /// than the samples mean.
    pub(super) fn of(ifd: &Ifd, compressed: bool) -> Result<Self, DecodeError> {
        let photometric = ifd.value(262)?.unwrap_or(0);
        let lowest_first = match ifd.value(266)?.unwrap_or(1) {
            1 => false,
            2 => true,
            other => return refused(&format!("with FillOrder {other}")),
        };
        let planar = match ifd.value(284)?.unwrap_or(1) {
            1 => false,
            2 => true,
            other => return refused(&format!("with PlanarConfiguration {other}")),
        };
        let mut extra = ifd.values(338)?.unwrap_or_default();
        let mut bits = ifd.values(258)?.unwrap_or_else(|| vec![1]);
        let mut samples = ifd.value(277)?.unwrap_or(1) as usize;
        if planar && extra.iter().all(|&what| what == 0) {
            // Planes of unknown meaning behind the others are not read.
            bits.truncate(bits.len().saturating_sub(extra.len()));
            samples = samples.saturating_sub(extra.len());
            extra.clear();
        }
        if samples > 6 {
            return refused(&format!("with {samples} samples per pixel"));
        }
        if bits.len() == 1 {
            bits = vec![bits[0]; samples];
        }
        bits.truncate(samples);
        if bits.is_empty() || bits.len() != samples || bits.iter().any(|&b| b != bits[0]) {
            return refused(&format!("with samples of {bits:?} bits"));
        }
        let bits = bits[0];
        let signed = sample_format(ifd, bits)?;
        let colour = colour(photometric, samples, bits, &extra)?;
        let single = samples == 1;
        if signed && !(single && bits == 8 && photometric == 1) {
            return refused("with signed samples");
        }
        let kind = Self { colour, bits: bits as usize, samples, lowest_first, planar };
        kind.check(ifd, photometric)?;
        if planar {
            kind.check_planes(compressed, extra.is_empty())?;
        }
        Ok(kind)
    }

    /// Refuses what Pillow does not open although its parts are known.
    fn check(&self, ifd: &Ifd, photometric: u64) -> Result<(), DecodeError> {
        let Self { colour, bits, samples, .. } = *self;
        let single = samples == 1;
        let gray = matches!(colour, Colour::Gray { .. });
        match bits {
            16 if photometric == 0 => return refused("of 16 bits whose white is 0"),
            16 if gray && samples > 1 => return refused("of 16 bits with gray and alpha"),
            _ => {}
        }
        let rgb = colour == Colour::Rgb && bits == 8 && samples == 3;
        let little = ifd.order == ByteOrder::Little;
        let sixteen = gray && bits == 16 && little;
        let narrow = matches!(colour, Colour::Gray { .. } | Colour::Palette) && bits <= 8;
        match self.lowest_first && !(rgb || single && (narrow || sixteen)) {
            true => refused("of these samples with FillOrder 2"),
            false => Ok(()),
        }
    }
}

impl Kind {
    /// Refuses planes that Pillow reads as something else. Of planes without compression it takes
    /// whole bytes, in the order of their bits; it divides by an alpha that is not named.
    fn check_planes(&self, compressed: bool, unnamed: bool) -> Result<(), DecodeError> {
        let Self { colour, bits, samples, lowest_first, .. } = *self;
        if colour == Colour::Premultiplied {
            return refused("with planes and associated alpha");
        }
        if compressed {
            return match colour == Colour::Rgb && samples == 4 && unnamed {
                true => refused("with planes and without ExtraSamples"),
                false => Ok(()),
            };
        }
        let plain = bits == 8 || (bits == 1 && colour == Colour::Gray { white_is_zero: false });
        if bits == 16 {
            refused("of 16 bits with planes, uncompressed")
        } else if !plain || lowest_first || colour == (Colour::Gray { white_is_zero: true }) {
            refused("of these samples with planes, uncompressed")
        } else {
            Ok(())
        }
    }
}

/// Whether the samples are signed.
fn sample_format(ifd: &Ifd, bits: u64) -> Result<bool, DecodeError> {
    let formats = ifd.values(339)?.unwrap_or_else(|| vec![1]);
    if formats.iter().any(|&format| format != formats[0]) {
        return refused("with samples of several formats");
    }
    match formats[0] {
        1 => Ok(false),
        2 => Ok(true),
        3 => refused("with floating-point samples"),
        5 | 6 => refused("with complex samples"),
        other => refused(&format!("with {bits}-bit samples of format {other}")),
    }
}

/// The meaning of the samples.
fn colour(
    photometric: u64,
    samples: usize,
    bits: u64,
    extra: &[u64],
) -> Result<Colour, DecodeError> {
    let gray = Colour::Gray { white_is_zero: photometric == 0 };
    let colour = match (photometric, samples, bits, extra) {
        (0 | 1, 1, 1 | 2 | 4 | 8 | 16, []) | (1, 2, 8, [0 | 2]) => gray,
        (1, 2, 8, [1]) => return refused("of gray with associated alpha"),
        (2, 3 | 4, 8 | 16, [])
        | (2, 4, 8 | 16, [0 | 2])
        | (2, 4, 8, [999])
        | (2, 5, 8, [0 | 2, 0])
        | (2, 6, 8, [0 | 2, 0, 0]) => Colour::Rgb,
        (2, 4, 8 | 16, [1]) | (2, 5, 8, [1, 0]) | (2, 6, 8, [1, 0, 0]) => Colour::Premultiplied,
        (3, 1, 1 | 2 | 4 | 8, []) | (3, 2, 8, [0 | 2]) => Colour::Palette,
        (5, 4, 8 | 16, []) | (5, 5, 8, [0]) | (5, 6, 8, [0, 0]) => Colour::Cmyk,
        (6, 3, 8, []) => Colour::YCbCr,
        (8..=10, ..) => return refused("of L*a*b* colours"),
        (4, ..) => return refused("that is a mask"),
        (32_803 | 34_892, ..) => return refused("of a camera's raw samples (DNG)"),
        (32_844 | 32_845, ..) => return refused("of LogLuv samples"),
        (0..=6, ..) => {
            let kind = match photometric {
                0 | 1 => "gray",
                2 => "RGB",
                3 => "palette",
                5 => "ink",
                _ => "YCbCr",
            };
            let more = match extra {
                [] => String::new(),
                extra => format!(", {} of them extra ({extra:?})", extra.len()),
            };
            return refused(&format!("with {samples} {kind} samples of {bits} bits{more}"));
        }
        (other, ..) => return refused(&format!("of photometric interpretation {other}")),
    };
    Ok(colour)
}

/// The error for a TIFF of a kind.
pub(super) fn refused<T>(kind: &str) -> Result<T, DecodeError> {
    Err(DecodeError::unsupported(format!("a TIFF {kind}")))
}
