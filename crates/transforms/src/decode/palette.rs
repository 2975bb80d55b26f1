//! The colours of images whose pixels are numbers of colours.

/// The colours of a palette; a number that it lacks is black, as in Pillow.
pub(super) struct Palette([[u8; 3]; 256]);

impl Palette {
    /// At most 256 colours.
    pub(super) fn new(colours: impl Iterator<Item = [u8; 3]>) -> Self {
        let mut palette = [[0; 3]; 256];
        palette.iter_mut().zip(colours).for_each(|(to, colour)| *to = colour);
        Self(palette)
    }

    /// Numbers are levels of gray.
    pub(super) fn gray() -> Self {
        Self::new((0..=255).map(|level| [level; 3]))
    }

    pub(super) fn colour(&self, number: u8) -> [u8; 3] {
        self.0[usize::from(number)]
    }
}

/// Numbers of 1, 2, 4 or 8 bits, the first in the highest bits of a byte.
pub(super) fn unpack(bits: usize, bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mask = (u16::MAX >> (16 - bits)) as u8;
    let shifts = move |byte: u8| (0..8 / bits).rev().map(move |i| byte >> (i * bits) & mask);
    bytes.iter().flat_map(move |&byte| shifts(byte))
}
