//! What `/diagnostics` says (REP 107: statuses named `node: subtask`). Keys that diagnostic_updater has too are spelt
//! as it spells them.

use super::camera::Camera;
use super::device::Processor;
use super::lifecycle::State;
use super::loader::Ready;
use super::lock;
use super::settings::Settings;
use super::stats::{ArrivalWindow, Percentiles, Pool, Stats, AGE, BROKEN};
use super::watch::Watch;
use crate::interface::diagnostics::{self as table, key, Level};
use crate::interface::{Limit, Severity};
use crate::model::Task;
use anyhow::Context as _;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::{Clock, Node, Publisher, QosProfile};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A reading of the device's health that takes longer than this is warned of.
const SLOW_DEVICE: Duration = Duration::from_secs(5);
/// A network that is at one batch for longer than this is taken to hang, unless older results are acceptable.
const SLOW_NETWORK: Duration = Duration::from_secs(5);

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
            Some((level, _)) => (*level, self.0.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")),
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

/// What one camera counted at a report.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    received: u64,
    answered: u64,
    dropped: u64,
    /// Those of the dropped that `max_rate_hz` forbade.
    throttled: u64,
    refused: u64,
    skipped: u64,
}

impl Counted {
    fn of(stats: &Stats) -> Self {
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

    fn plus(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            answered: self.answered + other.answered,
            dropped: self.dropped + other.dropped,
            throttled: self.throttled + other.throttled,
            refused: self.refused + other.refused,
            skipped: self.skipped + other.skipped,
        }
    }

    fn say(&self, values: &mut Values) {
        values.add(key::RECEIVED, self.received);
        values.add(key::ANSWERED, self.answered);
        values.add(key::DROPPED, self.dropped);
        values.add(key::THROTTLED, self.throttled);
        values.add(key::REFUSED, self.refused);
        values.add(key::SKIPPED, self.skipped);
    }
}

/// A report that comes so much after the one before comes from a process that was stopped in between, or starved.
fn is_after_a_stall(before: Option<Instant>, now: Instant, period: Duration) -> bool {
    before.is_some_and(|before| now.saturating_duration_since(before) > SLOW_NETWORK.max(2 * period))
}

/// Counts of the window, one entry a report, and what reports have counted themselves.
#[derive(Debug, Default)]
struct History {
    counts: VecDeque<(Instant, Counted)>,
    late: u64,
    early: u64,
    zero: u64,
}

impl History {
    /// Share of the frames received within the window that were dropped, both without those that were throttled as was asked
    /// for; and frames answered a second.
    fn add(&mut self, now: Instant, length: Duration, counted: Counted) -> (f64, f64) {
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

/// What the status of all cameras says beside their counts.
#[derive(Debug, Default)]
struct Together {
    found: Findings,
    /// Cameras whose input is STALE.
    stale: usize,
    /// Each percentile of the camera for which it is largest.
    worst_age: Option<Percentiles>,
    pool: Pool,
}

impl Together {
    fn add(&mut self, camera: &str, statuses: [&DiagnosticStatus; 2], measured: &[(&str, Percentiles)]) {
        let [input, timing] = statuses.map(level_of);
        let level = input.max(timing);
        if level > Level::Ok {
            self.found.add(level, format!("{camera} is {}", level.name()));
        }
        self.stale += usize::from(input == Level::Stale);
        if let Some((_, p)) = measured.iter().find(|(name, _)| *name == AGE) {
            let worst = self.worst_age.get_or_insert(*p);
            *worst = Percentiles {
                p50: worst.p50.max(p.p50),
                p95: worst.p95.max(p.p95),
                p99: worst.p99.max(p.p99),
                max: worst.max.max(p.max),
            };
        }
    }
}

/// The node at the time of a report.
pub struct Now<'a> {
    /// Parameters.
    pub settings: &'a Settings,
    /// The model, where one is loaded.
    pub ready: Option<&'a Ready>,
    /// Of the managed node.
    pub state: State,
    /// `~/enable`.
    pub enabled: bool,
    /// Why no model could be loaded, if so.
    pub configure_failure: Option<&'a str>,
    /// Why the last `~/reload_model` failed, if it did.
    pub reload_failure: Option<&'a str>,
    /// Why the network failed on the newest frames, if it did.
    pub network_failure: Option<&'a str>,
    /// That another node has its name, if so.
    pub namesake: Option<String>,
    /// How long the inference thread has been at one batch, if it is at one.
    pub busy: Option<Duration>,
}

/// Makes and publishes the reports.
pub struct Reporter {
    node: String,
    publisher: Publisher<DiagnosticArray>,
    histories: Vec<History>,
    /// Of all cameras.
    sums: History,
    /// Of the device that the network runs on; made anew when that changes.
    health: Option<(Processor, Option<Watch>)>,
    hardware_id: String,
    last: Option<Instant>,
}

impl Reporter {
    /// For a node of this name.
    ///
    /// # Errors
    /// The topic cannot be published.
    pub fn create(node: &mut Node, name: &str, qos: QosProfile) -> anyhow::Result<Self> {
        let publisher = node.create_publisher("/diagnostics", qos).context("cannot publish /diagnostics")?;
        let (histories, sums, health, last) = Default::default();
        Ok(Self { node: name.into(), publisher, histories, sums, health, hardware_id: String::new(), last })
    }

