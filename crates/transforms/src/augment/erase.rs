//! Random erasing (Zhong et al., arXiv:1708.04896) with timm's distribution, on the normalised
//! numbers.

use serde::{Deserialize, Serialize};

use crate::random::Counter;

/// The filling of an erased rectangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum EraseFill {
    /// Zeros, which are the mean colour after normalisation.
    Const,
    /// One normal number for each channel.
    Rand,
    /// A normal number for each value.
    Pixel,
}

/// Random erasing: how often, how many rectangles, and their filling.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Probability that an image is erased.
    pub probability: f64,
    /// Filling of the rectangles.
    pub fill: EraseFill,
    /// Largest number of rectangles of an image: each number from 1 to `count` is equally likely,
    /// and the rectangles share the area.
    pub count: usize,
}

/// Smallest and largest area of all rectangles together, as a share of the image's.
const AREA: [f64; 2] = [0.02, 1.0 / 3.0];

/// Smallest height divided by width of a rectangle; the largest is its reciprocal.
const ASPECT: f64 = 0.3;

impl Erase {
    /// Erases rectangles of `[channels, height, width]` numbers, flat.
    ///
    /// # Panics
    /// When `values` is not a whole number of planes.
    pub fn apply(&self, values: &mut [f32], [height, width]: [usize; 2], random: &mut Counter) {
        let plane = height * width;
        assert!(values.len().is_multiple_of(plane), "{} numbers, {plane} a plane", values.len());
        for [top, left, h, w] in self.rectangles([height, width], random) {
            for channel in values.chunks_exact_mut(plane) {
                let rows = channel.chunks_exact_mut(width).skip(top).take(h);
                match self.fill {
                    EraseFill::Const => rows.for_each(|row| row[left..left + w].fill(0.0)),
                    EraseFill::Rand => {
                        let value = random.normal() as f32;
                        rows.for_each(|row| row[left..left + w].fill(value));
                    }
                    EraseFill::Pixel => {
                        rows.for_each(|row| noise(&mut row[left..left + w], random));
                    }
                }
            }
        }
    }

    /// Draws top, left, height and width of the rectangles; a rectangle that does not fit in ten
    /// tries is omitted.
    pub fn rectangles(&self, [height, width]: [usize; 2], random: &mut Counter) -> Vec<[usize; 4]> {
        if random.unit() >= self.probability {
            return Vec::new();
        }
        let count = 1 + random.range(self.count.max(1));
        let area = (height * width) as f64;
        let rectangle = |random: &mut Counter| {
            (0..10).find_map(|_| {
                let target = random.uniform(AREA[0], AREA[1]) * area / count as f64;
                let aspect = random.uniform(ASPECT.ln(), (1.0 / ASPECT).ln()).exp();
                let h = (target * aspect).sqrt().round_ties_even() as usize;
                let w = (target / aspect).sqrt().round_ties_even() as usize;
                (h < height && w < width).then(|| {
                    let top = random.range(height - h + 1);
                    [top, random.range(width - w + 1), h, w]
                })
            })
        };
        (0..count).filter_map(|_| rectangle(random)).collect()
    }
}

/// Fills with normal numbers, two from one draw.
fn noise(values: &mut [f32], random: &mut Counter) {
    for pair in values.chunks_mut(2) {
        for (value, normal) in pair.iter_mut().zip(random.normals()) {
            *value = normal as f32;
        }
    }
}
