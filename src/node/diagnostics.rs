//! What `/diagnostics` says (REP 107: statuses named `node: subtask`). Keys that diagnostic_updater has too are spelt
//! as it spells them.

use super::camera::Camera;
use super::device::{Health, Processor};
use super::lifecycle::State;
use super::lock;
use super::settings::Settings;
use super::stats::{ArrivalWindow, Percentiles, Stats};
use super::worker::Ready;
use crate::interface::{Limit, Severity, Thresholds};
use anyhow::Context as _;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::{Clock, Node, Publisher, QosProfile};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A refused frame makes the input's status a warning for this long.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(10);

/// Levels of a status, the worse the greater (STALE is worse than ERROR for nobody: it says that nothing is known).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warn = 1,
    Error = 2,
    Stale = 3,
}

/// Where a value is worse.
#[derive(Debug, Clone, Copy)]
enum Side {
    Above,
    Below,
}

/// The findings of one status: the worst level counts, and everything found at any level above OK is said.
#[derive(Debug, Default)]
struct Findings(Vec<(Level, String)>);

impl Findings {
    fn add(&mut self, level: Level, text: impl Into<String>) {
        self.0.push((level, text.into()));
    }

    /// Adds what is beyond a limit; `show` writes a value with its unit, `side` says on which side of the limit it is.
    fn judge<T: PartialOrd + Copy>(
        &mut self,
        what: &str,
        value: T,
        limit: &Limit<T>,
        side: Side,
        show: impl Fn(T) -> String,
    ) {
        let severity = match side {
            Side::Above => limit.above(value),
            Side::Below => limit.below(value),
        };
        let (level, passed) = match severity {
            Severity::Ok => return,
            Severity::Warn => (Level::Warn, limit.warn),
            Severity::Error => (Level::Error, limit.error),
        };
        let side = if matches!(side, Side::Above) { "above" } else { "below" };
        let passed = passed.map(&show).unwrap_or_default();
        self.add(level, format!("{what} {} is {side} {passed}", show(value)));
    }

