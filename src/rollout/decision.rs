//! What a decision consists of.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::api::{DecisionRecord, State, TrialMemory};

/// What [`decide`](super::decide()) decides.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Decision {
    /// The state from now on.
    pub next: State,
    /// What the gates remember from now on; `None` while no canary has weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<TrialMemory>,
    /// What was decided just now; each becomes an Event and a log line.
    pub records: Vec<DecisionRecord>,
    /// When to look again even if nothing changes; never, where `None`.
    pub requeue: Option<Duration>,
}

/// Why no version can be on trial.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The spec cannot be used: it does not say what a version must hold.
    InvalidSpec,
    /// The model is being deleted, and a finalizer of another controller keeps it for a while.
    Deleting,
}
