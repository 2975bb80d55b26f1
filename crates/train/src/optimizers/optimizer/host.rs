//! The optimizers on slices, in one pass over values, gradient and state, for the CPU backends.
//!
//! Each value goes through the arithmetic of `tensor` in the order of `tensor`, so both give the
//! same bits. LAMB's norms are the exception: they are summed in another order.

use rayon::prelude::*;

use crate::optimizers::buffer::{Buffer, PART, pairs, squares};
use crate::optimizers::optimizer::update::Update;
use crate::optimizers::optimizer_kind::OptimizerKind;

fn slice(values: &mut Buffer) -> &mut [f32] {
    match values {
        Buffer::Host(own) => own,
        Buffer::Device(_) => panic!("a state on the device for values in memory"),
    }
}

/// Replaces every value by `each(value, gradient, state)`.
fn with_one_state(
    values: &mut [f32],
    grad: &[f32],
    a: &mut [f32],
    each: impl Fn(f32, f32, &mut f32) -> f32 + Sync,
) {
    let part = |values: &mut [f32], grad: &[f32], a: &mut [f32]| {
        for ((value, grad), a) in values.iter_mut().zip(grad).zip(a) {
            *value = each(*value, *grad, a);
        }
    };
    if values.len() <= PART {
        return part(values, grad, a);
    }
    let all = values.par_chunks_mut(PART).zip(grad.par_chunks(PART)).zip(a.par_chunks_mut(PART));
    all.for_each(|((values, grad), a)| part(values, grad, a));
}

/// Replaces every value by `each(value, gradient, first state, second state)`.
fn with_two_states(
    values: &mut [f32],
    grad: &[f32],
    [a, b]: [&mut [f32]; 2],
    each: impl Fn(f32, f32, &mut f32, &mut f32) -> f32 + Sync,
) {
    let part = |values: &mut [f32], grad: &[f32], a: &mut [f32], b: &mut [f32]| {
        for (((value, grad), a), b) in values.iter_mut().zip(grad).zip(a).zip(b) {
            *value = each(*value, *grad, a, b);
        }
    };
    if values.len() <= PART {
        return part(values, grad, a, b);
    }
    let states = a.par_chunks_mut(PART).zip(b.par_chunks_mut(PART));
    let all = values.par_chunks_mut(PART).zip(grad.par_chunks(PART)).zip(states);
    all.for_each(|((values, grad), (a, b))| part(values, grad, a, b));
}

