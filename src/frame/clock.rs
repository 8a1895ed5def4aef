//! Where one frame's time went: durations by stage, carried by type.

use serde::Serialize;
use std::time::Instant;

/// Nanoseconds that each stage of [`super::pipeline::Pipeline::run`] took for one job; 0 for a stage that had no work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Bytes -> resized, normalised network input.
    pub decode_ns: u64,
    /// The network, with the copies to and from its device: the whole batch's, in each of its jobs.
    pub infer_ns: u64,
    /// Class scores -> label image.
    pub labels_ns: u64,
    /// Depth code -> metres; and the surface normals, where they are wanted.
    pub depth_ns: u64,
    /// Class scores -> probability of the label.
    pub confidence_ns: u64,
    /// The overlay and the coloured labels.
    pub overlay_ns: u64,
    /// Label image -> mask.
    pub mask_ns: u64,
}

/// Measures consecutive stages of the monotonic clock.
#[derive(Debug)]
pub struct StageClock(Instant);

impl StageClock {
    /// The first stage begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the last lap (or the start); the next stage begins now.
    pub fn lap_ns(&mut self) -> u64 {
        let now = Instant::now();
        let ns = nanoseconds(now - self.0);
        self.0 = now;
        ns
    }
}

/// A duration in nanoseconds; 584 years is the most it can say.
pub fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nearest-rank percentiles: each is one of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles<T = u64> {
    /// Median.
    pub p50: T,
    /// 95th percentile.
    pub p95: T,
    /// 99th percentile.
    pub p99: T,
    /// Largest.
    pub max: T,
}

impl<T: Copy + Ord> Percentiles<T> {
    /// Of these values, in any order; `None` of nothing.
    pub fn of(mut values: Vec<T>) -> Option<Self> {
        values.sort_unstable();
        let max = *values.last()?;
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { p50: rank(50), p95: rank(95), p99: rank(99), max })
    }
}
