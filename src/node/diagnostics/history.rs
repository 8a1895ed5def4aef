//! What is counted from report to report.

use super::findings::Values;
use crate::interface::diagnostics::key;
use crate::node::stats::Stats;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What one camera counted at a report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counted {
    /// Frames that arrived.
    pub received: u64,
    answered: u64,
    dropped: u64,
    /// Those of the dropped that `max_rate_hz` forbade.
    throttled: u64,
    refused: u64,
    skipped: u64,
}

impl Counted {
    /// As they are now.
    pub fn of(stats: &Stats) -> Self {
        Self {
            received: Stats::read(&stats.received),
            answered: Stats::read(&stats.answered),
            // Before the dropped, or a frame that is counted in between would make more throttled than dropped.
            throttled: Stats::read(&stats.throttled),
            dropped: Stats::read(&stats.dropped),
            refused: Stats::read(&stats.refused),
            skipped: Stats::read(&stats.skipped),
        }
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            answered: self.answered + other.answered,
            dropped: self.dropped + other.dropped,
            throttled: self.throttled + other.throttled,
            refused: self.refused + other.refused,
            skipped: self.skipped + other.skipped,
        }
    }

    /// Adds the keys and values.
    pub fn say(&self, values: &mut Values) {
        values.add(key::RECEIVED, self.received);
        values.add(key::ANSWERED, self.answered);
        values.add(key::DROPPED, self.dropped);
        values.add(key::THROTTLED, self.throttled);
        values.add(key::REFUSED, self.refused);
        values.add(key::SKIPPED, self.skipped);
    }
}

/// Counts of the window, one entry a report, and what reports have counted themselves.
#[derive(Debug, Default)]
pub struct History {
    counts: VecDeque<(Instant, Counted)>,
    /// Since which report the camera is listened to and the node enabled.
    active_since: Option<Instant>,
    /// Reports in whose window an image was too old.
    pub late: u64,
    /// Reports in whose window an image was too far in the future.
    pub early: u64,
    /// Reports in whose window an image had no stamp.
    pub zero: u64,
}

impl History {
    /// What the newest report has counted.
    pub fn newest(&self) -> Option<Counted> {
        self.counts.back().map(|(_, counted)| *counted)
    }

    /// Begins the window anew.
    pub fn forget_counts(&mut self) {
        self.counts.clear();
        self.active_since = None;
    }

    /// Whether images were to be answered all through the window, as far as reports tell.
    pub fn is_active_all_through(&mut self, is_active: bool, now: Instant, length: Duration) -> bool {
        self.active_since = self.active_since.filter(|_| is_active).or(is_active.then_some(now));
        self.active_since.is_some_and(|since| now.saturating_duration_since(since) >= length)
    }

    /// Share of the frames received within the window that were dropped, both without those that were throttled as was asked
    /// for; and frames answered a second.
    pub fn add(&mut self, now: Instant, length: Duration, counted: Counted) -> (f64, f64) {
        // The newest count before the window is what the window began with.
        while self.counts.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= length) {
            self.counts.pop_front();
        }
        let (then, before) = self.counts.front().copied().unwrap_or((now, Counted::default()));
        self.counts.push_back((now, counted));
        let throttled = counted.throttled.saturating_sub(before.throttled);
        let received = counted.received.saturating_sub(before.received).saturating_sub(throttled);
        let dropped = counted.dropped.saturating_sub(before.dropped).saturating_sub(throttled);
        let answered = counted.answered.saturating_sub(before.answered);
        let seconds = now.saturating_duration_since(then).as_secs_f64().max(1e-3);
        (dropped as f64 / received.max(1) as f64, if then == now { 0.0 } else { answered as f64 / seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_and_answers_are_counted_within_the_window() {
        let (mut h, start, s) = (History::default(), Instant::now(), Duration::from_secs);
        let counted = |received, answered, dropped| Counted { received, answered, dropped, ..Counted::default() };
        assert_eq!(h.add(start, s(10), counted(0, 0, 0)), (0.0, 0.0));
        assert_eq!(h.add(start + s(5), s(10), counted(100, 50, 50)), (0.5, 10.0));
        assert_eq!(h.add(start + s(15), s(10), counted(200, 150, 50)), (0.0, 10.0), "since the report at 5 s");
        assert_eq!(h.add(start + s(55), s(10), counted(300, 190, 80)), (0.3, 1.0), "since the report before");
        // Of 100 more, 60 were over max_rate_hz; of the other 40, 10 were replaced.
        let throttled = Counted { throttled: 60, ..counted(400, 220, 150) };
        assert_eq!(h.add(start + s(65), s(10), throttled), (0.25, 3.0));
    }
}
