//! QoS: what `qos_overrides` say of a topic, and publishers whose QoS cannot reach a subscription.

use crate::interface::qos::{Durability, History, Liveliness, Reliability, Role};
use crate::interface::topics::Qos;
use crate::interface::ParameterSet;
use r2r::qos::{DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy};
use r2r::QosProfile;
use std::time::Duration;

/// The profile of a table's entry.
pub fn profile(qos: &Qos) -> QosProfile {
    let profile = QosProfile::default().keep_last(qos.depth);
    let profile = match qos.reliability {
        Reliability::Reliable => profile.reliable(),
        Reliability::BestEffort => profile.best_effort(),
    };
    match qos.durability {
        Durability::Volatile => profile.volatile(),
        Durability::TransientLocal => profile.transient_local(),
    }
}

/// `profile` with what the parameters say of this end of the topic. `topic`: the final name ([`super::names::Names`]).
pub fn overridden(profile: QosProfile, set: &ParameterSet, topic: &str, role: Role) -> QosProfile {
    let say = set.qos_override(topic, role);
    let mut profile = profile;
    match say.reliability {
        Some(Reliability::Reliable) => profile = profile.reliable(),
        Some(Reliability::BestEffort) => profile = profile.best_effort(),
        None => {}
    }
    match say.durability {
        Some(Durability::Volatile) => profile = profile.volatile(),
        Some(Durability::TransientLocal) => profile = profile.transient_local(),
        None => {}
    }
    if let Some(depth) = say.depth {
        profile.depth = depth;
    }
    match say.history {
        Some(History::KeepLast) => profile = profile.history(HistoryPolicy::KeepLast),
        Some(History::KeepAll) => profile = profile.history(HistoryPolicy::KeepAll),
        None => {}
    }
    profile.deadline = say.deadline.unwrap_or(profile.deadline);
    profile.lifespan = say.lifespan.unwrap_or(profile.lifespan);
    profile.liveliness_lease_duration = say.lease.unwrap_or(profile.liveliness_lease_duration);
    match say.liveliness {
        Some(Liveliness::Automatic) => profile = profile.liveliness(LivelinessPolicy::Automatic),
        Some(Liveliness::ManualByTopic) => profile = profile.liveliness(LivelinessPolicy::ManualByTopic),
        None => {}
    }
    profile
}

/// Whether a publisher promises less than a subscription asks for: a longer time, where zero is one without end.
fn is_longer(offered: Duration, requested: Duration) -> bool {
    !requested.is_zero() && (offered.is_zero() || offered > requested)
}

