//! A managed (lifecycle) node on plain services: r2r binds no rcl_lifecycle.
//!
//! [`machine`] knows the states; this file speaks `lifecycle_msgs` for it. Everything happens on the spinning thread,
//! nothing waits: a transition begins in [`Lifecycle::poll`] (a client asked) or [`Lifecycle::begin`] (the node itself),
//! may take as many spins as it needs, and ends in [`Lifecycle::finish`], which answers the client. Meanwhile
//! `~/get_state` says `configuring`, and every further request is refused.

pub mod machine;

pub use machine::{Outcome, Refused, State, Transition};

use super::lock;
use super::service::{respond, Requests};
use anyhow::Context as _;
use machine::{Edge, Machine, GRAPH};
use r2r::lifecycle_msgs::msg;
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::{Clock, QosProfile, ServiceRequest};
use std::sync::{Arc, Mutex};

/// The state of the node, and the services and the topic through which others see and change it.
pub struct Lifecycle {
    machine: Machine,
    /// The request whose transition is under way.
    waiting: Option<ServiceRequest<ChangeState::Service>>,
    change_state: Requests<ChangeState::Service>,
    get_state: Requests<GetState::Service>,
    get_available_states: Requests<GetAvailableStates::Service>,
    get_available_transitions: Requests<GetAvailableTransitions::Service>,
    get_transition_graph: Requests<GetAvailableTransitions::Service>,
    events: r2r::Publisher<msg::TransitionEvent>,
    clock: Arc<Mutex<Clock>>,
}

impl Lifecycle {
    /// The five services and `~/transition_event`, published with `events_qos`, of an unconfigured node.
    ///
    /// # Errors
    /// One of them cannot be created.
    pub fn create(node: &mut r2r::Node, events_qos: QosProfile) -> anyhow::Result<Self> {
        Ok(Self {
            machine: Machine::default(),
            waiting: None,
            change_state: Requests::serve(node, "~/change_state", QosProfile::services_default())?,
            get_state: Requests::serve(node, "~/get_state", QosProfile::services_default())?,
            get_available_states: Requests::serve(node, "~/get_available_states", QosProfile::services_default())?,
            get_available_transitions: Requests::serve(
                node,
                "~/get_available_transitions",
                QosProfile::services_default(),
            )?,
            get_transition_graph: Requests::serve(node, "~/get_transition_graph", QosProfile::services_default())?,
            events: node
                .create_publisher("~/transition_event", events_qos)
                .context("cannot publish ~/transition_event")?,
            clock: node.get_ros_clock(),
        })
    }

    /// The state now; the state of the transition (`Configuring`) while one is under way.
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// Answers what waits. A transition that a client asked for and that starts from this state has begun: the caller
    /// performs it and calls [`Self::finish`], now or many spins later.
    #[must_use = "the transition has begun and must be performed and finished"]
    pub fn poll(&mut self) -> Option<Transition> {
        let mut begun = None;
        while let Some(request) = self.change_state.waiting() {
            let asked = &request.message.transition;
            match self.machine.request(asked.id, &asked.label) {
                Ok((transition, edge)) => {
                    self.waiting = Some(request);
                    self.publish(edge);
                    begun = Some(transition);
                }
                Err(refused) => {
                    log::warn!("~/change_state: {refused}");
                    respond(request, ChangeState::Response { success: false });
                }
            }
        }
        while let Some(request) = self.get_state.waiting() {
            respond(request, GetState::Response { current_state: state_message(self.machine.state()) });
        }
        while let Some(request) = self.get_available_states.waiting() {
            let available_states = State::ALL.map(state_message).to_vec();
            respond(request, GetAvailableStates::Response { available_states });
        }
        while let Some(request) = self.get_available_transitions.waiting() {
            let available_transitions = self.machine.available().map(description).collect();
            respond(request, GetAvailableTransitions::Response { available_transitions });
        }
        while let Some(request) = self.get_transition_graph.waiting() {
            let available_transitions = GRAPH.iter().map(description).collect();
            respond(request, GetAvailableTransitions::Response { available_transitions });
        }
        begun
    }

    /// Begins a transition that the node itself makes (autostart). The caller performs it and calls [`Self::finish`].
    ///
    /// # Errors
    /// A transition is under way, or this one does not start from the state now.
    pub fn begin(&mut self, transition: Transition) -> Result<(), Refused> {
        let edge = self.machine.begin(transition)?;
        self.publish(edge);
        Ok(())
    }

