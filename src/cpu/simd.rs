//! The few vector operations that the kernels are written in, for each instruction set that they are compiled for.
//!
//! What the compiler makes of plain loops over such kernels is ten times slower (measured), so the operations are named.
#![allow(unsafe_code)]

/// Channels that a kernel works on at once.
pub const LANES: usize = 16;

/// Values of [`LANES`] channels of one pixel.
pub type Block = [f32; LANES];

/// An instruction set's operations on [`LANES`] floats (`V`) and on 8 (`H`).
///
/// # Safety
/// All functions: the processor has the instruction set, and pointers are valid for the 16 or 8 floats that are read or
/// written (for one float in [`Isa::splat8`]); no alignment is needed.
pub trait Isa {
    /// 16 floats.
    type V: Copy;
    /// 8 floats.
    type H: Copy;
    /// 16 times yes or no.
    type M: Copy;
    /// Pixels whose 24 class scores are kept in registers at once.
    const PIXELS: usize;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(v: Self::V, p: *mut f32);
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// 16 `bfloat16`, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// To `bfloat16`, rounded to nearest, ties to even; no NaN.
    unsafe fn store_bf16(v: Self::V, p: *mut u16);
    /// Whether `a > b`, of each of 16.
    unsafe fn gt(a: Self::V, b: Self::V) -> Self::M;
    /// Whether `a == b`, of each of 16.
    unsafe fn eq(a: Self::V, b: Self::V) -> Self::M;
    /// `a` where `m`, else `b`.
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// 16 bytes, as numbers.
    unsafe fn load_u8(p: *const u8) -> Self::V;
    /// Whole numbers of 0 to 255, as bytes.
    unsafe fn store_u8(v: Self::V, p: *mut u8);
    unsafe fn load8(p: *const f32) -> Self::H;
    unsafe fn store8(v: Self::H, p: *mut f32);
    unsafe fn splat8(p: *const f32) -> Self::H;
    /// `a * b + c`.
    unsafe fn fma8(a: Self::H, b: Self::H, c: Self::H) -> Self::H;
    unsafe fn max8(a: Self::H, b: Self::H) -> Self::H;
}

/// Any processor.
#[derive(Debug)]
pub enum Portable {}

