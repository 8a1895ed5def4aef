//! The node's end of a bond with its lifecycle manager (nav2's): each tells the other several times a second that it is
//! alive, on the topic `bond`, as `bondcpp` does. A manager that hears no more takes the node for dead.
//!
//! A manager begins, once it has activated the node: the node answers, and is silent where there is no manager. The
//! spinning thread speaks, so the bond breaks where that thread no longer turns.

use super::{lock, next_due};
use anyhow::Context as _;
use futures::{FutureExt as _, Stream, StreamExt as _};
use r2r::bond::msg::Status;
use r2r::{Clock, QosProfile};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// As in [`crate::interface::topics`].
pub const TOPIC: &str = "bond";
/// `bondcpp` reads so many before it loses any.
const INCOMING: usize = 100;
/// Of a manager that does not say its own, as in `bondcpp`.
const TIMEOUT: Duration = Duration::from_secs(4);
/// The same.
const PERIOD: Duration = Duration::from_secs(1);
/// No more often than this, whatever a manager asks for.
const SHORTEST_PERIOD: Duration = Duration::from_millis(20);
/// A manager's timeout has room for so many heartbeats at least, so that one that comes late breaks nothing.
const HEARTBEATS: u32 = 4;

/// The node's end, where `bond` was there when this was built.
pub struct Bond {
    incoming: Box<dyn Stream<Item = Status> + Unpin>,
    publisher: r2r::Publisher<Status>,
    clock: Arc<Mutex<Clock>>,
    end: End,
}

impl Bond {
    /// Listens to managers of the node `name` (fully qualified), whose answers are published with `qos`.
    ///
    /// # Errors
    /// The topic cannot be subscribed to, or published.
    pub fn create(node: &mut r2r::Node, name: &str, qos: QosProfile) -> anyhow::Result<Self> {
        let listening = QosProfile::default().keep_last(INCOMING);
        let incoming = node.subscribe(TOPIC, listening).context("cannot subscribe to bond")?;
        Ok(Self {
            incoming: Box::new(incoming),
            publisher: node.create_publisher(TOPIC, qos).context("cannot publish bond")?,
            clock: node.get_ros_clock(),
            end: End::new(name),
        })
    }

    /// Hears what was said meanwhile and says what is due. Until when the next call may wait.
    pub fn poll(&mut self, is_active: bool) -> Option<Instant> {
        let now = Instant::now();
        while let Some(status) = self.incoming.next().now_or_never().flatten() {
            let answer = self.end.hear(&status, is_active, now);
            self.say(answer);
        }
        let due = self.end.due(is_active, now);
        self.say(due);
        self.end.next()
    }

    fn say(&self, status: Option<Status>) {
        let Some(mut status) = status else { return };
        if let Ok(time) = lock(&self.clock).get_now() {
            status.header.stamp = Clock::to_builtin_time(&time);
        }
        if let Err(e) = self.publisher.publish(&status) {
            log::warn!("cannot publish bond: {e}");
        }
    }
}

/// What the node knows of its bond, without ROS.
struct End {
    /// What managers may call the bond: the node's name, with its namespace or without.
    ids: [String; 3],
    instance: String,
    held: Option<Held>,
}

/// A bond that is held.
struct Held {
    id: String,
    heard: Instant,
    next: Instant,
    period: Duration,
    timeout: Duration,
}

impl End {
    fn new(name: &str) -> Self {
        let full = name.trim_start_matches('/');
        let base = full.rsplit('/').next().unwrap_or(full);
        let instance = format!("{:032x}", rand::random::<u128>());
        Self { ids: [base.into(), full.into(), format!("/{full}")], instance, held: None }
    }

    /// What another end says; what is to be answered at once.
    fn hear(&mut self, status: &Status, is_active: bool, now: Instant) -> Option<Status> {
        if !self.ids.contains(&status.id) || status.instance_id == self.instance {
            return None;
        }
        if !status.active {
            // Only who held the bond confirms its end: two ends would otherwise confirm each other's for ever.
            let answer = self.release()?;
            log::info!("the lifecycle manager has ended its bond");
            return Some(answer);
        }
        if !is_active {
            return None;
        }
        let seconds = |value: f32, default| {
            Duration::try_from_secs_f32(value).ok().filter(|duration| !duration.is_zero()).unwrap_or(default)
        };
        let timeout = seconds(status.heartbeat_timeout, TIMEOUT);
        let period = seconds(status.heartbeat_period, PERIOD).min(timeout / HEARTBEATS).max(SHORTEST_PERIOD);
        if self.held.is_none() {
            log::info!("bonded with the lifecycle manager: a heartbeat every {} ms", period.as_millis());
        }
        // A manager that asks for more heartbeats than before does not wait for the next of the old ones.
        let next = self.held.as_ref().map_or(now, |held| held.next.min(now + period));
        self.held = Some(Held { id: status.id.clone(), heard: now, next, period, timeout });
        None
    }

    /// What is to be said now.
    fn due(&mut self, is_active: bool, now: Instant) -> Option<Status> {
        if !is_active {
            return self.release();
        }
        let held = self.held.as_mut()?;
        let silence = now.saturating_duration_since(held.heard);
        if silence > held.timeout {
            log::warn!("the lifecycle manager has said nothing for {:.1} s: its bond is over", silence.as_secs_f64());
            // It may be alive and hear us, and has to learn that we no longer count on it.
            return self.release();
        }
        if now < held.next {
            return None;
        }
        held.next = next_due(held.next, held.period, now);
        let held = self.held.as_ref()?;
        Some(self.status(held, true))
    }

    fn next(&self) -> Option<Instant> {
        self.held.as_ref().map(|held| held.next)
    }

