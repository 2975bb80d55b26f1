//! The LZW codes of GIF and TIFF.

use weezl::LzwStatus;
use weezl::decode::Decoder;

use crate::decode::error::DecodeError;

/// Bytes by which the output grows: a header that promises a large image reserves nothing before
/// its data are there.
const STEP: usize = 1 << 16;

/// Decodes `want` bytes; what follows them is ignored.
///
/// # Errors
/// [`DecodeError::Damaged`] at an unknown code, [`DecodeError::Truncated`] when the codes end.
pub(super) fn lzw(
    mut decoder: Decoder,
    mut codes: &[u8],
    want: usize,
) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    while out.len() < want {
        let from = out.len();
        out.resize((from + STEP).min(want), 0);
        let result = decoder.decode_bytes(codes, &mut out[from..]);
        codes = &codes[result.consumed_in..];
        out.truncate(from + result.consumed_out);
        match result.status {
            Ok(LzwStatus::Ok) if result.consumed_out + result.consumed_in > 0 => {}
            Ok(_) if out.len() < want => return Err(DecodeError::Truncated),
            Ok(_) => {}
            Err(_) => return Err(DecodeError::damaged("an unknown LZW code")),
        }
    }
    Ok(out)
}
