//! What a trial has counted, and up to which scrape. It is no part of the status: every program
//! that watches models would receive it with every scrape.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Gate, Revision};
use crate::evidence::{Cursors, Memory, Snapped};

/// What the gates of one trial remember.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TrialMemory {
    /// The version on trial.
    pub revision: Revision,
    /// When its trial began: the next trial of the same version has nothing of this one.
    pub since: Timestamp,
    /// When the step began that the gates count in.
    pub step_since: Timestamp,
    /// One entry a gate.
    pub gates: Vec<GateMemory>,
}

/// What one gate remembers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GateMemory {
    /// The name of the gate, which is that of its objective.
    pub objective: String,
    /// What it counts, such as `latency-p99`.
    pub measures: String,
    /// The bucket edge of the latency histogram that is used for the objective's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Snapped>,
    /// The test's state.
    pub evidence: Memory,
    /// Up to which sample each scrape target has been counted.
    pub cursors: Cursors,
}

impl GateMemory {
    /// Whether this is the memory of a gate: of its name, and of what it measures.
    pub fn is_of(&self, gate: &Gate) -> bool {
        self.objective == gate.name && self.measures == gate.measures()
    }
}
