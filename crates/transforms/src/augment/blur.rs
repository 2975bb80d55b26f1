//! Pillow's `GaussianBlur` (`BoxBlur.c`): three box filters of a fractional radius along each axis
//! (Gwosdek et al. 2011), in 24 bits after the point. The result equals Pillow's in every bit.

use crate::augment::canvas::Canvas;

/// Number of box filters, one after another.
const PASSES: usize = 3;

/// `ImageFilter.GaussianBlur(radius)`; the radius is the standard deviation, pixels.
pub fn gaussian_blur(canvas: &mut Canvas, radius: f64) {
    let boxes = BoxFilter::of_gaussian(radius as f32);
    if radius == 0.0 || (boxes.reach == 0 && boxes.far == 0) {
        return;
    }
    let width = canvas.width();
    let mut line = vec![[0; 3]; width];
    for row in canvas.pixels_mut().as_chunks_mut::<3>().0.chunks_exact_mut(width) {
        for _ in 0..PASSES {
            line.copy_from_slice(row);
            boxes.pass(&line, row);
        }
    }
    for _ in 0..PASSES {
        canvas.redraw(|from, to| boxes.pass_down(from, to, 3 * width));
    }
}

/// A box filter: `2 * reach + 1` samples with the weight `whole`, and one more on each side with
/// `far`.
struct BoxFilter {
    reach: usize,
    whole: u32,
    far: u32,
}

impl BoxFilter {
    fn of_gaussian(radius: f32) -> Self {
        let variance = radius * radius / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let lower = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let mut part = (2.0 * lower + 1.0) * (lower * (lower + 1.0) - 3.0 * variance);
        part /= 6.0 * (variance - (lower + 1.0) * (lower + 1.0));
        let radius = lower + part;
        let reach = radius as usize;
        let whole = ((1 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
        let far = ((1 << 24) - (reach as u32 * 2 + 1) * whole) / 2;
        Self { reach, whole, far }
    }

    /// Filters a line; its first and last sample are repeated beyond the ends.
    fn pass(&self, from: &[[u8; 3]], to: &mut [[u8; 3]]) {
        let last = from.len() - 1;
        let at = |x: isize| from[x.clamp(0, last as isize) as usize].map(u32::from);
        let reach = self.reach as isize;
        let mut sums = [0_u32; 3];
        for x in -reach - 1..reach {
            let sample = at(x);
            sums = std::array::from_fn(|c| sums[c] + sample[c]);
        }
        for (x, to) in to.iter_mut().enumerate() {
            let x = x as isize;
            let (leaves, enters, beyond) = (at(x - reach - 1), at(x + reach), at(x + reach + 1));
            *to = std::array::from_fn(|c| {
                sums[c] = sums[c] + enters[c] - leaves[c];
                let bulk = sums[c] * self.whole + (leaves[c] + beyond[c]) * self.far;
                ((bulk + (1 << 23)) >> 24) as u8
            });
        }
    }

    /// Filters the columns of rows of `stride` samples, all columns at once.
    fn pass_down(&self, from: &[u8], to: &mut [u8], stride: usize) {
        let last = from.len() / stride - 1;
        let row = |y: isize| &from[y.clamp(0, last as isize) as usize * stride..][..stride];
        let reach = self.reach as isize;
        let mut sums = vec![0_u32; stride];
        for y in -reach - 1..reach {
            sums.iter_mut().zip(row(y)).for_each(|(sum, &byte)| *sum += u32::from(byte));
        }
        for (y, to) in (0..).zip(to.chunks_exact_mut(stride)) {
            let (leaves, enters, beyond) = (row(y - reach - 1), row(y + reach), row(y + reach + 1));
            for x in 0..stride {
                let leaving = u32::from(leaves[x]);
                sums[x] = sums[x] + u32::from(enters[x]) - leaving;
                let bulk = sums[x] * self.whole + (leaving + u32::from(beyond[x])) * self.far;
                to[x] = ((bulk + (1 << 23)) >> 24) as u8;
            }
        }
    }
}
