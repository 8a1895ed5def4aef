//! What `/diagnostics` says (REP 107: statuses named `node: subtask`). Keys that diagnostic_updater has too are spelt
//! as it spells them.

mod findings;
mod history;
mod input;

use self::findings::{Findings, Side, Values};
use self::history::{Counted, History};
use self::input::Input;
use super::camera::Camera;
use super::device::Processor;
use super::lifecycle::State;
use super::loader::Ready;
use super::lock;
use super::settings::Settings;
use super::stats::{Percentiles, Pool, AGE};
use super::watch::Watch;
use crate::interface::diagnostics::{self as table, key, Level};
use crate::interface::{Limit, Severity};
use crate::model::Task;
use anyhow::Context as _;
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus};
use r2r::{Clock, Node, Publisher, QosProfile};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A reading of the device's health that takes longer than this is warned of.
const SLOW_DEVICE: Duration = Duration::from_secs(5);
/// A network that is at one batch for longer than this is taken to hang, unless older results are acceptable.
const SLOW_NETWORK: Duration = Duration::from_secs(5);

/// A report that comes so much after the one before comes from a process that was stopped in between, or starved.
fn is_after_a_stall(before: Option<Instant>, now: Instant, period: Duration) -> bool {
    before.is_some_and(|before| now.saturating_duration_since(before) > SLOW_NETWORK.max(2 * period))
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
            self.histories.iter_mut().chain([&mut self.sums]).for_each(History::forget_counts);
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
            let input = {
                let history = &mut self.histories[index];
                let input = Input::of(&camera.stats, camera.is_subscribed(), history, now, at);
                let age = measured.iter().find(|(name, _)| *name == AGE).map(|(_, p)| *p);
                let min_period = now.settings.cameras.get(index).and_then(|s| s.min_period);
                self.status(("input", &camera.name), input.verdict(now), input.values(now, age, min_period))
            };
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
        let counted = self.histories.iter().filter_map(History::newest).fold(Counted::default(), Counted::plus);
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
