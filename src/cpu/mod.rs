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
