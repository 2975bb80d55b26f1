//! Shear, translation and rotation with Pillow's numerics (`Geometry.c`): the centre of every pixel
//! of the result is mapped into the image, where the nearest pixel, 2 x 2 or 4 x 4 pixels are read.
//!
//! The result equals Pillow's in every bit: the f64 operations are the same, in the same order.
//! Only operations that cannot change a bit are omitted: a shear or shift along one axis lands on
//! whole rows or columns, where the interpolation across them has the weight 0.

use crate::augment::canvas::Canvas;
use crate::resize::Interpolation;

/// The filter of an affine operation, and the colour outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resample {
    /// Filter.
    pub filter: Interpolation,
    /// Colour outside.
    pub fill: [u8; 3],
}

/// `Image.transform(size, AFFINE, matrix)`: pixel (x, y) of the result is the image at
/// `(m0 x + m1 y + m2, m3 x + m4 y + m5)`, centres of pixels at halves.
pub fn affine(canvas: &mut Canvas, matrix: [f64; 6], resample: Resample) {
    let (height, width) = (canvas.height(), canvas.width());
    canvas.redraw(|from, to| {
        let from = SourceImage { pixels: from, height, width };
        to.as_chunks_mut::<3>().0.fill(resample.fill);
        match resample.filter {
            Interpolation::Nearest if matrix[1] == 0.0 && matrix[3] == 0.0 => {
                from.nearest_scaled(matrix, to);
            }
            Interpolation::Nearest => from.nearest_fixed(matrix, to),
            Interpolation::Bilinear => from.interpolate(matrix, to, SourceImage::bilinear),
            Interpolation::Bicubic => from.interpolate(matrix, to, SourceImage::bicubic),
        }
    });
}

/// `Image.rotate(degrees)`, counter-clockwise about the centre, the corners cut off.
pub fn rotate(canvas: &mut Canvas, degrees: f64, resample: Resample) {
    // Python's %: the sign of the divisor.
    let degrees = degrees.rem_euclid(360.0);
    let square = canvas.height() == canvas.width();
    match degrees {
        0.0 => return,
        180.0 => return canvas.pixels_mut().as_chunks_mut::<3>().0.reverse(),
        90.0 if square => return quarter(canvas, |size, x, y| (size - 1 - y, x)),
        270.0 if square => return quarter(canvas, |size, x, y| (y, size - 1 - x)),
        _ => {}
    }
    let (x, y) = (canvas.width() as f64 / 2.0, canvas.height() as f64 / 2.0);
    let angle = -degrees.to_radians();
    let (cos, sin) = (fifteen_digits(angle.cos()), fifteen_digits(angle.sin()));
    let minus = fifteen_digits(-angle.sin());
    let right = cos * -x + sin * -y + 0.0 + x;
    let down = minus * -x + cos * -y + 0.0 + y;
    affine(canvas, [cos, sin, right, minus, cos, down], resample);
}

/// Python's `round(value, 15)`.
fn fifteen_digits(value: f64) -> f64 {
    format!("{value:.15}").parse().expect("a number was written")
}

/// Turns a square by 90 degrees: pixel (x, y) is read from the (column, row) that `source` gives.
fn quarter(canvas: &mut Canvas, source: fn(usize, usize, usize) -> (usize, usize)) {
    let size = canvas.width();
    canvas.redraw(|from, to| {
        let (from, to) = (from.as_chunks::<3>().0, to.as_chunks_mut::<3>().0);
        for (y, row) in to.chunks_exact_mut(size).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                let (column, row) = source(size, x, y);
                *pixel = from[row * size + column];
            }
        }
    });
}

/// The image that an operation reads.
#[derive(Clone, Copy)]
struct SourceImage<'a> {
    pixels: &'a [u8],
    height: usize,
    width: usize,
}

/// `COORD` of `Geometry.c`: every coordinate below 0 is outside.
fn coordinate(value: f64, size: usize) -> Option<usize> {
    (value >= 0.0 && value < size as f64).then_some(value as usize)
}

