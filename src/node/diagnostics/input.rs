//! What the status of one camera's input says.

use super::findings::{Findings, Side, Values};
use super::history::{Counted, History};
use super::{ages, Now};
use crate::interface::diagnostics::{key, Level};
use crate::interface::Limit;
use crate::node::lock;
use crate::node::stats::{ArrivalWindow, CalibrationState, Percentiles, Stats, BROKEN};
use std::time::{Duration, Instant};

/// The least age at arrival that is acceptable, seconds: clocks differ a little.
const EARLIEST_S: f64 = -1.0;

/// One camera's input at the time of a report.
#[derive(Debug, Default)]
pub struct Input {
    is_subscribed: bool,
    /// Publishers of the image at the last look.
    publishers: u64,
    counted: Counted,
    /// Share of the frames of the window that were dropped, but for the throttled ones.
    drop_ratio: f64,
    output_hz: f64,
    /// Whether images were to be answered all through the window.
    is_active_all_through: bool,
    arrivals: ArrivalWindow,
    /// Key and number, since the start: stamps that went back, stayed and were zero.
    stamps: [(&'static str, u64); 3],
    /// Key and number, since the start: reports in whose window an image was too old, too new or without a stamp.
    reports: [(&'static str, u64); 3],
    /// Since the last image.
    silence: Option<Duration>,
    qos_problem: Option<String>,
    /// Why the last refused image was refused, and whether that was within the window.
    refusal: Option<(String, bool)>,
    /// What kept the last whole image from being answered, if within the window.
    failure: Option<String>,
    /// The network's answer was no number within the window.
    is_broken: bool,
    calibration: CalibrationState,
    cloud: Option<Result<(), String>>,
    image: Option<(usize, usize, &'static str)>,
}

impl Input {
    /// As it is at `at`; `history` is what the reports before have counted of it.
    pub fn of(stats: &Stats, is_subscribed: bool, history: &mut History, now: &Now<'_>, at: Instant) -> Self {
        let window = now.settings.node.diagnostics_window;
        let is_recent = |t: Instant| at.saturating_duration_since(t) < window;
        let counted = Counted::of(stats);
        let (drop_ratio, output_hz) = history.add(at, window, counted);
        let is_active_all_through = history.is_active_all_through(is_subscribed && now.enabled, at, window);
        let (arrivals, stamps) = {
            let a = lock(&stats.arrivals);
            let stamps = [
                (key::STAMPS_BACK, a.jumps_back),
                (key::STAMPS_REPEATED, a.repeated),
                (key::STAMPS_ZERO, a.zero_stamps),
            ];
            (a.window(at, window), stamps)
        };
        history.zero += u64::from(arrivals.zero_stamps);
        if let Some((least, most)) = arrivals.delay_s {
            history.late += u64::from(most > latest_s(now));
            history.early += u64::from(least < EARLIEST_S);
        }
        let reports =
            [(key::LATE_COUNT, history.late), (key::EARLY_COUNT, history.early), (key::ZERO_COUNT, history.zero)];
        Self {
            is_subscribed,
            publishers: Stats::read(&stats.publishers),
            counted,
            drop_ratio,
            output_hz,
            is_active_all_through,
            arrivals,
            stamps,
            reports,
            silence: lock(&stats.last_arrival).map(|t| at.saturating_duration_since(t)),
            qos_problem: lock(&stats.qos_problem).clone(),
            refusal: lock(&stats.last_refusal).as_ref().map(|(t, why)| (why.clone(), is_recent(*t))),
            failure: lock(&stats.last_failure).as_ref().filter(|(t, _)| is_recent(*t)).map(|(_, why)| why.clone()),
            is_broken: lock(&stats.last_broken).is_some_and(is_recent),
            calibration: lock(&stats.calibration).clone(),
            cloud: lock(&stats.cloud).clone(),
            image: *lock(&stats.image),
        }
    }

    /// Its level and why.
    pub fn verdict(&self, now: &Now<'_>) -> (Level, String) {
        let (limits, node) = (&now.settings.thresholds, &now.settings.node);
        let mut found = Findings::default();
        if !self.is_subscribed {
            found.add(Level::Ok, format!("not subscribed: the node is {}", now.state));
            return found.verdict("");
        }
        let is_heard = self.silence.is_some_and(|s| s <= node.stale_after);
        if let Some(problem) = &self.qos_problem {
            found.add(if is_heard { Level::Warn } else { Level::Error }, problem.as_str());
        }
        match self.silence {
            // That nobody is heard has a known reason then, which is worse than not to know.
            _ if !is_heard && self.qos_problem.is_some() => {}
            None => found.add(Level::Stale, "no image has arrived yet"),
            Some(s) if !is_heard => found.add(Level::Stale, format!("no image for {:.1} s", s.as_secs_f64())),
            Some(_) => {
                let hz = |x| format!("{x:.1} Hz");
                found.judge("rate", self.arrivals.rate_hz(), &limits.rate_hz, Side::Below, hz);
                if self.is_active_all_through {
                    found.judge("rate of answers", self.output_hz, &limits.output_hz, Side::Below, hz);
                }
                let percent = |x| format!("{:.0} %", 100.0 * x);
                found.judge("share of dropped frames", self.drop_ratio, &limits.drop_ratio, Side::Above, percent);
            }
        }
        if let Some((why, true)) = &self.refusal {
            found.add(Level::Warn, format!("images are refused: {why}"));
        }
        if let Some(why) = &self.failure {
            found.add(if self.output_hz > 0.0 { Level::Warn } else { Level::Error }, why.as_str());
        }
        if self.is_broken {
            found.add(Level::Warn, BROKEN);
        }
        if self.arrivals.zero_stamps {
            found.add(Level::Warn, "images without a stamp (zero)");
        }
        // Under simulated time a bag that loops is nothing to warn of.
        if self.arrivals.jumps_back && !node.use_sim_time {
            found.add(Level::Warn, "stamps jumped back");
        }
        // All of them: where a bag loops, one may be held against the other loop's clock.
        if let Some((_, most)) = self.arrivals.delay_s.filter(|(_, most)| *most < EARLIEST_S) {
            let why = "clocks differ, or use_sim_time is on and there is no /clock";
            found.add(Level::Warn, format!("images are {:.1} s from the future: {why}", -most));
        }
        if self.calibration.degraded {
            found.add(Level::Warn, format!("depth is scaled by {}", self.calibration.why));
        }
        if let Some(Err(why)) = &self.cloud {
            found.add(Level::Warn, format!("there is no point cloud: {why}"));
        }
        if !now.enabled {
            found.add(Level::Ok, "the node is disabled (~/enable)");
        }
        found.verdict("images arrive")
    }

    /// Its values; `age` is that at publication, `min_period` that between two frames which `max_rate_hz` asks for.
    pub fn values(&self, now: &Now<'_>, age: Option<Percentiles>, min_period: Option<Duration>) -> Values {
        let mut values = Values::default();
        frequency(&mut values, &self.arrivals, self.counted.received, &now.settings.thresholds.rate_hz, min_period);
        if let Some((least, most)) = self.arrivals.delay_s {
            values.add(key::EARLIEST_DELAY, format!("{least:.6}"));
            values.add(key::LATEST_DELAY, format!("{most:.6}"));
        }
        values.add(key::EARLIEST_ACCEPTABLE, EARLIEST_S);
        values.add(key::LATEST_ACCEPTABLE, latest_s(now));
        self.reports.iter().for_each(|(key, count)| values.add(*key, count));
        self.counted.say(&mut values);
        values.add(key::DROP_RATIO, format!("{:.3}", self.drop_ratio));
        values.add(key::OUTPUT_HZ, format!("{:.3}", self.output_hz));
        if let Some(age) = age {
            ages(&mut values, age);
        }
        self.stamps.iter().for_each(|(key, count)| values.add(*key, count));
        if let Some(silence) = self.silence {
            values.add(key::SILENCE_S, format!("{:.3}", silence.as_secs_f64()));
        }
        if let Some((why, _)) = &self.refusal {
            values.add(key::LAST_REFUSAL, why);
        }
        let ok = match self.publishers {
            _ if !self.is_subscribed => "not subscribed",
            0 => "none",
            _ => "ok",
        };
        values.add(key::QOS_PROBLEM, self.qos_problem.as_deref().unwrap_or(ok));
        let calibration = &self.calibration;
        if !calibration.why.is_empty() {
            values.add(key::CALIBRATION, if calibration.degraded { calibration.why.as_str() } else { "ok" });
            values.add(key::DEPTH_FACTOR, format!("{:.4} ({})", calibration.factor, calibration.why));
        }
        if let Some(cloud) = &self.cloud {
            values.add(key::POINT_CLOUD, cloud.as_ref().err().map_or("ok", String::as_str));
        }
        if let Some((w, h, encoding)) = self.image {
            values.add(key::IMAGE, format!("{w}x{h} {encoding}"));
        }
        values
    }
}

/// The greatest age at arrival that is acceptable, seconds.
fn latest_s(now: &Now<'_>) -> f64 {
    now.settings.thresholds.age.error.map_or(f64::INFINITY, |t| t.as_secs_f64())
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
    use crate::interface::{ParameterSet, Value};
    use crate::node::lifecycle::State;
    use crate::node::settings::Settings;

    fn settings(given: &[(&str, Value)]) -> Settings {
        let given = given.iter().map(|(name, value)| (name.to_string(), value.clone()));
        Settings::of(&ParameterSet::new(given).expect("valid"))
    }

    fn now(settings: &Settings) -> Now<'_> {
        Now {
            settings,
            ready: None,
            state: State::Active,
            enabled: true,
            configure_failure: None,
            reload_failure: None,
            network_failure: None,
            namesake: None,
            busy: None,
        }
    }

    fn heard() -> Input {
        Input { is_subscribed: true, silence: Some(Duration::ZERO), output_hz: 10.0, ..Input::default() }
    }

    #[test]
    fn the_level_tells_whether_images_arrive_and_why_not() {
        let settings = settings(&[("stale_after_s", Value::Double(2.0))]);
        let says = |input: Input| input.verdict(&now(&settings));
        let is = |input: Input, level: Level, text: &str| {
            let (is, said) = says(input);
            assert!(is == level && said.contains(text), "{is:?} {said:?}, expected {level:?} {text:?}");
        };
        let after = |seconds| Some(Duration::from_secs_f64(seconds));
        is(heard(), Level::Ok, "images arrive");
        is(Input { silence: None, ..heard() }, Level::Stale, "no image has arrived yet");
        is(Input { silence: after(1.9), ..heard() }, Level::Ok, "images arrive");
        is(Input { silence: after(2.0), ..heard() }, Level::Ok, "images arrive");
        is(Input { silence: after(2.1), ..heard() }, Level::Stale, "no image for 2.1 s");
        // A known reason is said in place of the silence that it explains, and is only a warning while others are heard.
        let problem = Some("/driver on /image: reliability".to_string());
        let silent = Input { qos_problem: problem.clone(), silence: after(9.0), ..heard() };
        assert_eq!(says(silent), (Level::Error, "/driver on /image: reliability".into()));
        is(Input { qos_problem: problem, ..heard() }, Level::Warn, "/driver on /image");
        is(Input { is_subscribed: false, silence: None, ..heard() }, Level::Ok, "not subscribed: the node is active");
        let disabled = Now { enabled: false, ..now(&settings) };
        assert_eq!(heard().verdict(&disabled), (Level::Ok, "the node is disabled (~/enable)".into()));
    }

    #[test]
    fn a_low_rate_of_answers_is_told_once_a_whole_window_tells_it() {
        let settings = settings(&[("thresholds.output_rate_warn_hz", Value::Double(9.5))]);
        let says = |is_active_all_through, output_hz| {
            Input { is_active_all_through, output_hz, ..heard() }.verdict(&now(&settings))
        };
        assert_eq!(says(true, 9.0), (Level::Warn, "rate of answers 9.0 Hz is below 9.5 Hz".into()));
        assert_eq!(says(true, 9.5).0, Level::Ok);
        assert_eq!(says(false, 0.0).0, Level::Ok, "it has only just become active");
        let window = settings.node.diagnostics_window;
        let (stats, mut history, start) = (Stats::default(), History::default(), Instant::now());
        let mut is_judged = |at, enabled| {
            let now = Now { enabled, ..now(&settings) };
            Input::of(&stats, true, &mut history, &now, at).is_active_all_through
        };
        assert!(!is_judged(start, true));
        assert!(is_judged(start + window, true));
        assert!(!is_judged(start + window, false));
        assert!(!is_judged(start + window * 2, true), "switched on again");
        assert!(is_judged(start + window * 3, true));
    }

    #[test]
    fn what_failed_within_the_window_is_said_and_an_error_only_where_nothing_is_answered() {
        let settings = settings(&[]);
        let says = |input: Input| input.verdict(&now(&settings));
        let failed = || Input { failure: Some("it cannot be published".into()), ..heard() };
        assert_eq!(says(failed()), (Level::Warn, "it cannot be published".into()));
        assert_eq!(says(Input { output_hz: 0.0, ..failed() }).0, Level::Error);
        let refused = |is_recent| Input { refusal: Some(("no such encoding".into(), is_recent)), ..heard() };
        assert_eq!(says(refused(true)), (Level::Warn, "images are refused: no such encoding".into()));
        assert_eq!(says(refused(false)).0, Level::Ok);
        assert_eq!(says(Input { is_broken: true, ..heard() }), (Level::Warn, BROKEN.into()));
        let why = "the model's focal length".to_string();
        let calibration = CalibrationState { why, factor: 1.0, degraded: true };
        assert_eq!(says(Input { calibration: calibration.clone(), ..heard() }).0, Level::Warn);
        let calibration = CalibrationState { degraded: false, ..calibration };
        assert_eq!(says(Input { calibration, ..heard() }).0, Level::Ok);
        assert_eq!(says(Input { cloud: Some(Err("no calibration".into())), ..heard() }).0, Level::Warn);
        assert_eq!(says(Input { cloud: Some(Ok(())), ..heard() }).0, Level::Ok);
    }

    #[test]
    fn stamps_are_warned_of_where_they_are_wrong() {
        let wall = settings(&[]);
        let simulated = settings(&[("use_sim_time", Value::Bool(true))]);
        let with = |arrivals| Input { arrivals, ..heard() };
        let back = || with(ArrivalWindow { jumps_back: true, ..ArrivalWindow::default() });
        assert_eq!(back().verdict(&now(&wall)), (Level::Warn, "stamps jumped back".into()));
        assert_eq!(back().verdict(&now(&simulated)).0, Level::Ok, "a bag that loops");
        let zero = with(ArrivalWindow { zero_stamps: true, ..ArrivalWindow::default() });
        assert_eq!(zero.verdict(&now(&wall)), (Level::Warn, "images without a stamp (zero)".into()));
        let aged = |least, most| with(ArrivalWindow { delay_s: Some((least, most)), ..ArrivalWindow::default() });
        let (level, said) = aged(-3.0, -2.5).verdict(&now(&wall));
        assert!(level == Level::Warn && said.starts_with("images are 2.5 s from the future"), "{said}");
        assert_eq!(aged(-3.0, 0.1).verdict(&now(&wall)).0, Level::Ok, "not all of them");
        assert_eq!(aged(-1.0, -1.0).verdict(&now(&wall)).0, Level::Ok, "clocks differ a little");
    }

    #[test]
    fn late_early_and_unstamped_reports_are_counted() {
        let settings = settings(&[
            ("thresholds.age_warn_ms", Value::Double(0.0)),
            ("thresholds.age_error_ms", Value::Double(500.0)),
        ]);
        let (stats, mut history, start) = (Stats::default(), History::default(), Instant::now());
        let (s, ms) = (Duration::from_secs, 1_000_000);
        let mut count = |at: Instant| {
            let input = Input::of(&stats, true, &mut history, &now(&settings), at);
            let mut values = input.values(&now(&settings), None, None).0.into_iter();
            [key::LATE_COUNT, key::EARLY_COUNT, key::ZERO_COUNT]
                .map(|key| values.find(|v| v.key == key).map(|v| v.value).expect("its count"))
        };
        lock(&stats.arrivals).watch(start);
        assert_eq!(count(start), ["0", "0", "0"]);
        // Stamps of ten seconds after the epoch of the clock, held against that clock.
        let arrive = |at, age_ms: i64| lock(&stats.arrivals).add(at, 10_000 * ms, (10_000 + age_ms) * ms);
        arrive(start, 500);
        arrive(start, -1000);
        assert_eq!(count(start + s(1)), ["0", "0", "0"], "just acceptable");
        arrive(start + s(1), 501);
        assert_eq!(count(start + s(2)), ["1", "0", "0"]);
        arrive(start + s(2), -1001);
        lock(&stats.arrivals).add(start + s(2), 0, 10_000 * ms);
        assert_eq!(count(start + s(3)), ["2", "1", "1"], "all three lie within the window");
        assert_eq!(count(start + s(3) + settings.node.diagnostics_window), ["2", "1", "1"], "none does");
    }
}
