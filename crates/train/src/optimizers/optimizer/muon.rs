//! Muon (Jordan 2024): a matrix's momentum made orthogonal by Newton and Schulz's iteration, the step as long as
//! AdamW's would be (arXiv:2502.16982), so that one learning rate serves both.

use burn::tensor::Tensor;

use crate::optimizers::buffer::{Buffer, read};
use crate::optimizers::gradients::Gradient;
use crate::optimizers::optimizer::Update;

/// Jordan's coefficients of the quintic iteration.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Iterations.
const ROUNDS: usize = 5;
/// Norms count as at least this much.
const LEAST: f32 = 1e-7;

/// Rows and columns of a weight as a matrix: a convolution's filters flattened.
fn matrix(shape: &[usize]) -> [usize; 2] {
    [shape[0], shape[1..].iter().product()]
}

/// Whether a weight is a matrix worth it, by timm's rule: no vector, no depthwise filter, no side below 4, no ratio
/// of the sides above 128.
pub(super) fn suits(shape: &[usize]) -> bool {
    if shape.len() < 2 || shape[0] == 1 || shape[1] == 1 {
        return false;
    }
    let [rows, columns] = matrix(shape);
    let (less, more) = (rows.min(columns), rows.max(columns));
    less >= 4 && more <= 128 * less
}

/// One matrix's update: Nesterov momentum, orthogonalised; decoupled decay.
pub(super) fn update(u: &Update, values: &mut Buffer, gradient: Gradient, slot: &mut Vec<Buffer>) {
    let [rows, columns] = matrix(&gradient.shape);
    let mut momentum = match slot.pop() {
        Some(old) => old,
        None => values.filled(0.0),
    };
    momentum.blend(&gradient.values, 1.0 - u.momentum);
    let mut direction = gradient.values;
    direction.blend(&momentum, u.momentum);
    slot.push(momentum);
    let device = match values {
        Buffer::Device(tensor) => tensor.device(),
        // A small matrix product is as good on flex as on ndarray.
        Buffer::Host(_) => burn::tensor::Device::flex(),
    };
    let turned: Tensor<2> = direction.into_tensor([rows, columns], &device);
    let longest = rows.max(columns) as f64;
    let step = orthogonal(turned).reshape([-1]).mul_scalar(-u.lr * 0.2 * longest.sqrt());
    values.scale(1.0 - u.lr * u.decay);
    match values {
        Buffer::Host(values) => {
            values.iter_mut().zip(read(step)).for_each(|(value, step)| *value += step);
        }
        Buffer::Device(values) => *values = values.clone() + step,
    }
}

/// Nearly the closest orthogonal matrix: singular values between about 0.7 and 1.2.
fn orthogonal(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let tall = rows > columns;
    let mut x = if tall { x.transpose() } else { x };
    let norm = x.clone().square().sum().sqrt().clamp_min(LEAST);
    x = x / norm.reshape([1, 1]);
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ROUNDS {
        let square = x.clone().matmul(x.clone().transpose());
        let poly = square.clone().mul_scalar(b) + square.clone().matmul(square).mul_scalar(c);
        x = x.clone().mul_scalar(a) + poly.matmul(x);
    }
    if tall { x.transpose() } else { x }
}
