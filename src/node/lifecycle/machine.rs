//! The state machine of a managed node, without ROS types.
//!
//! States, transitions, their ids and labels and the order in which they are listed are those of ROS 2's own default
//! state machine (rcl_lifecycle), so that its clients see no difference. In two points this one is stricter than rclcpp's:
//! while a transition is under way every request is refused (rclcpp would take the ids of outcomes, 10 to 62, from
//! outside), and a request is either refused or answered, never undefined.

/// A state. The discriminant is the id in `lifecycle_msgs/State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Listed by ROS 2, never taken.
    Unknown = 0,
    /// Nothing is loaded.
    Unconfigured = 1,
    /// The model is loaded, no image is taken.
    Inactive = 2,
    /// Images are answered.
    Active = 3,
    /// The end; only the process's own end follows.
    Finalized = 4,
    /// From unconfigured to inactive.
    Configuring = 10,
    /// From inactive to unconfigured.
    CleaningUp = 11,
    /// To finalized.
    ShuttingDown = 12,
    /// From inactive to active.
    Activating = 13,
    /// From active to inactive.
    Deactivating = 14,
    /// After a transition that ended in an error.
    ErrorProcessing = 15,
}

impl State {
    /// All states, in the order of `~/get_available_states`.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Unconfigured,
        Self::Inactive,
        Self::Active,
        Self::Finalized,
        Self::Configuring,
        Self::CleaningUp,
        Self::ShuttingDown,
        Self::Activating,
        Self::Deactivating,
        Self::ErrorProcessing,
    ];

    /// The id in `lifecycle_msgs/State`.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// The label in `lifecycle_msgs/State`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Unconfigured => "unconfigured",
            Self::Inactive => "inactive",
            Self::Active => "active",
            Self::Finalized => "finalized",
            Self::Configuring => "configuring",
            Self::CleaningUp => "cleaningup",
            Self::ShuttingDown => "shuttingdown",
            Self::Activating => "activating",
            Self::Deactivating => "deactivating",
            Self::ErrorProcessing => "errorprocessing",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// What can be asked of a managed node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// Load the model.
    Configure,
    /// Take images.
    Activate,
    /// Take no more images, keep the model.
    Deactivate,
    /// Drop the model.
    Cleanup,
    /// Let go of everything, from whatever state.
    Shutdown,
}

impl Transition {
    /// The label by which it is asked for.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Activate => "activate",
            Self::Deactivate => "deactivate",
            Self::Cleanup => "cleanup",
            Self::Shutdown => "shutdown",
        }
    }

    /// The state of a node that is at it.
    const fn through(self) -> State {
        match self {
            Self::Configure => State::Configuring,
            Self::Activate => State::Activating,
            Self::Deactivate => State::Deactivating,
            Self::Cleanup => State::CleaningUp,
            Self::Shutdown => State::ShuttingDown,
        }
    }

    const fn of_state(state: State) -> Option<Self> {
        match state {
            State::Configuring => Some(Self::Configure),
            State::Activating => Some(Self::Activate),
            State::Deactivating => Some(Self::Deactivate),
            State::CleaningUp => Some(Self::Cleanup),
            State::ShuttingDown => Some(Self::Shutdown),
            _ => None,
        }
    }
}

impl std::fmt::Display for Transition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label())
    }
}

/// How a transition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Success,
    /// It was not done, and the node is as it was before. (A shutdown is done even so.)
    Failure,
    /// It went wrong on the way, and the node is not as it was before.
    Error {
        /// Everything could be let go of: the node is unconfigured and may be configured again. Otherwise it is
        /// finalized.
        recovered: bool,
    },
}

/// An edge of the graph of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The id in `lifecycle_msgs/Transition`.
    pub id: u8,
    /// The label in `lifecycle_msgs/Transition`.
    pub label: &'static str,
    /// Where it starts.
    pub start: State,
    /// Where it ends.
    pub goal: State,
}

const SUCCESS: &str = "transition_success";
const FAILURE: &str = "transition_failure";
const ERROR: &str = "transition_error";

