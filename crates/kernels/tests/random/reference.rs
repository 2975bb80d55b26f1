//! The definition of a standard convolution, as a reference.

use kernels::cpu::geometry::StandardConv;

/// The sum over every tap and channel, in f64, `[b, h', w', filters]`, and both gradients.
pub(crate) fn standard_conv(
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    conv: &StandardConv,
) -> [Vec<f64>; 3] {
    let (g, c, filters) = (&conv.g, conv.g.channels, conv.filters);
    let pixels = g.batch * g.output[0] * g.output[1];
    let (mut y, mut dx, mut dw) =
        (vec![0.0_f64; pixels * filters], vec![0.0_f64; x.len()], vec![0.0_f64; w.len()]);
    for pixel in 0..pixels {
        let (rest, ox) = (pixel / g.output[1], pixel % g.output[1]);
        let (image, oy) = (rest / g.output[0], rest % g.output[0]);
        for (ky, kx) in (0..g.kernel[0]).flat_map(|y| (0..g.kernel[1]).map(move |x| (y, x))) {
            let row = (oy * g.stride + ky * g.dilation).wrapping_sub(g.before[0]);
            let column = (ox * g.stride + kx * g.dilation).wrapping_sub(g.before[1]);
            if row >= g.input[0] || column >= g.input[1] {
                continue;
            }
            for (filter, channel) in (0..filters).flat_map(|f| (0..c).map(move |c| (f, c))) {
                let i = ((image * g.input[0] + row) * g.input[1] + column) * c + channel;
                let t = (filter * g.taps() + ky * g.kernel[1] + kx) * c + channel;
                let o = pixel * filters + filter;
                y[o] += f64::from(x[i]) * f64::from(w[t]);
                dx[i] += f64::from(dy[o]) * f64::from(w[t]);
                dw[t] += f64::from(dy[o]) * f64::from(x[i]);
            }
        }
    }
    [y, dx, dw]
}

/// The values rounded to f32.
pub(crate) fn single(values: &[Vec<f64>; 3]) -> [Vec<f32>; 3] {
    values.each_ref().map(|values| values.iter().map(|v| *v as f32).collect())
}
