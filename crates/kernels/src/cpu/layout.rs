//! From channels first to channels last and back.

use rayon::prelude::*;

/// Places that are turned together, so that their lines stay in the cache.
const BLOCK: usize = 16;

/// Places of an image that a thread turns at a time.
const PLACES: usize = 8192;

/// Turns `[b, rows, columns]` into `[b, columns, rows]`.
fn turned(values: &[f32], batch: usize, rows: usize, columns: usize) -> Vec<f32> {
    let image_len = rows * columns;
    assert_eq!(values.len(), batch * image_len, "values");
    let mut out = vec![0.0; values.len()];
    if rows == 3 {
        // An image: three planes side by side.
        let images = out.par_chunks_exact_mut(image_len).zip(values.par_chunks_exact(image_len));
        images.for_each(|(out, values)| {
            let (red, rest) = values.split_at(columns);
            let (green, blue) = rest.split_at(columns);
            out.par_chunks_mut(3 * PLACES).enumerate().for_each(|(i, out)| {
                let part = i * PLACES..i * PLACES + out.len() / 3;
                let colours = red[part.clone()].iter().zip(&green[part.clone()]).zip(&blue[part]);
                for (out, ((red, green), blue)) in out.chunks_exact_mut(3).zip(colours) {
                    out.copy_from_slice(&[*red, *green, *blue]);
                }
            });
        });
        return out;
    }
    out.par_chunks_mut((BLOCK * rows).max(1)).enumerate().for_each(|(i, out)| {
        // Chunks end with an image only where the block divides the columns.
        for (j, out) in out.chunks_exact_mut(rows).enumerate() {
            let place = i * BLOCK + j;
            let (image, column) = (place / columns, place % columns);
            let from = &values[image * image_len + column..];
            out.iter_mut().enumerate().for_each(|(row, out)| *out = from[row * columns]);
        }
    });
    out
}

/// `[b, c, places]` to `[b, places, c]`.
pub fn channels_last(values: &[f32], batch: usize, c: usize, places: usize) -> Vec<f32> {
    turned(values, batch, c, places)
}

/// `[b, places, c]` to `[b, c, places]`.
pub fn channels_first(values: &[f32], batch: usize, c: usize, places: usize) -> Vec<f32> {
    turned(values, batch, places, c)
}
