//! Counters, percentiles and stamp checks of one camera, shared by the spinning and the inference thread.

use super::lock;
pub use crate::frame::clock::Percentiles;
use crate::frame::clock::StageTimes;
use crate::interface::diagnostics::STAGES;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Most values of a measure, and most arrivals, that are remembered: at 30 Hz those of 136 s, 100 kB a measure. Where a
/// window has more, percentiles and rates are those of the newest.
pub const WINDOW: usize = 4096;

/// The newest values of one measure, with when they were measured.
#[derive(Debug, Clone, Default)]
pub struct Window {
    values: VecDeque<(Instant, u64)>,
}

impl Window {
    /// Mean of what was measured within `length` before `now`; `None` of nothing.
    pub fn mean(&self, now: Instant, length: Duration) -> Option<f64> {
        let (sum, count) = self.recent(now, length).fold((0, 0_u32), |(sum, count), value| (sum + value, count + 1));
        (count > 0).then(|| sum as f64 / f64::from(count))
    }

    /// Adds a value; the oldest makes room.
    pub fn add(&mut self, now: Instant, value: u64) {
        if self.values.len() == WINDOW {
            self.values.pop_front();
        }
        self.values.push_back((now, value));
    }

    /// Nearest-rank percentiles of what was measured within `length` before `now`; `None` of nothing.
    pub fn percentiles(&self, now: Instant, length: Duration) -> Option<Percentiles> {
        Percentiles::of(self.recent(now, length).collect())
    }

    fn recent(&self, now: Instant, length: Duration) -> impl Iterator<Item = u64> + '_ {
        let is_recent = move |(at, _): &&(Instant, u64)| now.saturating_duration_since(*at) <= length;
        self.values.iter().filter(is_recent).map(|(_, value)| *value)
    }
}

/// Durations of one answered frame, nanoseconds; 0 for a stage that had no work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameTimes {
    /// From the middleware to the inbox.
    pub receive_ns: u64,
    /// In the inbox.
    pub wait_ns: u64,
    /// Decode, network, labels, depth, confidence, overlay, mask.
    pub stages: StageTimes,
    /// Point cloud.
    pub points_ns: u64,
    /// PNG.
    pub compress_ns: u64,
    /// Handing outputs to the middleware.
    pub publish_ns: u64,
    /// Arrival to the last output.
    pub total_ns: u64,
}

impl FrameTimes {
    /// All between the network and publishing.
    pub fn postprocess_ns(&self) -> u64 {
        let s = &self.stages;
        s.labels_ns + s.depth_ns + s.confidence_ns + s.overlay_ns + s.mask_ns + self.points_ns + self.compress_ns
    }
}

/// The measure that is no stage.
pub const AGE: &str = "age at publication";
/// Number of measures of [`Measures`]: the stages of the diagnostics' table, and [`AGE`].
const MEASURES: usize = STAGES.len() + 1;

/// The measures of a frame that are watched.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    windows: [Window; MEASURES],
    /// Frames that went through the network together.
    pub batch: Window,
}

impl Measures {
    /// Names, in the order of the windows.
    fn names() -> impl Iterator<Item = &'static str> {
        STAGES.iter().copied().chain([AGE])
    }

    /// Adds a frame. A stage that had no work is not counted. An age under zero (clocks that disagree, a bag that
    /// loops) counts as zero; a frame without a stamp has none.
    pub fn add(&mut self, now: Instant, t: &FrameTimes, age_ns: Option<i64>) {
        let s = &t.stages;
        let stages = [
            s.decode_ns,
            s.infer_ns,
            s.labels_ns,
            s.depth_ns,
            s.confidence_ns,
            s.overlay_ns,
            s.mask_ns,
            t.points_ns,
            t.compress_ns,
            t.postprocess_ns(),
        ];
        let always = [(0, t.receive_ns), (1, t.wait_ns), (12, t.publish_ns), (13, t.total_ns)];
        for (i, ns) in stages.into_iter().enumerate().map(|(i, ns)| (i + 2, ns)).filter(|(_, ns)| *ns > 0) {
            self.windows[i].add(now, ns);
        }
        let age = age_ns.map(|ns| (14, ns.max(0) as u64));
        always.into_iter().chain(age).for_each(|(i, ns)| self.windows[i].add(now, ns));
    }

    /// Name and percentiles of each measure that has values within `length` before `now`.
    pub fn percentiles(&self, now: Instant, length: Duration) -> Vec<(&'static str, Percentiles)> {
        let each = Self::names().zip(&self.windows);
        each.filter_map(|(name, window)| Some((name, window.percentiles(now, length)?))).collect()
    }
}

