//! `qos_overrides.<topic>.<publisher|subscription>.<policy>`: the names that rclcpp has for them.

use super::value::{Kind, Value};
use crate::nearest::suggestion;
use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

/// First segment of the parameters' names.
pub const PREFIX: &str = "qos_overrides";
/// Most messages that a history may keep.
const MAX_DEPTH: i64 = 10_000;

/// Which end of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The node publishes it.
    Publisher,
    /// The node subscribes to it.
    Subscription,
}

impl Role {
    /// As in a parameter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Publisher => "publisher",
            Role::Subscription => "subscription",
        }
    }
}

/// Reliability of a topic's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reliability {
    /// Lost messages stay lost.
    BestEffort,
    /// Lost messages are sent again.
    Reliable,
}

/// Durability of a topic's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Late subscribers get nothing of what was.
    Volatile,
    /// Late subscribers get the last messages.
    TransientLocal,
}

/// History of a topic's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// The last `depth` messages.
    KeepLast,
    /// All; the middleware has limits of its own.
    KeepAll,
}

/// How a publisher shows that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveliness {
    /// The middleware does it for as long as the process runs.
    Automatic,
    /// By each message.
    ManualByTopic,
}

/// What the parameters say of one end of one topic; `None` leaves the node's own choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QosOverride {
    /// Policy.
    pub reliability: Option<Reliability>,
    /// Policy.
    pub durability: Option<Durability>,
    /// Policy.
    pub history: Option<History>,
    /// Messages kept, 1 or more.
    pub depth: Option<usize>,
    /// Longest time between two messages; zero: none.
    pub deadline: Option<Duration>,
    /// Age at which a message is dropped; zero: none.
    pub lifespan: Option<Duration>,
    /// Policy.
    pub liveliness: Option<Liveliness>,
    /// Longest time between two signs of life; zero: none.
    pub lease: Option<Duration>,
}

/// A policy that can be overridden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// `reliability`
    Reliability,
    /// `durability`
    Durability,
    /// `history`
    History,
    /// `depth`
    Depth,
    /// `deadline`
    Deadline,
    /// `lifespan`
    Lifespan,
    /// `liveliness`
    Liveliness,
    /// `liveliness_lease_duration`
    Lease,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 8] = [
        Policy::Reliability,
        Policy::Durability,
        Policy::History,
        Policy::Depth,
        Policy::Deadline,
        Policy::Lifespan,
        Policy::Liveliness,
        Policy::Lease,
    ];

    /// As in a parameter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Reliability => "reliability",
            Policy::Durability => "durability",
            Policy::History => "history",
            Policy::Depth => "depth",
            Policy::Deadline => "deadline",
            Policy::Lifespan => "lifespan",
            Policy::Liveliness => "liveliness",
            Policy::Lease => "liveliness_lease_duration",
        }
    }

    /// Type of its value.
    pub const fn kind(self) -> Kind {
        if self.choices().is_empty() {
            Kind::Integer
        } else {
            Kind::String
        }
    }

    /// Least and greatest value of a number.
    pub const fn range(self) -> (i64, i64) {
        match self {
            Policy::Depth => (1, MAX_DEPTH),
            _ => (0, i64::MAX),
        }
    }

    /// Valid values; empty for numbers.
    pub const fn choices(self) -> &'static [&'static str] {
        match self {
            Policy::Reliability => &["reliable", "best_effort"],
            Policy::Durability => &["volatile", "transient_local"],
            Policy::History => &["keep_last", "keep_all"],
            Policy::Liveliness => &["automatic", "manual_by_topic"],
            Policy::Depth | Policy::Deadline | Policy::Lifespan | Policy::Lease => &[],
        }
    }

    /// What it is.
    pub const fn meaning(self) -> &'static str {
        match self {
            Policy::Reliability => "QoS reliability: reliable or best_effort",
            Policy::Durability => "QoS durability: volatile or transient_local",
            Policy::History => "QoS history: keep_last or keep_all",
            Policy::Depth => "QoS depth: messages that keep_last keeps",
            Policy::Deadline => "QoS deadline: longest time between two messages, nanoseconds; 0: none",
            Policy::Lifespan => "QoS lifespan: age at which a message is dropped, nanoseconds; 0: none",
            Policy::Liveliness => "QoS liveliness: automatic, or manual_by_topic (each message is a sign of life)",
            Policy::Lease => "QoS liveliness lease: longest time between two signs of life, nanoseconds; 0: none",
        }
    }
}