const fn edge(id: u8, label: &'static str, start: State, goal: State) -> Edge {
    Edge { id, label, start, goal }
}

/// All edges, in the order of `~/get_transition_graph`; those of one state keep this order in
/// `~/get_available_transitions`.
pub const GRAPH: [Edge; 25] = [
    edge(1, "configure", State::Unconfigured, State::Configuring),
    edge(10, SUCCESS, State::Configuring, State::Inactive),
    edge(11, FAILURE, State::Configuring, State::Unconfigured),
    edge(12, ERROR, State::Configuring, State::ErrorProcessing),
    edge(2, "cleanup", State::Inactive, State::CleaningUp),
    edge(20, SUCCESS, State::CleaningUp, State::Unconfigured),
    edge(21, FAILURE, State::CleaningUp, State::Inactive),
    edge(22, ERROR, State::CleaningUp, State::ErrorProcessing),
    edge(3, "activate", State::Inactive, State::Activating),
    edge(30, SUCCESS, State::Activating, State::Active),
    edge(31, FAILURE, State::Activating, State::Inactive),
    edge(32, ERROR, State::Activating, State::ErrorProcessing),
    edge(4, "deactivate", State::Active, State::Deactivating),
    edge(40, SUCCESS, State::Deactivating, State::Inactive),
    edge(41, FAILURE, State::Deactivating, State::Active),
    edge(42, ERROR, State::Deactivating, State::ErrorProcessing),
    edge(5, "shutdown", State::Unconfigured, State::ShuttingDown),
    edge(6, "shutdown", State::Inactive, State::ShuttingDown),
    edge(7, "shutdown", State::Active, State::ShuttingDown),
    edge(50, SUCCESS, State::ShuttingDown, State::Finalized),
    edge(51, FAILURE, State::ShuttingDown, State::Finalized),
    edge(52, ERROR, State::ShuttingDown, State::ErrorProcessing),
    edge(60, SUCCESS, State::ErrorProcessing, State::Unconfigured),
    edge(61, FAILURE, State::ErrorProcessing, State::Finalized),
    edge(62, ERROR, State::ErrorProcessing, State::Finalized),
];

/// Why a transition does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another one has not ended yet.
    #[error("the node is still {0}; ask again when that has ended")]
    UnderWay(State),
    /// It does not start from this state.
    #[error("{asked} is not possible for a node that is {state}: expected {expected}")]
    NotFromHere {
        /// What was asked for.
        asked: String,
        /// The node's state.
        state: State,
        /// What is possible.
        expected: String,
    },
}

/// The state and how it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: State::Unconfigured }
    }
}

impl Machine {
    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// The transition that has begun and not ended.
    pub fn under_way(&self) -> Option<Transition> {
        Transition::of_state(self.state)
    }

