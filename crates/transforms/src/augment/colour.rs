//! Operations on colours (brightness, contrast, posterize, solarize, equalize, ..) and sharpness
//! with Pillow's numerics (`ImageEnhance`, `ImageOps`, `Blend.c`, `Convert.c`, `Filter.c`). The
//! results equal Pillow's in every bit.

use crate::augment::canvas::Canvas;

/// `Image.blend` of one byte: in f32 as in `Blend.c`, truncated, clipped to a byte.
fn blend(from: u8, to: u8, share: f32) -> u8 {
    let value = f32::from(from) + share * f32::from(i16::from(to) - i16::from(from));
    value as u8
}

/// `Image.blend(from, canvas, share)`: `share` of the canvas, the rest of `from`.
///
/// # Panics
/// When `from` has another length.
pub fn blend_over(from: &[u8], canvas: &mut Canvas, share: f32) {
    assert_eq!(from.len(), canvas.pixels().len(), "two images of one size are blended");
    for (byte, &from) in canvas.pixels_mut().iter_mut().zip(from) {
        *byte = blend(from, *byte, share);
    }
}

/// The value of every byte.
fn table(value: impl Fn(u8) -> u8) -> [u8; 256] {
    std::array::from_fn(|byte| value(byte as u8))
}

/// `ImageOps.invert`.
pub fn invert(canvas: &mut Canvas) {
    canvas.pixels_mut().iter_mut().for_each(|byte| *byte = !*byte);
}

/// `ImageOps.posterize`: keeps the `bits` highest bits, 0 to 8.
///
/// Pillow 13 refuses 0, which timm's policies ask for; here it gives black, the mask of no bits.
pub fn posterize(canvas: &mut Canvas, bits: u32) {
    let mask = (0xFF00_u32 >> bits.min(8)) as u8;
    canvas.pixels_mut().iter_mut().for_each(|byte| *byte &= mask);
}

/// `ImageOps.solarize`: inverts bytes that are not below the threshold.
pub fn solarize(canvas: &mut Canvas, threshold: f64) {
    let inverted = |byte: u8| if f64::from(byte) < threshold { byte } else { !byte };
    canvas.look_up_all(&table(inverted));
}

/// timm's `solarize_add`: adds to bytes below 128.
pub fn solarize_add(canvas: &mut Canvas, add: u8) {
    canvas.look_up_all(&table(|byte| if byte < 128 { byte.saturating_add(add) } else { byte }));
}

/// `ImageEnhance.Brightness`: black at 0, the image at 1.
pub fn brightness(canvas: &mut Canvas, factor: f32) {
    canvas.look_up_all(&table(|byte| blend(0, byte, factor)));
}

