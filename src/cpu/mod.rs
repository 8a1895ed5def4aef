//! The processor without libtorch's operators: vector instructions, libtorch's own threads, and the memory behind its tensors.

pub mod simd;
pub mod team;

use tch::Tensor;

/// A batch of maps, `[B, C, H, W]`, that lie channels last in host memory; copied only where they do not.
pub fn channels_last(x: &Tensor) -> Result<(Tensor, [usize; 4]), tch::TchError> {
    let x = x.f_permute([0, 2, 3, 1])?.f_contiguous()?;
    let (batch, height, width, channels) = x.size4()?;
    Ok((x, [batch, height, width, channels].map(|n| n as usize)))
}

/// The values of a tensor of [`channels_last`].
///
/// # Safety
/// `T` is what the tensor's number format is, and nobody else uses its memory while the slice lives.
#[allow(unsafe_code)]
pub unsafe fn values<T>(x: &mut Tensor) -> &mut [T] {
    // SAFETY: the tensor is contiguous, and the caller's conditions.
    unsafe { std::slice::from_raw_parts_mut(x.data_ptr().cast::<T>(), x.numel()) }
}

/// e^x, clamped to what f32 holds, with a relative error under 3e-7: x = k ln 2 + r, then a polynomial of degree 6
/// (the Taylor series, |r| <= ln 2 / 2) times 2^k. Free of branches and calls, so that a loop over it vectorises.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // ln 2 in two parts, the first with few bits, so that k times it is exact (Cody and Waite).
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5 x 2^23 rounds to the nearest whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    let r = (x - k * LN2_HI) - k * LN2_LO;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0))))));
    p * f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_single_precision() {
        for i in -86_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) - expected).abs() / expected < 3e-7, "e^{x} = {} for {expected}", exp(x));
        }
    }
}
