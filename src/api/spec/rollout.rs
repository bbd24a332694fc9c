//! The way of a new version from its first request to all of them.

use std::time::Duration as StdDuration;

use kube::{KubeSchema, core::Duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{duration_schema, minutes};

/// The way from a new version's first request to all of them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Weights that the new version gets one after the other; ascending, the last one 100.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("self[size(self) - 1].weight == 100")
        .message("spec.rollout.steps: the last step's weight must be 100"))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.weight == a.weight).size() == 1) && self.map(s, s.weight).isSorted()")
        .message("spec.rollout.steps: weights must ascend"))]
    pub steps: Vec<Step>,

    /// While true the weight is not raised; a breach still rolls back.
    #[serde(default)]
    pub paused: bool,

    /// What happens when the metrics cannot be read. Never a promotion.
    #[serde(default)]
    pub on_metrics_outage: OutagePolicy,

    /// What happens when a step has too little traffic to prove anything.
    #[serde(default)]
    pub on_insufficient_data: InsufficientDataPolicy,

    /// Time that a new version has to become Ready before it is rolled back.
    #[serde(default = "fifteen_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub progress_deadline: Duration,

    /// Time that a version keeps its pods after its last request, so that the way back stays warm.
    #[serde(default = "thirty_seconds")]
    #[schemars(schema_with = "duration_schema")]
    pub scale_down_delay: Duration,

    /// A version that was rolled back is tried again only after this value has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub retry_token: Option<String>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            steps: default_steps(),
            paused: false,
            on_metrics_outage: OutagePolicy::default(),
            on_insufficient_data: InsufficientDataPolicy::default(),
            progress_deadline: fifteen_minutes(),
            scale_down_delay: thirty_seconds(),
            retry_token: None,
        }
    }
}

/// One stop on the way to 100 %.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of traffic for the new version, in percent.
    #[schemars(range(min = 1, max = 100))]
    pub weight: u8,

    /// Shortest time with readable metrics before the next step.
    #[serde(default = "five_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub min_duration: Duration,

    /// Fewest requests that the new version must have answered in this step before the next.
    #[serde(default = "twenty")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_requests: i64,
}

/// What happens while metrics are unreachable, stale or ambiguous.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutagePolicy {
    /// Time during which nothing moves.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub hold: Duration,
    /// What follows: `Rollback` puts all traffic back on the stable version, `Pause` goes on holding.
    #[serde(default = "rollback")]
    #[schemars(schema_with = "outage_schema")]
    pub then: AfterPatience,
}

impl Default for OutagePolicy {
    fn default() -> Self {
        Self {
            hold: ten_minutes(),
            then: AfterPatience::Rollback,
        }
    }
}

/// What happens when a step stays without enough evidence.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InsufficientDataPolicy {
    /// Time in one step after which the policy applies.
    #[serde(default = "thirty_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub after: Duration,
    /// `Pause` goes on waiting, `Advance` takes the next step unless the version is suspect, `Rollback` gives up.
    #[serde(default)]
    pub then: AfterPatience,
}

impl Default for InsufficientDataPolicy {
    fn default() -> Self {
        Self {
            after: thirty_minutes(),
            then: AfterPatience::Pause,
        }
    }
}

/// What follows when patience has run out.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterPatience {
    /// Hold the weight, and say so.
    #[default]
    Pause,
    /// Put all traffic back on the stable version.
    Rollback,
    /// Take the next step although the proof is not complete. Never applies to a suspect version or to an outage.
    Advance,
}
fn default_steps() -> Vec<Step> {
    [10, 25, 50, 100]
        .map(|weight| Step {
            weight,
            min_duration: five_minutes(),
            min_requests: twenty(),
        })
        .to_vec()
}

/// An outage may hold or roll back, never advance.
fn outage_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Pause", "Rollback"]})
}

fn twenty() -> i64 {
    20
}

fn rollback() -> AfterPatience {
    AfterPatience::Rollback
}

fn five_minutes() -> Duration {
    minutes(5)
}

fn ten_minutes() -> Duration {
    minutes(10)
}

fn fifteen_minutes() -> Duration {
    minutes(15)
}

fn thirty_minutes() -> Duration {
    minutes(30)
}

fn thirty_seconds() -> Duration {
    StdDuration::from_secs(30).into()
}
