//! The depthwise convolution tap by tap: slow, and plainly the definition. Tests compare
//! [`crate::cpu::depthwise::channels_last`] with it.

use crate::cpu::geometry::Geometry;

/// Calls `visit` with the offsets of output, input and weight of every product.
fn for_each_product(g: &Geometry, mut visit: impl FnMut(usize, usize, usize)) {
    let c = g.channels;
    for (image, channel) in (0..g.batch).flat_map(|b| (0..c).map(move |c| (b, c))) {
        for (oy, ox) in (0..g.output[0]).flat_map(|y| (0..g.output[1]).map(move |x| (y, x))) {
            for (ky, kx) in (0..g.kernel[0]).flat_map(|y| (0..g.kernel[1]).map(move |x| (y, x))) {
                let y = (oy * g.stride + ky * g.dilation) as isize - g.before[0] as isize;
                let x = (ox * g.stride + kx * g.dilation) as isize - g.before[1] as isize;
                if y < 0 || x < 0 || y >= g.input[0] as isize || x >= g.input[1] as isize {
                    continue;
                }
                let output = ((image * g.output[0] + oy) * g.output[1] + ox) * c + channel;
                let row = image * g.input[0] + y as usize;
                let input = (row * g.input[1] + x as usize) * c + channel;
                visit(output, input, (ky * g.kernel[1] + kx) * c + channel);
            }
        }
    }
}

/// `[b, h, w, c]` and `[kh, kw, c]` to `[b, h', w', c]`.
pub fn f32_depthwise_reference_nhwc(x: &[f32], w: &[f32], g: &Geometry) -> Vec<f32> {
    let mut y = vec![0.0; g.outputs()];
    for_each_product(g, |output, input, weight| y[output] += x[input] * w[weight]);
    y
}

/// The gradient of the input, `[b, h, w, c]`.
pub fn f32_depthwise_reference_nhwc_dx(w: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let mut dx = vec![0.0; g.batch * g.channels * g.input[0] * g.input[1]];
    for_each_product(g, |output, input, weight| dx[input] += dy[output] * w[weight]);
    dx
}

/// The gradient of the weights, `[kh, kw, c]`.
pub fn f32_depthwise_reference_nhwc_dw(x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let mut dw = vec![0.0; g.channels * g.taps()];
    for_each_product(g, |output, input, weight| dw[weight] += dy[output] * x[input]);
    dw
}
