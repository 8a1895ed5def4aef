//! One slot per camera between the ROS executor and the network: the newest frame wins, batches are taken together, and
//! every camera gets its turn.

use super::lock;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Slots<T> {
    /// Frames, and when they were put in.
    waiting: Vec<Option<(Instant, T)>>,
    /// Turn at which each camera was last served; the camera served longest ago comes first.
    served: Vec<u64>,
    turn: u64,
    /// The taker is to look around although no frame came.
    woken: bool,
    closed: bool,
}

/// Hands the newest frame of each camera to one taker.
#[derive(Debug)]
pub struct Inbox<T> {
    slots: Mutex<Slots<T>>,
    changed: Condvar,
}

/// What [`Inbox::take`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// At least one frame.
    Frames,
    /// Nothing within the time, or somebody called [`Inbox::wake`].
    Nothing,
    /// Nothing, ever again.
    Closed,
}

/// How frames are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batching {
    /// At most so many frames; at least 1.
    pub most: usize,
    /// How long a frame waits for those of other cameras, from when it was put in.
    pub timeout: Duration,
}

impl<T> Inbox<T> {
    /// With one slot for each of `cameras` cameras.
    pub fn new(cameras: usize) -> Self {
        let waiting = std::iter::repeat_with(|| None).take(cameras).collect();
        let slots = Slots { waiting, served: vec![0; cameras], turn: 0, woken: false, closed: false };
        Self { slots: Mutex::new(slots), changed: Condvar::new() }
    }

    /// Puts a frame of `camera` in; returns the one that it replaces.
    pub fn put(&self, camera: usize, new: T) -> Option<T> {
        self.put_at(Instant::now(), camera, new)
    }

    fn put_at(&self, now: Instant, camera: usize, new: T) -> Option<T> {
        let replaced = lock(&self.slots).waiting.get_mut(camera).and_then(|slot| slot.replace((now, new)));
        self.changed.notify_one();
        replaced.map(|(_, frame)| frame)
    }

    /// Takes what waits, or waits for it at most `patience`; frames go to `out` with their camera, the camera that was
    /// served longest ago first. `out` is emptied before.
    pub fn take(&self, patience: Duration, batching: Batching, out: &mut Vec<(usize, T)>) -> Taken {
        out.clear();
        let slots = lock(&self.slots);
        let mut slots = self.wait(slots, patience, |s| s.ready() == 0);
        if slots.closed {
            return Taken::Closed;
        }
        slots.woken = false;
        if slots.ready() == 0 {
            return Taken::Nothing;
        }
        let most = batching.most.clamp(1, slots.waiting.len());
        // Not put off by newer frames of a quick camera.
        let deadline = slots.oldest().unwrap_or_else(Instant::now) + batching.timeout;
        while slots.ready() < most && !slots.woken && !slots.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let ready = slots.ready();
            slots = self.wait(slots, left, |s| s.ready() == ready);
        }
        if slots.closed {
            return Taken::Closed;
        }
        slots.take(most, out);
        // They may have been cleared while the batch was waited for.
        if out.is_empty() {
            Taken::Nothing
        } else {
            Taken::Frames
        }
    }

    fn wait<'a>(
        &self,
        slots: MutexGuard<'a, Slots<T>>,
        patience: Duration,
        still: impl Fn(&Slots<T>) -> bool,
    ) -> MutexGuard<'a, Slots<T>> {
        self.changed
            .wait_timeout_while(slots, patience, |s| still(s) && !s.woken && !s.closed)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }

    /// Takes out what waits; returns the cameras whose frames that were.
    pub fn clear(&self) -> Vec<usize> {
        let mut slots = lock(&self.slots);
        let waiting = slots.waiting.iter_mut().enumerate();
        waiting.filter_map(|(camera, slot)| slot.take().map(|_| camera)).collect()
    }

    /// Makes the taker look around.
    pub fn wake(&self) {
        lock(&self.slots).woken = true;
        self.changed.notify_all();
    }

    /// Ends it: the taker is told.
    pub fn close(&self) {
        lock(&self.slots).closed = true;
        self.changed.notify_all();
    }
}

