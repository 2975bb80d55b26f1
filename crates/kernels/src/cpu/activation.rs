//! Activations that a kernel applies to its result before it writes it, and their derivatives.

use crate::simd::Simd;

/// The activation behind a convolution or a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FusedActivation {
    /// None.
    Linear,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x * min(max(x + 3, 0), 6) / 6`.
    HardSwish,
}

// `Simd::max` and `Simd::min` give their second operand where one is NaN: `x` stands second, so
// that NaN stays NaN, as in torch.
impl FusedActivation {
    /// Applies the activation to a vector; of NaN it is NaN.
    ///
    /// # Safety
    /// The contract of [`Simd`].
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(self, x: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Linear => x,
                Self::Relu => S::max(S::zero(), x),
                Self::Relu6 => S::min(S::splat(6.0), S::max(S::zero(), x)),
                Self::HardSwish => {
                    let gate = S::fma(x, S::splat(1.0 / 6.0), S::splat(0.5));
                    S::mul(x, S::min(S::splat(1.0), S::max(S::zero(), gate)))
                }
            }
        }
    }

    /// `dy` times the derivative at `x`. As in torch, the gradient passes ReLU and ReLU6 where `x`
    /// is NaN, and is 0 where the derivative is, whatever `dy`.
    ///
    /// # Safety
    /// The contract of [`Simd`].
    #[inline(always)]
    pub unsafe fn slope<S: Simd>(self, x: S::Vector, dy: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Linear => dy,
                Self::Relu => S::unless_at_most(x, S::zero(), dy),
                Self::Relu6 => {
                    let inside = S::unless_at_most(x, S::zero(), dy);
                    S::unless_at_most(S::splat(6.0), x, inside)
                }
                Self::HardSwish => {
                    let (three, low) = (S::splat(3.0), S::splat(-3.0));
                    let middle = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                    // The derivative is 0 below -3 and 1 above 3.
                    let middle = S::unless_at_most(three, x, middle);
                    let above = S::sub(S::splat(1.0), S::where_greater(three, x, S::splat(1.0)));
                    S::unless_at_most(x, low, S::mul(S::add(middle, above), dy))
                }
            }
        }
    }
}
