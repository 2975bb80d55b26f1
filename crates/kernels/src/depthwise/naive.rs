//! The depthwise convolution as its definition says, in f64: the truth that the fast kernels are tested
//! against.

use super::Geometry;

/// Calls `each(output, input, tap)` with the flat indices of every product of the convolution.
fn products(g: &Geometry, mut each: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = g.output;
    for plane in 0..g.batch * g.channels {
        for oy in 0..oh {
            for ox in 0..ow {
                for ky in 0..g.kernel[0] {
                    for kx in 0..g.kernel[1] {
                        // Places in the padded map.
                        let y = oy * g.stride + ky * g.dilation;
                        let x = ox * g.stride + kx * g.dilation;
                        let (Some(y), Some(x)) =
                            (y.checked_sub(g.before[0]), x.checked_sub(g.before[1]))
                        else {
                            continue;
                        };
                        if y < g.input[0] && x < g.input[1] {
                            let output = (plane * oh + oy) * ow + ox;
                            let input = (plane * g.input[0] + y) * g.input[1] + x;
                            let tap = plane % g.channels * g.taps() + ky * g.kernel[1] + kx;
                            each(output, input, tap);
                        }
                    }
                }
            }
        }
    }
}

/// `[b, c, h, w]` and `[c, 1, kh, kw]` to `[b, c, h', w']`.
pub fn forward(x: &[f32], w: &[f32], g: &Geometry) -> Vec<f32> {
    let mut y = vec![0.0_f64; g.outputs()];
    products(g, |o, i, t| y[o] += f64::from(x[i]) * f64::from(w[t]));
    y.into_iter().map(|v| v as f32).collect()
}

/// The gradients of input and weights.
pub fn backward(x: &[f32], w: &[f32], dy: &[f32], g: &Geometry) -> (Vec<f32>, Vec<f32>) {
    let (mut dx, mut dw) = (vec![0.0_f64; x.len()], vec![0.0_f64; w.len()]);
    products(g, |o, i, t| {
        dx[i] += f64::from(dy[o]) * f64::from(w[t]);
        dw[t] += f64::from(dy[o]) * f64::from(x[i]);
    });
    let single = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
    (single(dx), single(dw))
}
