//! What the device can do at most, measured here and now, and how near the network comes to it.
//!
//! Two ceilings: bytes a second of a copy within its memory (each byte counted twice: it is read and written), and
//! operations a second of a square matrix product in the network's precision. Where the network's bytes all fit a cache,
//! it may pass the first one.

use crate::frame::network::Precision;
use crate::model::Cost;
use serde::Serialize;
use std::time::{Duration, Instant};
use tch::{Cuda, Device, Kind, TchError, Tensor};

/// The device's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ceilings {
    /// Gigabytes (1e9) a second, read and written.
    pub copy_gb_s: f64,
    /// Of the copied block.
    pub copy_bytes: u64,
    /// 1e9 operations a second, a multiplication and an addition counted as two.
    pub product_gflop_s: f64,
    /// Rows and columns of the multiplied matrices.
    pub product_size: i64,
    /// Of the matrix product: the network's.
    pub precision: &'static str,
}

/// The network's, against them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reached {
    /// Multiplications with an addition, of the network as it is trained.
    pub macs: u64,
    /// Median of one run.
    pub ms: f64,
    /// 1e9 operations a second.
    pub gflop_s: f64,
    /// Share of the matrix product's.
    pub of_product: f64,
    /// The shortest that the matrix product's speed allows.
    pub product_floor_ms: f64,
    /// Bytes if each operation (a convolution with its batch norm and activation, a pool, a sum, an upsampling) reads
    /// and writes once, with answers at the input's size, and reads its weights.
    pub bytes: u64,
    /// Gigabytes a second that this would be.
    pub gb_s: f64,
    /// Share of the copy's.
    pub of_copy: f64,
    /// Bytes that have to move whatever is fused: an 8-bit picture in, the weights, 8-bit labels and 16-bit depth out.
    pub compulsory_bytes: u64,
    /// The shortest that the copy's speed allows for those.
    pub compulsory_floor_ms: f64,
}

/// Shortest of some runs, after one to warm up; on a GPU from idle to idle.
fn shortest(device: Device, runs: usize, mut work: impl FnMut() -> Result<(), TchError>) -> Result<Duration, TchError> {
    let wait = || {
        if let Device::Cuda(index) = device {
            Cuda::synchronize(index as i64);
        }
    };
    work()?;
    wait();
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let start = Instant::now();
        work()?;
        wait();
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// Measures both; some seconds on a slow processor.
///
/// # Errors
/// libtorch's: no memory, a lost device.
pub fn measure(device: Device, precision: Precision) -> Result<Ceilings, TchError> {
    let _no_grad = tch::no_grad_guard();
    // Larger than any cache that the network's maps would fit, small enough for a small board.
    let (copy_bytes, product_size) = if device == Device::Cpu { (256_i64 << 20, 1024) } else { (512_i64 << 20, 4096) };
    let from = Tensor::f_zeros([copy_bytes / 4], (Kind::Float, device))?;
    let mut to = Tensor::f_zeros([copy_bytes / 4], (Kind::Float, device))?;
    let copy = shortest(device, 8, || to.f_copy_(&from))?;
    drop((from, to));
    let options = (precision.kind(), device);
    let matrix = || Tensor::f_randn([product_size, product_size], (Kind::Float, device))?.f_to_kind(options.0);
    let (a, b) = (matrix()?, matrix()?);
    let out = Tensor::f_zeros([product_size, product_size], options)?;
    let product = shortest(device, 20, || a.f_mm_out(&out, &b).map(drop))?;
    Ok(Ceilings {
        copy_gb_s: 2.0 * copy_bytes as f64 / copy.as_secs_f64() / 1e9,
        copy_bytes: copy_bytes as u64,
        product_gflop_s: 2.0 * (product_size as f64).powi(3) / product.as_secs_f64() / 1e9,
        product_size,
        precision: precision.name(),
    })
}

impl Ceilings {
    /// Where a network of this cost, at this size (width, height), stands with a median of `ms`.
    pub fn reached(&self, cost: &Cost, size: (usize, usize), ms: f64) -> Reached {
        let bytes_a_number = if self.precision == "fp32" { 4 } else { 2 };
        let operations = 2.0 * cost.macs as f64;
        let bytes = (cost.activations + cost.weights) * bytes_a_number;
        let compulsory_bytes = cost.compulsory_bytes(size, bytes_a_number);
        // 1e9 a second is 1e6 a millisecond.
        let (gflop_s, gb_s) = (operations / ms / 1e6, bytes as f64 / ms / 1e6);
        Reached {
            macs: cost.macs,
            ms,
            gflop_s,
            of_product: gflop_s / self.product_gflop_s,
            product_floor_ms: operations / self.product_gflop_s / 1e6,
            bytes,
            gb_s,
            of_copy: gb_s / self.copy_gb_s,
            compulsory_bytes,
            compulsory_floor_ms: compulsory_bytes as f64 / self.copy_gb_s / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_set_against_the_ceilings() {
        let ceilings =
            Ceilings { copy_gb_s: 10.0, copy_bytes: 1, product_gflop_s: 100.0, product_size: 1, precision: "bf16" };
        let cost = Cost { macs: 1_000_000_000, activations: 49_000_000, weights: 1_000_000 };
        let r = ceilings.reached(&cost, (1000, 1000), 40.0);
        assert_eq!((r.gflop_s, r.of_product, r.product_floor_ms), (50.0, 0.5, 20.0));
        assert_eq!((r.bytes, r.gb_s, r.of_copy), (100_000_000, 2.5, 0.25));
        assert_eq!((r.compulsory_bytes, r.compulsory_floor_ms), (8_000_000, 0.8));
    }

    #[test]
    fn both_ceilings_are_measured() {
        let c = measure(Device::Cpu, Precision::Fp32).expect("the processor has room");
        assert!(c.copy_gb_s.is_finite() && c.copy_gb_s > 0.0 && c.product_gflop_s > 0.0, "{c:?}");
    }
}
