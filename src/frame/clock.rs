//! Where one frame's time went: durations by stage, carried by type.

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
    /// Depth code -> metres.
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