    /// Publishes the state now.
    pub fn publish(&mut self, now: &Now<'_>, cameras: &[Camera], clock: &Mutex<Clock>) {
        let at = Instant::now();
        let mut array = DiagnosticArray::default();
        if let Ok(time) = lock(clock).get_now() {
            array.header.stamp = Clock::to_builtin_time(&time);
        }
        let is_after_a_stall = is_after_a_stall(self.last.replace(at), at, now.settings.node.diagnostics_period);
        if is_after_a_stall {
            // The stall's share of a window is not known: rates and ratios begin anew.
            self.histories.iter_mut().chain([&mut self.sums]).for_each(|history| history.counts.clear());
        }
        self.hardware_id = now.ready.map_or_else(String::new, |r| r.device.clone());
        self.histories.resize_with(cameras.len(), History::default);
        let mut together = Together::default();
        for (index, camera) in cameras.iter().enumerate() {
            let window = now.settings.node.diagnostics_window;
            let (measured, batch) = {
                let measures = lock(&camera.stats.measures);
                if cameras.len() > 1 {
                    together.pool.add(&measures, at, window);
                }
                (measures.percentiles(at, window), measures.batch.mean(at, window))
            };
            let input = self.input(index, camera, now, at, &measured);
            let timing = self.timing(camera, now.settings, &measured, batch);
            together.add(&camera.name, [&input, &timing], &measured);
            array.status.extend([input, timing]);
        }
        if cameras.len() > 1 {
            array.status.push(self.all_cameras(together, cameras, now, at));
        }
        array.status.push(self.model(now, is_after_a_stall));
        array.status.push(self.device(now));
        if let Err(e) = self.publisher.publish(&array) {
            log::warn!("cannot publish /diagnostics: {e}");
        }
    }

    fn status(
        &self,
        (subtask, camera): (&str, &str),
        (level, message): (Level, String),
        values: Values,
    ) -> DiagnosticStatus {
        DiagnosticStatus {
            level: level as u8,
            name: table::status(subtask).map_or_else(String::new, |s| s.name(&self.node, camera)),
            message,
            hardware_id: self.hardware_id.clone(),
            values: values.0,
        }
    }

