//! Status: the persisted state of the rollout, and conditions for people and tools.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{DecisionRecord, Gate, Revision, Verified};
use crate::evidence::Observation;

/// Status of a ModelDeployment.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// When this status was written: its figures are of this time. Figures alone are written once a
    /// minute while a version is on trial; whatever else changes, at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub last_update_time: Option<Timestamp>,

    /// The state of the rollout: the persisted input of the next decision.
    #[serde(flatten)]
    pub state: State,

    /// `Ready`, `Available`, `Reconciling`, `Stalled`: read by kstatus, `kubectl wait`, Argo CD,
    /// Flux and helm.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,

    /// Ready and desired pods of the stable version, such as `3/3`. A canary's pods are not
    /// included, so a healthy rollout never reads as broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,

    /// Ready pods of the stable version.
    pub ready_replicas: i32,

    /// Desired pods of the stable version, for the scale subresource: an autoscaler compares it
    /// with `spec.replicas`. A canary's pods are not included.
    pub replicas: i32,

    /// What was verified of the versions in use, and what could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,

    /// Label selector of the model's pods of all versions, for the scale subresource. An autoscaler
    /// adds up the load of all of them, so its result does not depend on the split of the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// The persisted state. [`crate::plan`] derives every object from it, and the router every weight.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The phase of the rollout.
    pub phase: Phase,

    /// The version that serves all traffic but the canary's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<VersionRef>,

    /// The version under trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryVersion>,

    /// Versions without weight that keep their pods until their scale-down time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<RetiringVersion>,

    /// Versions that were rolled back; not tried again before `spec.rollout.retryToken` changes.
    /// The last 20.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedVersion>,

    /// The spec's version, where a problem of the platform ended its trial. It is not refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postponed: Option<PostponedVersion>,

    /// The largest `spec.replicas` of the rollout under way. No version has fewer pods before its
    /// old version is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_floor: Option<i32>,

    /// Commands of people (`serin.dev/…` annotations) that were obeyed, kept while the annotations
    /// exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handled_commands: Vec<String>,

    /// What is wrong with annotations that were ignored, and what to write instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid_annotations: Vec<String>,

    /// `spec.rollout.paused`, as last reported by an event.
    #[serde(skip_serializing_if = "is_false")]
    pub paused: bool,

    /// The time during which looks at the trial followed each other without a gap. Kept while a
    /// deadline runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_time: Option<ObservedTime>,

    /// Objectives that cannot be measured, of those that `message` names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmeasured: Vec<UnmeasuredObjective>,

    /// Whether the spec has asked for the stable version since the last decision, which was to
    /// refuse another one. Asking for the refused version again is then a new decision.
    #[serde(skip_serializing_if = "is_false")]
    pub refusal_closed: bool,

    /// The port on which every router listens for this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener_port: Option<u16>,

    /// The present assessment of the rollout, as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,

    /// The last 10 decisions, oldest first, with the evidence of the last 3 that have any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<DecisionRecord>,
}

impl State {
    /// Returns the versions that have pods: those with weight, and those that may still have
    /// requests.
    pub fn with_pods(&self) -> BTreeSet<Revision> {
        if self.phase == Phase::Asleep {
            let retiring = self.retiring.iter().map(|version| &version.revision);
            return retiring.cloned().collect();
        }
        self.in_use()
    }

    /// Returns the stable version, the one on trial, and those that may still have requests.
    pub fn in_use(&self) -> BTreeSet<Revision> {
        let stable = self.stable.iter().map(|version| &version.revision);
        let canary = self.canary.iter().map(|version| &version.revision);
        let retiring = self.retiring.iter().map(|version| &version.revision);
        stable.chain(canary).chain(retiring).cloned().collect()
    }

    /// The stable version and the one on trial, by their two names.
    pub fn versions(&self) -> impl Iterator<Item = (&Revision, &str)> {
        let stable = self.stable.iter();
        let stable = stable.map(|version| (&version.revision, version.version.as_str()));
        let canary = self.canary.iter();
        stable.chain(canary.map(|version| (&version.revision, version.version.as_str())))
    }

    /// Returns the last decision about a version; `Paused` and `Resumed` are not about one.
    pub fn last_move(&self) -> Option<&DecisionRecord> {
        let mut newest_first = self.decisions.iter().rev();
        newest_first.find(|record| record.is_move())
    }
}

/// The phase of a rollout.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// No version serves yet; the first one is starting and gets 100 % once Ready.
    #[default]
    Pending,
    /// A new version's pods are starting; it has no weight.
    Preparing,
    /// A new version has the weight of its step.
    Canary,
    /// The new version is stable and has all traffic; the old one keeps its pods for
    /// `scaleDownDelay`.
    Promoting,
    /// All traffic is back on stable; the refused version keeps its pods until its last requests
    /// are answered.
    RollingBack,
    /// One version serves everything, and no rollout is under way.
    Stable,
    /// `spec.replicas` is 0: the address answers 503 with `Retry-After`, and no version has pods
    /// once the requests under way are answered.
    Asleep,
    /// `spec.replicas` is no longer 0, and the stable version's pods are being started again.
    Waking,
}

