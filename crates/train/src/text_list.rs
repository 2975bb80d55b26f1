//! Text files that people write: class names, class weights, quarantine lists, options. Windows'
//! editors put a byte order mark before the text, write UTF-16, and end lines with CR LF; all of
//! that is read as the same text.

use std::path::Path;

use crate::files;

/// A line that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number in the file, from 1.
    pub number: usize,
    /// Its text without blanks at both ends.
    pub text: &'a str,
    /// Its text as it stands.
    pub whole: &'a str,
}

/// Reads a text file: UTF-8, or UTF-16 behind a byte order mark. The text has neither a byte order
/// mark nor a carriage return.
///
/// # Errors
/// The fault without the path: a file that cannot be read, another encoding, with its line.
pub fn read_text(path: &Path) -> Result<String, String> {
    let bytes = files::read(path).map_err(|error| format!("cannot read it: {error}"))?;
    text_of(&bytes)
}

/// The lines of a text that are not empty.
pub fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let all = text.lines().enumerate();
    all.map(|(index, whole)| Line { number: index + 1, text: whole.trim(), whole })
        .filter(|line| !line.text.is_empty())
}

/// The text of a file's bytes.
fn text_of(bytes: &[u8]) -> Result<String, String> {
    const WAY_OUT: &str = "save the file as UTF-8";
    let text = match bytes {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => {
            return Err(format!("UTF-32, which is not read; {WAY_OUT}"));
        }
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes)?,
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes)?,
        [0xEF, 0xBB, 0xBF, rest @ ..] => utf8(rest)?,
        _ => utf8(bytes)?,
    };
    if let Some(at) = text.find('\0') {
        let line = 1 + text[..at].matches('\n').count();
        return Err(format!(
            "line {line}: a zero byte, as in UTF-16 without a byte order mark; {WAY_OUT}"
        ));
    }
    // A lone carriage return ends a line too, as old Macs wrote it.
    Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = 1 + before.matches('\n').count();
        let byte = bytes[error.valid_up_to()];
        format!("line {line}: the byte {byte:#04x} is not UTF-8; save the file as UTF-8")
    })?;
    Ok(text.to_owned())
}

fn utf16(bytes: &[u8], word: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let text: Result<String, _> =
        char::decode_utf16(pairs.iter().map(|pair| word(*pair))).collect();
    match text {
        Ok(text) if rest.is_empty() => Ok(text),
        _ => Err("begins like UTF-16 and is not; save the file as UTF-8".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16_of(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(bytes).collect()
    }

    /// Mutations caught, each alone: the byte order mark kept; the bytes of UTF-16 swapped;
    /// carriage returns kept; lines counted from 0.
    #[test]
    fn what_editors_write_is_one_text() {
        let wanted = "cat\n\nCafé 😀\n";
        let windows = "cat\r\n\r\nCafé 😀\r\n";
        let utf8 = |text: &str| text.as_bytes().to_vec();
        let mac = windows.replace("\r\n", "\r");
        for bytes in [
            utf8(wanted),
            utf8(windows),
            utf8(&mac),
            utf8(&format!("\u{FEFF}{windows}")),
            utf16_of(windows, u16::to_le_bytes),
            utf16_of(wanted, u16::to_be_bytes),
        ] {
            assert_eq!(text_of(&bytes).as_deref(), Ok(wanted), "{bytes:?}");
        }
        let all: Vec<(usize, &str)> =
            lines(" cat \n\n\tdog\n \n").map(|line| (line.number, line.text)).collect();
        assert_eq!(all, [(1, "cat"), (3, "dog")]);
        assert_eq!(text_of(b"").as_deref(), Ok(""));
    }

    /// Mutations caught, each alone: the bytes of UTF-16 swapped; zero bytes accepted; UTF-32
    /// read as UTF-16; half a character of UTF-16 accepted.
    #[test]
    fn another_encoding_is_told_with_its_line() {
        for (bytes, words) in [
            (&b"cat\ncaf\xe9\n"[..], &["line 2", "0xe9", "UTF-8"][..]),
            (b"c\0a\0t\0", &["line 1", "UTF-16", "UTF-8"]),
            (b"\0c\0a\0t", &["line 1", "UTF-16"]),
            (b"\xff\xfec", &["UTF-16"]),
            (b"\xff\xfe\x00\xd8c\0", &["UTF-16"]),
            (b"\xff\xfe\0\0c\0\0\0", &["UTF-32"]),
        ] {
            let message = text_of(bytes).unwrap_err();
            words.iter().for_each(|word| assert!(message.contains(word), "`{word}` in: {message}"));
        }
    }
}