    fn input(
        &mut self,
        index: usize,
        camera: &Camera,
        now: &Now<'_>,
        at: Instant,
        measured: &[(&str, Percentiles)],
    ) -> DiagnosticStatus {
        let (stats, limits, node) = (&camera.stats, &now.settings.thresholds, &now.settings.node);
        let (settings, length) = (now.settings.cameras.get(index), node.diagnostics_window);
        let silence = lock(&stats.last_arrival).map(|t| at.saturating_duration_since(t));
        let counted = Counted::of(stats);
        let history = &mut self.histories[index];
        let (drop_ratio, output_hz) = history.add(at, length, counted);
        let (window, jumps_back, repeated, zero_stamps) = {
            let a = lock(&stats.arrivals);
            (a.window(at, length), a.jumps_back, a.repeated, a.zero_stamps)
        };
        history.zero += u64::from(window.zero_stamps);
        let (latest_s, earliest_s) = (limits.age.error.map(|t| t.as_secs_f64()), -1.0);
        if let Some((least, most)) = window.delay_s {
            history.late += u64::from(latest_s.is_some_and(|limit| most > limit));
            history.early += u64::from(least < earliest_s);
        }
        let (late, early, zero) = (history.late, history.early, history.zero);
        let qos_problem = lock(&stats.qos_problem).clone();
        let refusal = lock(&stats.last_refusal).clone();
        let (failure, broken) = (lock(&stats.last_failure).clone(), *lock(&stats.last_broken));
        let calibration = lock(&stats.calibration).clone();
        let cloud = lock(&stats.cloud).clone();
        let image = *lock(&stats.image);
        let age = measured.iter().find(|(name, _)| *name == AGE);

        let mut found = Findings::default();
        if !camera.is_subscribed() {
            found.add(Level::Ok, format!("not subscribed: the node is {}", now.state));
        } else {
            let heard = silence.is_some_and(|s| s <= node.stale_after);
            if let Some(problem) = &qos_problem {
                found.add(if heard { Level::Warn } else { Level::Error }, problem.clone());
            }
            match silence {
                // That nobody is heard has a known reason then, which is worse than not to know.
                _ if !heard && qos_problem.is_some() => {}
                None => found.add(Level::Stale, "no image has arrived yet"),
                Some(s) if !heard => found.add(Level::Stale, format!("no image for {:.1} s", s.as_secs_f64())),
                Some(_) => {
                    let hz = |x| format!("{x:.1} Hz");
                    found.judge("rate", window.rate_hz(), &limits.rate_hz, Side::Below, hz);
                    let percent = |x| format!("{:.0} %", 100.0 * x);
                    found.judge("share of dropped frames", drop_ratio, &limits.drop_ratio, Side::Above, percent);
                }
            }
            let is_recent = |t: Instant| at.saturating_duration_since(t) < length;
            if let Some((_, why)) = refusal.as_ref().filter(|(t, _)| is_recent(*t)) {
                found.add(Level::Warn, format!("images are refused: {why}"));
            }
            if let Some((_, why)) = failure.filter(|(t, _)| is_recent(*t)) {
                let level = if output_hz > 0.0 { Level::Warn } else { Level::Error };
                found.add(level, why);
            }
            if broken.is_some_and(is_recent) {
                found.add(Level::Warn, BROKEN);
            }
            if window.zero_stamps {
                found.add(Level::Warn, "images without a stamp (zero)");
            }
            // Under simulated time a bag that loops is nothing to warn of.
            if window.jumps_back && !node.use_sim_time {
                found.add(Level::Warn, "stamps jumped back");
            }
            // All of them: where a bag loops, one may be held against the other loop's clock.
            if let Some((_, most)) = window.delay_s.filter(|(_, most)| *most < earliest_s) {
                let why = "clocks differ, or use_sim_time is on and there is no /clock";
                found.add(Level::Warn, format!("images are {:.1} s from the future: {why}", -most));
            }
            if calibration.degraded {
                found.add(Level::Warn, format!("depth is scaled by {}", calibration.why));
            }
            if let Some(Err(why)) = &cloud {
                found.add(Level::Warn, format!("there is no point cloud: {why}"));
            }
            if !now.enabled {
                found.add(Level::Ok, "the node is disabled (~/enable)");
            }
        }

        let mut values = Values::default();
        frequency(&mut values, &window, counted.received, &limits.rate_hz, settings.and_then(|s| s.min_period));
        if let Some((least, most)) = window.delay_s {
            values.add(key::EARLIEST_DELAY, format!("{least:.6}"));
            values.add(key::LATEST_DELAY, format!("{most:.6}"));
        }
        values.add(key::EARLIEST_ACCEPTABLE, earliest_s);
        values.add(key::LATEST_ACCEPTABLE, latest_s.unwrap_or(f64::INFINITY));
        values.add(key::LATE_COUNT, late);
        values.add(key::EARLY_COUNT, early);
        values.add(key::ZERO_COUNT, zero);
        counted.say(&mut values);
        values.add(key::DROP_RATIO, format!("{drop_ratio:.3}"));
        values.add(key::OUTPUT_HZ, format!("{output_hz:.3}"));
        if let Some((_, p)) = age {
            ages(&mut values, *p);
        }
        values.add(key::STAMPS_BACK, jumps_back);
        values.add(key::STAMPS_REPEATED, repeated);
        values.add(key::STAMPS_ZERO, zero_stamps);
        if let Some(silence) = silence {
            values.add(key::SILENCE_S, format!("{:.3}", silence.as_secs_f64()));
        }
        if let Some((_, why)) = refusal {
            values.add(key::LAST_REFUSAL, why);
        }
        let ok = match Stats::read(&stats.publishers) {
            _ if !camera.is_subscribed() => "not subscribed",
            0 => "none",
            _ => "ok",
        };
        values.add(key::QOS_PROBLEM, qos_problem.as_deref().unwrap_or(ok));
        if !calibration.why.is_empty() {
            values.add(key::CALIBRATION, if calibration.degraded { calibration.why.as_str() } else { "ok" });
            values.add(key::DEPTH_FACTOR, format!("{:.4} ({})", calibration.factor, calibration.why));
        }
        if let Some(cloud) = cloud {
            values.add(key::POINT_CLOUD, cloud.err().as_deref().unwrap_or("ok"));
        }
        if let Some((w, h, encoding)) = image {
            values.add(key::IMAGE, format!("{w}x{h} {encoding}"));
        }
        let verdict = found.verdict("images arrive");
        self.status(("input", &camera.name), verdict, values)
    }

