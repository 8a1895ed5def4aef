//! A slot for one frame: the newest wins.

use super::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug)]
struct Slot<T> {
    waiting: Option<T>,
    closed: bool,
}

/// Hands the newest of what is put in to one taker.
#[derive(Debug)]
pub struct Mailbox<T> {
    slot: Mutex<Slot<T>>,
    filled: Condvar,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { slot: Mutex::new(Slot { waiting: None, closed: false }), filled: Condvar::new() }
    }
}

/// What [`Mailbox::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    /// The newest.
    New(T),
    /// Nothing within the time.
    Nothing,
    /// Nothing, ever again.
    Closed,
}

impl<T> Mailbox<T> {
    /// Puts one in; returns the one that it replaces.
    pub fn put(&self, new: T) -> Option<T> {
        let replaced = lock(&self.slot).waiting.replace(new);
        self.filled.notify_one();
        replaced
    }

    /// Takes what waits, or waits for it.
    pub fn take(&self, patience: Duration) -> Taken<T> {
        let slot = lock(&self.slot);
        let (mut slot, _) = self
            .filled
            .wait_timeout_while(slot, patience, |s| s.waiting.is_none() && !s.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if slot.closed {
            return Taken::Closed;
        }
        slot.waiting.take().map_or(Taken::Nothing, Taken::New)
    }

    /// Ends it: the taker is told.
    pub fn close(&self) {
        lock(&self.slot).closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_newest_wins_and_the_replaced_one_comes_back() {
        let m = Mailbox::default();
        assert_eq!(m.put(1), None);
        assert_eq!(m.put(2), Some(1));
        assert_eq!(m.take(Duration::ZERO), Taken::New(2));
        assert_eq!(m.take(Duration::from_millis(1)), Taken::Nothing);
    }

    #[test]
    fn a_taker_wakes_for_a_frame_and_for_the_end() {
        let m = Arc::new(Mailbox::default());
        let taker = {
            let m = m.clone();
            std::thread::spawn(move || (m.take(Duration::from_secs(30)), m.take(Duration::from_secs(30))))
        };
        m.put("frame");
        // The end may come before the frame is taken: then the frame is given up.
        std::thread::sleep(Duration::from_millis(50));
        m.close();
        let (first, second) = taker.join().expect("the taker");
        assert_eq!((first, second), (Taken::New("frame"), Taken::Closed));
    }
}
