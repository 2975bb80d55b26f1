//! What an image looks like, in a few bytes: finds copies that were encoded again, resized or
//! mirrored. Never a proof, therefore a suspicion.
//!
//! A difference hash of 64 bits (each bit: a cell is darker than its left neighbour) finds
//! candidates; the mean difference of the cells' colours confirms them. Images without contrast
//! have no look.

use std::collections::HashMap;

use image::RgbImage;

const COLUMNS: usize = 9;
const ROWS: usize = 8;

/// A step of brightness that sets a bit: less is noise of an encoder, in flat parts above all.
const STEP: i32 = 2;

/// Standard deviation of the cells' brightness below which an image is flat.
const CONTRAST: f64 = 6.0;

/// The largest distance in bits that [`HashIndex::within`] can find.
pub(super) const MAX_DISTANCE: u32 = 7;

/// The whole image as 9 x 8 cells, however large it is.
#[derive(Clone)]
pub(super) struct ImageHash {
    cells: [[u8; 3]; COLUMNS * ROWS],
}

impl ImageHash {
    pub(super) fn of(pixels: &RgbImage) -> Self {
        let (width, height) = (pixels.width() as usize, pixels.height() as usize);
        let (across, down) = (shares(width, COLUMNS), shares(height, ROWS));
        let mut sums = [[0.0; 3]; COLUMNS * ROWS];
        for (row, samples) in pixels.as_raw().chunks_exact(3 * width).enumerate() {
            let mut line = [[0.0; 3]; COLUMNS];
            for &(column, cell, share) in &across {
                for (sum, sample) in line[cell].iter_mut().zip(&samples[3 * column..]) {
                    *sum += share * f32::from(*sample);
                }
            }
            let first = down.partition_point(|(at, ..)| *at < row);
            for &(_, cell, share) in down[first..].iter().take_while(|(at, ..)| *at == row) {
                for (sums, line) in sums[cell * COLUMNS..].iter_mut().zip(&line) {
                    sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += share * value);
                }
            }
        }
        Self { cells: sums.map(|cell| cell.map(|sum| sum.round() as u8)) }
    }

    fn brightness(&self, column: usize, row: usize) -> i32 {
        let [r, g, b] = self.cells[row * COLUMNS + column].map(i32::from);
        (299 * r + 587 * g + 114 * b) / 1000
    }

    pub(super) fn is_flat(&self) -> bool {
        self.contrast() < CONTRAST
    }

    /// The difference hash.
    pub(super) fn hash(&self) -> u64 {
        let mut bits = 0;
        for row in 0..ROWS {
            for column in 1..COLUMNS {
                let darker = self.brightness(column, row) + STEP < self.brightness(column - 1, row);
                bits = bits << 1 | u64::from(darker);
            }
        }
        bits
    }

    /// Left and right exchanged.
    pub(super) fn mirrored(&self) -> Self {
        let mut cells = self.cells;
        cells.chunks_exact_mut(COLUMNS).for_each(|row| row.reverse());
        Self { cells }
    }

    /// Standard deviation of the cells' brightness, in levels of 255.
    pub(super) fn contrast(&self) -> f64 {
        let all: Vec<f64> = (0..ROWS * COLUMNS)
            .map(|i| f64::from(self.brightness(i % COLUMNS, i / COLUMNS)))
            .collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt()
    }

    /// Root of the mean squared difference of the colours, in levels of 255: a few cells that
    /// differ much count, where a wide equal background makes the mean difference small.
    pub(super) fn deviation(&self, other: &Self) -> f64 {
        let pairs = self.cells.as_flattened().iter().zip(other.cells.as_flattened());
        let sum: u32 = pairs.map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum();
        (f64::from(sum) / (COLUMNS * ROWS * 3) as f64).sqrt()
    }

    /// Mean difference of the colours, in levels of 255.
    pub(super) fn difference(&self, other: &Self) -> f64 {
        let pairs = self.cells.as_flattened().iter().zip(other.cells.as_flattened());
        let sum: u32 = pairs.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
        f64::from(sum) / (COLUMNS * ROWS * 3) as f64
    }
}

/// How `pixels` in a line share in `cells` of equal length: (pixel, cell, share of the cell), by
/// pixel. Symmetric, so that a mirrored image has the mirrored look whatever its width.
fn shares(pixels: usize, cells: usize) -> Vec<(usize, usize, f32)> {
    let mut shares = Vec::new();
    for pixel in 0..pixels {
        // In units of 1 / (pixels * cells): a pixel is `cells` long, a cell `pixels`.
        let (from, to) = (pixel * cells, (pixel + 1) * cells);
        for cell in from / pixels..=(to - 1) / pixels {
            let covered = to.min((cell + 1) * pixels) - from.max(cell * pixels);
            shares.push((pixel, cell, covered as f32 / pixels as f32));
        }
    }
    shares
}

