//! Conversion between channels first and channels last.

use rayon::prelude::*;

/// Pixels that are transposed together, so that their lines stay in the cache.
const BLOCK: usize = 16;

/// Pixels of an image that a thread transposes at a time.
const PIXELS: usize = 8192;

/// Transposes `[b, rows, columns]` to `[b, columns, rows]`.
fn transpose(values: &[f32], batch: usize, rows: usize, columns: usize) -> Vec<f32> {
    let image_len = rows * columns;
    assert_eq!(values.len(), batch * image_len, "values");
    let mut out = vec![0.0; values.len()];
    if rows == 3 {
        // An RGB image: three planes are interleaved.
        let images = out.par_chunks_exact_mut(image_len).zip(values.par_chunks_exact(image_len));
        images.for_each(|(out, values)| {
            let (red, rest) = values.split_at(columns);
            let (green, blue) = rest.split_at(columns);
            out.par_chunks_mut(3 * PIXELS).enumerate().for_each(|(i, out)| {
                let part = i * PIXELS..i * PIXELS + out.len() / 3;
                let colours = red[part.clone()].iter().zip(&green[part.clone()]).zip(&blue[part]);
                for (out, ((red, green), blue)) in out.chunks_exact_mut(3).zip(colours) {
                    out.copy_from_slice(&[*red, *green, *blue]);
                }
            });
        });
        return out;
    }
    out.par_chunks_mut((BLOCK * rows).max(1)).enumerate().for_each(|(i, out)| {
        // A chunk may hold the end of one image and the beginning of the next.
        for (j, out) in out.chunks_exact_mut(rows).enumerate() {
            let pixel = i * BLOCK + j;
            let (image, column) = (pixel / columns, pixel % columns);
            let from = &values[image * image_len + column..];
            out.iter_mut().enumerate().for_each(|(row, out)| *out = from[row * columns]);
        }
    });
    out
}

/// `[b, c, pixels]` to `[b, pixels, c]`.
pub fn f32_nchw_to_nhwc(values: &[f32], batch: usize, c: usize, pixels: usize) -> Vec<f32> {
    transpose(values, batch, c, pixels)
}

/// `[b, pixels, c]` to `[b, c, pixels]`.
pub fn f32_nhwc_to_nchw(values: &[f32], batch: usize, c: usize, pixels: usize) -> Vec<f32> {
    transpose(values, batch, pixels, c)
}
