//! Tensors as slices.

use tch::{Device, Kind, Tensor};

/// `[B, C, H, W]` in any number format -> `[B, H, W, C]`, float32, contiguous, where it is; copies only where it is not so.
///
/// # Errors
/// libtorch cannot copy it.
pub(super) fn channels_last(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    tensor.f_to_kind(Kind::Float)?.f_permute([0, 2, 3, 1])?.f_contiguous()
}

/// A batch of maps in host memory, float32, channels last.
#[derive(Debug)]
pub(super) struct Maps {
    tensor: Tensor,
    /// `[batch, height, width, channels]`.
    shape: [usize; 4],
}

impl Maps {
    /// From `[B, C, H, W]` anywhere, in any number format; copies only where it is not as it should be.
    ///
    /// # Errors
    /// It has other than four dimensions, or libtorch cannot copy it.
    pub fn new(tensor: &Tensor) -> Result<Self, tch::TchError> {
        // The cast comes after the copy to the host: half precision is half the bytes to copy.
        let host = tensor.f_to_device(Device::Cpu)?;
        let [a, b, c, d] = tensor.size().try_into().map_err(|size: Vec<i64>| {
            tch::TchError::Shape(format!("expected a tensor of four dimensions, found {size:?}"))
        })?;
        Ok(Self { tensor: channels_last(&host)?, shape: [a, c, d, b].map(|n: i64| n as usize) })
    }

    /// `[batch, height, width, channels]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// All values.
    #[allow(unsafe_code)]
    pub fn data(&self) -> &[f32] {
        // SAFETY: the tensor is contiguous float32 in host memory (made so in `new`), of this many elements; it lives as
        // long as `self`, and nothing writes to it.
        unsafe { std::slice::from_raw_parts(self.tensor.data_ptr().cast::<f32>(), self.shape.iter().product()) }
    }
}