/// Why a publisher's messages do not reach a subscription, and which side to change; `None`: they do.
pub fn incompatibility(offered: &QosProfile, requested: &QosProfile) -> Option<String> {
    let mut reasons = Vec::new();
    let best_effort = offered.reliability == ReliabilityPolicy::BestEffort;
    if best_effort && requested.reliability == ReliabilityPolicy::Reliable {
        reasons.push(
            "it publishes best effort and this node subscribes reliable: set input_reliability (or qos_overrides) to \
             best_effort here, or publish reliable there",
        );
    }
    let volatile = offered.durability == DurabilityPolicy::Volatile;
    if volatile && requested.durability == DurabilityPolicy::TransientLocal {
        reasons.push(
            "it publishes volatile and this node subscribes transient local: set qos_overrides' durability to volatile \
             here, or publish transient local there",
        );
    }
    if is_longer(offered.deadline, requested.deadline) {
        reasons.push(
            "it promises no deadline that is as short as the one that qos_overrides ask for here: make it longer here, or \
             offer a shorter one there",
        );
    }
    let by_topic = |qos: &QosProfile| qos.liveliness == LivelinessPolicy::ManualByTopic;
    if (by_topic(requested) && !by_topic(offered))
        || is_longer(offered.liveliness_lease_duration, requested.liveliness_lease_duration)
    {
        reasons.push(
            "it promises less liveliness than qos_overrides ask for here: ask for less here (liveliness, \
             liveliness_lease_duration), or offer more there",
        );
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Why a subscription that has heard nothing of a publisher may have missed it, where it would not have had to.
pub fn missed(offered: &QosProfile, requested: &QosProfile) -> Option<&'static str> {
    let is_latched = offered.durability == DurabilityPolicy::TransientLocal;
    (is_latched && requested.durability == DurabilityPolicy::Volatile).then_some(
        "nothing has come, and what it published before this node subscribed is kept for transient local subscriptions only: \
         set qos_overrides' durability to transient_local (and reliability to reliable) here",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::topics::TOPICS;
    use crate::interface::Value;

    #[test]
    fn overrides_change_what_they_name() {
        let given = [
            ("qos_overrides./a.subscription.reliability", Value::String("reliable".into())),
            ("qos_overrides./a.subscription.depth", Value::Integer(7)),
            ("qos_overrides./b.publisher.durability", Value::String("transient_local".into())),
            ("qos_overrides./b.publisher.history", Value::String("keep_all".into())),
            ("qos_overrides./b.publisher.deadline", Value::Integer(500_000_000)),
            ("qos_overrides./b.publisher.lifespan", Value::Integer(2_000_000_000)),
            ("qos_overrides./b.publisher.liveliness", Value::String("manual_by_topic".into())),
            ("qos_overrides./b.publisher.liveliness_lease_duration", Value::Integer(1_000_000_000)),
        ];
        let set = ParameterSet::new(given.map(|(n, v)| (n.to_string(), v))).expect("valid");
        let sensor = || QosProfile::default().keep_last(1).best_effort();
        let a = overridden(sensor(), &set, "/a", Role::Subscription);
        assert_eq!(a, QosProfile::default().keep_last(7).reliable());
        let b = overridden(sensor(), &set, "/b", Role::Publisher);
        assert_eq!((b.durability, b.history), (DurabilityPolicy::TransientLocal, HistoryPolicy::KeepAll));
        assert_eq!((b.deadline, b.lifespan), (Duration::from_millis(500), Duration::from_secs(2)));
        assert_eq!(b.liveliness, LivelinessPolicy::ManualByTopic);
        assert_eq!(b.liveliness_lease_duration, Duration::from_secs(1));
        assert_eq!(overridden(sensor(), &set, "/a", Role::Publisher), sensor());
    }

    #[test]
    fn only_a_weaker_offer_is_incompatible() {
        let q = QosProfile::default;
        let why = incompatibility(&q().best_effort(), &q().reliable()).expect("incompatible");
        assert!(why.contains("publishes best effort") && why.contains("input_reliability"), "{why}");
        let why = incompatibility(&q().volatile(), &q().transient_local()).expect("incompatible");
        assert!(why.contains("publishes volatile"), "{why}");
        let s = Duration::from_secs;
        let lease = |seconds| q().liveliness_lease_duration(s(seconds));
        for (offered, requested, words) in [
            (q(), q().deadline(s(1)), "deadline"),
            (q().deadline(s(2)), q().deadline(s(1)), "deadline"),
            (q(), lease(1), "liveliness"),
            (lease(2), lease(1), "liveliness"),
            (q(), q().liveliness(LivelinessPolicy::ManualByTopic), "liveliness"),
        ] {
            let why = incompatibility(&offered, &requested).expect("incompatible");
            assert!(why.contains(words), "{why}");
        }
        for (offered, requested) in [
            (q().deadline(s(1)), q()),
            (q().deadline(s(1)), q().deadline(s(1))),
            (q().deadline(s(1)), q().deadline(s(2))),
            (lease(1), lease(1)),
            (q().liveliness(LivelinessPolicy::ManualByTopic), q()),
            (q().reliable(), q().best_effort()),
            (q().best_effort(), q().best_effort()),
            (q().reliable(), q().reliable()),
            (q().transient_local(), q().volatile()),
        ] {
            assert_eq!(incompatibility(&offered, &requested), None);
        }
    }

    #[test]
    fn only_what_is_latched_is_missed() {
        let q = QosProfile::default;
        assert!(missed(&q().transient_local(), &q().volatile()).is_some_and(|why| why.contains("qos_overrides")));
        assert_eq!(missed(&q().transient_local(), &q().transient_local()), None);
        assert_eq!(missed(&q().volatile(), &q().volatile()), None);
    }

    #[test]
    fn the_table_becomes_profiles() {
        let labels = TOPICS.iter().find(|t| t.name == "~/output/labels").expect("labels");
        assert_eq!(profile(&labels.qos), QosProfile::default().keep_last(5).reliable().volatile());
        let info = TOPICS.iter().find(|t| t.name == "~/output/label_info").expect("label_info");
        assert_eq!(profile(&info.qos).durability, DurabilityPolicy::TransientLocal);
    }
}
