//! The optimizers composed of tensor operations: for any device, and the reference for `host`.

use burn::tensor::Tensor;

use crate::optimizers::buffer::Buffer;
use crate::optimizers::optimizer::update::Update;
use crate::optimizers::optimizer_kind::OptimizerKind;

fn state_tensor(state: &[Buffer], number: usize) -> Tensor<1> {
    match &state[number] {
        Buffer::Device(tensor) => tensor.clone(),
        Buffer::Host(_) => panic!("a state in memory for values on the device"),
    }
}

/// `old * rate + new * (1 - rate)`.
fn blend(old: Tensor<1>, new: Tensor<1>, rate: f64) -> Tensor<1> {
    old.mul_scalar(rate) + new.mul_scalar(1.0 - rate)
}

/// The new values of one parameter; `state` is replaced in place.
pub(super) fn update(
    u: &Update,
    values: Tensor<1>,
    grad: Tensor<1>,
    state: &mut [Buffer],
) -> Tensor<1> {
    let l2 = |grad: Tensor<1>| match u.decay {
        0.0 => grad,
        decay => grad + values.clone().mul_scalar(decay),
    };
    let [beta1, beta2] = u.betas;
    let [correct1, correct2] = u.corrections;
    match u.kind {
        OptimizerKind::Sgd | OptimizerKind::Momentum => {
            let grad = l2(grad);
            if u.momentum == 0.0 {
                return values - grad.mul_scalar(u.lr);
            }
            let buffer = state_tensor(state, 0).mul_scalar(u.momentum) + grad.clone();
            state[0] = Buffer::Device(buffer.clone());
            let direction = match u.kind {
                OptimizerKind::Sgd => grad + buffer.mul_scalar(u.momentum),
                _ => buffer,
            };
            values - direction.mul_scalar(u.lr)
        }
        OptimizerKind::Rmsprop => {
            let grad = l2(grad);
            let square = blend(state_tensor(state, 0), grad.clone().square(), u.alpha);
            state[0] = Buffer::Device(square.clone());
            let scaled = grad / square.sqrt().add_scalar(u.epsilon);
            if u.momentum == 0.0 {
                return values - scaled.mul_scalar(u.lr);
            }
            let buffer = state_tensor(state, 1).mul_scalar(u.momentum) + scaled;
            state[1] = Buffer::Device(buffer.clone());
            values - buffer.mul_scalar(u.lr)
        }
        OptimizerKind::RmspropTf => {
            let grad = l2(grad);
            let square = blend(state_tensor(state, 0), grad.clone().square(), u.alpha);
            state[0] = Buffer::Device(square.clone());
            let scaled = (grad / square.add_scalar(u.epsilon).sqrt()).mul_scalar(u.lr);
            if u.momentum == 0.0 {
                return values - scaled;
            }
            let buffer = state_tensor(state, 1).mul_scalar(u.momentum) + scaled;
            state[1] = Buffer::Device(buffer.clone());
            values - buffer
        }
        OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Muon | OptimizerKind::Lamb => {
            let grad = if u.kind == OptimizerKind::Adam { l2(grad) } else { grad };
            let first = blend(state_tensor(state, 0), grad.clone(), beta1);
            let second = blend(state_tensor(state, 1), grad.square(), beta2);
            state[0] = Buffer::Device(first.clone());
            state[1] = Buffer::Device(second.clone());
            let root = second.sqrt().div_scalar(correct2.sqrt()).add_scalar(u.epsilon);
            if u.kind == OptimizerKind::Lamb {
                let step = first.div_scalar(correct1) / root;
                if u.decay == 0.0 {
                    return values - step.mul_scalar(u.lr);
                }
                let step = step + values.clone().mul_scalar(u.decay);
                let norm = |tensor: Tensor<1>| tensor.square().sum().sqrt();
                let (own, other) = (norm(values.clone()), norm(step.clone()));
                let none = own.clone().mul(other.clone()).equal_elem(0.0);
                let trust = (own.clone() / other).mask_where(none, own.ones_like());
                return values - step * trust.mul_scalar(u.lr);
            }
            let values = match u.kind {
                OptimizerKind::Adam => values,
                _ => values.mul_scalar(1.0 - u.lr * u.decay),
            };
            values - (first / root).mul_scalar(u.lr / correct1)
        }
        OptimizerKind::Lion => {
            let old = state_tensor(state, 0);
            let direction = blend(old.clone(), grad.clone(), beta1).sign();
            state[0] = Buffer::Device(blend(old, grad, beta2));
            values.mul_scalar(1.0 - u.lr * u.decay) - direction.mul_scalar(u.lr)
        }
    }
}
