//! The eight ways in which EXIF asks to turn an image, and what they do to regions and pixels.

use crate::resize::{Patch, Region};

/// How stored pixels are shown: rows and columns are reversed first, then exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orientation {
    /// The last stored row comes first.
    rows_reversed: bool,
    /// The last stored column comes first.
    columns_reversed: bool,
    /// A stored row becomes a column.
    transposed: bool,
}

/// Pixels along the edge of the squares in which an image is transposed: a square's rows and
/// columns stay in the first-level cache.
const SQUARE: usize = 32;

impl Orientation {
    /// The orientation of an EXIF value (EXIF 3.0, tag 0x0112), 1 to 8.
    #[must_use]
    pub fn from_exif(value: u64) -> Option<Self> {
        let (rows_reversed, columns_reversed, transposed) = match value {
            1 => (false, false, false),
            2 => (false, true, false),
            3 => (true, true, false),
            4 => (true, false, false),
            5 => (false, false, true),
            6 => (true, false, true),
            7 => (true, true, true),
            8 => (false, true, true),
            _ => return None,
        };
        Some(Self { rows_reversed, columns_reversed, transposed })
    }

    /// Whether nothing has to be turned.
    #[must_use]
    pub fn is_upright(self) -> bool {
        self == Self::default()
    }

    /// Height and width after turning, of those before or the other way round.
    #[must_use]
    pub fn size(self, [height, width]: [usize; 2]) -> [usize; 2] {
        if self.transposed { [width, height] } else { [height, width] }
    }

    /// The stored pixels of a region of the turned image; `stored` is the stored height and width.
    pub(crate) fn stored_region(self, region: Region, stored: [usize; 2]) -> Region {
        let Region { mut top, mut left, mut height, mut width } = region;
        if self.transposed {
            (top, left, height, width) = (left, top, width, height);
        }
        if self.rows_reversed {
            top = stored[0] - top - height;
        }
        if self.columns_reversed {
            left = stored[1] - left - width;
        }
        Region { top, left, height, width }
    }

    /// The borders of a patch of stored pixels after its pixels have been turned.
    pub(crate) fn turned_patch(self, patch: Patch) -> Patch {
        let Region { height, width, .. } = patch.region;
        let reversed =
            |[first, last]: [f64; 2], count: usize| [count as f64 - last, count as f64 - first];
        let (mut rows, mut columns) = (patch.rows, patch.columns);
        if self.rows_reversed {
            rows = reversed(rows, height);
        }
        if self.columns_reversed {
            columns = reversed(columns, width);
        }
        if self.transposed {
            (rows, columns) = (columns, rows);
        }
        let [height, width] = self.size([height, width]);
        Patch { region: Region { top: 0, left: 0, height, width }, rows, columns }
    }

    /// Turns stored pixels.
    ///
    /// # Shapes
    /// `stored` is `[height, width, 3]`; `turned` becomes the same pixels, of
    /// [`Orientation::size`].
    ///
    /// # Panics
    /// When `stored` has another length.
    pub(crate) fn turn(self, stored: &[u8], [height, width]: [usize; 2], turned: &mut Vec<u8>) {
        let (stored, rest) = stored.as_chunks::<3>();
        assert!(
            rest.is_empty() && stored.len() == height * width,
            "{} pixels for {height} x {width}",
            stored.len()
        );
        turned.resize(height * width * 3, 0);
        let (out, _) = turned.as_chunks_mut::<3>();
        let row = |y: usize| {
            let y = if self.rows_reversed { height - 1 - y } else { y };
            &stored[y * width..][..width]
        };
        if !self.transposed {
            for (y, line) in out.chunks_exact_mut(width).enumerate() {
                line.copy_from_slice(row(y));
                if self.columns_reversed {
                    line.reverse();
                }
            }
            return;
        }
        for top in (0..height).step_by(SQUARE) {
            for left in (0..width).step_by(SQUARE) {
                for y in top..(top + SQUARE).min(height) {
                    let line = row(y);
                    for x in left..(left + SQUARE).min(width) {
                        let from = if self.columns_reversed { width - 1 - x } else { x };
                        out[x * height + y] = line[from];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Orientation;
    use crate::resize::{Patch, Region};

    /// A region of the turned image is the turned region of the stored one, for every orientation
    /// and a size that is no multiple of the squares.
    ///
    /// Mutations caught: the rows of 6 and 8 exchanged, a region's offset from the wrong end.
    #[test]
    fn a_region_of_the_turned_image_is_the_turned_region() {
        let (height, width) = (37, 70);
        let stored: Vec<u8> = (0..height * width * 3).map(|i| (i * 31 % 251) as u8).collect();
        let cut = |pixels: &[u8], across: usize, region: Region| -> Vec<u8> {
            let rows = region.top..region.top + region.height;
            rows.flat_map(|y| pixels[(y * across + region.left) * 3..][..region.width * 3].to_vec())
                .collect()
        };
        for value in 1..=8 {
            let orientation = Orientation::from_exif(value).unwrap();
            let (mut whole, mut part) = (Vec::new(), Vec::new());
            orientation.turn(&stored, [height, width], &mut whole);
            let [_, across] = orientation.size([height, width]);
            let region = Region { top: 3, left: 5, height: 30, width: 11 };
            let from = orientation.stored_region(region, [height, width]);
            let size = [from.height, from.width];
            orientation.turn(&cut(&stored, width, from), size, &mut part);
            assert_eq!(part, cut(&whole, across, region), "orientation {value}");
        }
        assert!([0, 9, 1 << 16 | 6].map(Orientation::from_exif) == [None; 3]);
    }

    /// Borders within pixels keep their distances from the other end.
    ///
    /// Mutations caught: borders not reversed, rows and columns not exchanged.
    #[test]
    fn borders_of_a_patch_turn_with_it() {
        let patch = Patch::at(Region { top: 3, left: 9, height: 10, width: 7 }, 4);
        assert_eq!((patch.rows, patch.columns), ([0.75, 3.25], [0.25, 2.0]));
        let turned = |value| {
            let patch = Orientation::from_exif(value).unwrap().turned_patch(patch);
            (patch.region.height, patch.rows, patch.columns)
        };
        assert_eq!(turned(1), (4, [0.75, 3.25], [0.25, 2.0]));
        assert_eq!(turned(3), (4, [0.75, 3.25], [0.0, 1.75]));
        assert_eq!(turned(6), (2, [0.25, 2.0], [0.75, 3.25]));
        assert_eq!(turned(8), (2, [0.0, 1.75], [0.75, 3.25]));
    }
}