    /// The worst level, and what was found; `well` where nothing was.
    fn verdict(mut self, well: &str) -> (Level, String) {
        self.0.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        match self.0.first() {
            None => (Level::Ok, well.into()),
            Some((level, _)) => {
                (*level, self.0.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// Keys and values of one status.
#[derive(Debug, Default)]
struct Values(Vec<KeyValue>);

impl Values {
    fn add(&mut self, key: impl Into<String>, value: impl ToString) {
        self.0.push(KeyValue { key: key.into(), value: value.to_string() });
    }
}

/// What one camera counted at the last report.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    received: u64,
    dropped: u64,
}

/// Counts of the window, kept as one entry a report.
#[derive(Debug, Default)]
struct History(std::collections::VecDeque<(Instant, Counted)>);

impl History {
    /// Share of the frames received within the window that were dropped.
    fn drop_ratio(&mut self, now: Instant, length: Duration, counted: Counted) -> f64 {
        // The newest count before the window is what the window began with.
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= length) {
            self.0.pop_front();
        }
        let before = self.0.front().map_or(Counted::default(), |(_, c)| *c);
        self.0.push_back((now, counted));
        let received = counted.received.saturating_sub(before.received);
        let dropped = counted.dropped.saturating_sub(before.dropped);
        dropped as f64 / received.max(1) as f64
    }
}

/// Makes and publishes the reports.
pub struct Reporter {
    node: String,
    publisher: Publisher<DiagnosticArray>,
    started: Instant,
    histories: Vec<History>,
    /// Of the device that the network runs on; made anew when that changes.
    health: Option<(Processor, Health)>,
    hardware_id: String,
}

impl Reporter {
    /// For a node of this name.
    ///
    /// # Errors
    /// The topic cannot be published.
    pub fn create(node: &mut Node, name: &str) -> anyhow::Result<Self> {
        let publisher =
            node.create_publisher("/diagnostics", QosProfile::default()).context("cannot publish /diagnostics")?;
        let (histories, health) = Default::default();
        Ok(Self { node: name.into(), publisher, started: Instant::now(), histories, health, hardware_id: String::new() })
    }

    /// Publishes the state now.
    pub fn publish(
        &mut self,
        settings: &Settings,
        cameras: &[Camera],
        ready: Option<&Ready>,
        state: State,
        enabled: bool,
        clock: &Mutex<Clock>,
    ) {
        let now = Instant::now();
        let mut array = DiagnosticArray::default();
        if let Ok(time) = lock(clock).get_now() {
            array.header.stamp = Clock::to_builtin_time(&time);
        }
        self.hardware_id = ready.map_or_else(String::new, |r| r.device.clone());
        self.histories.resize_with(cameras.len(), History::default);
        for (index, camera) in cameras.iter().enumerate() {
            array.status.push(self.input(index, camera, settings, now, state, enabled));
            array.status.push(self.timing(camera, settings, now));
        }
        array.status.push(self.model(ready, state, enabled));
        array.status.push(self.device(ready, &settings.thresholds));
        if let Err(e) = self.publisher.publish(&array) {
            log::warn!("cannot publish /diagnostics: {e}");
        }
    }

    fn status(&self, subtask: &str, (level, message): (Level, String), values: Values) -> DiagnosticStatus {
        DiagnosticStatus {
            level: level as u8,
            name: format!("{}: {subtask}", self.node),
            message,
            hardware_id: self.hardware_id.clone(),
            values: values.0,
        }
    }

    fn input(
        &mut self,
        index: usize,
        camera: &Camera,
        settings: &Settings,
        now: Instant,
        state: State,
        enabled: bool,
    ) -> DiagnosticStatus {
        let (stats, limits, length) = (&camera.stats, &settings.thresholds, settings.node.diagnostics_window);
        let silence = lock(&stats.last_arrival).map(|t| now.saturating_duration_since(t));
        let (received, dropped) = (Stats::read(&stats.received), Stats::read(&stats.dropped));
        let drop_ratio = self.histories[index].drop_ratio(now, length, Counted { received, dropped });
        let (window, jumps_back, repeated, zero_stamps) = {
            let mut a = lock(&stats.arrivals);
            (a.window(now, length, self.started), a.jumps_back, a.repeated, a.zero_stamps)
        };
        let qos_problem = lock(&stats.qos_problem).clone();
        let refusal = lock(&stats.last_refusal).clone();
        let calibration = lock(&stats.calibration).clone();
        let age = lock(&stats.measures).percentiles(now, length).into_iter().find(|(n, _)| *n == AGE);

        let mut found = Findings::default();
        if !camera.is_subscribed() {
            found.add(Level::Ok, format!("not subscribed: the node is {state}"));
        } else {
            let heard = silence.is_some_and(|s| s <= settings.node.stale_after);
            if let Some(problem) = &qos_problem {
                found.add(if heard { Level::Warn } else { Level::Error }, problem.clone());
            }
            match silence {
                None => found.add(Level::Stale, "no image has arrived yet"),
                Some(s) if !heard => found.add(Level::Stale, format!("no image for {:.1} s", s.as_secs_f64())),
                Some(_) => {
                    let hz = |x| format!("{x:.1} Hz");
                    found.judge("rate", window.rate_hz(), &limits.rate_hz, Side::Below, hz);
                    let percent = |x| format!("{:.0} %", 100.0 * x);
                    found.judge("share of dropped frames", drop_ratio, &limits.drop_ratio, Side::Above, percent);
                }
            }
            let recent = refusal.as_ref().filter(|(t, _)| now.saturating_duration_since(*t) < REFUSAL_REMEMBERED);
            if let Some((_, why)) = recent {
                found.add(Level::Warn, format!("images are refused: {why}"));
            }
            if calibration.degraded {
                found.add(Level::Warn, format!("depth is scaled by {}", calibration.why));
            }
            if !enabled {
                found.add(Level::Ok, "images arrive, but the node is disabled (~/enable)");
            }
        }

        let mut values = Values::default();
        values.add("Frames received", received);
        values.add("Frames answered", Stats::read(&stats.answered));
        values.add("Frames dropped", dropped);
        values.add("Frames refused", Stats::read(&stats.refused));
        values.add("Frames skipped", Stats::read(&stats.skipped));
        values.add("Drop ratio in window", format!("{drop_ratio:.3}"));
        frequency(&mut values, &window, received, &limits.rate_hz);
        timestamps(&mut values, &window, &limits.age, zero_stamps);
        if let Some((_, p)) = age {
            percentiles(&mut values, "Image age", p);
        }
        values.add("Stamp jumps back", jumps_back);
        values.add("Stamps repeated", repeated);
        if let Some(silence) = silence {
            values.add("Time since last image (s)", format!("{:.3}", silence.as_secs_f64()));
        }
        values.add("Publisher QoS", qos_problem.as_deref().unwrap_or("compatible"));
        if !calibration.why.is_empty() {
            values.add("Depth factor", format!("{:.4}", calibration.factor));
            values.add("Depth scaled by", calibration.why);
        }
        if let Some((_, why)) = refusal {
            values.add("Last refusal", why);
        }
        let verdict = found.verdict("images arrive");
        self.status(&subtask(camera, "input"), verdict, values)
    }

    fn timing(&self, camera: &Camera, settings: &Settings, now: Instant) -> DiagnosticStatus {
        let (limits, window) = (&settings.thresholds, settings.node.diagnostics_window);
        let measured = lock(&camera.stats.measures).percentiles(now, window);
        let (mut found, mut values) = (Findings::default(), Values::default());
        for (name, p) in &measured {
            percentiles(&mut values, name, *p);
            let limit = match *name {
                AGE => &limits.age,
                "decode" => &limits.decode,
                "infer" => &limits.infer,
                "postprocess" => &limits.postprocess,
                "publish" => &limits.publish,
                "total" => &limits.total,
                _ => continue,
            };
            let show = |t: Duration| format!("{:.1} ms", t.as_secs_f64() * 1e3);
            found.judge(&format!("{name} p95"), Duration::from_nanos(p.p95), limit, Side::Above, show);
        }
        let well = match measured.iter().find(|(name, _)| *name == AGE) {
            Some((_, p)) => format!("median age at publication {:.0} ms", ms(p.p50)),
            None => format!("no frame was answered in the last {:.0} s", window.as_secs_f64()),
        };
        self.status(&subtask(camera, "timing"), found.verdict(&well), values)
    }

    fn model(&self, ready: Option<&Ready>, state: State, enabled: bool) -> DiagnosticStatus {
        let mut values = Values::default();
        values.add("State", state);
        values.add("Enabled", enabled);
        let Some(r) = ready else {
            return self.status("model", (Level::Ok, format!("no model is loaded: the node is {state}")), values);
        };
        let m = &r.manifest;
        values.add("Name", &m.name);
        values.add("sha256", &r.sha256);
        values.add("Back end", &r.backend);
        values.add("Precision", &r.precision);
        values.add("Device", &r.device);
        values.add("Input", format!("{}x{}", m.input.width, m.input.height));
        values.add("Focal length (px)", m.output.depth.focal_length_px);
        self.status("model", (Level::Ok, format!("{} on {}, {state}", m.name, r.device)), values)
    }

    fn device(&mut self, ready: Option<&Ready>, limits: &Thresholds) -> DiagnosticStatus {
        let device = ready.map_or("cpu", |r| r.device.as_str());
        let number = device.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        let processor = number.map_or(Processor::Cpu, Processor::Cuda);
        if self.health.as_ref().is_none_or(|(p, _)| *p != processor) {
            self.health = None;
        }
        let (_, health) = self.health.get_or_insert_with(|| (processor, Health::new(processor)));
        let (mut found, mut values) = (Findings::default(), Values::default());
        for (key, value) in health.values() {
            values.add(key, value);
        }
        let gpu = health.gpu();
        if let Some(celsius) = gpu.temperature_c {
            let show = |x| format!("{x:.0} C");
            found.judge("GPU temperature", celsius, &limits.gpu_temperature_c, Side::Above, show);
        }
        if gpu.is_throttled {
            let why = gpu.limited_by.clone().unwrap_or_default().join(", ");
            found.add(Level::Warn, format!("the GPU's clocks are limited by {why}"));
        }
        let well = format!("{device}, no alarm");
        self.status("device", found.verdict(&well), values)
    }
}

const AGE: &str = "age at publication";

fn subtask(camera: &Camera, what: &str) -> String {
    if camera.name.is_empty() {
        what.into()
    } else {
        format!("{} {what}", camera.name)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn percentiles(values: &mut Values, name: &str, p: Percentiles) {
    for (label, ns) in [("p50", p.p50), ("p95", p.p95), ("p99", p.p99), ("max", p.max)] {
        values.add(format!("{name} {label} (ms)"), format!("{:.3}", ms(ns)));
    }
}

/// The keys of diagnostic_updater's FrequencyStatus.
fn frequency(values: &mut Values, window: &ArrivalWindow, received: u64, limit: &Limit<f64>) {
    values.add("Events in window", window.events);
    values.add("Events since startup", received);
    values.add("Duration of window (s)", format!("{:.3}", window.duration.as_secs_f64()));
    values.add("Actual frequency (Hz)", format!("{:.3}", window.rate_hz()));
    if let Some(least) = limit.warn.or(limit.error) {
        values.add("Minimum acceptable frequency (Hz)", least);
    }
}

/// The keys of diagnostic_updater's TimeStampStatus. A negative delay is a stamp from the future.
fn timestamps(values: &mut Values, window: &ArrivalWindow, age: &Limit<Duration>, zero_stamps: u64) {
    if let Some((least, most)) = window.delay_s {
        values.add("Earliest timestamp delay:", format!("{least:.6}"));
        values.add("Latest timestamp delay:", format!("{most:.6}"));
    }
    if let Some(most) = age.warn.or(age.error) {
        values.add("Latest acceptable timestamp delay:", most.as_secs_f64());
    }
    values.add("Zero seen diagnostic update count:", zero_stamps);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_counts_and_all_are_said() {
        let limit = Limit { warn: Some(10.0), error: Some(20.0) };
        let show = |x| format!("{x:.1} ms");
        let verdict = |value: f64| {
            let mut f = Findings::default();
            f.judge("age", value, &limit, Side::Above, show);
            f.verdict("well")
        };
        assert_eq!(verdict(5.0), (Level::Ok, "well".into()));
        assert_eq!(verdict(15.0), (Level::Warn, "age 15.0 ms is above 10.0 ms".into()));
        assert_eq!(verdict(25.0), (Level::Error, "age 25.0 ms is above 20.0 ms".into()));
        let mut f = Findings::default();
        let limit = Limit { warn: Some(20.0), error: Some(10.0) };
        f.judge("rate", 5.0, &limit, Side::Below, |x| format!("{x:.1} Hz"));
        f.judge("rate", 5.0, &Limit { warn: None, error: None }, Side::Below, show);
        f.add(Level::Warn, "refused");
        assert_eq!(f.verdict(""), (Level::Error, "rate 5.0 Hz is below 10.0 Hz; refused".into()));
    }

    #[test]
    fn drops_are_counted_within_the_window() {
        let (mut h, start, s) = (History::default(), Instant::now(), Duration::from_secs);
        let counted = |received, dropped| Counted { received, dropped };
        assert_eq!(h.drop_ratio(start, s(10), counted(0, 0)), 0.0);
        assert_eq!(h.drop_ratio(start + s(5), s(10), counted(100, 50)), 0.5);
        assert_eq!(h.drop_ratio(start + s(15), s(10), counted(200, 50)), 0.0, "since the report at 5 s");
        assert_eq!(h.drop_ratio(start + s(60), s(10), counted(300, 80)), 0.3, "since the report before");
    }
}
