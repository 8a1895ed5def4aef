//! What a status says: its verdict from what was found, and its values.

use crate::interface::diagnostics::Level;
use crate::interface::{Limit, Severity};
use r2r::diagnostic_msgs::msg::KeyValue;

/// Where a value is worse.
#[derive(Debug, Clone, Copy)]
pub enum Side {
    /// Of its limit.
    Above,
    /// Of its limit.
    Below,
}

/// The findings of one status: the worst level counts, and everything found at any level above OK is said.
#[derive(Debug, Default)]
pub struct Findings(Vec<(Level, String)>);

impl Findings {
    /// Adds one.
    pub fn add(&mut self, level: Level, text: impl Into<String>) {
        self.0.push((level, text.into()));
    }

    /// Adds what is beyond a limit; `show` writes a value with its unit, `side` says on which side of the limit it is.
    pub fn judge<T: PartialOrd + Copy>(
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
    pub fn verdict(mut self, well: &str) -> (Level, String) {
        self.0.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
        match self.0.first() {
            None => (Level::Ok, well.into()),
            Some((level, _)) => (*level, self.0.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; ")),
        }
    }
}

/// Keys and values of one status.
#[derive(Debug, Default)]
pub struct Values(pub Vec<KeyValue>);

impl Values {
    /// Adds one.
    pub fn add(&mut self, key: impl Into<String>, value: impl ToString) {
        self.0.push(KeyValue { key: key.into(), value: value.to_string() });
    }
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
}