    /// The edges that start from the state now.
    pub fn available(&self) -> impl Iterator<Item = &'static Edge> {
        let state = self.state;
        GRAPH.iter().filter(move |e| e.start == state)
    }

    /// Begins what a request asks for by id, or by label if it has one. (The label comes first because a request by
    /// label has an id of 0, or a wrong one.)
    ///
    /// # Errors
    /// A transition is under way, or this one does not start from here.
    pub fn request(&mut self, id: u8, label: &str) -> Result<(Transition, &'static Edge), Refused> {
        let wanted = |e: &Edge| if label.is_empty() { e.id == id } else { e.label == label };
        self.start(wanted, || if label.is_empty() { format!("transition {id}") } else { format!("'{label}'") })
    }

    /// Begins a transition that the node itself makes.
    ///
    /// # Errors
    /// A transition is under way, or this one does not start from here.
    pub fn begin(&mut self, transition: Transition) -> Result<&'static Edge, Refused> {
        self.start(|e| e.goal == transition.through(), || transition.to_string()).map(|(_, edge)| edge)
    }

    fn start(
        &mut self,
        wanted: impl Fn(&Edge) -> bool,
        asked: impl Fn() -> String,
    ) -> Result<(Transition, &'static Edge), Refused> {
        if self.under_way().is_some() {
            return Err(Refused::UnderWay(self.state));
        }
        let found = self.available().find(|e| wanted(e)).and_then(|e| Some((Transition::of_state(e.goal)?, e)));
        let Some((transition, edge)) = found else {
            let possible: Vec<String> = self.available().map(|e| format!("{} ({})", e.label, e.id)).collect();
            let expected = if possible.is_empty() { "nothing any more".into() } else { possible.join(" or ") };
            return Err(Refused::NotFromHere { asked: asked(), state: self.state, expected });
        };
        self.state = edge.goal;
        Ok((transition, edge))
    }

    /// Ends the transition that is under way: the edges that were gone along, none if there was no transition.
    pub fn finish(&mut self, outcome: Outcome) -> Vec<&'static Edge> {
        let labels: &[&str] = match outcome {
            _ if self.under_way().is_none() => &[],
            Outcome::Success => &[SUCCESS],
            Outcome::Failure => &[FAILURE],
            Outcome::Error { recovered: true } => &[ERROR, SUCCESS],
            Outcome::Error { recovered: false } => &[ERROR, FAILURE],
        };
        let mut gone = Vec::with_capacity(labels.len());
        for label in labels {
            // Every state of a transition has the three outcomes (a test looks at them all).
            if let Some(edge) = self.available().find(|e| e.label == *label) {
                self.state = edge.goal;
                gone.push(edge);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: [State; 4] = [State::Unconfigured, State::Inactive, State::Active, State::Finalized];
    const TRANSITIONS: [Transition; 5] = [
        Transition::Configure,
        Transition::Activate,
        Transition::Deactivate,
        Transition::Cleanup,
        Transition::Shutdown,
    ];
    const OUTCOMES: [Outcome; 4] =
        [Outcome::Success, Outcome::Failure, Outcome::Error { recovered: true }, Outcome::Error { recovered: false }];

    fn at(state: State) -> Machine {
        Machine { state }
    }

    /// What rcl_lifecycle allows from outside: state, id, label, transition.
    const ALLOWED: [(State, u8, &str, Transition); 7] = [
        (State::Unconfigured, 1, "configure", Transition::Configure),
        (State::Unconfigured, 5, "shutdown", Transition::Shutdown),
        (State::Inactive, 2, "cleanup", Transition::Cleanup),
        (State::Inactive, 3, "activate", Transition::Activate),
        (State::Inactive, 6, "shutdown", Transition::Shutdown),
        (State::Active, 4, "deactivate", Transition::Deactivate),
        (State::Active, 7, "shutdown", Transition::Shutdown),
    ];

    #[test]
    fn every_id_in_every_state() {
        for state in State::ALL {
            for id in 0..=u8::MAX {
                let mut machine = at(state);
                let result = machine.request(id, "");
                match ALLOWED.iter().find(|a| a.0 == state && a.1 == id) {
                    Some((_, _, label, transition)) => {
                        let (got, edge) = result.expect("allowed");
                        assert_eq!((got, edge.label, edge.start), (*transition, *label, state));
                        assert_eq!(machine.state(), transition.through());
                        assert_eq!(machine.under_way(), Some(*transition));
                    }
                    None => {
                        result.expect_err("not allowed");
                        assert_eq!(machine.state(), state, "a refused request changes nothing");
                    }
                }
            }
        }
    }

    #[test]
    fn every_label_in_every_state_whatever_the_id() {
        let known = GRAPH.iter().map(|e| e.label);
        let unknown = ["create", "destroy", "Configure", "unconfigured_shutdown", "configure ", "inactive"];
        for label in known.chain(unknown) {
            for state in State::ALL {
                for id in [0, 1, 5, 99] {
                    let mut machine = at(state);
                    let result = machine.request(id, label);
                    match ALLOWED.iter().find(|a| a.0 == state && a.2 == label) {
                        Some((_, id, _, transition)) => {
                            let (got, edge) = result.expect("allowed");
                            assert_eq!((got, edge.id), (*transition, *id));
                        }
                        None => {
                            result.expect_err(label);
                            assert_eq!(machine.state(), state);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_node_itself_may_do_what_a_client_may() {
        for state in State::ALL {
            for transition in TRANSITIONS {
                let allowed = ALLOWED.iter().any(|a| a.0 == state && a.3 == transition);
                assert_eq!(at(state).begin(transition).is_ok(), allowed, "{transition} from {state}");
            }
        }
    }

    #[test]
    fn every_outcome_of_every_transition() {
        use State::{Active, CleaningUp, Configuring, Finalized, Inactive, ShuttingDown, Unconfigured};
        // After success, failure; an error leads to unconfigured or finalized from everywhere.
        let ends = [
            (Configuring, Inactive, Unconfigured),
            (CleaningUp, Unconfigured, Inactive),
            (State::Activating, Active, Inactive),
            (State::Deactivating, Inactive, Active),
            (ShuttingDown, Finalized, Finalized),
        ];
        for (through, success, failure) in ends {
            for (outcome, goal) in OUTCOMES.into_iter().zip([success, failure, Unconfigured, Finalized]) {
                let mut machine = at(through);
                let gone = machine.finish(outcome);
                assert_eq!(machine.state(), goal, "{through} {outcome:?}");
                assert_eq!(machine.under_way(), None);
                let is_error = matches!(outcome, Outcome::Error { .. });
                assert_eq!(gone.len(), if is_error { 2 } else { 1 });
                assert_eq!((gone[0].start, gone[gone.len() - 1].goal), (through, goal));
                assert_eq!(is_error, gone.iter().any(|e| e.start == State::ErrorProcessing));
                assert!(gone.windows(2).all(|w| w[0].goal == w[1].start), "the edges join");
            }
        }
    }

    #[test]
    fn an_outcome_without_a_transition_changes_nothing() {
        for state in PRIMARY {
            for outcome in OUTCOMES {
                let mut machine = at(state);
                assert_eq!(machine.finish(outcome), Vec::<&Edge>::new());
                assert_eq!(machine.state(), state);
            }
        }
    }

    #[test]
    fn under_way_every_request_is_refused_and_says_so() {
        for transition in TRANSITIONS {
            let through = transition.through();
            for edge in &GRAPH {
                assert_eq!(at(through).request(edge.id, ""), Err(Refused::UnderWay(through)));
                assert_eq!(at(through).request(0, edge.label), Err(Refused::UnderWay(through)));
            }
        }
    }

    #[test]
    fn a_refusal_names_what_is_possible() {
        let e = at(State::Inactive).request(1, "").expect_err("refused").to_string();
        assert_eq!(
            e,
            "transition 1 is not possible for a node that is inactive: expected cleanup (2) or activate (3) or shutdown (6)"
        );
        let e = at(State::Finalized).request(0, "configure").expect_err("refused").to_string();
        assert_eq!(e, "'configure' is not possible for a node that is finalized: expected nothing any more");
    }

    #[test]
    fn the_graph_is_sound() {
        let mut ids: Vec<u8> = GRAPH.iter().map(|e| e.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), GRAPH.len(), "ids are unique");
        for state in State::ALL {
            let mut labels: Vec<&str> = at(state).available().map(|e| e.label).collect();
            if state.id() >= 10 {
                assert_eq!(labels, [SUCCESS, FAILURE, ERROR], "{state}");
            }
            labels.sort_unstable();
            labels.dedup();
            assert_eq!(labels.len(), at(state).available().count(), "{state}: labels are unique in a state");
        }
    }

    #[test]
    fn a_whole_life() {
        let mut machine = Machine::default();
        for (transition, state) in [
            (Transition::Configure, State::Inactive),
            (Transition::Activate, State::Active),
            (Transition::Deactivate, State::Inactive),
            (Transition::Cleanup, State::Unconfigured),
            (Transition::Shutdown, State::Finalized),
        ] {
            machine.begin(transition).expect("allowed");
            machine.finish(Outcome::Success);
            assert_eq!(machine.state(), state);
        }
        assert_eq!(machine.available().count(), 0);
    }
}