    /// Ends the transition that is under way and answers the client that asked for it. The log has the state after it
    /// before the client has its answer; that of a failure is the caller's to say, before this.
    pub fn finish(&mut self, outcome: Outcome) {
        for edge in self.machine.finish(outcome) {
            self.publish(edge);
        }
        if outcome == Outcome::Success {
            log::info!("{}", self.machine.state());
        }
        if let Some(request) = self.waiting.take() {
            respond(request, ChangeState::Response { success: outcome == Outcome::Success });
        }
    }

    fn publish(&self, edge: &Edge) {
        log::debug!("{} -> {}", edge.start, edge.goal);
        let event = msg::TransitionEvent {
            timestamp: lock(&self.clock).get_now().map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
            transition: transition_message(edge),
            start_state: state_message(edge.start),
            goal_state: state_message(edge.goal),
        };
        if let Err(e) = self.events.publish(&event) {
            log::warn!("cannot publish ~/transition_event: {e}");
        }
    }
}

fn state_message(state: State) -> msg::State {
    msg::State { id: state.id(), label: state.label().into() }
}

fn transition_message(edge: &Edge) -> msg::Transition {
    msg::Transition { id: edge.id, label: edge.label.into() }
}

fn description(edge: &Edge) -> msg::TransitionDescription {
    msg::TransitionDescription {
        transition: transition_message(edge),
        start_state: state_message(edge.start),
        goal_state: state_message(edge.goal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `lifecycle_msgs` as it was generated on this machine.
    #[test]
    fn ids_are_those_of_lifecycle_msgs() {
        use msg::{State as S, Transition as T};
        for (state, id) in [
            (State::Unknown, S::PRIMARY_STATE_UNKNOWN as u8),
            (State::Unconfigured, S::PRIMARY_STATE_UNCONFIGURED as u8),
            (State::Inactive, S::PRIMARY_STATE_INACTIVE as u8),
            (State::Active, S::PRIMARY_STATE_ACTIVE as u8),
            (State::Finalized, S::PRIMARY_STATE_FINALIZED as u8),
            (State::Configuring, S::TRANSITION_STATE_CONFIGURING as u8),
            (State::CleaningUp, S::TRANSITION_STATE_CLEANINGUP as u8),
            (State::ShuttingDown, S::TRANSITION_STATE_SHUTTINGDOWN as u8),
            (State::Activating, S::TRANSITION_STATE_ACTIVATING as u8),
            (State::Deactivating, S::TRANSITION_STATE_DEACTIVATING as u8),
            (State::ErrorProcessing, S::TRANSITION_STATE_ERRORPROCESSING as u8),
        ] {
            assert_eq!(state.id(), id, "{state}");
        }
        let ids = [
            T::TRANSITION_CONFIGURE as u8,
            T::TRANSITION_ON_CONFIGURE_SUCCESS as u8,
            T::TRANSITION_ON_CONFIGURE_FAILURE as u8,
            T::TRANSITION_ON_CONFIGURE_ERROR as u8,
            T::TRANSITION_CLEANUP as u8,
            T::TRANSITION_ON_CLEANUP_SUCCESS as u8,
            T::TRANSITION_ON_CLEANUP_FAILURE as u8,
            T::TRANSITION_ON_CLEANUP_ERROR as u8,
            T::TRANSITION_ACTIVATE as u8,
            T::TRANSITION_ON_ACTIVATE_SUCCESS as u8,
            T::TRANSITION_ON_ACTIVATE_FAILURE as u8,
            T::TRANSITION_ON_ACTIVATE_ERROR as u8,
            T::TRANSITION_DEACTIVATE as u8,
            T::TRANSITION_ON_DEACTIVATE_SUCCESS as u8,
            T::TRANSITION_ON_DEACTIVATE_FAILURE as u8,
            T::TRANSITION_ON_DEACTIVATE_ERROR as u8,
            T::TRANSITION_UNCONFIGURED_SHUTDOWN as u8,
            T::TRANSITION_INACTIVE_SHUTDOWN as u8,
            T::TRANSITION_ACTIVE_SHUTDOWN as u8,
            T::TRANSITION_ON_SHUTDOWN_SUCCESS as u8,
            T::TRANSITION_ON_SHUTDOWN_FAILURE as u8,
            T::TRANSITION_ON_SHUTDOWN_ERROR as u8,
            T::TRANSITION_ON_ERROR_SUCCESS as u8,
            T::TRANSITION_ON_ERROR_FAILURE as u8,
            T::TRANSITION_ON_ERROR_ERROR as u8,
        ];
        assert!(GRAPH.iter().map(|e| e.id).eq(ids));
    }
}
