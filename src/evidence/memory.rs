//! What gates remember between scrapes. The ControllerRevision of the version on trial keeps it, so
//! its serialised form must not change.
//!
//! Plain data; `gate` updates and judges it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::Observation;

/// Alternatives to "the objective holds" that a gate bets on.
pub(crate) const SLO_ALTERNATIVES: usize = 6;
/// Alternatives to "no worse than stable" that a gate bets on.
pub(crate) const RELATIVE_ALTERNATIVES: usize = 5;

/// The memory of one gate; the objective determines the kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Memory {
    /// Of `latency`, `errorRate` and `noWorseThanStable.latency`: the share of bad requests.
    Requests(GateState),
    /// Of `noWorseThanStable.errorRate`: the share of bad requests beside stable's.
    Margin(MarginState),
    /// Of `predictionDrift`.
    Drift(DriftState),
    /// Of `query`.
    Value(ValueState),
}

/// The memory of a gate that counts bad requests, over one rollout. The version's
/// ControllerRevision keeps it, so a restarted operator continues where the previous one stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateState {
    #[serde(flatten)]
    pub(crate) ledger: Ledger,
    /// Evidence for each alternative "the bad share is m times the budget".
    pub(crate) slo: [f64; SLO_ALTERNATIVES],
    /// Evidence for each alternative "a canary request is ω times as likely bad as a stable one";
    /// at full weight: as stable's were before, or as the objective allows.
    pub(crate) relative: [f64; RELATIVE_ALTERNATIVES],
    /// The canary's requests while it was warming up, over all scrapes. Cleared by the first look
    /// after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) warm_up: Option<Observation>,
}

/// The memory of a gate that compares bad shares, over one rollout. Its policy's `budget` is the
/// margin δ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MarginState {
    #[serde(flatten)]
    pub(crate) ledger: Ledger,
    /// Evidence for each alternative "the canary is worse by m margins".
    pub(crate) worse: [f64; SLO_ALTERNATIVES],
}

/// The memory of a gate that compares predicted classes, over one rollout. Its policy's `budget` is
/// the largest PSI.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftState {
    /// The canary's weight in this step, in percent.
    pub(crate) weight: u8,
    /// Evidence of the earlier steps, and the stake of this one.
    pub(crate) playing: f64,
    /// The part of the evidence's unit that is not staked yet.
    pub(crate) kept: f64,
    /// Whether this step has had its stake.
    pub(crate) staked: bool,
    /// Whether the gate failed in this step.
    pub(crate) failed: bool,
    /// Predictions since the rollout began.
    pub(crate) predictions: u64,
    /// The step's predictions by class.
    pub(crate) canary: BTreeMap<String, u64>,
    /// The same of stable.
    pub(crate) stable: BTreeMap<String, u64>,
    /// How they varied between scrapes.
    #[serde(default, skip_serializing_if = "Spread::is_empty")]
    pub(crate) spread: Spread,
}

/// The memory of a gate that checks a value against limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueState {
    /// The last value that counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<f64>,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub(crate) at: Option<Timestamp>,
    /// Scrapes in a row beyond a limit.
    #[serde(default)]
    pub(crate) breaches: u32,
    /// Whether they were enough to fail in this step. Kept until the next step.
    #[serde(default)]
    pub(crate) failed: bool,
}

/// The counts of one gate over one rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ledger {
    /// The canary's weight in this step, in percent.
    pub(crate) weight: u8,
    /// Looks since the rollout began, empty ones not counted.
    pub(crate) looks: u32,
    /// Looks since the step began, empty ones not counted.
    pub(crate) step_looks: u32,
    /// The part of the evidence's unit that has been staked so far, 0 to 1.
    pub(crate) staked: f64,
    /// The strongest evidence for failing since the step began; 1 means none.
    pub(crate) strongest: f64,
    /// The look that tripped the hard guard in this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) guard: Option<Observation>,
    /// Requests since the step began.
    pub(crate) step: Observation,
    /// Requests since the rollout began.
    pub(crate) rollout: Observation,
}

/// How the predictions of a step varied between scrapes, by class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Spread(pub(crate) BTreeMap<String, Class>);

/// How the predictions of one class varied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Class {
    /// Scrapes that brought predictions of it.
    pub(crate) scrapes: u32,
    /// `Σ_t n_t·(r_t − ρ)²`.
    pub(crate) squares: f64,
}

fn optional_time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}
