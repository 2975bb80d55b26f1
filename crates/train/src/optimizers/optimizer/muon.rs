//! Muon (Jordan 2024): the momentum of a matrix, made orthogonal by the Newton-Schulz iteration.
//!
//! The step is scaled to the length of AdamW's (arXiv:2502.16982), so that one learning rate serves
//! both.

use burn::tensor::Tensor;

use crate::optimizers::buffer::{Buffer, read};
use crate::optimizers::gradients::Gradient;
use crate::optimizers::optimizer::update::Update;

/// Jordan's coefficients of the quintic iteration.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Newton-Schulz iterations.
const ITERATIONS: usize = 5;
/// Lower bound of the norm that a matrix is divided by.
const MIN_NORM: f32 = 1e-7;

/// Rows and columns of a weight as a matrix; the filters of a convolution are flattened.
fn matrix(shape: &[usize]) -> [usize; 2] {
    [shape[0], shape[1..].iter().product()]
}

/// Whether Muon updates a weight of this shape. timm's rule: not a vector, not a depthwise filter,
/// no side below 4, no ratio of the sides above 128.
pub(super) fn suits(shape: &[usize]) -> bool {
    if shape.len() < 2 || shape[0] == 1 || shape[1] == 1 {
        return false;
    }
    let [rows, columns] = matrix(shape);
    let (short, long) = (rows.min(columns), rows.max(columns));
    short >= 4 && long <= 128 * short
}

/// Updates one matrix by its orthogonalised Nesterov momentum, with decoupled decay.
pub(super) fn update(u: &Update, values: &mut Buffer, gradient: Gradient, state: &mut Vec<Buffer>) {
    let [rows, columns] = matrix(&gradient.shape);
    let mut momentum = match state.pop() {
        Some(old) => old,
        None => values.filled(0.0),
    };
    momentum.lerp(&gradient.values, 1.0 - u.momentum);
    let mut direction = gradient.values;
    direction.lerp(&momentum, u.momentum);
    state.push(momentum);
    let device = match values {
        Buffer::Device(tensor) => tensor.device(),
        // flex computes a small matrix product as fast as ndarray.
        Buffer::Host(_) => burn::tensor::Device::flex(),
    };
    let direction: Tensor<2> = direction.into_tensor([rows, columns], &device);
    let long = rows.max(columns) as f64;
    let step = orthogonal(direction).reshape([-1]).mul_scalar(-u.lr * 0.2 * long.sqrt());
    values.scale(1.0 - u.lr * u.decay);
    match values {
        Buffer::Host(values) => {
            values.iter_mut().zip(read(step)).for_each(|(value, step)| *value += step);
        }
        Buffer::Device(values) => *values = values.clone() + step,
    }
}

/// A matrix near the closest orthogonal one to `x`: its singular values lie between about 0.7 and
/// 1.2.
fn orthogonal(x: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = x.dims();
    let tall = rows > columns;
    let mut x = if tall { x.transpose() } else { x };
    let norm = x.clone().square().sum().sqrt().clamp_min(MIN_NORM);
    x = x / norm.reshape([1, 1]);
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let square = x.clone().matmul(x.clone().transpose());
        let poly = square.clone().mul_scalar(b) + square.clone().matmul(square).mul_scalar(c);
        x = x.clone().mul_scalar(a) + poly.matmul(x);
    }
    if tall { x.transpose() } else { x }
}
