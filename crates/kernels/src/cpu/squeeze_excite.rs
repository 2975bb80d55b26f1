//! Squeeze-and-excite on a map `[b, h w, c]`: spatial mean, two linear layers, hard sigmoid, scale.

use crate::cpu::elementwise::{relu, relu_slope};
use crate::cpu::linear::f32_linear_transposed;
use crate::cpu::matmul::weight_gradient::f32_matmul_dw;
use crate::cpu::matmul::{Epilogue, PackedWeights, f32_matmul};
use crate::cpu::spatial::{f32_spatial_mean_nhwc, f32_spatial_scale_nhwc, f32_spatial_sum_nhwc};
use crate::isa::Isa;

/// The result of [`f32_squeeze_excite_nhwc`] and the values that its gradient needs.
pub struct SqueezeExciteForward {
    /// `[b, h w, c]`.
    pub out: Vec<f32>,
    /// Spatial means, `[b, c]`.
    pub mean: Vec<f32>,
    /// The hidden layer after ReLU, `[b, s]`.
    pub hidden: Vec<f32>,
    /// The gate before the hard sigmoid, `[b, c]`.
    pub gate: Vec<f32>,
}

/// The gradients of the operands of [`f32_squeeze_excite_nhwc`].
pub struct SqueezeExciteGradients {
    /// `[b, h w, c]`.
    pub dx: Vec<f32>,
    /// `[s, c]`.
    pub dw1: Vec<f32>,
    /// `[s]`.
    pub db1: Vec<f32>,
    /// `[c, s]`.
    pub dw2: Vec<f32>,
    /// `[c]`.
    pub db2: Vec<f32>,
}

/// The weights `[s, c]` and `[c, s]` of the two linear layers.
#[derive(Clone, Copy)]
pub struct SqueezeExciteWeights<'a> {
    /// To the hidden layer, `[s, c]`.
    pub w1: &'a [f32],
    /// To the gate, `[c, s]`.
    pub w2: &'a [f32],
}

fn hard_sigmoid(z: f32) -> f32 {
    (z / 6.0 + 0.5).clamp(0.0, 1.0)
}

/// Sums over the rows of `[b, c]`.
fn column_sums(values: &[f32], c: usize) -> Vec<f32> {
    let mut sums = vec![0.0; c];
    for row in values.chunks_exact(c) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sums
}

/// `x * hard_sigmoid(w2 relu(w1 mean(x) + b1) + b2)`.
pub fn f32_squeeze_excite_nhwc(
    isa: Isa,
    x: &[f32],
    weights: SqueezeExciteWeights<'_>,
    [b1, b2]: [&[f32]; 2],
    batch: usize,
) -> SqueezeExciteForward {
    let c = b2.len();
    let pixels = x.len() / (batch * c).max(1);
    let mean = f32_spatial_mean_nhwc(isa, x, batch, c);
    let mut hidden = f32_linear_transposed(isa, &mean, weights.w1, b1);
    hidden.iter_mut().for_each(|value| *value = relu(*value));
    let gate = f32_linear_transposed(isa, &hidden, weights.w2, b2);
    let scale: Vec<f32> = gate.iter().copied().map(hard_sigmoid).collect();
    let out = f32_spatial_scale_nhwc(isa, Some(x), &scale, None, [batch, pixels, c]);
    SqueezeExciteForward { out, mean, hidden, gate }
}

/// The gradients of [`f32_squeeze_excite_nhwc`]; `mean`, `hidden` and `gate` are its results.
pub fn f32_squeeze_excite_nhwc_backward(
    isa: Isa,
    x: &[f32],
    weights: SqueezeExciteWeights<'_>,
    [mean, hidden, gate]: [&[f32]; 3],
    dout: &[f32],
    batch: usize,
) -> SqueezeExciteGradients {
    let c = gate.len() / batch.max(1);
    let squeezed = weights.w1.len() / c;
    let pixels = x.len() / gate.len().max(1);
    let dgate = f32_spatial_sum_nhwc(isa, dout, Some(x), batch, c);
    // As in torch, the gradient is 0 where the gate is NaN.
    let slope = |z: f32, d: f32| if z > -3.0 && z < 3.0 { d * (1.0 / 6.0) } else { 0.0 };
    let dz: Vec<f32> = dgate.iter().zip(gate).map(|(&d, &z)| slope(z, d)).collect();
    let packed = PackedWeights::new(isa, weights.w2, [c, squeezed], [squeezed, 1], None);
    let mut dhidden = f32_matmul(&dz, &packed, Epilogue::NONE);
    for (d, &value) in dhidden.iter_mut().zip(hidden) {
        *d = relu_slope(value, *d);
    }
    let packed = PackedWeights::new(isa, weights.w1, [squeezed, c], [c, 1], None);
    let mut dmean = f32_matmul(&dhidden, &packed, Epilogue::NONE);
    dmean.iter_mut().for_each(|d| *d /= pixels as f32);
    let scale: Vec<f32> = gate.iter().copied().map(hard_sigmoid).collect();
    SqueezeExciteGradients {
        dx: f32_spatial_scale_nhwc(isa, Some(dout), &scale, Some(&dmean), [batch, pixels, c]),
        dw1: f32_matmul_dw(isa, &dhidden, mean, squeezed, c),
        db1: column_sums(&dhidden, squeezed),
        dw2: f32_matmul_dw(isa, &dz, hidden, c, squeezed),
        db2: column_sums(&dz, c),
    }
}