    /// Lets go of the bond; what is said of it.
    fn release(&mut self) -> Option<Status> {
        let held = self.held.take()?;
        Some(self.status(&held, false))
    }

    fn status(&self, held: &Held, active: bool) -> Status {
        Status {
            id: held.id.clone(),
            instance_id: self.instance.clone(),
            active,
            heartbeat_timeout: held.timeout.as_secs_f32(),
            heartbeat_period: held.period.as_secs_f32(),
            ..Status::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn manager(id: &str, active: bool) -> Status {
        Status {
            id: id.into(),
            instance_id: "manager".into(),
            active,
            // Whole nanoseconds, unlike 0.1.
            heartbeat_timeout: 1.0,
            heartbeat_period: 0.125,
            ..Status::default()
        }
    }

    /// How many heartbeats are due within `steps` of 10 ms from `now` on.
    fn heartbeats(end: &mut End, now: &mut Instant, steps: u32) -> usize {
        (0..steps)
            .filter(|_| {
                *now += STEP;
                end.due(true, *now).is_some_and(|status| status.active)
            })
            .count()
    }

    #[test]
    fn a_manager_is_answered_in_its_own_rhythm_for_as_long_as_it_lives() {
        let (mut end, mut now) = (End::new("/front/semantic_depth"), Instant::now());
        assert_eq!(heartbeats(&mut end, &mut now, 100), 0);
        for id in ["semantic_depth", "front/semantic_depth", "/front/semantic_depth"] {
            assert!(end.hear(&manager(id, true), true, now).is_none());
            let first = end.due(true, now).expect("answers at once");
            assert!(first.active && first.id == id && first.instance_id == end.instance, "{first:?}");
            assert_eq!(end.next(), Some(now + Duration::from_millis(125)));
            assert_eq!(heartbeats(&mut end, &mut now, 100), 8);
            // A second of silence, and the bond is over; that is said, once.
            now += STEP;
            let last = end.due(true, now).expect("says that it is over");
            assert!(!last.active && last.id == id, "{last:?}");
            assert_eq!(heartbeats(&mut end, &mut now, 100), 0);
            assert_eq!(end.next(), None);
        }
    }

    #[test]
    fn the_end_of_a_bond_is_confirmed_once() {
        let (mut end, now) = (End::new("/semantic_depth"), Instant::now());
        assert!(end.hear(&manager("semantic_depth", false), true, now).is_none());
        end.hear(&manager("semantic_depth", true), true, now);
        let confirmed = end.hear(&manager("semantic_depth", false), true, now).expect("confirms");
        assert!(!confirmed.active);
        assert!(end.hear(&manager("semantic_depth", false), true, now).is_none());
        assert!(end.due(true, now).is_none());
    }

    #[test]
    fn an_inactive_node_holds_no_bond() {
        let (mut end, now) = (End::new("/semantic_depth"), Instant::now());
        end.hear(&manager("semantic_depth", true), false, now);
        assert!(end.due(false, now).is_none());
        end.hear(&manager("semantic_depth", true), true, now);
        assert!(end.due(true, now).is_some_and(|status| status.active));
        assert!(end.due(false, now).is_some_and(|status| !status.active));
        assert!(end.due(false, now).is_none());
    }

    #[test]
    fn other_bonds_and_its_own_words_are_not_for_it() {
        let (mut end, now) = (End::new("/front/semantic_depth"), Instant::now());
        for id in ["controller_server", "rear/semantic_depth", "front", ""] {
            end.hear(&manager(id, true), true, now);
        }
        let own = Status { instance_id: end.instance.clone(), ..manager("semantic_depth", true) };
        end.hear(&own, true, now);
        assert!(end.due(true, now).is_none());
        assert_ne!(end.instance, End::new("/front/semantic_depth").instance);
    }

    #[test]
    fn rhythms_that_make_no_sense_do_no_harm() {
        let now = Instant::now();
        for (timeout, period, expected) in [
            (f32::NAN, f32::NAN, PERIOD),
            (-1.0, -1.0, PERIOD),
            (0.0, 0.0, PERIOD),
            (f32::INFINITY, 1e30, PERIOD),
            (4.0, 1e-9, SHORTEST_PERIOD),
            // One heartbeat in the manager's timeout would be too few.
            (1.0, 1.0, Duration::from_millis(250)),
        ] {
            let mut end = End::new("/semantic_depth");
            let status =
                Status { heartbeat_timeout: timeout, heartbeat_period: period, ..manager("semantic_depth", true) };
            end.hear(&status, true, now);
            assert!(end.due(true, now).is_some());
            assert_eq!(end.next(), Some(now + expected), "{timeout} {period}");
        }
    }

    #[test]
    fn a_manager_that_asks_for_more_heartbeats_has_them_at_once() {
        let (mut end, now) = (End::new("/semantic_depth"), Instant::now());
        let slow = Status { heartbeat_timeout: 1e9, heartbeat_period: 1e9, ..manager("semantic_depth", true) };
        end.hear(&slow, true, now);
        assert!(end.due(true, now).is_some());
        assert!(end.next() > Some(now + Duration::from_secs(1_000_000)));
        end.hear(&manager("semantic_depth", true), true, now);
        assert_eq!(end.next(), Some(now + Duration::from_millis(125)));
    }

    #[test]
    fn a_thread_that_was_held_up_does_not_catch_up() {
        let (mut end, mut now) = (End::new("/semantic_depth"), Instant::now());
        end.hear(&manager("semantic_depth", true), true, now);
        end.due(true, now);
        now += Duration::from_millis(900);
        assert!(end.due(true, now).is_some());
        assert!(end.due(true, now).is_none_or(|status| status.active));
        assert!(heartbeats(&mut end, &mut now, 9) <= 1);
    }
}
