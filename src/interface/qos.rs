//! `qos_overrides.<topic>.<publisher|subscription>.<policy>`: the names that rclcpp has for them.

use super::value::{Kind, Value};
use crate::nearest::suggestion;
use std::collections::BTreeMap;
use std::str::FromStr;

/// First segment of the parameters' names.
pub const PREFIX: &str = "qos_overrides";
/// Most messages that a history may keep.
pub const MAX_DEPTH: i64 = 10_000;

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
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 4] = [Policy::Reliability, Policy::Durability, Policy::History, Policy::Depth];

    /// As in a parameter's name.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Reliability => "reliability",
            Policy::Durability => "durability",
            Policy::History => "history",
            Policy::Depth => "depth",
        }
    }

    /// Type of its value.
    pub const fn kind(self) -> Kind {
        match self {
            Policy::Depth => Kind::Integer,
            _ => Kind::String,
        }
    }

    /// Valid values; empty for the depth.
    pub const fn choices(self) -> &'static [&'static str] {
        match self {
            Policy::Reliability => &["reliable", "best_effort"],
            Policy::Durability => &["volatile", "transient_local"],
            Policy::History => &["keep_last", "keep_all"],
            Policy::Depth => &[],
        }
    }

    /// What it is.
    pub const fn meaning(self) -> &'static str {
        match self {
            Policy::Reliability => "QoS reliability: reliable or best_effort",
            Policy::Durability => "QoS durability: volatile or transient_local",
            Policy::History => "QoS history: keep_last or keep_all",
            Policy::Depth => "QoS depth: messages that keep_last keeps",
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
            Value::Integer(n) => (1..=MAX_DEPTH).contains(n),
            Value::String(s) => self.policy.choices().contains(&s.as_str()),
            _ => false,
        };
        if valid {
            return Ok(value);
        }
        let expected = match self.policy {
            Policy::Depth => format!("1 to {MAX_DEPTH}"),
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
            return Err(format!("expected reliability, durability, history or depth, got {policy:?}{near}"));
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
            ("qos_overrides./a.publisher.deadline", "expected reliability, durability, history or depth"),
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
        ] {
            let key: Key = format!("qos_overrides./a.publisher.{policy}").parse().expect(policy);
            let value = key.accept(value).expect(policy);
            all.0.insert(key, value);
        }
        let found = all.of("/a", Role::Publisher);
        assert_eq!(found.reliability, Some(Reliability::Reliable));
        assert_eq!((found.depth, found.history, found.durability), (Some(3), Some(History::KeepLast), None));
        assert_eq!(all.of("/a", Role::Subscription), QosOverride::default());
        let key: Key = "qos_overrides./a.publisher.depth".parse().expect("a key");
        assert!(key.accept(Value::Integer(0)).expect_err("0").contains("1 to 10000"));
        let key: Key = "qos_overrides./a.publisher.durability".parse().expect("a key");
        assert!(key.accept(Value::String("x".into())).expect_err("x").contains("volatile or transient_local"));
    }
}
