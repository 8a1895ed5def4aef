//! How far a long piece of work is: a bar on a terminal, a line of the log every half a minute elsewhere.

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Between two lines of the log.
const PERIOD: Duration = Duration::from_secs(30);

/// The progress of a number of pieces of work, which several threads may do.
pub(crate) struct Pieces {
    bar: ProgressBar,
    what: &'static str,
    started: Instant,
    /// Milliseconds after the start at which a line is due; `None` where there is a bar.
    due_ms: Option<AtomicU64>,
}

impl Pieces {
    /// Of `count` pieces; `what` is done to them ("rendering").
    pub fn new(count: u64, what: &'static str) -> Self {
        Self::shown(count, what, std::io::stderr().is_terminal())
    }

    fn shown(count: u64, what: &'static str, on_a_terminal: bool) -> Self {
        let bar = if on_a_terminal {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}  {per_sec}  {eta} left");
            let bar = ProgressBar::new(count).with_message(what);
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        } else {
            ProgressBar::with_draw_target(Some(count), indicatif::ProgressDrawTarget::hidden())
        };
        let due_ms = (!on_a_terminal).then(|| AtomicU64::new(PERIOD.as_millis() as u64));
        Self { bar, what, started: Instant::now(), due_ms }
    }

    /// One more is done.
    pub fn one_more(&self) {
        self.bar.inc(1);
        if let Some(line) = self.line(self.started.elapsed()) {
            log::info!("{line}");
        }
    }

    /// One is done already, from an earlier start: it is none of the work.
    pub fn one_was_there(&self) {
        self.bar.dec_length(1);
    }

    /// What is to be said `elapsed` after the start: once a period, whichever thread comes first.
    fn line(&self, elapsed: Duration) -> Option<String> {
        let due = self.due_ms.as_ref()?;
        let (now_ms, due_ms) = (elapsed.as_millis() as u64, due.load(Ordering::Relaxed));
        let next_ms = now_ms + PERIOD.as_millis() as u64;
        if now_ms < due_ms || due.compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        let (done, of) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let left = elapsed.mul_f64(of.saturating_sub(done) as f64 / done.max(1) as f64);
        let rate = done as f64 / elapsed.as_secs_f64();
        Some(format!("{} {done} of {of}  {rate:.2}/s  {} left", self.what, HumanDuration(left)))
    }

    /// All is done, or given up: the bar goes.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_terminal_there_is_a_line_every_half_minute() {
        let pieces = Pieces::shown(400, "rendering", false);
        for _ in 0..100 {
            pieces.one_more();
        }
        let at = |s| pieces.line(Duration::from_secs(s));
        assert_eq!(at(29), None);
        assert_eq!(at(40).as_deref(), Some("rendering 100 of 400  2.50/s  2 minutes left"));
        assert_eq!(at(69), None);
        assert_eq!(at(80).as_deref(), Some("rendering 100 of 400  1.25/s  4 minutes left"));
        assert_eq!(at(81), None);
    }

    #[test]
    fn what_was_there_is_no_measure_of_speed() {
        let pieces = Pieces::shown(400, "rendering", false);
        (0..200).for_each(|_| pieces.one_was_there());
        (0..20).for_each(|_| pieces.one_more());
        let line = pieces.line(Duration::from_secs(40));
        assert_eq!(line.as_deref(), Some("rendering 20 of 200  0.50/s  6 minutes left"));
    }

    #[test]
    fn a_terminal_has_a_bar_and_no_lines() {
        let pieces = Pieces::shown(4, "rendering", true);
        pieces.one_more();
        assert_eq!(pieces.line(Duration::from_secs(3600)), None);
        pieces.finish();
    }

    #[test]
    fn what_takes_longer_than_a_period_is_told_of_too() {
        let pieces = Pieces::shown(2, "evaluating", false);
        assert_eq!(pieces.line(PERIOD).as_deref(), Some("evaluating 0 of 2  0.00/s  60 seconds left"));
    }
}
