//! Vectors of `f32` behind one trait: a kernel is written once and compiled for every instruction
//! set.
//!
//! A kernel is a [`Kernel`]; [`Isa::run`] compiles its body into a function with the set's
//! instructions enabled. Every function between must be inlined, or it is compiled without them.

#![expect(
    clippy::inline_always,
    reason = "a body must become part of each instruction set's function"
)]
#![allow(clippy::missing_safety_doc, reason = "one contract for all, at the trait")]

use crate::isa::Isa;

/// Repeats the body for every index below the bound, the index a constant. Arrays of vectors then
/// stay in registers; a loop that the compiler does not unroll would put them into memory.
macro_rules! unrolled {
    ($index:ident < $bound:expr => $body:block) => {
        unrolled!(@ $index, $bound, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13);
    };
    (@ $index:ident, $bound:expr, $body:block, $($number:literal)*) => {
        $(
            if $number < $bound {
                let $index = $number;
                $body
            }
        )*
    };
}

pub(crate) use unrolled;

/// Vectors of one instruction set.
///
/// # Safety
/// Every method demands that the machine has the instruction set, and that pointers are valid for
/// the values read or written (`LANES`, or the first `count`). No alignment is required.
pub trait Simd: Copy {
    /// A vector of [`Simd::LANES`] values.
    type Vector: Copy;
    /// Values of a vector.
    const LANES: usize;
    /// Vector registers, shared by accumulators and operands.
    const REGISTERS: usize;

    /// The same value in every lane.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// Reads a vector.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// Writes a vector.
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// Reads `count < LANES` values; the other lanes are zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::Vector;
    /// Writes the first `count < LANES` values.
    unsafe fn store_part(to: *mut f32, count: usize, vector: Self::Vector);
    /// `a + b`.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`.
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`.
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c`, with one rounding where the set has a fused instruction.
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The greater value; `b` where one is NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller value; `b` where one is NaN.
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The greater value; NaN where one is NaN (IEEE 754-2019's maximum but for the sign of zero).
    unsafe fn maximum(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Whether a lane is NaN.
    unsafe fn any_nan(a: Self::Vector) -> bool;
    /// Zero in the lanes where `a <= b`, else `value`: NaN is not less.
    unsafe fn unless_at_most(a: Self::Vector, b: Self::Vector, value: Self::Vector)
    -> Self::Vector;
    /// `yes` in the lanes where `a > b`, else `no`.
    unsafe fn select(
        a: Self::Vector,
        b: Self::Vector,
        yes: Self::Vector,
        no: Self::Vector,
    ) -> Self::Vector;

    /// `value` in the lanes where `a > b`, else zero.
    #[inline(always)]
    unsafe fn where_greater(a: Self::Vector, b: Self::Vector, value: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { Self::select(a, b, value, Self::zero()) }
    }

    /// Zeros.
    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { Self::splat(0.0) }
    }

    /// [`Simd::load`] where `WHOLE`, else [`Simd::load_part`].
    #[inline(always)]
    unsafe fn load_lanes<const WHOLE: bool>(from: *const f32, count: usize) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe { if WHOLE { Self::load(from) } else { Self::load_part(from, count) } }
    }

    /// [`Simd::store`] where `WHOLE`, else [`Simd::store_part`].
    #[inline(always)]
    unsafe fn store_lanes<const WHOLE: bool>(to: *mut f32, count: usize, vector: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe {
            if WHOLE {
                Self::store(to, vector);
            } else {
                Self::store_part(to, count, vector);
            }
        }
    }

    /// [`Simd::load`] or, for fewer than `LANES` values, [`Simd::load_part`].
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> Self::Vector {
        // SAFETY: the trait's contract.
        unsafe {
            if count >= Self::LANES { Self::load(from) } else { Self::load_part(from, count) }
        }
    }