/// A parameter's name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Final name of the topic: absolute, remapped.
    pub topic: String,
    /// Which end.
    pub role: Role,
    /// Which policy.
    pub policy: Policy,
}

impl Key {
    /// The parameter's name.
    pub fn name(&self) -> String {
        format!("{PREFIX}.{}.{}.{}", self.topic, self.role.name(), self.policy.name())
    }

    /// The value, checked.
    ///
    /// # Errors
    /// Expected and found, in words.
    pub fn accept(&self, value: Value) -> Result<Value, String> {
        let value = value.into_kind(self.policy.kind(), false)?;
        let valid = match &value {
            Value::Integer(n) => {
                let (least, most) = self.policy.range();
                (least..=most).contains(n)
            }
            Value::String(s) => self.policy.choices().contains(&s.as_str()),
            _ => false,
        };
        if valid {
            return Ok(value);
        }
        let expected = match self.policy {
            Policy::Depth => format!("1 to {MAX_DEPTH}"),
            policy if policy.choices().is_empty() => "nanoseconds, 0 (none) or more".into(),
            policy => policy.choices().join(" or "),
        };
        Err(format!("expected {expected}, got {value}"))
    }
}

impl FromStr for Key {
    type Err = String;

    /// Takes `qos_overrides./camera/image.subscription.reliability` apart. A topic's name has no dots.
    fn from_str(name: &str) -> Result<Self, String> {
        let form = format!("expected {PREFIX}.TOPIC.publisher|subscription.POLICY");
        let parts: Vec<&str> = name.split('.').collect();
        let [_, topic, role, policy] = parts.as_slice() else {
            return Err(format!("{form}, got {} parts between dots", parts.len()));
        };
        if !topic.starts_with('/') || topic.len() < 2 {
            return Err(format!(
                "the topic {topic:?} must be the final name after remapping, which begins with a slash ({form})"
            ));
        }
        let Some(role) = [Role::Publisher, Role::Subscription].into_iter().find(|r| r.name() == *role) else {
            // As in rclcpp, but the identifier that it can carry (publisher_ID) is never needed here.
            let near = suggestion(role, ["publisher", "subscription"]);
            return Err(format!("expected publisher or subscription, got {role:?}{near}"));
        };
        let Some(policy) = Policy::ALL.into_iter().find(|p| p.name() == *policy) else {
            let near = suggestion(policy, Policy::ALL.map(Policy::name));
            let known = Policy::ALL.map(Policy::name).join(", ");
            return Err(format!("expected one of {known}, got {policy:?}{near}"));
        };
        Ok(Self { topic: (*topic).into(), role, policy })
    }
}

/// All overrides that were given.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Overrides(pub(super) BTreeMap<Key, Value>);

