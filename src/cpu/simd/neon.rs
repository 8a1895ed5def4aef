//! NEON: vectors of four floats, and 32 registers for them.
#![allow(unsafe_code)]

use super::Isa;
use std::arch::aarch64::*;

/// NEON.
#[derive(Debug)]
pub enum Neon {}

/// `f` of each vector of four.
macro_rules! each {
    ($f:expr) => {
        std::array::from_fn(
            #[inline(always)]
            // SAFETY: the trait's own conditions.
            |i| unsafe { $f(i) },
        )
    };
}

// SAFETY: of the following bodies: every 64-bit Arm processor has NEON, and they touch no memory.

/// `vmaxq_f32` is NaN where either is; this is `b` there, as the other instruction sets' maximum is.
#[inline(always)]
unsafe fn max4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// As [`max4`].
#[inline(always)]
unsafe fn min4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

/// Four `bfloat16` of four floats, rounded to nearest, ties to even; no NaN.
#[inline(always)]
unsafe fn narrow4(v: float32x4_t) -> uint16x4_t {
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        vshrn_n_u32::<16>(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))))
    }
}

/// Eight 16-bit numbers, as floats.
#[inline(always)]
unsafe fn floats8(words: uint16x8_t) -> [float32x4_t; 2] {
    unsafe { [vcvtq_f32_u32(vmovl_u16(vget_low_u16(words))), vcvtq_f32_u32(vmovl_high_u16(words))] }
}

// `inline(always)`: as in the other instruction sets.
// SAFETY: of all bodies, the trait's own conditions.
impl Isa for Neon {
    type V = [float32x4_t; 4];
    type H = [float32x4_t; 2];
    type M = [uint32x4_t; 4];
    /// 24 sums, six vectors of weights and a value are in 31 registers.
    const PIXELS: usize = 4;
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        each!(|i| vld1q_f32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store(v: Self::V, p: *mut f32) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1q_f32(p.add(4 * i), v) }
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { [vdupq_n_f32(x); 4] }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        each!(|i: usize| max4(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        each!(|i: usize| min4(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        each!(|i: usize| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        each!(|i: usize| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each!(|i: usize| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        each!(|i| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(4 * i)))))
    }
    #[inline(always)]
    unsafe fn store_bf16(v: Self::V, p: *mut u16) {
        for (i, v) in v.into_iter().enumerate() {
            unsafe { vst1_u16(p.add(4 * i), narrow4(v)) }
        }
    }
    #[inline(always)]
    unsafe fn gt(a: Self::V, b: Self::V) -> Self::M {
        each!(|i: usize| vcgtq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn eq(a: Self::V, b: Self::V) -> Self::M {
        each!(|i: usize| vceqq_f32(a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        each!(|i: usize| vbslq_f32(m[i], a[i], b[i]))
    }
    #[inline(always)]
    unsafe fn load_u8(p: *const u8) -> Self::V {
        unsafe {
            let bytes = vld1q_u8(p);
            let ([a, b], [c, d]) = (floats8(vmovl_u8(vget_low_u8(bytes))), floats8(vmovl_high_u8(bytes)));
            [a, b, c, d]
        }
    }
    #[inline(always)]
    unsafe fn store_u8(v: Self::V, p: *mut u8) {
        unsafe {
            let [a, b, c, d] = v.map(|v| vqmovn_u32(vcvtnq_u32_f32(v)));
            let (low, high) = (vcombine_u16(a, b), vcombine_u16(c, d));
            vst1q_u8(p, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
        }
    }
    #[inline(always)]
    unsafe fn load8(p: *const f32) -> Self::H {
        unsafe { [vld1q_f32(p), vld1q_f32(p.add(4))] }
    }
    #[inline(always)]
    unsafe fn store8(v: Self::H, p: *mut f32) {
        unsafe {
            vst1q_f32(p, v[0]);
            vst1q_f32(p.add(4), v[1]);
        }
    }
    #[inline(always)]
    unsafe fn splat8(p: *const f32) -> Self::H {
        unsafe { [vld1q_dup_f32(p); 2] }
    }
    #[inline(always)]
    unsafe fn fma8(a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }
    #[inline(always)]
    unsafe fn max8(a: Self::H, b: Self::H) -> Self::H {
        unsafe { [max4(a[0], b[0]), max4(a[1], b[1])] }
    }
}