impl<'a> SourceImage<'a> {
    fn row(&self, y: usize) -> &'a [[u8; 3]] {
        let offset = y * self.width * 3;
        self.pixels[offset..offset + self.width * 3].as_chunks().0
    }

    /// `ImagingScaleAffine`: positions are summed up, rounding errors and all.
    fn nearest_scaled(&self, m: [f64; 6], to: &mut [u8]) {
        let mut position = m[2] + m[0] * 0.5;
        let columns: Vec<Option<usize>> = (0..self.width)
            .map(|_| {
                let column = coordinate(position, self.width);
                position += m[0];
                column
            })
            .collect();
        let mut position = m[5] + m[4] * 0.5;
        for out in to.chunks_exact_mut(self.width * 3) {
            if let Some(y) = coordinate(position, self.height) {
                let row = self.row(y);
                for (pixel, column) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
                    if let Some(x) = *column {
                        *pixel = row[x];
                    }
                }
            }
            position += m[4];
        }
    }

    /// `affine_fixed`: 16 bits after the point.
    fn nearest_fixed(&self, m: [f64; 6], to: &mut [u8]) {
        let fixed = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
        let (right, down) = ([fixed(m[0]), fixed(m[3])], [fixed(m[1]), fixed(m[4])]);
        let mut start =
            [fixed(m[2] + m[0] * 0.5 + m[1] * 0.5), fixed(m[5] + m[3] * 0.5 + m[4] * 0.5)];
        let pixels = self.pixels.as_chunks::<3>().0;
        for out in to.chunks_exact_mut(self.width * 3) {
            let [mut x, mut y] = start;
            for pixel in out.as_chunks_mut::<3>().0 {
                let (column, row) = (x >> 16, y >> 16);
                if (0..self.width as i64).contains(&column)
                    && (0..self.height as i64).contains(&row)
                {
                    *pixel = pixels[row as usize * self.width + column as usize];
                }
                x += right[0];
                y += right[1];
            }
            start = [start[0] + down[0], start[1] + down[1]];
        }
    }

    /// `ImagingGenericTransform`.
    fn interpolate(&self, m: [f64; 6], to: &mut [u8], filter: impl Fn(&Self, f64, f64) -> [u8; 3]) {
        let (tall, wide) = (self.height as f64, self.width as f64);
        for (y, out) in to.chunks_exact_mut(self.width * 3).enumerate() {
            let y = y as f64 + 0.5;
            let (right, down) = (m[1] * y, m[4] * y);
            for (x, pixel) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let x = x as f64 + 0.5;
                let (x, y) = (m[0] * x + right + m[2], m[3] * x + down + m[5]);
                if x >= 0.0 && x < wide && y >= 0.0 && y < tall {
                    *pixel = filter(self, x - 0.5, y - 0.5);
                }
            }
        }
    }

    /// Interpolates 2 x 2 pixels; the last pixel is repeated beyond the border.
    fn bilinear(&self, x: f64, y: f64) -> [u8; 3] {
        let ((left, dx), (top, dy)) = (floor(x), floor(y));
        let [first, second] = [0, 1].map(|step| clamp(left + step, self.width));
        let across = |row: &[[u8; 3]]| -> [f64; 3] {
            std::array::from_fn(|c| lerp(row[first][c].into(), row[second][c].into(), dx))
        };
        let upper = across(self.row(clamp(top, self.height)));
        if dy == 0.0 {
            return upper.map(|value| value as u8);
        }
        let lower = match top + 1 < self.height as isize {
            true => across(self.row((top + 1) as usize)),
            false => upper,
        };
        std::array::from_fn(|c| lerp(upper[c], lower[c], dy) as u8)
    }

    /// Interpolates 4 x 4 pixels; the last pixel is repeated beyond the border.
    fn bicubic(&self, x: f64, y: f64) -> [u8; 3] {
        let ((left, dx), (top, dy)) = (floor(x), floor(y));
        let (left, top) = (left - 1, top - 1);
        if dy == 0.0 {
            // The polynomial down the column is its constant term: the row itself.
            let quad = self.four(clamp(top + 1, self.height), left);
            return std::array::from_fn(|c| cubic(quad.map(|pixel| pixel[c].into()), dx) as u8);
        }
        let rows = [0, 1, 2, 3].map(|step| clamp(top + step, self.height));
        if dx == 0.0 {
            let column = clamp(left + 1, self.width);
            let quad = rows.map(|row| self.row(row)[column]);
            return std::array::from_fn(|c| cubic(quad.map(|pixel| pixel[c].into()), dy) as u8);
        }
        let columns = [0, 1, 2, 3].map(|step| 3 * clamp(left + step, self.width));
        let rows = rows.map(|row| &self.pixels[row * self.width * 3..][..self.width * 3]);
        let mut pixel = [0; 3];
        for (lane, byte) in pixel.iter_mut().enumerate() {
            let mut down = [0.0; 4];
            for (value, row) in down.iter_mut().zip(&rows) {
                *value = cubic(columns.map(|column| f64::from(row[column + lane])), dx);
            }
            *byte = cubic(down, dy) as u8;
        }
        pixel
    }

    /// The pixels `left` to `left + 3` of a row.
    fn four(&self, row: usize, left: isize) -> [[u8; 3]; 4] {
        let row = self.row(row);
        match usize::try_from(left) {
            Ok(at) if at + 4 <= self.width => *row[at..].first_chunk::<4>().expect("four pixels"),
            _ => [0, 1, 2, 3].map(|step| row[clamp(left + step, self.width)]),
        }
    }
}

/// The whole number below a coordinate that is at least -1, and the fraction. (`f64::floor` is a
/// call into the mathematical library on older instruction sets.)
fn floor(value: f64) -> (isize, f64) {
    let whole = if value < 0.0 { -1 } else { value as isize };
    (whole, value - whole as f64)
}

/// Keys' cubic with a = -1, between `b` and `c`, in the order of operations of `Geometry.c`.
fn cubic([a, b, c, d]: [f64; 4], t: f64) -> f64 {
    let linear = -a + c;
    let square = 2.0 * (a - b) + c - d;
    let cube = -a + b - c + d;
    b + t * (linear + t * (square + t * cube))
}

fn clamp(at: isize, size: usize) -> usize {
    at.clamp(0, size as isize - 1) as usize
}

fn lerp(a: f64, b: f64, d: f64) -> f64 {
    a + (b - a) * d
}