fn zip<const N: usize>(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY of the bodies: the trait's own conditions.
impl Isa for Portable {
    type V = [f32; 16];
    type H = [f32; 8];
    type M = [bool; 16];
    const PIXELS: usize = 4;
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    unsafe fn store(v: Self::V, p: *mut f32) {
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    unsafe fn splat(x: f32) -> Self::V {
        [x; 16]
    }
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        bits.map(|b| f32::from_bits(u32::from(b) << 16))
    }
    unsafe fn store_bf16(v: Self::V, p: *mut u16) {
        let rounded = v.map(|x| {
            let bits = x.to_bits();
            (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
        });
        unsafe { p.cast::<[u16; 16]>().write_unaligned(rounded) }
    }
    unsafe fn gt(a: Self::V, b: Self::V) -> Self::M {
        std::array::from_fn(|i| a[i] > b[i])
    }
    unsafe fn eq(a: Self::V, b: Self::V) -> Self::M {
        std::array::from_fn(|i| a[i] == b[i])
    }
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    unsafe fn load_u8(p: *const u8) -> Self::V {
        unsafe { p.cast::<[u8; 16]>().read_unaligned() }.map(f32::from)
    }
    unsafe fn store_u8(v: Self::V, p: *mut u8) {
        unsafe { p.cast::<[u8; 16]>().write_unaligned(v.map(|x| x as u8)) }
    }
    unsafe fn load8(p: *const f32) -> Self::H {
        unsafe { p.cast::<Self::H>().read_unaligned() }
    }
    unsafe fn store8(v: Self::H, p: *mut f32) {
        unsafe { p.cast::<Self::H>().write_unaligned(v) }
    }
    unsafe fn splat8(p: *const f32) -> Self::H {
        unsafe { [*p; 8] }
    }
    unsafe fn fma8(a: Self::H, b: Self::H, c: Self::H) -> Self::H {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    unsafe fn max8(a: Self::H, b: Self::H) -> Self::H {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Isa;
    use std::arch::x86_64::*;

    /// AVX2 and FMA.
    #[derive(Debug)]
    pub enum Avx2 {}

    /// AVX-512F and VL: wider vectors, and twice the registers.
    #[derive(Debug)]
    pub enum Avx512 {}

    /// Eight lanes are AVX2's in both.
    macro_rules! eight_lanes {
        () => {
            type H = __m256;
            #[inline(always)]
            unsafe fn load8(p: *const f32) -> Self::H {
                unsafe { _mm256_loadu_ps(p) }
            }
            #[inline(always)]
            unsafe fn store8(v: Self::H, p: *mut f32) {
                unsafe { _mm256_storeu_ps(p, v) }
            }
            #[inline(always)]
            unsafe fn splat8(p: *const f32) -> Self::H {
                unsafe { _mm256_broadcast_ss(&*p) }
            }
            #[inline(always)]
            unsafe fn fma8(a: Self::H, b: Self::H, c: Self::H) -> Self::H {
                unsafe { _mm256_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            unsafe fn max8(a: Self::H, b: Self::H) -> Self::H {
                unsafe { _mm256_max_ps(a, b) }
            }
        };
    }

    // `inline(always)`: these have to become a part of the kernel, which is what is compiled for the instruction set.
    // SAFETY of the bodies: the trait's own conditions.
    impl Isa for Avx2 {
        type V = [__m256; 2];
        type M = [__m256; 2];
        const PIXELS: usize = 4;
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
        }
        #[inline(always)]
        unsafe fn store(v: Self::V, p: *mut f32) {
            unsafe {
                _mm256_storeu_ps(p, v[0]);
                _mm256_storeu_ps(p.add(8), v[1]);
            }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::V {
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(8).cast()));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))]
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(v: Self::V, p: *mut u16) {
            unsafe {
                let (a, b) = (_mm256_castps_si256(v[0]), _mm256_castps_si256(v[1]));
                let (one, half) = (_mm256_set1_epi32(1), _mm256_set1_epi32(0x7fff));
                let odd_a = _mm256_and_si256(_mm256_srli_epi32::<16>(a), one);
                let odd_b = _mm256_and_si256(_mm256_srli_epi32::<16>(b), one);
                let a = _mm256_srli_epi32::<16>(_mm256_add_epi32(a, _mm256_add_epi32(odd_a, half)));
                let b = _mm256_srli_epi32::<16>(_mm256_add_epi32(b, _mm256_add_epi32(odd_b, half)));
                // Packing goes by halves of 128 bits; the permutation puts the quarters in order.
                let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
                _mm256_storeu_si256(p.cast(), packed);
            }
        }
        #[inline(always)]
        unsafe fn gt(a: Self::V, b: Self::V) -> Self::M {
            unsafe { [_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn eq(a: Self::V, b: Self::V) -> Self::M {
            unsafe { [_mm256_cmp_ps::<_CMP_EQ_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_EQ_OQ>(a[1], b[1])] }
        }
        #[inline(always)]
        unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V {
            unsafe { [_mm256_blendv_ps(b[0], a[0], m[0]), _mm256_blendv_ps(b[1], a[1], m[1])] }
        }
        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> Self::V {
            unsafe {
                let bytes = _mm_loadu_si128(p.cast());
                let low = _mm256_cvtepu8_epi32(bytes);
                let high = _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes));
                [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
            }
        }
        #[inline(always)]
        unsafe fn store_u8(v: Self::V, p: *mut u8) {
            unsafe {
                let wide = _mm256_packus_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
                // As in `store_bf16`: packing goes by halves.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(wide);
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(p.cast(), _mm_packus_epi16(low, high));
            }
        }
        eight_lanes!();
    }

    // SAFETY of the bodies: the trait's own conditions.
    impl Isa for Avx512 {
        type V = __m512;
        type M = __mmask16;
        const PIXELS: usize = 8;
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(v: Self::V, p: *mut f32) {
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn load_bf16(p: *const u16) -> Self::V {
            unsafe {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(v: Self::V, p: *mut u16) {
            unsafe {
                let bits = _mm512_castps_si512(v);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
                let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
                _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(rounded));
            }
        }
        #[inline(always)]
        unsafe fn gt(a: Self::V, b: Self::V) -> Self::M {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
        }
        #[inline(always)]
        unsafe fn eq(a: Self::V, b: Self::V) -> Self::M {
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
        }
        #[inline(always)]
        unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mask_blend_ps(m, b, a) }
        }
        #[inline(always)]
        unsafe fn load_u8(p: *const u8) -> Self::V {
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
        }
        #[inline(always)]
        unsafe fn store_u8(v: Self::V, p: *mut u8) {
            unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v))) }
        }
        eight_lanes!();
    }
}

