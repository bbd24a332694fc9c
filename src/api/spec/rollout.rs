//! How traffic moves to a new version, from its first request to all of them.

use std::time::Duration as StdDuration;

use jiff::{SignedDuration, Timestamp};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{duration_schema, minutes, positive_duration};
use crate::api::{Duration, Percent};

/// How traffic moves to a new version, from its first request to all of them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.startAt) || self.startAt != 'ByTraffic' || \
    !has(self.steps) || self.steps.exists(s, s.weight <= 50)")
    .message("spec.rollout.startAt: ByTraffic needs a step of at most 50 % to start at; declare \
        one, or set FirstStep"))]
pub struct Rollout {
    /// The weights that the new version gets, in order: ascending, the last one 100. 10, 25, 50 and
    /// 100 where absent. Atomic, since the order counts: another list replaces it as a whole.
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
    pub start_at: StartAt,

    /// Whether a person must agree to the last move, from 100 % to promoted.
    #[serde(default)]
    pub approval: Approval,

    /// Shortest time at 100 % during which the version is still judged and the old one keeps all
    /// its pods. It counts together with the last step's `minDuration`: the longer of the two.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub bake_time: Duration,

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

    /// Which versions go straight to 100 %, as soon as their pods are Ready, when the spec asks for
    /// them again (`kubectl serin undo`, or a revert in Git): those that were promoted before the
    /// stable version was, and that were never rolled back since. The steps do not apply.
    #[serde(default)]
    pub rollback_window: RollbackWindow,

    /// Time that a version keeps its pods after another one was promoted in its place, so that the
    /// way back stays warm. Never less than the traffic's timeout, which is also the time that a
    /// version keeps its pods whose trial has ended.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub scale_down_delay: Duration,

    /// A version that was rolled back is tried again only after this value has changed. Absent is a
    /// value, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub retry_token: Option<String>,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            steps: default_steps(),
            paused: false,
            start_at: StartAt::default(),
            approval: Approval::default(),
            bake_time: ten_minutes(),
            on_failure: OnFailure::default(),
            on_metrics_outage: OutagePolicy::default(),
            on_insufficient_data: InsufficientDataPolicy::default(),
            min_ready: all_pods(),
            progress_deadline: fifteen_minutes(),
            rollback_window: RollbackWindow::default(),
            scale_down_delay: ten_minutes(),
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

    /// A stop before the next step, which begins once the evidence of this one passes. A person
    /// ends it (`kubectl serin promote`, or the annotation `serin.dev/approve`), or its `duration`
    /// does. A breach still rolls back. No stop where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
}

/// A stop that a step declares: `{}`, or `{duration: 10m}`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pause {
    /// Time after which the rollout goes on by itself once the evidence passes. Only a person ends
    /// the pause where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "positive_duration")]
    pub duration: Option<Duration>,
}

/// How far back a version may lie that goes straight to 100 % again. Both limits hold.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RollbackWindow {
    /// How many promotions back, from the stable version; 0 for none: every version takes the
    /// steps. `spec.revisionHistoryLimit` keeps at least as many.
    #[serde(default = "three")]
    #[schemars(range(min = 0, max = 100))]
    pub revisions: u32,
    /// Longest time since the version was the stable one.
    #[serde(default = "seven_days")]
    #[schemars(schema_with = "positive_duration")]
    pub within: Duration,
}

impl Default for RollbackWindow {
    fn default() -> Self {
        Self {
            revisions: three(),
            within: seven_days(),
        }
    }
}

impl RollbackWindow {
    /// Whether a version lies within it that was the stable one until then, and was replaced as
    /// such by the `back`th promotion before now.
    pub fn takes(&self, back: u32, until: Timestamp, now: Timestamp) -> bool {
        let within = SignedDuration::try_from(StdDuration::from(self.within));
        back <= self.revisions && now.duration_since(until) <= within.unwrap_or(SignedDuration::MAX)
    }
}

/// Where a new version starts.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartAt {
    /// At the first step.
    #[default]
    FirstStep,
    /// At the lowest step of at most 50 % at which stable's present traffic brings the requests
    /// that the next step needs within the step's `minDuration`; at the highest step of at most 50
    /// % where no step does.
    ByTraffic,
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
    Hold,
}

/// What happens while metrics are unreachable, stale or ambiguous.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutagePolicy {
    /// Time during which nothing moves.
    #[serde(default = "ten_minutes")]
    #[schemars(schema_with = "duration_schema")]
    pub hold: Duration,
    /// What follows: `Hold` keeps holding, `Rollback` puts all traffic back on the stable version
    /// and refuses the new one.
    #[serde(default)]
    #[schemars(schema_with = "outage_schema")]
    pub then: OnDeadline,
}

impl Default for OutagePolicy {
    fn default() -> Self {
        Self {
            hold: ten_minutes(),
            then: OnDeadline::Hold,
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
    /// `Hold` keeps waiting, `AwaitApproval` takes the next step once a person approves it
    /// (`kubectl serin promote`), `Advance` takes it at once, both unless the version is suspect,
    /// `Rollback` puts all traffic back on the stable version and refuses the new one.
    #[serde(default)]
    pub then: OnDeadline,
}

impl Default for InsufficientDataPolicy {
    fn default() -> Self {
        Self {
            after: thirty_minutes(),
            then: OnDeadline::Hold,
        }
    }
}

/// What follows when a policy's time is over.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDeadline {
    /// Hold the weight, and report it.
    #[default]
    Hold,
    /// Hold the weight until a person approves the step (`kubectl serin promote`), and take the
    /// next one then, unless the version is suspect. Never applies to an outage.
    AwaitApproval,
    /// Put all traffic back on the stable version.
    Rollback,
    /// Take the next step although the evidence is not sufficient. Never applies to a suspect
    /// version or to an outage.
    Advance,
}

impl Rollout {
    /// Returns the shortest time that the step of this index takes. The last step also takes
    /// `bakeTime`; the longer of the two counts.
    pub fn least_time(&self, step: usize) -> StdDuration {
        let declared = self.steps.get(step).map(|step| step.min_duration.into());
        let watch = (step + 1 >= self.steps.len()).then(|| self.bake_time.into());
        declared.max(watch).unwrap_or_default()
    }

    /// Returns the pause of the step of this index, if it has one.
    pub fn pause(&self, step: usize) -> Option<&Pause> {
        self.steps.get(step)?.pause.as_ref()
    }

    /// Whether a person must approve that a version leaves the step of this index, and no time
    /// does.
    pub fn needs_approval(&self, step: usize) -> bool {
        let last = step + 1 >= self.steps.len();
        let is_open = |pause: &Pause| pause.duration.is_none();
        self.pause(step).is_some_and(is_open)
            || (last && self.approval == Approval::BeforePromotion)
    }

    /// Whether a person may approve that a version leaves the step of this index.
    pub fn takes_approval(&self, step: usize) -> bool {
        self.pause(step).is_some() || self.needs_approval(step)
    }
}

fn default_steps() -> Vec<Step> {
    [10, 25, 50, 100]
        .map(|weight| Step {
            weight,
            min_duration: five_minutes(),
            min_requests: twenty(),
            pause: None,
        })
        .to_vec()
}

/// The schema of `onMetricsOutage.then`: an outage may hold or roll back, never advance.
fn outage_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["Hold", "Rollback"]})
}

fn twenty() -> i64 {
    20
}

fn three() -> u32 {
    3
}

fn seven_days() -> Duration {
    minutes(7 * 24 * 60)
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
