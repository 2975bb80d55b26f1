//! [`FusedActivation`] of a vector of values in a kernel.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use crate::cpu::activation::FusedActivation;

/// The activation at `z`; of NaN it is NaN, because NaN is neither below nor above a bound.
#[cube]
pub(crate) fn activate<N: Size>(
    z: Vector<f32, N>,
    #[comptime] activation: FusedActivation,
) -> Vector<f32, N> {
    let zero = Vector::new(0.0f32);
    match comptime!(activation) {
        FusedActivation::Linear => z,
        FusedActivation::Relu => select_many(z.less_than(&zero), zero, z),
        FusedActivation::Relu6 => {
            let six = Vector::new(6.0f32);
            let low = select_many(z.less_than(&zero), zero, z);
            select_many(z.greater_than(&six), six, low)
        }
        FusedActivation::HardSwish => z * hard_sigmoid(z),
    }
}

/// [`activate`] of one value.
#[cube]
pub(crate) fn activate_one(z: f32, #[comptime] activation: FusedActivation) -> f32 {
    match comptime!(activation) {
        FusedActivation::Linear => z,
        FusedActivation::Relu => select(z < 0.0f32, 0.0f32, z),
        FusedActivation::Relu6 => select(z > 6.0f32, 6.0f32, select(z < 0.0f32, 0.0f32, z)),
        FusedActivation::HardSwish => {
            let gate = z * (1.0f32 / 6.0f32) + 0.5f32;
            z * select(gate > 1.0f32, 1.0f32, select(gate < 0.0f32, 0.0f32, gate))
        }
    }
}

/// `min(max(z / 6 + 1 / 2, 0), 1)`; NaN stays NaN.
#[cube]
pub(crate) fn hard_sigmoid<N: Size>(z: Vector<f32, N>) -> Vector<f32, N> {
    let zero = Vector::new(0.0f32);
    let one = Vector::new(1.0f32);
    let gate = z * Vector::new(1.0f32 / 6.0f32) + Vector::new(0.5f32);
    let low = select_many(gate.less_than(&zero), zero, gate);
    select_many(gate.greater_than(&one), one, low)
}

/// `dout` times the derivative at `z`, 0 where the derivative is 0 whatever `dout`; it passes ReLU
/// and ReLU6 where `z` is NaN, as in torch.
#[cube]
pub(crate) fn slope<N: Size>(
    z: Vector<f32, N>,
    dout: Vector<f32, N>,
    #[comptime] activation: FusedActivation,
) -> Vector<f32, N> {
    let zero = Vector::new(0.0f32);
    match comptime!(activation) {
        FusedActivation::Linear => dout,
        FusedActivation::Relu => select_many(z.less_equal(&zero), zero, dout),
        FusedActivation::Relu6 => {
            let inside = select_many(z.less_equal(&zero), zero, dout);
            select_many(z.greater_equal(&Vector::new(6.0f32)), zero, inside)
        }
        FusedActivation::HardSwish => {
            let middle = z * Vector::new(1.0f32 / 3.0f32) + Vector::new(0.5f32);
            let upper = Vector::new(3.0f32);
            let factor = select_many(z.greater_equal(&upper), Vector::new(1.0f32), middle);
            select_many(z.less_equal(&Vector::new(-3.0f32)), zero, factor * dout)
        }
    }
}