/// What several cameras' measures have within a window.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    values: [Vec<u64>; MEASURES],
}

impl Pool {
    /// Adds what was measured within `length` before `now`.
    pub fn add(&mut self, measures: &Measures, now: Instant, length: Duration) {
        for (values, window) in self.values.iter_mut().zip(&measures.windows) {
            values.extend(window.recent(now, length));
        }
    }

    /// Name and percentiles of each measure that has values.
    pub fn percentiles(self) -> Vec<(&'static str, Percentiles)> {
        let each = Measures::names().zip(self.values);
        each.filter_map(|(name, values)| Some((name, Percentiles::of(values)?))).collect()
    }
}

/// What the stamps of arriving frames were like.
#[derive(Debug, Clone, Default)]
pub struct Arrivals {
    /// When each of the newest frames arrived, with its age then (ns; `None` for a stamp of zero).
    recent: VecDeque<(Instant, Option<i64>)>,
    /// Every frame that arrived after this is in `recent`; `None` before the camera is watched.
    complete_since: Option<Instant>,
    last_stamp_ns: Option<i64>,
    /// Frames with a stamp of zero.
    pub zero_stamps: u64,
    /// Frames whose stamp lies before that of the frame before (a bag that loops, a clock that was set).
    pub jumps_back: u64,
    /// Frames with the stamp of the frame before.
    pub repeated: u64,
    last_zero: Option<Instant>,
    last_jump: Option<Instant>,
}

/// Arrivals within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ArrivalWindow {
    /// Frames.
    pub events: usize,
    /// The window's length, or the time for which the arrivals are known where that is shorter.
    pub duration: Duration,
    /// Least and greatest age at arrival, seconds; `None` without stamps.
    pub delay_s: Option<(f64, f64)>,
    /// A stamp was zero.
    pub zero_stamps: bool,
    /// A stamp lay before the one before it.
    pub jumps_back: bool,
}

impl ArrivalWindow {
    /// Frames a second.
    pub fn rate_hz(&self) -> f64 {
        self.events as f64 / self.duration.as_secs_f64().max(1e-3)
    }
}

impl Arrivals {
    /// The camera is listened to from now on: what arrived before says nothing of its rate.
    pub fn watch(&mut self, now: Instant) {
        self.recent.clear();
        self.complete_since = Some(now);
    }

    /// Adds a frame; `ros_now_ns` is the ROS clock.
    pub fn add(&mut self, now: Instant, stamp_ns: i64, ros_now_ns: i64) {
        if self.recent.len() == WINDOW {
            self.complete_since = self.recent.pop_front().map(|(at, _)| at);
        }
        let zero = stamp_ns == 0;
        if zero {
            self.zero_stamps += 1;
            self.last_zero = Some(now);
        }
        match self.last_stamp_ns {
            Some(last) if stamp_ns < last => {
                self.jumps_back += 1;
                self.last_jump = Some(now);
            }
            Some(last) if stamp_ns == last => self.repeated += 1,
            _ => {}
        }
        self.last_stamp_ns = Some(stamp_ns);
        self.recent.push_back((now, (!zero).then_some(ros_now_ns - stamp_ns)));
    }