/// `ImageEnhance.Contrast`: the mean gray at 0, the image at 1.
pub fn contrast(canvas: &mut Canvas, factor: f32) {
    let pixels = canvas.pixels().as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|&pixel| u64::from(gray(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    canvas.look_up_all(&table(|byte| blend(mean, byte, factor)));
}

/// `ImageEnhance.Color`, saturation: gray at 0, the image at 1.
pub fn color(canvas: &mut Canvas, factor: f32) {
    for pixel in canvas.pixels_mut().as_chunks_mut::<3>().0 {
        let gray = gray(*pixel);
        *pixel = pixel.map(|byte| blend(gray, byte, factor));
    }
}

/// ITU-R 601-2 in 16 bits after the point, as `convert("L")`.
fn gray([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// `ImageEnhance.Sharpness`: the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13 at 0, the image
/// itself at 1. The border remains unchanged.
pub fn sharpness(canvas: &mut Canvas, factor: f32) {
    let stride = 3 * canvas.width();
    if canvas.height() < 3 || canvas.width() < 3 {
        return;
    }
    canvas.redraw(|from, to| {
        to[..stride].copy_from_slice(&from[..stride]);
        let last = from.len() - stride;
        to[last..].copy_from_slice(&from[last..]);
        for (rows, out) in
            from.windows(3 * stride).step_by(stride).zip(to[stride..].chunks_exact_mut(stride))
        {
            let (above, rest) = rows.split_at(stride);
            let (here, below) = rest.split_at(stride);
            out[..3].copy_from_slice(&here[..3]);
            out[stride - 3..].copy_from_slice(&here[stride - 3..]);
            let three = |row: &[u8], x: usize| {
                u16::from(row[x - 3]) + u16::from(row[x]) + u16::from(row[x + 3])
            };
            for x in 3..stride - 3 {
                let sum = three(above, x) + three(here, x) + three(below, x);
                let sum = sum + 4 * u16::from(here[x]);
                // Rounded: a thirteenth is never a half, so integers give the result of f32.
                let smooth = (2 * sum + 13) / 26;
                out[x] = blend(smooth as u8, here[x], factor);
            }
        }
    });
}

/// `ImageOps.autocontrast`: stretches every channel to [0, 255].
pub fn auto_contrast(canvas: &mut Canvas) {
    let tables = canvas.histograms().map(|counts| {
        let low = counts.iter().position(|&count| count > 0).unwrap_or(255);
        let high = counts.iter().rposition(|&count| count > 0).unwrap_or(0);
        if high <= low {
            return table(|byte| byte);
        }
        let scale = 255.0 / (high - low) as f64;
        let offset = -(low as f64) * scale;
        table(|byte| (f64::from(byte) * scale + offset) as u8)
    });
    canvas.look_up(&tables);
}

/// `ImageOps.equalize`: makes every channel's histogram as even as possible.
pub fn equalize(canvas: &mut Canvas) {
    let tables = canvas.histograms().map(|counts| {
        let last = counts.iter().rev().find(|&&count| count > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<u32>() - last) / 255;
        if step == 0 {
            return table(|byte| byte);
        }
        let mut below = step / 2;
        std::array::from_fn(|value| {
            // Above 255 where there are few pixels.
            let level = (below / step).min(255);
            below += counts[value];
            level as u8
        })
    });
    canvas.look_up(&tables);
}

/// torchvision's `adjust_hue`: turns the hue by `turn` of the circle, in [-0.5, 0.5], in 8-bit HSV.
pub fn hue(canvas: &mut Canvas, turn: f64) {
    // The factor is truncated towards 0, and the sum wraps around.
    let step = (turn * 255.0) as i32 as u8;
    for pixel in canvas.pixels_mut().as_chunks_mut::<3>().0 {
        let [h, s, v] = to_hsv(*pixel);
        *pixel = from_hsv([h.wrapping_add(step), s, v]);
    }
}

/// `rgb2hsv_row` of `Convert.c`, in f32 and f64 exactly where it uses them.
fn to_hsv(pixel: [u8; 3]) -> [u8; 3] {
    let [r, g, b] = pixel;
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let [red, green, blue] = pixel.map(|byte| f32::from(max - byte) / range);
    let hue = if r == max {
        blue - green
    } else if g == max {
        (2.0 + f64::from(red) - f64::from(blue)) as f32
    } else {
        (4.0 + f64::from(green) - f64::from(red)) as f32
    };
    // The remainder by 1 of a number below 2.
    let turn = f64::from(hue) / 6.0 + 1.0;
    let hue = (if turn >= 1.0 { turn - 1.0 } else { turn }) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// `hsv2rgb` of `Convert.c`.
fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let turn = f64::from(h) * 6.0 / 255.0;
    let sextant = turn as u8;
    let part = (turn - f64::from(sextant)) as f32;
    let saturation = (f64::from(s) / 255.0) as f32;
    let value = f64::from(v);
    // Rounding half up equals rounding half away from 0 for all 2^24 colours.
    let rounded = |share: f64| (value * share + 0.5) as u8;
    let p = rounded(1.0 - f64::from(saturation));
    let q = rounded(1.0 - f64::from(saturation * part));
    let t = rounded(1.0 - f64::from(saturation) * (1.0 - f64::from(part)));
    match sextant % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}