    fn timing(
        &self,
        camera: &Camera,
        settings: &Settings,
        measured: &[(&str, Percentiles)],
        batch: Option<f64>,
    ) -> DiagnosticStatus {
        let (limits, window) = (&settings.thresholds, settings.node.diagnostics_window);
        let (mut found, mut values) = (Findings::default(), Values::default());
        for (name, p) in measured {
            let (limit, what, judged) = match *name {
                AGE => (&limits.age, "median age at publication".into(), p.p50),
                "decode" => (&limits.decode, format!("{name} p95"), p.p95),
                "infer" => (&limits.infer, format!("{name} p95"), p.p95),
                "postprocess" => (&limits.postprocess, format!("{name} p95"), p.p95),
                "publish" => (&limits.publish, format!("{name} p95"), p.p95),
                "total" => (&limits.total, format!("{name} p95"), p.p95),
                _ => (&Limit { warn: None, error: None }, String::new(), 0),
            };
            let show = |t: Duration| format!("{:.1} ms", t.as_secs_f64() * 1e3);
            found.judge(&what, Duration::from_nanos(judged), limit, Side::Above, show);
            if *name == "publish" && limit.above(Duration::from_nanos(judged)) != Severity::Ok {
                found.add(
                    Level::Ok,
                    "a subscriber's link may be too slow for what is sent to it, which holds up all cameras",
                );
            }
            if *name != AGE {
                percentiles(&mut values, name, *p);
            }
        }
        if let Some(mean) = batch {
            values.add(key::BATCH_MEAN, format!("{mean:.2}"));
        }
        let well = match measured.iter().find(|(name, _)| *name == AGE) {
            Some((_, p)) => format!("median age at publication {:.0} ms", ms(p.p50)),
            None => format!("no frame was answered in the last {:.0} s", window.as_secs_f64()),
        };
        self.status(("timing", &camera.name), found.verdict(&well), values)
    }