/// Hashes that can be asked for what is near. Two hashes at most [`MAX_DISTANCE`] = 7 bits apart
/// differ by at most one bit in one of their four quarters, so 4 x 17 look-ups find every
/// candidate.
pub(super) struct HashIndex {
    hashes: Vec<u64>,
    quarters: [HashMap<u16, Vec<u32>>; 4],
}

fn quarter(hash: u64, number: usize) -> u16 {
    (hash >> (16 * number)) as u16
}

impl HashIndex {
    pub(super) fn new(hashes: Vec<u64>) -> Self {
        let mut quarters: [HashMap<u16, Vec<u32>>; 4] = Default::default();
        for (i, &hash) in hashes.iter().enumerate() {
            for (number, table) in quarters.iter_mut().enumerate() {
                table.entry(quarter(hash, number)).or_default().push(i as u32);
            }
        }
        Self { hashes, quarters }
    }

    /// Numbers of the hashes at most `distance` bits away, in order.
    ///
    /// # Panics
    /// When `distance` is above [`MAX_DISTANCE`].
    pub(super) fn within(&self, hash: u64, distance: u32) -> Vec<usize> {
        assert!(distance <= MAX_DISTANCE, "a distance of {distance} bits, at most {MAX_DISTANCE}");
        let mut found = Vec::new();
        for (number, table) in self.quarters.iter().enumerate() {
            let own = quarter(hash, number);
            let near = std::iter::once(own).chain((0..16).map(|bit| own ^ 1 << bit));
            for &i in near.filter_map(|key| table.get(&key)).flatten() {
                if (self.hashes[i as usize] ^ hash).count_ones() <= distance {
                    found.push(i as usize);
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::{HashIndex, ImageHash, MAX_DISTANCE};
    use transforms::random::Counter;

    /// Mutations caught: without the flipped bits of a quarter.
    #[test]
    fn the_index_finds_what_comparing_all_pairs_finds() {
        let mut draw = Counter::new(1, 0, 0, 0);
        let centres: Vec<u64> = (0..20).map(|_| draw.u64()).collect();
        let mut near = |centre: u64| {
            (0..draw.u64() % 12).fold(centre, |hash, _| hash ^ 1 << (draw.u64() % 64))
        };
        let hashes: Vec<u64> = (0..2000).map(|i| near(centres[i % 20])).collect();
        let index = HashIndex::new(hashes.clone());
        let mut total = 0;
        for distance in 0..=MAX_DISTANCE {
            for &asked in &hashes[..100] {
                let naive: Vec<usize> = (0..hashes.len())
                    .filter(|&i| (hashes[i] ^ asked).count_ones() <= distance)
                    .collect();
                total += naive.len();
                assert_eq!(index.within(asked, distance), naive);
            }
        }
        assert!(total > 10_000, "the test has something to find: {total}");
    }

    /// Mutations caught: a hash without the step.
    #[test]
    fn a_mirrored_or_resized_image_looks_like_itself() {
        let image = RgbImage::from_fn(85, 61, |x, y| {
            Rgb([(x * 2) as u8, (y * 3) as u8, ((x * y / 16) % 256) as u8])
        });
        let look = ImageHash::of(&image);
        let mirrored = ImageHash::of(&image::imageops::flip_horizontal(&image));
        assert!(look.mirrored().difference(&mirrored) < 0.1);
        assert_eq!(look.mirrored().hash(), mirrored.hash());
        assert!(look.difference(&mirrored) > 20.0);
        let larger =
            image::imageops::resize(&image, 200, 150, image::imageops::FilterType::Triangle);
        assert!(look.difference(&ImageHash::of(&larger)) < 2.0);
        assert!((look.hash() ^ ImageHash::of(&larger).hash()).count_ones() <= 2);
        // One level of noise is no structure.
        let noisy = |x: u32, y: u32| Rgb([100 + ((x / 10 + y / 8) % 2) as u8; 3]);
        assert_eq!(ImageHash::of(&RgbImage::from_fn(90, 64, noisy)).hash(), 0);
        assert!(ImageHash::of(&RgbImage::from_fn(90, 64, noisy)).is_flat() && !look.is_flat());
    }
}
