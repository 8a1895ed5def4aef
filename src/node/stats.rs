//! Counters and percentiles of the node.

use super::lock;
use crate::frame::clock::StageTimes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::Instant;

/// Frames over which percentiles are taken.
pub const WINDOW: usize = 512;

/// The newest values of one measure.
#[derive(Debug, Clone, Default)]
pub struct Window {
    values: VecDeque<u64>,
}

/// Percentiles of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// Median.
    pub p50: u64,
    /// 95th percentile.
    pub p95: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest.
    pub max: u64,
}

impl Window {
    /// Adds a value; the oldest makes room.
    pub fn add(&mut self, value: u64) {
        if self.values.len() == WINDOW {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Nearest-rank percentiles; `None` of nothing.
    pub fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted: Vec<u64> = self.values.iter().copied().collect();
        sorted.sort_unstable();
        let max = *sorted.last()?;
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Percentiles { p50: rank(50), p95: rank(95), p99: rank(99), max })
    }
}

/// The measures of a frame that are watched, in the order of [`Measures::each`].
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// In the mailbox.
    pub wait: Window,
    /// Bytes -> network input.
    pub decode: Window,
    /// The network.
    pub infer: Window,
    /// Label image.
    pub labels: Window,
    /// Metres.
    pub depth: Window,
    /// Overlay picture.
    pub overlay: Window,
    /// Handing outputs to the middleware.
    pub publish: Window,
    /// Arrival to the last output.
    pub total: Window,
    /// Age at publication.
    pub age: Window,
}

impl Measures {
    /// Adds a frame. A stage that had no work is not counted. An age under zero (clocks that disagree, a bag that
    /// loops) counts as zero.
    pub fn add(&mut self, wait_ns: u64, stages: &StageTimes, publish_ns: u64, total_ns: u64, age_ns: i64) {
        self.wait.add(wait_ns);
        for (window, ns) in [
            (&mut self.decode, stages.decode_ns),
            (&mut self.infer, stages.infer_ns),
            (&mut self.labels, stages.labels_ns),
            (&mut self.depth, stages.depth_ns),
            (&mut self.overlay, stages.overlay_ns),
        ] {
            if ns > 0 {
                window.add(ns);
            }
        }
        self.publish.add(publish_ns);
        self.total.add(total_ns);
        self.age.add(age_ns.max(0) as u64);
    }

    /// Name and window of each.
    pub fn each(&self) -> [(&'static str, &Window); 9] {
        [
            ("wait", &self.wait),
            ("decode", &self.decode),
            ("infer", &self.infer),
            ("labels", &self.labels),
            ("depth", &self.depth),
            ("overlay", &self.overlay),
            ("publish", &self.publish),
            ("total", &self.total),
            ("age at publication", &self.age),
        ]
    }
}

/// What both threads count.
#[derive(Debug, Default)]
pub struct Stats {
    /// Frames that arrived.
    pub received: AtomicU64,
    /// Frames that were computed and published.
    pub answered: AtomicU64,
    /// Frames that a newer one replaced.
    pub dropped: AtomicU64,
    /// Malformed frames, and frames the network failed on.
    pub refused: AtomicU64,
    /// Frames nobody wanted an output of.
    pub skipped: AtomicU64,
    /// Percentiles.
    pub measures: Mutex<Measures>,
    /// Why the last refused frame was refused, and when.
    pub last_refusal: Mutex<Option<(Instant, String)>>,
    /// When the last frame arrived.
    pub last_arrival: Mutex<Option<Instant>>,
}

impl Stats {
    /// Counts one.
    pub fn count(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Reads a counter.
    pub fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Counts a refused frame and keeps the reason.
    pub fn refuse(&self, reason: &str) {
        Self::count(&self.refused);
        *lock(&self.last_refusal) = Some((Instant::now(), reason.to_string()));
    }
}

/// Lets one message through each period and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Whether to speak now; if so, how many were held back since the last time.
    pub fn pass(&mut self, now: Instant, period: std::time::Duration) -> Option<u64> {
        if self.last.is_some_and(|l| now.saturating_duration_since(l) < period) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut w = Window::default();
        assert_eq!(w.percentiles(), None);
        for v in (1..=100).rev() {
            w.add(v);
        }
        assert_eq!(w.percentiles(), Some(Percentiles { p50: 50, p95: 95, p99: 99, max: 100 }));
        for _ in 0..WINDOW {
            w.add(7);
        }
        assert_eq!(w.percentiles(), Some(Percentiles { p50: 7, p95: 7, p99: 7, max: 7 }), "old values go");
    }

    #[test]
    fn a_throttle_counts_what_it_holds_back() {
        let (mut t, start, period) = (Throttle::default(), Instant::now(), Duration::from_secs(5));
        assert_eq!(t.pass(start, period), Some(0));
        assert_eq!(t.pass(start + Duration::from_secs(1), period), None);
        assert_eq!(t.pass(start + Duration::from_secs(2), period), None);
        assert_eq!(t.pass(start + Duration::from_secs(6), period), Some(2));
    }
}