impl Phase {
    /// Whether no version has weight although one is stable.
    pub fn is_without_traffic(self) -> bool {
        matches!(self, Self::Asleep | Self::Waking)
    }
}

/// A version by its two names.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VersionRef {
    /// The digest that names its objects.
    pub revision: Revision,
    /// The version that the user declared.
    pub version: String,
}

/// The version under trial.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryVersion {
    /// The digest that names its objects.
    pub revision: Revision,
    /// The version that the user declared.
    pub version: String,
    /// Its share of traffic, in percent: 0 or a declared step's.
    pub weight: u8,
    /// When its trial began.
    #[schemars(schema_with = "time_schema")]
    pub since: Timestamp,
    /// Whether it gets all traffic as soon as its pods are Ready, since it was promoted before,
    /// within `spec.rollout.rollbackWindow`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rollback: bool,
    /// Progress through the steps; absent while the version has no weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl CanaryVersion {
    /// The version by its names.
    pub fn version_ref(&self) -> VersionRef {
        VersionRef {
            revision: self.revision.clone(),
            version: self.version.clone(),
        }
    }
}

/// Progress of a trial through its steps.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Index of the current step, from 0.
    pub step: u32,
    /// When the current step began.
    #[schemars(schema_with = "time_schema")]
    pub step_since: Timestamp,
    /// Time in this step during which metrics were unreadable, in milliseconds. Outages that are
    /// over only.
    #[serde(default)]
    pub metrics_outage_ms: i64,
    /// Since when the metrics have been unreadable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub metrics_outage_since: Option<Timestamp>,
    /// Since when the step's `pause` has held the weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub paused_since: Option<Timestamp>,
    /// A person's approval to leave this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approved>,
    /// Since when the canary has had no ready pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub unready_since: Option<Timestamp>,
    /// One gate an objective, in the objectives' order.
    pub gates: Vec<GateRecord>,
}

/// An objective that cannot be measured.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UnmeasuredObjective {
    /// The name of the objective.
    pub objective: String,
    /// Why, as a code, such as `Unreachable` or `CanaryStale`.
    pub reason: String,
    /// Why in words, and what to do about it. The age of a sample, or how far a clock is off, is
    /// that of the first look that found this reason.
    pub message: String,
}

/// A time during which looks followed each other, by any process.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObservedTime {
    /// The first look.
    #[schemars(schema_with = "time_schema")]
    pub since: Timestamp,
    /// The last look, recorded once in 30 seconds.
    #[schemars(schema_with = "time_schema")]
    pub until: Timestamp,
}

/// A person's approval.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Approved {
    /// When it was read.
    #[schemars(schema_with = "time_schema")]
    pub at: Timestamp,
    /// The person, where `serin.dev/requested-by` names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// What a gate said last. What it remembers stands on the version's ControllerRevision.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GateRecord {
    /// The name of the gate, which is that of its objective.
    pub objective: String,
    /// What it counts, such as `latency-p99`. Where the objective of this name measures something
    /// else, the gate begins to count anew.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub measures: String,
    /// Its last sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sentence: String,
    /// Requests since the rollout began, where requests are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Observation>,
}

impl GateRecord {
    /// The record of a gate that has not judged yet.
    pub fn of(gate: &Gate) -> Self {
        Self {
            objective: gate.name.clone(),
            measures: gate.measures(),
            sentence: String::new(),
            rollout: None,
        }
    }

    /// Whether this is the record of a gate: of its name, and of what it measures.
    pub fn is_of(&self, gate: &Gate) -> bool {
        self.objective == gate.name && self.measures == gate.measures()
    }
}

/// A version without weight that still has pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RetiringVersion {
    /// The digest that names its objects.
    pub revision: Revision,
    /// When its pods go.
    #[schemars(schema_with = "time_schema")]
    pub scale_down_at: Timestamp,
    /// Until when it was the stable version; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "optional_time_schema")]
    pub stable_until: Option<Timestamp>,
}

/// A version that was rolled back.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RefusedVersion {
    /// The digest that names it.
    pub revision: Revision,
    /// The version that the user declared.
    pub version: String,
    /// When it was rolled back.
    #[schemars(schema_with = "time_schema")]
    pub at: Timestamp,
    /// Why, with the numbers.
    pub reason: String,
    /// `spec.rollout.retryToken` at that time: another value allows another try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_token: Option<String>,
}

/// A version whose trial a problem of the platform ended, such as a quota or a full cluster. It is
/// tried again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PostponedVersion {
    /// The digest that names it.
    pub revision: Revision,
    /// The version that the user declared.
    pub version: String,
    /// Trials that ended so, in a row.
    pub attempts: u32,
    /// When the next trial begins: 1 minute after the first one, twice as long after each further
    /// one, at most 1 hour.
    #[schemars(schema_with = "time_schema")]
    pub retry_at: Timestamp,
    /// The problem, as the scheduler or the API server reported it.
    pub reason: String,
    /// `spec.rollout.retryToken` at that time: another value allows another try at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_token: Option<String>,
}

pub(super) fn time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

pub(super) fn optional_time_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "nullable": true})
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
fn is_false(value: &bool) -> bool {
    !value
}
