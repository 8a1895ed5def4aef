//! How long the process has been running without a gap: after SIGSTOP, a debugger or a suspended machine, clocks have gone on and no
//! thread has, so that what looks as if it hung has only just been let go on.

use std::time::{Duration, Instant};

/// The spinning thread looks far more often than this.
const GAP: Duration = Duration::from_secs(2);

/// Looked at by the spinning thread.
#[derive(Debug)]
pub struct Awake {
    since: Instant,
    last: Instant,
}

impl Awake {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { since: now, last: now }
    }

    /// For how long, at a look of which each begins soon after the one before.
    pub fn look(&mut self, now: Instant) -> Duration {
        if now.saturating_duration_since(self.last) > GAP {
            self.since = now;
        }
        self.last = now;
        now.saturating_duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_begins_anew() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut awake = Awake::new(start);
        assert_eq!(awake.look(start + ms(100)), ms(100));
        assert_eq!(awake.look(start + ms(2100)), ms(2100), "slow, but awake");
        assert_eq!(awake.look(start + ms(9000)), ms(0));
        assert_eq!(awake.look(start + ms(9100)), ms(100));
    }
}
