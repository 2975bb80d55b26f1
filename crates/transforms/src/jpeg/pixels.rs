//! Planes of samples to RGB: upsampling and colours of any kind.
//!
//! Upsampling is libjpeg's: between two samples where the factor is 2 across, down, or both,
//! repetition elsewhere. CMYK becomes RGB as in Pillow, which takes every CMYK JPEG as inverted.

use kernels::image::jpeg::{between_rows, double_row, ycc_to_rgb};
use kernels::isa::Isa;

use crate::jpeg::markers::ColourSpace;
use crate::jpeg::scans::Plane;

/// The pixels of an image.
///
/// # Shapes
/// `[height, width, 3]`.
pub(super) fn pixels(
    planes: &[Plane],
    colours: ColourSpace,
    width: usize,
    height: usize,
) -> Vec<u8> {
    let wide = planes.iter().map(|p| p.h).max().expect("planes");
    let tall = planes.iter().map(|p| p.v).max().expect("planes");
    let mut upsampled: Vec<Upsampler> = planes
        .iter()
        .map(|plane| {
            let factors = (wide / plane.h, tall / plane.v);
            Upsampler { plane, factors, sums: Vec::new(), row: Vec::new() }
        })
        .collect();
    let isa = Isa::chosen();
    let mut rgb = vec![0; height * width * 3];
    for (number, out) in rgb.chunks_exact_mut(width * 3).enumerate() {
        upsampled.iter_mut().for_each(|component| component.make(number, isa));
        let rows: Vec<&[u8]> = upsampled.iter().map(|c| &c.row[..width]).collect();
        convert(colours, &rows, isa, out);
    }
    rgb
}

/// A component, and a row of it at the resolution of the image.
struct Upsampler<'a> {
    plane: &'a Plane,
    /// Pixels per sample, across and down.
    factors: (usize, usize),
    sums: Vec<i16>,
    row: Vec<u8>,
}

impl Upsampler<'_> {
    /// Makes a row of the image.
    fn make(&mut self, row: usize, isa: Isa) {
        let (h, v) = self.factors;
        let Plane { width, height, stride, samples, .. } = self.plane;
        let line = |number: usize| &samples[number * stride..][..*width];
        let at = row / v;
        let below = row % v == 1;
        // The upper of two rows lies nearer to the samples above, the lower to those below.
        let other = if below { (at + 1).min(height - 1) } else { at.saturating_sub(1) };
        let (near, out) = (line(at), &mut self.row);
        out.resize(width * h, 0);
        match (h, v) {
            // An image too narrow to interpolate is repeated.
            (2, 1) if *width > 2 => {
                double_row(isa, near, near, 0..*width, false, &mut self.sums, out);
            }
            (2, 2) if *width > 2 => {
                double_row(isa, near, line(other), 0..*width, true, &mut self.sums, out);
            }
            (1, 2) => between_rows(near, line(other), below, out),
            (1, _) => out.copy_from_slice(near),
            _ => out.chunks_exact_mut(h).zip(near).for_each(|(out, &sample)| out.fill(sample)),
        }
    }
}

/// Converts a row.
fn convert(colours: ColourSpace, rows: &[&[u8]], isa: Isa, out: &mut [u8]) {
    let pixels = out.as_chunks_mut::<3>().0.iter_mut().enumerate();
    match (colours, rows) {
        (ColourSpace::Gray, [gray]) => pixels.for_each(|(x, pixel)| *pixel = [gray[x]; 3]),
        (ColourSpace::Rgb, [r, g, b]) => pixels.for_each(|(x, p)| *p = [r[x], g[x], b[x]]),
        (ColourSpace::Ycc, [y, cb, cr]) => ycc_to_rgb(isa, y, cb, cr, out),
        // Inverted CMYK: the samples are the light that each ink leaves.
        (ColourSpace::Cmyk, [c, m, y, k]) => {
            pixels.for_each(|(x, pixel)| {
                *pixel = [c[x], m[x], y[x]].map(|ink| under(255 - ink, k[x]));
            });
        }
        (ColourSpace::Ycck, [y, cb, cr, k]) => {
            ycc_to_rgb(isa, y, cb, cr, out);
            for (pixel, &k) in out.as_chunks_mut::<3>().0.iter_mut().zip(*k) {
                *pixel = pixel.map(|ink| under(ink, k));
            }
        }
        _ => unreachable!("{colours:?} with {} components", rows.len()),
    }
}

/// The light that an ink leaves of `light`, in Pillow's integers.
fn under(ink: u8, light: u8) -> u8 {
    let product = u32::from(ink) * u32::from(light) + 128;
    light - ((product + (product >> 8)) >> 8) as u8
}
