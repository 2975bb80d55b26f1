//! The bytes of a strip or a tile without their compression.

use flate2::{Decompress, FlushDecompress, Status};
use weezl::BitOrder;
use weezl::decode::Decoder;

use crate::decode::error::DecodeError;
use crate::decode::lzw::lzw;
use crate::decode::tiff::fax::Fax;
use crate::decode::tiff::ifd::Ifd;
use crate::decode::tiff::kind::refused;

/// How strips and tiles are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Fax(Fax),
    Jpeg,
}

impl Compression {
    /// The compression that the tags name.
    pub(super) fn of(ifd: &Ifd) -> Result<Self, DecodeError> {
        let bit = |tag, bit: u64| Ok::<_, DecodeError>(ifd.value(tag)?.unwrap_or(0) & bit != 0);
        let uncompressed_mode = "of uncompressed fax rows";
        Ok(match ifd.value(259)?.unwrap_or(1) {
            1 => Self::None,
            2 => Self::Fax(Fax::Runs),
            3 if bit(292, 2)? => return refused(uncompressed_mode),
            3 => Self::Fax(Fax::Group3 { two_dimensional: bit(292, 1)? }),
            4 if bit(293, 2)? => return refused(uncompressed_mode),
            4 => Self::Fax(Fax::Group4),
            5 => Self::Lzw,
            6 => return refused("with old-style JPEG compression"),
            7 => Self::Jpeg,
            8 | 32_946 => Self::Deflate,
            32_773 => Self::PackBits,
            32_771 => return refused("of fax rows aligned to words (compression 32771)"),
            34_661 => return refused("with JBIG compression"),
            34_676 | 34_677 => return refused("with SGI LogLuv compression"),
            34_712 | 33_003 | 33_005 => return refused("with JPEG 2000 compression"),
            34_887 => return refused("with LERC compression"),
            34_925 => return refused("with LZMA compression"),
            50_000 => return refused("with Zstandard compression"),
            50_001 => return refused("with WebP compression"),
            50_002 | 52_546 => return refused("with JPEG XL compression"),
            other => return refused(&format!("with compression {other}")),
        })
    }

    /// The first `want` bytes of a strip or tile; fax and JPEG are decoded elsewhere.
    pub(super) fn bytes(self, data: &[u8], want: usize) -> Result<Vec<u8>, DecodeError> {
        match self {
            Self::Lzw => match data {
                // Codes from the lowest bit on, of writers before TIFF 6.
                [0, second, ..] if second & 1 == 1 => refused("with old-style LZW compression"),
                _ => lzw(Decoder::with_tiff_size_switch(BitOrder::Msb, 8), data, want),
            },
            Self::Deflate => inflate(data, want),
            Self::PackBits => pack_bits(data, want),
            Self::None | Self::Fax(_) | Self::Jpeg => {
                data.get(..want).map(<[u8]>::to_vec).ok_or(DecodeError::Truncated)
            }
        }
    }
}

/// Bytes by which the output grows, so that nothing is reserved for data that never come.
const STEP: usize = 1 << 18;

/// zlib's format.
fn inflate(data: &[u8], want: usize) -> Result<Vec<u8>, DecodeError> {
    let mut inflater = Decompress::new(true);
    let mut out: Vec<u8> = Vec::new();
    while out.len() < want {
        let from = out.len();
        out.resize((from + STEP).min(want), 0);
        let read = inflater.total_in() as usize;
        let status = inflater
            .decompress(&data[read..], &mut out[from..], FlushDecompress::None)
            .map_err(|error| DecodeError::damaged(error.to_string()))?;
        let written = inflater.total_out() as usize;
        let is_stuck = inflater.total_in() as usize == read && written == from;
        out.truncate(written);
        if (status == Status::StreamEnd || is_stuck) && written < want {
            return Err(DecodeError::Truncated);
        }
    }
    Ok(out)
}

/// Apple's run lengths (TIFF 6.0, section 9).
fn pack_bits(mut data: &[u8], want: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    while out.len() < want {
        let (&head, rest) = data.split_first().ok_or(DecodeError::Truncated)?;
        match head as i8 {
            -128 => data = rest,
            literal @ 0.. => {
                let count = literal as usize + 1;
                let (bytes, rest) = rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
                out.extend_from_slice(bytes);
                data = rest;
            }
            run => {
                let (&byte, rest) = rest.split_first().ok_or(DecodeError::Truncated)?;
                out.resize(out.len() + usize::from(run.unsigned_abs()) + 1, byte);
                data = rest;
            }
        }
    }
    out.truncate(want);
    Ok(out)
}
