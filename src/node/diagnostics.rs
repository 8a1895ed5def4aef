//! What `/diagnostics` says, once a second (REP 107: statuses named `node: subtask`).

use super::lock;
use super::stats::Stats;
use super::worker::Ready;
use crate::interface::{Limit, Severity};
use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::Clock;
use std::time::{Duration, Instant};

/// A refused frame makes the input's status a warning for this long.
const REFUSAL_REMEMBERED: Duration = Duration::from_secs(10);

/// What a report compares with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Median age at publication.
    pub age: Limit<Duration>,
    /// Without an image.
    pub stale_after: Duration,
}

/// Levels of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok = 0,
    Warn = 1,
    Error = 2,
    Stale = 3,
}

/// Makes the reports; remembers what the last one counted.
#[derive(Debug)]
pub struct Reporter {
    node: String,
    model: Ready,
    last: Instant,
    received: u64,
    answered: u64,
}

impl Reporter {
    /// For a node of this name.
    pub fn new(node: &str, model: Ready) -> Self {
        Self { node: node.into(), model, last: Instant::now(), received: 0, answered: 0 }
    }

    fn status(&self, subtask: &str, level: Level, message: String, values: Vec<(String, String)>) -> DiagnosticStatus {
        DiagnosticStatus {
            level: level as u8,
            name: format!("{}: {subtask}", self.node),
            message,
            hardware_id: self.model.device.clone(),
            values: values.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        }
    }

    /// The state now.
    pub fn report(&mut self, stats: &Stats, limits: &Limits, clock: &mut Clock) -> DiagnosticArray {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.last).as_secs_f64().max(1e-3);
        let (received, answered) = (Stats::read(&stats.received), Stats::read(&stats.answered));
        let rates = ((received - self.received) as f64 / elapsed, (answered - self.answered) as f64 / elapsed);
        (self.last, self.received, self.answered) = (now, received, answered);

        let mut array = DiagnosticArray::default();
        if let Ok(time) = clock.get_now() {
            array.header.stamp = Clock::to_builtin_time(&time);
        }
        array.status = vec![self.input(stats, limits, now, rates), self.timing(stats, limits), self.model_status()];
        array
    }

    fn input(&self, stats: &Stats, limits: &Limits, now: Instant, rates: (f64, f64)) -> DiagnosticStatus {
        let silence = lock(&stats.last_arrival).map(|t| now.saturating_duration_since(t));
        let refusal = lock(&stats.last_refusal).clone();
        let recent = refusal.as_ref().filter(|(t, _)| now.saturating_duration_since(*t) < REFUSAL_REMEMBERED);
        let (level, message) = input_level(silence, limits.stale_after, recent.map(|(_, why)| why.as_str()));
        let count = |name: &str, value: u64| (name.to_string(), value.to_string());
        let mut values = vec![
            count("Frames received", Stats::read(&stats.received)),
            count("Frames answered", Stats::read(&stats.answered)),
            count("Frames dropped", Stats::read(&stats.dropped)),
            count("Frames refused", Stats::read(&stats.refused)),
            count("Frames skipped (no subscriber)", Stats::read(&stats.skipped)),
            ("Actual frequency (Hz)".into(), format!("{:.3}", rates.0)),
            ("Output frequency (Hz)".into(), format!("{:.3}", rates.1)),
        ];
        if let Some(silence) = silence {
            values.push(("Time since last image (s)".into(), format!("{:.3}", silence.as_secs_f64())));
        }
        if let Some((_, why)) = refusal {
            values.push(("Last refusal".into(), why));
        }
        self.status("input", level, message, values)
    }

    fn timing(&self, stats: &Stats, limits: &Limits) -> DiagnosticStatus {
        let measures = lock(&stats.measures).clone();
        let ms = |ns: u64| ns as f64 / 1e6;
        let mut values = Vec::new();
        for (name, window) in measures.each() {
            if let Some(p) = window.percentiles() {
                for (label, ns) in [("p50", p.p50), ("p95", p.p95), ("p99", p.p99), ("max", p.max)] {
                    values.push((format!("{name} {label} (ms)"), format!("{:.3}", ms(ns))));
                }
            }
        }
        let age = measures.age.percentiles().map(|p| Duration::from_nanos(p.p50));
        let (level, message) = match age {
            None => (Level::Ok, "no frame was answered yet".into()),
            Some(age) if limits.age.above(age) != Severity::Ok => (
                if limits.age.above(age) == Severity::Error { Level::Error } else { Level::Warn },
                format!("half of the frames are older than {:.0} ms at publication", age.as_secs_f64() * 1e3),
            ),
            Some(age) => (Level::Ok, format!("median age at publication {:.0} ms", age.as_secs_f64() * 1e3)),
        };
        self.status("timing", level, message, values)
    }

    fn model_status(&self) -> DiagnosticStatus {
        let m = &self.model;
        let values = vec![
            ("Name".into(), m.name.clone()),
            ("sha256".into(), m.sha256.clone()),
            ("Back end".into(), m.backend.clone()),
            ("Device".into(), m.device.clone()),
            ("Input".into(), format!("{}x{}", m.width, m.height)),
        ];
        self.status("model", Level::Ok, format!("{} on {}", m.name, m.device), values)
    }
}

fn input_level(silence: Option<Duration>, stale_after: Duration, refusal: Option<&str>) -> (Level, String) {
    match (silence, refusal) {
        (None, _) => (Level::Stale, "no image has arrived yet".into()),
        (Some(s), _) if s > stale_after => (Level::Stale, format!("no image for {:.1} s", s.as_secs_f64())),
        (_, Some(why)) => (Level::Warn, format!("images are refused: {why}")),
        _ => (Level::Ok, "images arrive".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_stale_then_refused_then_well() {
        let s = Duration::from_secs;
        assert_eq!(input_level(None, s(2), None).0, Level::Stale);
        assert_eq!(input_level(Some(s(3)), s(2), Some("bad")).0, Level::Stale);
        let (level, message) = input_level(Some(s(1)), s(2), Some("bad step"));
        assert_eq!(level, Level::Warn);
        assert!(message.contains("bad step"));
        assert_eq!(input_level(Some(s(1)), s(2), None).0, Level::Ok);
    }
}