    /// What arrived within `length` before `now`.
    pub fn window(&self, now: Instant, length: Duration) -> ArrivalWindow {
        let first = self.recent.partition_point(|(at, _)| now.saturating_duration_since(*at) > length);
        let ages = || self.recent.range(first..).filter_map(|(_, age)| *age);
        let seconds = |ns: i64| ns as f64 / 1e9;
        ArrivalWindow {
            events: self.recent.len() - first,
            duration: self.complete_since.map_or(Duration::ZERO, |t| length.min(now.saturating_duration_since(t))),
            delay_s: ages().min().zip(ages().max()).map(|(least, most)| (seconds(least), seconds(most))),
            zero_stamps: self.last_zero.is_some_and(|at| now.saturating_duration_since(at) <= length),
            jumps_back: self.last_jump.is_some_and(|at| now.saturating_duration_since(at) <= length),
        }
    }
}

/// Where a camera's depth factor comes from, for the diagnostics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CalibrationState {
    /// In words; empty before the first frame.
    pub why: String,
    /// What depth is multiplied by.
    pub factor: f64,
    /// It is not what was configured: a fallback serves.
    pub degraded: bool,
}

/// What is counted and measured of one camera.
#[derive(Debug, Default)]
pub struct Stats {
    /// Frames that arrived.
    pub received: AtomicU64,
    /// Frames that were computed and published.
    pub answered: AtomicU64,
    /// Frames that a newer one replaced, or that came quicker than `max_rate_hz`.
    pub dropped: AtomicU64,
    /// Those of the dropped that came quicker than `max_rate_hz`: nobody needs to be warned of them.
    pub throttled: AtomicU64,
    /// Malformed frames ([`Self::last_refusal`]), and frames that the network failed on or that could not be published
    /// ([`Self::last_failure`]).
    pub refused: AtomicU64,
    /// Frames nobody wanted an output of that can be made, or that came, waited or were computed when the node was
    /// disabled or deactivated.
    pub skipped: AtomicU64,
    /// Percentiles.
    pub measures: Mutex<Measures>,
    /// Stamps and rates.
    pub arrivals: Mutex<Arrivals>,
    /// Why the last refused frame was refused, and when.
    pub last_refusal: Mutex<Option<(Instant, String)>>,
    /// What kept the last frame that was whole from being answered, and when.
    pub last_failure: Mutex<Option<(Instant, String)>>,
    /// When the network's answer was [`BROKEN`] last.
    pub last_broken: Mutex<Option<Instant>>,
    /// When the last frame arrived since the camera is listened to.
    pub last_arrival: Mutex<Option<Instant>>,
    /// Where depth gets its scale from.
    pub calibration: Mutex<CalibrationState>,
    /// Whether a point cloud can be made, or why not; `None` where nobody wants one.
    pub cloud: Mutex<Option<Result<(), String>>>,
    /// Columns, rows and encoding of the last image.
    pub image: Mutex<Option<(usize, usize, &'static str)>>,
    /// Which publishers of the image and its calibration are not heard, and why, if so.
    pub qos_problem: Mutex<Option<String>>,
    /// Publishers of the image at the last look.
    pub publishers: AtomicU64,
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

    /// Counts a frame that the network or the middleware failed on, which is not the image's fault, and keeps the reason.
    pub fn fail(&self, reason: &str) {
        Self::count(&self.refused);
        *lock(&self.last_failure) = Some((Instant::now(), reason.to_string()));
    }
}

/// What is wrong with an answer whose numbers are none.
pub const BROKEN: &str =
    "the network answered pixels without a number, which are unlabelled (255) and without depth (NaN)";

/// Lets one message through each period and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

/// At most one warning of a kind in this time.
const WARNING_PERIOD: Duration = Duration::from_secs(5);

impl Throttle {
    /// Whether to speak now; if so, how many were held back since the last time.
    pub fn pass(&mut self, now: Instant, period: Duration) -> Option<u64> {
        if self.last.is_some_and(|l| now.saturating_duration_since(l) < period) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }

    /// Logs a warning that any frame could repeat.
    pub fn warn(&mut self, text: std::fmt::Arguments<'_>) {
        if let Some(more) = self.pass(Instant::now(), WARNING_PERIOD) {
            log::warn!("{text} ({more} more since the last such message)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank_within_the_window() {
        let (mut w, start, minute) = (Window::default(), Instant::now(), Duration::from_secs(60));
        assert_eq!(w.percentiles(start, minute), None);
        for v in (1..=100).rev() {
            w.add(start, v);
        }
        assert_eq!(w.percentiles(start, minute), Some(Percentiles { p50: 50, p95: 95, p99: 99, max: 100 }));
        let later = start + Duration::from_secs(50);
        w.add(later, 7);
        let sevens = Some(Percentiles { p50: 7, p95: 7, p99: 7, max: 7 });
        assert_eq!(w.percentiles(later, Duration::from_secs(10)), sevens, "old values do not count");
        for _ in 0..WINDOW {
            w.add(start, 7);
        }
        assert_eq!(w.percentiles(start, minute), sevens, "the window is bounded");
    }

    #[test]
    fn a_minute_of_frames_is_remembered() {
        let (mut w, start, s) = (Window::default(), Instant::now(), Duration::from_secs);
        let at = |frame: u32| start + s(1) * frame / 30;
        w.add(start, 900);
        (1..=1500).for_each(|frame| w.add(at(frame), 7));
        let found = w.percentiles(at(1500), s(60));
        assert_eq!(found, Some(Percentiles { p50: 7, p95: 7, p99: 7, max: 900 }));
        assert_eq!(w.percentiles(at(1500), s(10)).map(|p| p.max), Some(7), "it is older than the window");
    }

    #[test]
    fn a_frame_is_added_stage_by_stage() {
        let (mut m, now) = (Measures::default(), Instant::now());
        let stages = StageTimes { decode_ns: 1, infer_ns: 2, labels_ns: 3, depth_ns: 4, ..StageTimes::default() };
        let times =
            FrameTimes { wait_ns: 9, stages, publish_ns: 5, total_ns: 30, compress_ns: 6, ..Default::default() };
        m.add(now, &times, Some(-7));
        let found: Vec<_> =
            m.percentiles(now, Duration::from_secs(1)).into_iter().map(|(name, p)| (name, p.p50)).collect();
        let expected = [
            ("receive", 0),
            ("wait", 9),
            ("decode", 1),
            ("infer", 2),
            ("labels", 3),
            ("depth", 4),
            ("compress", 6),
            ("postprocess", 13),
            ("publish", 5),
            ("total", 30),
            ("age at publication", 0),
        ];
        assert_eq!(found, expected);
        let mut without_stamp = Measures::default();
        without_stamp.add(now, &times, None);
        let names: Vec<_> = without_stamp.percentiles(now, Duration::from_secs(1)).iter().map(|(n, _)| *n).collect();
        assert!(names.contains(&"total") && !names.contains(&"age at publication"), "{names:?}");
        let stages = StageTimes { confidence_ns: 100, overlay_ns: 200, mask_ns: 400, ..stages };
        let all = FrameTimes { stages, receive_ns: 8, points_ns: 800, ..times };
        let mut with_all = Measures::default();
        with_all.add(now, &all, None);
        let found: Vec<_> = with_all.percentiles(now, Duration::from_secs(1)).iter().map(|(_, p)| p.p50).collect();
        assert_eq!(found, [8, 9, 1, 2, 3, 4, 100, 200, 400, 800, 6, 1513, 5, 30], "as the table has them");
    }

    #[test]
    fn cameras_measures_are_pooled() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let (mut pool, now) = (Pool::default(), start + s(100));
        // One value of long ago; 30 of one camera, 10 of another one, which does twice the work.
        for (frames, ms, age_ns) in [(30, 1, 100), (10, 2, 300)] {
            let mut m = Measures::default();
            m.add(start, &FrameTimes { total_ns: 7_000_000, ..Default::default() }, Some(9));
            (0..frames).for_each(|_| m.add(now, &FrameTimes { total_ns: ms, ..Default::default() }, Some(age_ns)));
            pool.add(&m, now, s(10));
        }
        let found = pool.percentiles();
        let of = |name: &str| found.iter().find(|(n, _)| *n == name).map(|(_, p)| (p.p50, p.p95, p.max));
        assert_eq!(of("total"), Some((1, 2, 2)));
        assert_eq!(of(AGE), Some((100, 300, 300)));
        assert_eq!(of("infer"), None, "it had no work");
    }

    #[test]
    fn a_throttle_counts_what_it_holds_back() {
        let (mut t, start, period) = (Throttle::default(), Instant::now(), Duration::from_secs(5));
        assert_eq!(t.pass(start, period), Some(0));
        assert_eq!(t.pass(start + Duration::from_secs(1), period), None);
        assert_eq!(t.pass(start + Duration::from_secs(2), period), None);
        assert_eq!(t.pass(start + Duration::from_secs(6), period), Some(2));
    }

    #[test]
    fn rates_delays_and_jumps_are_seen() {
        let (mut a, start) = (Arrivals::default(), Instant::now());
        let s = Duration::from_secs;
        a.watch(start);
        // Ten frames, one a second; the age at arrival is 0.1 s, of the last 0.5 s.
        for i in 0..10_i64 {
            let age_ns = if i == 9 { 500_000_000 } else { 100_000_000 };
            a.add(start + s(i as u64), i * 1_000_000_000 + 1, i * 1_000_000_000 + 1 + age_ns);
        }
        let window = a.window(start + s(9), s(5));
        assert_eq!((window.events, window.duration), (6, s(5)), "those of the last five seconds");
        assert_eq!(window.delay_s, Some((0.1, 0.5)));
        assert!(!window.zero_stamps && !window.jumps_back);
        assert_eq!((a.jumps_back, a.repeated, a.zero_stamps), (0, 0, 0));
        // The bag loops, repeats a stamp, and one frame has none.
        a.add(start + s(10), 5, 5);
        a.add(start + s(11), 5, 5);
        a.add(start + s(12), 0, 5);
        assert_eq!((a.jumps_back, a.repeated, a.zero_stamps), (2, 1, 1));
        // The stamp of zero is from 12 s; it jumped back, too.
        let seen = [17, 18].map(|end| a.window(start + s(end), s(5))).map(|w| (w.zero_stamps, w.jumps_back));
        assert_eq!(seen, [(true, true), (false, false)]);
        let late = a.window(start + s(60), s(5));
        assert_eq!((late.events, late.delay_s), (0, None));
        assert!(late.rate_hz() == 0.0);
    }

    #[test]
    fn a_rate_is_taken_over_the_time_whose_arrivals_are_known() {
        let (mut a, start, s) = (Arrivals::default(), Instant::now(), Duration::from_secs);
        let at = |frame: u32| start + s(1) * frame / 30;
        let thirty = |hz: f64| (hz - 30.0).abs() < 1.0;
        assert_eq!(a.window(start, s(10)).rate_hz(), 0.0, "not watched");
        // Activated late: 30 Hz after two seconds, whatever the node's age.
        a.watch(at(300));
        (301..=360).for_each(|frame| a.add(at(frame), 1, 1));
        let window = a.window(at(360), s(10));
        assert_eq!(window.duration, s(2), "not yet watched for the whole window");
        assert!(thirty(window.rate_hz()), "{window:?}");
        // A window that becomes longer.
        (361..=900).for_each(|frame| a.add(at(frame), 1, 1));
        assert!(thirty(a.window(at(900), s(10)).rate_hz()));
        let longer = a.window(at(900), s(60));
        assert_eq!((longer.events, longer.duration), (600, s(20)));
        // More arrivals than are remembered.
        (901..=20_000).for_each(|frame| a.add(at(frame), 1, 1));
        let most = a.window(at(20_000), s(600));
        assert!(most.events == WINDOW && thirty(most.rate_hz()), "{most:?}");
        // Watched anew: the arrivals of before do not count.
        a.watch(at(30_000));
        a.add(at(30_030), 1, 1);
        let anew = a.window(at(30_030), s(600));
        assert_eq!((anew.events, anew.duration), (1, s(1)));
    }
}
