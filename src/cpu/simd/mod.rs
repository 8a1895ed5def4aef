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

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

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
    /// NEON, which every 64-bit Arm processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
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
        #[cfg(target_arch = "aarch64")]
        levels.insert(0, Self::Neon);
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
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            unsafe fn neon($($arg: $type),*) {
                // SAFETY: every 64-bit Arm processor has these instructions.
                unsafe { $kernel(std::marker::PhantomData::<simd::Neon>, $($arg),*) }
            }
            // SAFETY: a level other than the portable one comes from `Level::available`, which has seen that the processor
            // has it; the kernels check the lengths of what they are given themselves.
            unsafe {
                match level {
                    simd::Level::Portable => $kernel(std::marker::PhantomData::<simd::Portable>, $($arg),*),
                    #[cfg(target_arch = "aarch64")]
                    simd::Level::Neon => neon($($arg),*),
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