    /// [`Simd::store`] or, for fewer than `LANES` values, [`Simd::store_part`].
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, count: usize, vector: Self::Vector) {
        // SAFETY: the trait's contract.
        unsafe {
            if count >= Self::LANES {
                Self::store(to, vector);
            } else {
                Self::store_part(to, count, vector);
            }
        }
    }
}

/// A function body that is compiled for every instruction set.
pub trait Kernel {
    /// The result.
    type Output;

    /// The body; implementations mark it `#[inline(always)]`.
    ///
    /// # Safety
    /// The machine has the instruction set of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

impl Isa {
    /// Runs a kernel with this set's instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` is only made from the instructions that this machine reports.
            Isa::Avx512 => unsafe { x86::avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::Neon => unsafe { arm::neon(kernel) },
            // SAFETY: the portable set requires no instructions.
            _ => unsafe { kernel.run::<Portable>() },
        }
    }

    /// `f32` values of a vector.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Neon | Isa::Portable => 4,
        }
    }
}

/// Arrays of four values, which the compiler may put into vector registers.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! lanewise {
    ($a:expr, $b:expr, $f:expr) => {{
        let (a, b) = ($a, $b);
        [$f(a[0], b[0]), $f(a[1], b[1]), $f(a[2], b[2]), $f(a[3], b[3])]
    }};
}

