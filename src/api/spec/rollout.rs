//! How traffic moves to a new version, from its first request to all of them.

use std::time::Duration as StdDuration;

use kube::{KubeSchema, core::Duration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{duration_schema, minutes};
use crate::api::Percent;

/// How traffic moves to a new version, from its first request to all of them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.firstStep) || self.firstStep != 'Adaptive' || \
    !has(self.steps) || self.steps.exists(s, s.weight <= 50)")
    .message("spec.rollout.firstStep: Adaptive needs a step of at most 50 % to start at; declare \
        one, or set Declared"))]
pub struct Rollout {
    /// The weights that the new version gets, in order: ascending, the last one 100. 10, 25, 50 and
    /// 100 where absent.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1, max = 20))]
    #[x_kube(validation = Rule::new("size(self) == 0 || self[size(self) - 1].weight == 100")
        .message("spec.rollout.steps: the last step's weight must be 100"))]
    #[x_kube(validation = Rule::new("self.all(a, self.filter(b, b.weight == a.weight).size() == 1) \
        && self.map(s, s.weight).isSorted()")
        .message("spec.rollout.steps: weights must ascend"))]
    pub steps: Vec<Step>,

    /// While true the weight is not raised; a breach still rolls back.
    #[serde(default)]
    pub paused: bool,

    /// Where a new version starts.
    #[serde(default)]
    pub first_step: FirstStep,

    /// Whether a person must agree to the last move, from 100 % to promoted.
    #[serde(default)]
    pub approval: Approval,

    /// Shortest time at 100 % during which the version is still judged and the old one keeps all
    /// its pods. It counts together with the last step's `minDuration`: the longer of the two.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub watch: Duration,

    /// What happens when the evidence says that a version is bad.
    #[serde(default)]
    pub on_failure: OnFailure,

    /// What happens when the metrics cannot be read. Never a promotion.
    #[serde(default)]
    pub on_metrics_outage: OutagePolicy,

    /// What happens when a step has too little traffic to prove anything.
    #[serde(default)]
    pub on_insufficient_data: InsufficientDataPolicy,

    /// Share of `spec.replicas` that must be Ready, and reachable by the routers, for every forward
    /// move. It holds for the new version, and for the old one, which must be able to take all
    /// traffic back. Rounded up, at least one pod. The very first version serves as soon as one of
    /// its pods does.
    #[serde(default = "all_pods")]
    pub min_ready: Percent,

    /// Time within which a new version must become Ready. After it, a version whose pods run is
    /// rolled back. Where the platform did not let the pods run, the trial ends and is tried again
    /// later, 1 minute to 1 hour apart.
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
            first_step: FirstStep::default(),
            approval: Approval::default(),
            watch: ten_minutes(),
            on_failure: OnFailure::default(),
            on_metrics_outage: OutagePolicy::default(),
            on_insufficient_data: InsufficientDataPolicy::default(),
            min_ready: all_pods(),
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

    /// Once its evidence passes, the step waits for a person (`kubectl serin promote`, or the
    /// annotation `serin.dev/approve`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub pause: bool,
}

/// Where a new version starts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FirstStep {
    /// At the first step.
    #[default]
    Declared,
    /// At the lowest step of at most 50 % at which stable's present traffic brings the requests
    /// that the next step needs within the step's `minDuration`; at the highest step of at most 50
    /// % where no step does.
    Adaptive,
}

/// Whether a person must agree to a promotion.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    /// The evidence is enough.
    #[default]
    Never,
    /// At 100 %, once the evidence passes, the version waits for a person before it is promoted.
    BeforePromotion,
}

/// What happens when the evidence says that a version is bad. A version whose pods cannot run, and
/// one most of whose requests fail while stable's do not, is rolled back in either case.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// All traffic goes back to the stable version at once.
    #[default]
    Rollback,
    /// The weight stays as it is until a person decides: `kubectl serin abort` or `promote --full`.
    Pause,
}

/// What happens while metrics are unreachable, stale or ambiguous.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutagePolicy {
    /// Time during which nothing moves.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub hold: Duration,
    /// What follows: `Pause` keeps holding, `Rollback` puts all traffic back on the stable version
    /// and refuses the new one.
    #[serde(default)]
    #[schemars(schema_with = "outage_schema")]
    pub then: OnDeadline,
}

impl Default for OutagePolicy {
    fn default() -> Self {
        Self {
            hold: ten_minutes(),
            then: OnDeadline::Pause,
        }
    }
}

/// What happens when a step lacks evidence for too long.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InsufficientDataPolicy {
    /// Time in one step after which the policy applies.
    #[serde(default = "thirty_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub after: Duration,
    /// `Pause` keeps waiting, `Advance` takes the next step unless the version is suspect,
    /// `Rollback` puts all traffic back on the stable version and refuses the new one.
    #[serde(default)]
    pub then: OnDeadline,
}

impl Default for InsufficientDataPolicy {
    fn default() -> Self {
        Self {
            after: thirty_minutes(),
            then: OnDeadline::Pause,
        }
    }
}

/// What follows when a policy's time is over.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadline {
    /// Hold the weight, and report it.
    #[default]
    Pause,
    /// Put all traffic back on the stable version.
    Rollback,
    /// Take the next step although the evidence is not sufficient. Never applies to a suspect
    /// version or to an outage.
    Advance,
}

impl Rollout {
    /// Returns the shortest time that the step of this index takes. The last step also takes
    /// `watch`; the longer of the two counts.
    pub fn least_time(&self, step: usize) -> StdDuration {
        let declared = self.steps.get(step).map(|step| step.min_duration.into());
        let watch = (step + 1 >= self.steps.len()).then(|| self.watch.into());
        declared.max(watch).unwrap_or_default()
    }

    /// Whether a person must agree before a version leaves the step of this index.
    pub fn needs_approval(&self, step: usize) -> bool {
        let last = step + 1 >= self.steps.len();
        self.steps.get(step).is_some_and(|step| step.pause)
            || (last && self.approval == Approval::BeforePromotion)
    }
}

fn default_steps() -> Vec<Step> {
    [10, 25, 50, 100]
        .map(|weight| Step {
            weight,
            min_duration: five_minutes(),
            min_requests: twenty(),
            pause: false,
        })
        .to_vec()
}

/// The schema of `onMetricsOutage.then`: an outage may hold or roll back, never advance.
fn outage_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Pause", "Rollback"]})
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature that serde asks for
fn is_false(value: &bool) -> bool {
    !value
}

fn twenty() -> i64 {
    20
}

fn all_pods() -> Percent {
    Percent::WHOLE
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