impl Overrides {
    pub(super) fn of(&self, topic: &str, role: Role) -> QosOverride {
        let mut found = QosOverride::default();
        for (key, value) in self.0.iter().filter(|(k, _)| k.topic == topic && k.role == role) {
            match (key.policy, value) {
                (Policy::Depth, Value::Integer(n)) => found.depth = usize::try_from(*n).ok(),
                (Policy::Deadline, Value::Integer(n)) => found.deadline = Some(nanoseconds(*n)),
                (Policy::Lifespan, Value::Integer(n)) => found.lifespan = Some(nanoseconds(*n)),
                (Policy::Lease, Value::Integer(n)) => found.lease = Some(nanoseconds(*n)),
                (Policy::Liveliness, Value::String(s)) => {
                    found.liveliness =
                        Some(if s == "automatic" { Liveliness::Automatic } else { Liveliness::ManualByTopic });
                }
                (Policy::Reliability, Value::String(s)) => {
                    found.reliability =
                        Some(if s == "reliable" { Reliability::Reliable } else { Reliability::BestEffort });
                }
                (Policy::Durability, Value::String(s)) => {
                    found.durability =
                        Some(if s == "volatile" { Durability::Volatile } else { Durability::TransientLocal });
                }
                (Policy::History, Value::String(s)) => {
                    found.history = Some(if s == "keep_all" { History::KeepAll } else { History::KeepLast });
                }
                _ => {}
            }
        }
        found
    }
}

fn nanoseconds(n: i64) -> Duration {
    Duration::from_nanos(n.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let name = "qos_overrides./camera/image.subscription.reliability";
        let key: Key = name.parse().expect("a key");
        assert_eq!(
            (key.topic.as_str(), key.role, key.policy),
            ("/camera/image", Role::Subscription, Policy::Reliability)
        );
        assert_eq!(key.name(), name);
        for (name, expected) in [
            ("qos_overrides./a.subscripton.depth", "did you mean subscription?"),
            ("qos_overrides./a.publisher.reliabilty", "did you mean reliability?"),
            (
                "qos_overrides./a.publisher.zebra",
                "expected one of reliability, durability, history, depth, deadline, lifespan",
            ),
            ("qos_overrides./a.publisher.dedline", "did you mean deadline?"),
            ("qos_overrides.image.publisher.depth", "begins with a slash"),
            ("qos_overrides./a.depth", "got 3 parts"),
        ] {
            let e = name.parse::<Key>().expect_err(expected);
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
        }
    }

    #[test]
    fn values_are_checked_and_collected() {
        let mut all = Overrides::default();
        for (policy, value) in [
            ("reliability", Value::String("reliable".into())),
            ("depth", Value::Integer(3)),
            ("history", Value::String("keep_last".into())),
            ("deadline", Value::Integer(500_000_000)),
            ("lifespan", Value::Integer(i64::MAX)),
            ("liveliness", Value::String("manual_by_topic".into())),
            ("liveliness_lease_duration", Value::Integer(0)),
        ] {
            let key: Key = format!("qos_overrides./a.publisher.{policy}").parse().expect(policy);
            let value = key.accept(value).expect(policy);
            all.0.insert(key, value);
        }
        let found = all.of("/a", Role::Publisher);
        assert_eq!(found.reliability, Some(Reliability::Reliable));
        assert_eq!((found.depth, found.history, found.durability), (Some(3), Some(History::KeepLast), None));
        assert_eq!(found.deadline, Some(Duration::from_millis(500)));
        assert_eq!(found.lifespan, Some(Duration::from_nanos(i64::MAX as u64)));
        assert_eq!((found.liveliness, found.lease), (Some(Liveliness::ManualByTopic), Some(Duration::ZERO)));
        assert_eq!(all.of("/a", Role::Subscription), QosOverride::default());
        let key: Key = "qos_overrides./a.publisher.deadline".parse().expect("a key");
        assert!(key.accept(Value::Integer(-1)).expect_err("-1").contains("nanoseconds, 0 (none) or more, got -1"));
        assert!(key.accept(Value::Double(0.5)).is_err(), "rclcpp has whole nanoseconds");
        let key: Key = "qos_overrides./a.publisher.depth".parse().expect("a key");
        assert!(key.accept(Value::Integer(0)).expect_err("0").contains("1 to 10000"));
        let key: Key = "qos_overrides./a.publisher.durability".parse().expect("a key");
        assert!(key.accept(Value::String("x".into())).expect_err("x").contains("volatile or transient_local"));
    }
}