impl Simd for Portable {
    type Vector = [f32; 4];
    const LANES: usize = 4;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; 4] {
        [value; 4]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: the trait's contract.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: [f32; 4]) {
        // SAFETY: the trait's contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(vector) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> [f32; 4] {
        // SAFETY: the trait's contract.
        std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, count: usize, vector: [f32; 4]) {
        for (i, value) in vector.into_iter().enumerate().take(count) {
            // SAFETY: the trait's contract.
            unsafe { *to.add(i) = value };
        }
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| a * b)
    }
    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        let product = lanewise!(a, b, |a: f32, b: f32| a * b);
        lanewise!(product, c, |a: f32, b: f32| a + b)
    }
    #[inline(always)]
    unsafe fn max(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn maximum(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        lanewise!(a, b, |a: f32, b: f32| if a > b || a.is_nan() { a } else { b })
    }
    #[inline(always)]
    unsafe fn any_nan(a: [f32; 4]) -> bool {
        a.iter().any(|value| value.is_nan())
    }
    #[inline(always)]
    unsafe fn unless_at_most(a: [f32; 4], b: [f32; 4], value: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] <= b[i] { 0.0 } else { value[i] })
    }
    #[inline(always)]
    unsafe fn select(a: [f32; 4], b: [f32; 4], yes: [f32; 4], no: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| if a[i] > b[i] { yes[i] } else { no[i] })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "two dozen intrinsics")]
    use std::arch::x86_64::*;

    use super::{Kernel, Simd};

    /// # Safety
    /// The machine has AVX-512 F.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub(super) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Avx512>() }
    }

    /// # Safety
    /// The machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Avx2>() }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx512;

    macro_rules! through {
        ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $call:expr;)*) => {
            $(
                #[inline(always)]
                unsafe fn $name($($argument: $kind),*) -> $result {
                    // SAFETY: the trait's contract.
                    unsafe { $call }
                }
            )*
        };
    }

    impl Simd for Avx512 {
        type Vector = __m512;
        const LANES: usize = 16;
        const REGISTERS: usize = 32;

        through! {
            splat(value: f32) -> __m512 = _mm512_set1_ps(value);
            load(from: *const f32) -> __m512 = _mm512_loadu_ps(from);
            store(to: *mut f32, vector: __m512) -> () = _mm512_storeu_ps(to, vector);
            load_part(from: *const f32, count: usize) -> __m512 =
                _mm512_maskz_loadu_ps(((1_u32 << count) - 1) as u16, from);
            store_part(to: *mut f32, count: usize, vector: __m512) -> () =
                _mm512_mask_storeu_ps(to, ((1_u32 << count) - 1) as u16, vector);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            // `max` gives `b` where `b` is NaN; where `a` is, `a` stays.
            maximum(a: __m512, b: __m512) -> __m512 =
                _mm512_mask_max_ps(a, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a, b);
            any_nan(a: __m512) -> bool = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) != 0;
            unless_at_most(a: __m512, b: __m512, value: __m512) -> __m512 =
                _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLE_UQ>(a, b), value);
            select(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 =
                _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes);
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Avx2;

    /// A mask of the first `count` lanes.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn lanes(count: usize) -> __m256i {
        // SAFETY: the caller's.
        unsafe {
            let indices = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), indices)
        }
    }

    impl Simd for Avx2 {
        type Vector = __m256;
        const LANES: usize = 8;
        const REGISTERS: usize = 16;

        through! {
            splat(value: f32) -> __m256 = _mm256_set1_ps(value);
            load(from: *const f32) -> __m256 = _mm256_loadu_ps(from);
            store(to: *mut f32, vector: __m256) -> () = _mm256_storeu_ps(to, vector);
            load_part(from: *const f32, count: usize) -> __m256 =
                _mm256_maskload_ps(from, lanes(count));
            store_part(to: *mut f32, count: usize, vector: __m256) -> () =
                _mm256_maskstore_ps(to, lanes(count), vector);
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            // `max` gives `b` where `b` is NaN; where `a` is, all bits are set: a NaN.
            maximum(a: __m256, b: __m256) -> __m256 =
                _mm256_or_ps(_mm256_max_ps(a, b), _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            any_nan(a: __m256) -> bool =
                _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) != 0;
            unless_at_most(a: __m256, b: __m256, value: __m256) -> __m256 =
                _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLE_UQ>(a, b), value);
            select(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 =
                _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b));
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    #[allow(clippy::wildcard_imports, reason = "a dozen intrinsics")]
    use std::arch::aarch64::*;

    use super::{Kernel, Simd};

    /// # Safety
    /// The machine has NEON.
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn neon<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller's.
        unsafe { kernel.run::<Neon>() }
    }

    #[derive(Clone, Copy)]
    pub(super) struct Neon;

    macro_rules! through {
        ($($name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $call:expr;)*) => {
            $(
                #[inline(always)]
                unsafe fn $name($($argument: $kind),*) -> $result {
                    // SAFETY: the trait's contract.
                    unsafe { $call }
                }
            )*
        };
    }

    impl Simd for Neon {
        type Vector = float32x4_t;
        const LANES: usize = 4;
        const REGISTERS: usize = 32;

        through! {
            splat(value: f32) -> float32x4_t = vdupq_n_f32(value);
            load(from: *const f32) -> float32x4_t = vld1q_f32(from);
            store(to: *mut f32, vector: float32x4_t) -> () = vst1q_f32(to, vector);
            add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
            sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
            mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
            fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
            max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
            min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
            maximum(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmaxq_f32(a, b);
            any_nan(a: float32x4_t) -> bool = vminvq_u32(vceqq_f32(a, a)) == 0;
            unless_at_most(a: float32x4_t, b: float32x4_t, value: float32x4_t) -> float32x4_t =
                vbslq_f32(vcleq_f32(a, b), vdupq_n_f32(0.0), value);
            select(
                a: float32x4_t,
                b: float32x4_t,
                yes: float32x4_t,
                no: float32x4_t
            ) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), yes, no);
        }

        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> float32x4_t {
            let mut part = [0.0; 4];
            // SAFETY: the trait's contract.
            unsafe {
                std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), count);
                vld1q_f32(part.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn store_part(to: *mut f32, count: usize, vector: float32x4_t) {
            let mut part = [0.0; 4];
            // SAFETY: the trait's contract.
            unsafe {
                vst1q_f32(part.as_mut_ptr(), vector);
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, count);
            }
        }
    }
}