/// Updates one parameter and its state in place.
pub(super) fn update(u: &Update, values: &mut [f32], grad: &[f32], state: &mut [Buffer]) {
    assert_eq!(values.len(), grad.len(), "{} values, {} gradients", values.len(), grad.len());
    let [lr, decay, momentum, epsilon] = [u.lr, u.decay, u.momentum, u.epsilon].map(|v| v as f32);
    let (alpha, new_alpha) = (u.alpha as f32, (1.0 - u.alpha) as f32);
    let [beta1, beta2] = u.betas.map(|v| v as f32);
    let [new1, new2] = u.betas.map(|v| (1.0 - v) as f32);
    let correct2 = u.corrections[1].sqrt() as f32;
    let keep = (1.0 - u.lr * u.decay) as f32;
    let l2 = |value: f32, grad: f32| if decay == 0.0 { grad } else { grad + value * decay };
    let mut states = state.iter_mut().map(slice);
    match (u.kind, states.next(), states.next()) {
        (OptimizerKind::Sgd | OptimizerKind::Momentum, None, _) => {
            pairs(values, grad, |values, grad| {
                for (value, grad) in values.iter_mut().zip(grad) {
                    *value -= l2(*value, *grad) * lr;
                }
            });
        }
        (OptimizerKind::Sgd, Some(buffer), _) => {
            with_one_state(values, grad, buffer, |value, grad, buffer| {
                let grad = l2(value, grad);
                *buffer = *buffer * momentum + grad;
                value - (grad + *buffer * momentum) * lr
            });
        }
        (OptimizerKind::Momentum, Some(buffer), _) => {
            with_one_state(values, grad, buffer, |value, grad, buffer| {
                *buffer = *buffer * momentum + l2(value, grad);
                value - *buffer * lr
            });
        }
        (OptimizerKind::Rmsprop, Some(square), None) => {
            with_one_state(values, grad, square, |value, grad, square| {
                let grad = l2(value, grad);
                *square = *square * alpha + grad * grad * new_alpha;
                value - grad / (square.sqrt() + epsilon) * lr
            });
        }
        (OptimizerKind::Rmsprop, Some(square), Some(buffer)) => {
            with_two_states(values, grad, [square, buffer], |value, grad, square, buffer| {
                let grad = l2(value, grad);
                *square = *square * alpha + grad * grad * new_alpha;
                *buffer = *buffer * momentum + grad / (square.sqrt() + epsilon);
                value - *buffer * lr
            });
        }
        (OptimizerKind::RmspropTf, Some(square), None) => {
            with_one_state(values, grad, square, |value, grad, square| {
                let grad = l2(value, grad);
                *square = *square * alpha + grad * grad * new_alpha;
                value - grad / (*square + epsilon).sqrt() * lr
            });
        }
        (OptimizerKind::RmspropTf, Some(square), Some(buffer)) => {
            with_two_states(values, grad, [square, buffer], |value, grad, square, buffer| {
                let grad = l2(value, grad);
                *square = *square * alpha + grad * grad * new_alpha;
                *buffer = *buffer * momentum + grad / (*square + epsilon).sqrt() * lr;
                value - *buffer
            });
        }
        (
            OptimizerKind::Adam | OptimizerKind::Adamw | OptimizerKind::Muon,
            Some(first),
            Some(second),
        ) => {
            let rate = (u.lr / u.corrections[0]) as f32;
            let coupled = u.kind == OptimizerKind::Adam;
            let keep = if coupled { 1.0 } else { keep };
            with_two_states(values, grad, [first, second], |value, grad, first, second| {
                let grad = if coupled { l2(value, grad) } else { grad };
                *first = *first * beta1 + grad * new1;
                *second = *second * beta2 + grad * grad * new2;
                value * keep - *first / (second.sqrt() / correct2 + epsilon) * rate
            });
        }
        (OptimizerKind::Lamb, Some(first), Some(second)) => {
            lamb(u, values, grad, [first, second]);
        }
        (OptimizerKind::Lion, Some(momentum), _) => {
            with_one_state(values, grad, momentum, |value, grad, momentum| {
                let blend = *momentum * beta1 + grad * new1;
                *momentum = *momentum * beta2 + grad * new2;
                // `signum` of 0 is 1, but a blend of 0 must not move the value.
                let sign = if blend == 0.0 { 0.0 } else { blend.signum() };
                value * keep - sign * lr
            });
        }
        (kind, ..) => panic!("{kind:?} with {} buffers of state", state.len()),
    }
}

/// LAMB's update of one parameter. The step is scaled by its own norm, so it is stored for a second
/// pass.
fn lamb(u: &Update, values: &mut [f32], grad: &[f32], moments: [&mut [f32]; 2]) {
    let [lr, decay, epsilon] = [u.lr, u.decay, u.epsilon].map(|v| v as f32);
    let [beta1, beta2] = u.betas.map(|v| v as f32);
    let [new1, new2] = u.betas.map(|v| (1.0 - v) as f32);
    let [correct1, correct2] = [u.corrections[0] as f32, u.corrections[1].sqrt() as f32];
    let mut step = values.to_vec();
    with_two_states(&mut step, grad, moments, |value, grad, first, second| {
        *first = *first * beta1 + grad * new1;
        *second = *second * beta2 + grad * grad * new2;
        let step = *first / correct1 / (second.sqrt() / correct2 + epsilon);
        if decay == 0.0 { step } else { step + value * decay }
    });
    let (own, other) = (squares(values).sqrt() as f32, squares(&step).sqrt() as f32);
    let adapts = decay != 0.0 && own * other != 0.0;
    let rate = if adapts { own / other * lr } else { lr };
    pairs(values, &step, |values, step| {
        for (value, step) in values.iter_mut().zip(step) {
            *value -= step * rate;
        }
    });
}