    fn all_cameras(&mut self, together: Together, cameras: &[Camera], now: &Now<'_>, at: Instant) -> DiagnosticStatus {
        let length = now.settings.node.diagnostics_window;
        // As this report has counted each of them.
        let counts = self.histories.iter().filter_map(|history| history.counts.back());
        let counted = counts.fold(Counted::default(), |sum, (_, counted)| sum.plus(*counted));
        let (drop_ratio, output_hz) = self.sums.add(at, length, counted);
        let arrivals = |camera: &Camera| lock(&camera.stats.arrivals).window(at, length).rate_hz();
        let input_hz: f64 = cameras.iter().map(arrivals).sum();
        let unheard = cameras.iter().filter(|camera| lock(&camera.stats.qos_problem).is_some()).count();

        let mut values = Values::default();
        values.add(key::CAMERAS, cameras.len());
        values.add(key::CAMERAS_STALE, together.stale);
        values.add(key::CAMERAS_QOS_PROBLEM, unheard);
        counted.say(&mut values);
        values.add(key::DROP_RATIO, format!("{drop_ratio:.3}"));
        values.add(key::ACTUAL_HZ, format!("{input_hz:.3}"));
        values.add(key::OUTPUT_HZ, format!("{output_hz:.3}"));
        let pooled = together.pool.percentiles();
        if let Some((_, p)) = pooled.iter().find(|(name, _)| *name == AGE) {
            ages(&mut values, *p);
        }
        if let Some(p) = together.worst_age {
            let worst = [(key::WORST_AGE_P50, p.p50), (key::WORST_AGE_P95, p.p95), (key::WORST_AGE_P99, p.p99)];
            worst.into_iter().for_each(|(key, ns)| values.add(key, format!("{:.3}", ms(ns))));
        }
        for (name, p) in pooled.into_iter().filter(|(name, _)| *name != AGE) {
            percentiles(&mut values, name, p);
        }
        let well = format!("{} cameras, no alarm", cameras.len());
        self.status((table::ALL_CAMERAS, ""), together.found.verdict(&well), values)
    }

    fn model(&self, now: &Now<'_>, is_after_a_stall: bool) -> DiagnosticStatus {
        let state = now.state;
        let (mut found, mut values) = (Findings::default(), Values::default());
        if let Some(why) = now.reload_failure {
            found.add(Level::Warn, format!("~/reload_model failed: {why}"));
        }
        if let Some(why) = now.network_failure {
            found.add(Level::Error, format!("the network fails: {why}"));
        }
        let acceptable = SLOW_NETWORK.max(now.settings.thresholds.age.error.unwrap_or_default());
        // The network was stopped as well, then.
        if let Some(busy) = now.busy.filter(|busy| *busy > acceptable && !is_after_a_stall) {
            found.add(Level::Error, format!("the network has been at one batch for {:.0} s", busy.as_secs_f64()));
        }
        if let Some(problem) = &now.namesake {
            found.add(Level::Warn, problem.as_str());
        }
        values.add(key::STATE, if now.enabled { state.to_string() } else { format!("{state}, disabled") });
        let Some(r) = now.ready else {
            if let Some(why) = now.configure_failure {
                found.add(Level::Error, format!("no model could be loaded: {why}"));
            }
            let verdict = found.verdict(&format!("no model is loaded: the node is {state}"));
            return self.status(("model", ""), verdict, values);
        };
        let m = &r.manifest;
        values.add(key::NAME, &m.name);
        values.add(key::SHA256, &r.sha256);
        values.add(key::BACKEND, &r.backend);
        values.add(key::PRECISION, &r.precision);
        values.add(key::DEVICE, &r.device);
        values.add(key::INPUT, format!("{}x{}", m.input.width, m.input.height));
        let answers =
            [(Task::Segmentation, "classes"), (Task::Depth, "depth")].into_iter().filter(|(task, _)| m.answers(*task));
        values.add(key::ANSWERS, answers.map(|(_, name)| name).collect::<Vec<_>>().join(", "));
        if let Some(focal_length_px) = m.focal_length_px() {
            values.add(key::FOCAL_LENGTH_PX, focal_length_px);
        }
        values.add(key::BATCH_MOST, r.max_batch);
        self.status(("model", ""), found.verdict(&format!("{} on {}, {state}", m.name, r.device)), values)
    }