/// How a number lies in memory.
///
/// # Safety
/// As [`Isa`]'s.
pub trait Element: Copy {
    /// Zero.
    const ZERO: Self;
    unsafe fn load<S: Isa>(p: *const Self) -> S::V;
    unsafe fn store<S: Isa>(v: S::V, p: *mut Self);
}

// SAFETY of the bodies: the trait's own conditions.
impl Element for f32 {
    const ZERO: Self = 0.0;
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const Self) -> S::V {
        unsafe { S::load(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Isa>(v: S::V, p: *mut Self) {
        unsafe { S::store(v, p) }
    }
}

/// `bfloat16`: the upper half of a float.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Bf16(u16);

// SAFETY of the bodies: the trait's own conditions; `Bf16` is a transparent `u16`.
impl Element for Bf16 {
    const ZERO: Self = Self(0);
    #[inline(always)]
    unsafe fn load<S: Isa>(p: *const Self) -> S::V {
        unsafe { S::load_bf16(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store<S: Isa>(v: S::V, p: *mut Self) {
        unsafe { S::store_bf16(v, p.cast()) }
    }
}

/// Which instruction set the kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Whatever the binary was compiled for.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512F and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What this processor has, the best first.
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if has_avx2 {
                levels.insert(0, Self::Avx2);
            }
            if has_avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                levels.insert(0, Self::Avx512);
            }
        }
        levels
    }

    /// The best that this processor has.
    pub fn best() -> Self {
        Self::available()[0]
    }
}

/// Defines a safe function that runs a kernel, generic over [`Isa`], at a [`Level`].
///
/// The kernel is compiled once for each instruction set, inside of a function that enables it. Its first argument is
/// `PhantomData` of the instruction set, so that its other types are inferred.
macro_rules! kernel {
    ($($(#[$doc:meta])* $vis:vis $name:ident = $kernel:ident($($arg:ident: $type:ty),* $(,)?));* $(;)?) => {$(
        $(#[$doc])*
        $vis fn $name(level: $crate::cpu::simd::Level, $($arg: $type),*) {
            use $crate::cpu::simd;
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
            unsafe fn avx512($($arg: $type),*) {
                // SAFETY: the caller has seen that the processor has these instructions.
                unsafe { $kernel(std::marker::PhantomData::<simd::Avx512>, $($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $type),*) {
                // SAFETY: the caller has seen that the processor has these instructions.
                unsafe { $kernel(std::marker::PhantomData::<simd::Avx2>, $($arg),*) }
            }
            // SAFETY: a level other than the portable one comes from `Level::available`, which has seen that the processor
            // has it; the kernels check the lengths of what they are given themselves.
            unsafe {
                match level {
                    simd::Level::Portable => $kernel(std::marker::PhantomData::<simd::Portable>, $($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    simd::Level::Avx2 => avx2($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    simd::Level::Avx512 => avx512($($arg),*),
                }
            }
        }
    )*};
}
pub(crate) use kernel;
