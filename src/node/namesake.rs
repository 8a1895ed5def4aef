//! Whether another node of this node's name is in the graph. ROS 2 allows it, and then services and parameters are those of
//! whichever is asked, and both publish the same topics: as a rule it is a node that was started twice.

use super::names::{full_name, Names};
use std::time::{Duration, Instant};

/// A topic that each managed node publishes once, under its own name.
const TOPIC: &str = "~/transition_event";
/// A process that was killed stays in the graph until its lease is over, 20 s in Fast DDS; that is no second node.
const LEASE: Duration = Duration::from_secs(25);

/// Looks for it.
#[derive(Debug)]
pub struct Namesake {
    topic: String,
    /// This node's full name.
    node: String,
    seen: Seen,
}

/// Since when there is one, and whether that was said.
#[derive(Debug, Default)]
struct Seen {
    since: Option<Instant>,
    is_said: bool,
}

impl Namesake {
    /// Of the node with this full name.
    pub fn new(node: &str, names: &Names) -> Self {
        Self { topic: names.topic(TOPIC), node: node.into(), seen: Seen::default() }
    }

    /// Looks at the graph, and logs what is new.
    pub fn watch(&mut self, node: &r2r::Node) {
        let Ok(publishers) = node.get_publishers_info_by_topic(&self.topic, false) else { return };
        let of_the_name = publishers.iter().filter(|p| full_name(&p.node_namespace, &p.node_name) == self.node);
        if self.seen.look(of_the_name.count() < 2, Instant::now()) {
            log::warn!("{}", self.text());
        }
    }

    /// What is wrong, where it has been for longer than a dead process is remembered.
    pub fn problem(&self) -> Option<String> {
        self.seen.is_said.then(|| self.text())
    }

    fn text(&self) -> String {
        format!(
            "another node is called {}: what is asked of one may be answered by the other, and their topics are the same; end one \
             of them, or name it with `--ros-args -r __node:=NAME`",
            self.node
        )
    }
}

impl Seen {
    /// Whether it is to be said now.
    fn look(&mut self, is_alone: bool, now: Instant) -> bool {
        if is_alone {
            *self = Self::default();
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let is_due = !self.is_said && now.saturating_duration_since(since) >= LEASE;
        self.is_said |= is_due;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_and_not_of_a_dead_process() {
        let (mut seen, start, s) = (Seen::default(), Instant::now(), Duration::from_secs);
        // A process that was killed a moment ago.
        assert!((0..20).all(|t| !seen.look(false, start + s(t))));
        assert!(!seen.look(true, start + s(20)));
        // One that stays.
        let said: Vec<_> = (30..90).filter(|t| seen.look(false, start + s(*t))).collect();
        assert_eq!(said, [55]);
        assert!(seen.is_said);
        seen.look(true, start + s(91));
        assert!(!seen.is_said, "it has gone");
    }
}
