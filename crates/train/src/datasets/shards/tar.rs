//! A tar file, written member by member: ustar (POSIX.1-1988), with an extended header (pax,
//! POSIX.1-2001) before a member whose name ustar has no room or no letters for.

use std::io::{Error, Write};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// Writes a tar file and knows how far it is.
pub(crate) struct TarWriter<W> {
    inner: W,
    written: u64,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, written: 0 }
    }

    /// Bytes so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Writes a file of the name, with `/` between folders; where its first byte is.
    ///
    /// # Errors
    /// Whatever the writer says.
    pub(crate) fn file(&mut self, name: &str, bytes: &[u8]) -> Result<u64, Error> {
        match ustar(name) {
            Some((prefix, short)) => self.member(b'0', prefix, short, bytes),
            None => {
                let record = record("path", name);
                self.member(b'x', "", "pax", record.as_bytes())?;
                // Who does not know the extended header still has the image.
                let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
                let ending = if ending.len() < 9 && ending.is_ascii() { ending } else { "" };
                let short = format!("{:012x}.{ending}", self.written);
                self.member(b'0', "", &short, bytes)
            }
        }
    }

    fn member(&mut self, kind: u8, prefix: &str, name: &str, bytes: &[u8]) -> Result<u64, Error> {
        let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
        self.inner.write_all(&header(kind, prefix, name, bytes.len() as u64))?;
        self.inner.write_all(bytes)?;
        self.inner.write_all(&[0; BLOCK][..padding])?;
        let from = self.written + BLOCK as u64;
        self.written = from + (bytes.len() + padding) as u64;
        Ok(from)
    }

    /// Two empty blocks end a tar file; the writer and the length.
    ///
    /// # Errors
    /// Whatever the writer says.
    pub(crate) fn finish(mut self) -> Result<(W, u64), Error> {
        self.inner.write_all(&[0; 2 * BLOCK])?;
        Ok((self.inner, self.written + 2 * BLOCK as u64))
    }
}

/// The name as ustar's two fields have it, if they can: ASCII, 155 and 100 letters, parted at a
/// `/`.
fn ustar(name: &str) -> Option<(&str, &str)> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some(("", name));
    }
    let (folder, file) = name.rsplit_once('/')?;
    (folder.len() <= 155 && file.len() <= 100).then_some((folder, file))
}

/// A record of an extended header, `length key=value` and a line feed, where the length counts its
/// own figures.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

fn header(kind: u8, prefix: &str, name: &str, bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put =
        |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0"); // mode
    put(108, "0000000\0"); // owner
    put(116, "0000000\0"); // group
    put(124, &format!("{bytes:011o}\0"));
    put(136, "00000000000\0"); // time: the same images give the same file
    put(148, "        "); // the sum is taken over blanks
    put(257, "ustar\x0000");
    put(345, prefix);
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::record;

    /// POSIX's own example and the lengths about a power of ten. Mutations caught: the length
    /// without its own figures, the loop run once.
    #[test]
    fn a_records_length_counts_itself() {
        assert_eq!(record("atime", "1302201600"), "20 atime=1302201600\n");
        for letters in 80..110 {
            let record = record("path", &"x".repeat(letters));
            let (length, _) = record.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), record.len());
        }
    }
}
