//! Activations that a kernel applies to its result before it writes it, and their derivatives.

use crate::simd::Simd;

/// The activation behind a convolution or a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl FusedActivation {
    /// Applies the activation to a vector.
    ///
    /// # Safety
    /// The contract of [`Simd`].
    #[inline(always)]
    pub unsafe fn apply<S: Simd>(self, x: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Linear => x,
                Self::Relu => S::max(x, S::zero()),
                Self::Relu6 => S::min(S::max(x, S::zero()), S::splat(6.0)),
                Self::HardSwish => {
                    let gate = S::fma(x, S::splat(1.0 / 6.0), S::splat(0.5));
                    S::mul(x, S::min(S::max(gate, S::zero()), S::splat(1.0)))
                }
            }
        }
    }

    /// `dy` times the derivative at `x`.
    ///
    /// # Safety
    /// The contract of [`Simd`].
    #[inline(always)]
    pub unsafe fn slope<S: Simd>(self, x: S::Vector, dy: S::Vector) -> S::Vector {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Linear => dy,
                Self::Relu => S::where_greater(x, S::zero(), dy),
                Self::Relu6 => {
                    let inside = S::where_greater(x, S::zero(), dy);
                    S::where_greater(S::splat(6.0), x, inside)
                }
                Self::HardSwish => {
                    let (three, low) = (S::splat(3.0), S::splat(-3.0));
                    let middle = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
                    // The derivative is 0 below -3 and 1 above 3.
                    let middle = S::where_greater(three, x, middle);
                    let above = S::sub(S::splat(1.0), S::where_greater(three, x, S::splat(1.0)));
                    S::mul(S::where_greater(x, low, S::add(middle, above)), dy)
                }
            }
        }
    }
}