impl<T> Slots<T> {
    fn ready(&self) -> usize {
        self.waiting.iter().flatten().count()
    }

    /// When the frame was put in that waits longest.
    fn oldest(&self) -> Option<Instant> {
        self.waiting.iter().flatten().map(|(at, _)| *at).min()
    }

    fn take(&mut self, most: usize, out: &mut Vec<(usize, T)>) {
        for _ in 0..most {
            let next = (0..self.waiting.len()).filter(|&i| self.waiting[i].is_some()).min_by_key(|&i| self.served[i]);
            let Some(camera) = next else { break };
            self.turn += 1;
            self.served[camera] = self.turn;
            out.extend(self.waiting[camera].take().map(|(_, frame)| (camera, frame)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const ONE: Batching = Batching { most: 1, timeout: Duration::ZERO };

    fn batch(most: usize, timeout_ms: u64) -> Batching {
        Batching { most, timeout: Duration::from_millis(timeout_ms) }
    }

    #[test]
    fn the_newest_wins_and_the_replaced_one_comes_back() {
        let (inbox, mut out) = (Inbox::new(2), Vec::new());
        assert_eq!(inbox.put(0, "a1"), None);
        assert_eq!(inbox.put(0, "a2"), Some("a1"));
        assert_eq!(inbox.put(1, "b1"), None, "cameras do not replace each other's frames");
        assert_eq!(inbox.take(Duration::ZERO, ONE, &mut out), Taken::Frames);
        assert_eq!(out, [(0, "a2")]);
        assert_eq!(inbox.take(Duration::ZERO, ONE, &mut out), Taken::Frames);
        assert_eq!(out, [(1, "b1")]);
        assert_eq!(inbox.take(Duration::from_millis(1), ONE, &mut out), Taken::Nothing);
        assert!(out.is_empty());
    }

    #[test]
    fn nobody_starves_under_overload() {
        // Camera 0 is as quick as it can be; the others have a frame waiting all the time too.
        let (inbox, mut out) = (Inbox::new(3), Vec::new());
        let mut served = [0; 3];
        for _ in 0..30 {
            (0..3).for_each(|camera| _ = inbox.put(camera, ()));
            inbox.take(Duration::ZERO, ONE, &mut out);
            out.iter().for_each(|(camera, ())| served[*camera] += 1);
        }
        assert_eq!(served, [10, 10, 10]);
        for _ in 0..30 {
            (0..3).for_each(|camera| _ = inbox.put(camera, ()));
            inbox.take(Duration::ZERO, batch(2, 0), &mut out);
            assert_eq!(out.len(), 2);
            out.iter().for_each(|(camera, ())| served[*camera] += 1);
        }
        assert_eq!(served, [30, 30, 30]);
    }

    #[test]
    fn a_batch_takes_what_is_ready_and_waits_no_longer_than_it_may() {
        let (inbox, mut out) = (Arc::new(Inbox::new(3)), Vec::new());
        inbox.put(2, 'c');
        inbox.put(0, 'a');
        assert_eq!(inbox.take(Duration::ZERO, batch(8, 0), &mut out), Taken::Frames);
        assert_eq!(out, [(0, 'a'), (2, 'c')]);
        // The timeout ends the wait for cameras that stay away.
        let start = Instant::now();
        inbox.put(1, 'b');
        inbox.take(Duration::ZERO, batch(3, 30), &mut out);
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert_eq!(out, [(1, 'b')]);
        // Counted from the first frame: a second one does not begin it anew. The least of a few, as the machine may be busy.
        let waited = (0..5).map(|_| {
            let (inbox, start) = (Inbox::new(3), Instant::now());
            inbox.put(0, 'p');
            std::thread::scope(|scope| {
                let late = std::thread::Builder::new().name("late".into()).spawn_scoped(scope, || {
                    std::thread::sleep(Duration::from_millis(200));
                    inbox.put(1, 'q');
                });
                late.expect("a thread");
                let mut out = Vec::new();
                inbox.take(Duration::ZERO, batch(3, 300), &mut out);
                start.elapsed()
            })
        });
        let least = waited.min().expect("five");
        assert!(Duration::from_millis(300) <= least && least < Duration::from_millis(450), "{least:?}");
        // A full batch does not wait for it.
        let other = inbox.clone();
        inbox.put(0, 'x');
        std::thread::scope(|scope| {
            let late = std::thread::Builder::new().name("late".into()).spawn_scoped(scope, move || {
                std::thread::sleep(Duration::from_millis(20));
                other.put(1, 'y');
                other.put(2, 'z');
            });
            late.expect("a thread");
            inbox.take(Duration::ZERO, batch(3, 60_000), &mut out);
        });
        // Served longest ago first: 0, then 2, then 1 at the last takes.
        assert_eq!(out, [(0, 'x'), (2, 'z'), (1, 'y')]);
    }

    #[test]
    fn who_has_waited_for_the_network_does_not_wait_again() {
        // A silent camera; the network was at another batch for longer than the timeout.
        let (inbox, mut out) = (Inbox::new(3), Vec::new());
        let start = Instant::now();
        inbox.put_at(start - Duration::from_secs(20), 0, 'a');
        inbox.put_at(start, 1, 'b');
        inbox.take(Duration::ZERO, batch(3, 20_000), &mut out);
        assert_eq!(out, [(0, 'a'), (1, 'b')]);
        assert!(start.elapsed() < Duration::from_secs(10), "it had waited as long as it may");
        // The time is the frame's own, not that of the one which it replaced.
        inbox.put_at(start - Duration::from_secs(20), 0, 'c');
        inbox.put_at(start + Duration::from_secs(1), 0, 'd');
        inbox.put_at(start + Duration::from_secs(2), 1, 'e');
        assert_eq!(lock(&inbox.slots).oldest(), Some(start + Duration::from_secs(1)));
    }

    #[test]
    fn the_taker_sleeps_until_there_is_something_and_no_longer() {
        let (inbox, mut out, patience) = (Inbox::new(1), Vec::new(), Duration::from_millis(30));
        inbox.wake();
        assert_eq!(inbox.take(Duration::from_secs(60), ONE, &mut out), Taken::Nothing);
        // A call is answered once, and an empty inbox keeps no processor at work.
        let start = Instant::now();
        assert_eq!(inbox.take(patience, ONE, &mut out), Taken::Nothing);
        assert!(start.elapsed() >= patience, "{:?}", start.elapsed());
        let start = Instant::now();
        inbox.put(0, 'a');
        assert_eq!(inbox.take(Duration::from_secs(60), ONE, &mut out), Taken::Frames);
        let happenings: [&(dyn Fn() + Sync); 3] = [&|| _ = inbox.put(0, 'b'), &|| inbox.wake(), &|| inbox.close()];
        for (happens, expected) in happenings.iter().zip([Taken::Frames, Taken::Nothing, Taken::Closed]) {
            std::thread::scope(|scope| {
                let late = std::thread::Builder::new().name("late".into()).spawn_scoped(scope, || {
                    std::thread::sleep(Duration::from_millis(20));
                    happens();
                });
                late.expect("a thread");
                assert_eq!(inbox.take(Duration::from_secs(60), ONE, &mut out), expected);
            });
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it was told, and waited on: {:?}", start.elapsed());
    }

    #[test]
    fn the_taker_wakes_for_a_call_and_for_the_end() {
        let (inbox, mut out) = (Inbox::<()>::new(1), Vec::new());
        inbox.wake();
        assert_eq!(inbox.take(Duration::from_secs(60), ONE, &mut out), Taken::Nothing);
        inbox.put(0, ());
        inbox.put(7, ());
        assert_eq!(inbox.clear(), [0], "a camera that does not exist has no slot");
        inbox.put(0, ());
        inbox.close();
        assert_eq!(inbox.take(Duration::from_secs(60), ONE, &mut out), Taken::Closed);
    }
}
