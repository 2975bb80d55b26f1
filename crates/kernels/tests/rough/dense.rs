//! The twin of a standard convolution: its definition.

use kernels::cpu::convolution::StandardConv;

/// The sum over every filter, tap and channel, in f64, `[b, h', w', filters]`, and both gradients.
pub(crate) fn dense(x: &[f32], w: &[f32], dy: &[f32], d: &StandardConv) -> [Vec<f64>; 3] {
    let (g, c, filters) = (&d.g, d.g.channels, d.filters);
    let places = g.batch * g.output[0] * g.output[1];
    let (mut y, mut dx, mut dw) =
        (vec![0.0_f64; places * filters], vec![0.0_f64; x.len()], vec![0.0_f64; w.len()]);
    for place in 0..places {
        let (rest, ox) = (place / g.output[1], place % g.output[1]);
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
                let o = place * filters + filter;
                y[o] += f64::from(x[i]) * f64::from(w[t]);
                dx[i] += f64::from(dy[o]) * f64::from(w[t]);
                dw[t] += f64::from(dy[o]) * f64::from(x[i]);
            }
        }
    }
    [y, dx, dw]
}

/// The same in f32.
pub(crate) fn single(values: &[Vec<f64>; 3]) -> [Vec<f32>; 3] {
    values.each_ref().map(|values| values.iter().map(|v| *v as f32).collect())
}