    fn device(&mut self, now: &Now<'_>) -> DiagnosticStatus {
        let device = now.ready.map_or("cpu", |r| r.device.as_str());
        let number = device.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        let processor = number.map_or(Processor::Cpu, Processor::Cuda);
        if self.health.as_ref().is_none_or(|(p, _)| *p != processor) {
            self.health = None;
        }
        let (_, watch) = self.health.get_or_insert_with(|| {
            let watch = Watch::new(processor).inspect_err(|e| log::warn!("the device's health is not read: {e}"));
            (processor, watch.ok())
        });
        let (mut found, mut values) = (Findings::default(), Values::default());
        values.add(key::DEVICE, device);
        let Some(watch) = watch else {
            found.add(Level::Warn, "its health is not read: there was no thread for it");
            return self.status(("device", ""), found.verdict(""), values);
        };
        let reading = watch.reading().clone();
        for (key, value) in reading.values {
            values.add(key, value);
        }
        if let Some(silence) = watch.silence().filter(|silence| *silence > SLOW_DEVICE) {
            found.add(Level::Warn, format!("a reading of its health takes {:.0} s already", silence.as_secs_f64()));
        }
        let gpu = reading.gpu;
        if let Some(celsius) = gpu.temperature_c {
            let show = |x| format!("{x:.0} C");
            let limit = &now.settings.thresholds.gpu_temperature_c;
            found.judge("GPU temperature", celsius, limit, Side::Above, show);
        }
        if gpu.is_throttled {
            let why = gpu.limited_by.unwrap_or_default().join(", ");
            found.add(Level::Warn, format!("the GPU's clocks are limited by {why}"));
        }
        self.status(("device", ""), found.verdict(&format!("{device}, no alarm")), values)
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn level_of(status: &DiagnosticStatus) -> Level {
    let above = [Level::Warn, Level::Error, Level::Stale];
    above.into_iter().find(|level| *level as u8 == status.level).unwrap_or(Level::Ok)
}

fn ages(values: &mut Values, p: Percentiles) {
    let keys = [(key::AGE_P50, p.p50), (key::AGE_P95, p.p95), (key::AGE_P99, p.p99), (key::AGE_MAX, p.max)];
    keys.into_iter().for_each(|(key, ns)| values.add(key, format!("{:.3}", ms(ns))));
}

fn percentiles(values: &mut Values, stage: &str, p: Percentiles) {
    let keys = [(key::STAGE_P50, p.p50), (key::STAGE_P95, p.p95), (key::STAGE_P99, p.p99), (key::STAGE_MAX, p.max)];
    for (pattern, ns) in keys {
        values.add(table::stage_key(pattern, stage), format!("{:.3}", ms(ns)));
    }
}

/// The keys of diagnostic_updater's FrequencyStatus.
fn frequency(
    values: &mut Values,
    window: &ArrivalWindow,
    received: u64,
    limit: &Limit<f64>,
    min_period: Option<Duration>,
) {
    values.add(key::EVENTS_IN_WINDOW, window.events);
    values.add(key::EVENTS_SINCE_STARTUP, received);
    values.add(key::WINDOW_S, format!("{:.3}", window.duration.as_secs_f64()));
    values.add(key::ACTUAL_HZ, format!("{:.3}", window.rate_hz()));
    values.add(key::LEAST_HZ, limit.warn.unwrap_or(0.0));
    values.add(key::MOST_HZ, min_period.map_or(f64::INFINITY, |p| 1.0 / p.as_secs_f64()));
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
    fn all_cameras_are_as_bad_as_the_worst() {
        let status = |level: Level| DiagnosticStatus { level: level as u8, ..DiagnosticStatus::default() };
        let [ok, warn, stale] = [Level::Ok, Level::Warn, Level::Stale].map(status);
        let age = |p50, p95| [(AGE, Percentiles { p50, p95, p99: p95, max: p95 })];
        let mut all = Together::default();
        all.add("front", [&ok, &ok], &age(2, 3));
        assert_eq!(std::mem::take(&mut all.found).verdict("well"), (Level::Ok, "well".into()));
        all.add("left", [&ok, &warn], &age(1, 9));
        all.add("rear", [&stale, &ok], &[]);
        assert_eq!(all.worst_age, Some(Percentiles { p50: 2, p95: 9, p99: 9, max: 9 }));
        assert_eq!(all.stale, 1);
        assert_eq!(all.found.verdict(""), (Level::Stale, "rear is STALE; left is WARN".into()));
    }

    #[test]
    fn a_report_after_a_stall_is_told_from_a_slow_rate_of_reports() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let after = |gap, period| is_after_a_stall(Some(start), start + s(gap), s(period));
        assert!(!is_after_a_stall(None, start, s(1)), "the first");
        assert!(!after(1, 1) && !after(5, 1) && !after(10, 10));
        assert!(after(6, 1) && after(21, 10));
    }

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
