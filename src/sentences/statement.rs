//! What a decision says, as data; nothing in a decision depends on the words.

use jiff::Timestamp;

use crate::{
    api::{Duration, RefusedVersion, Revision, UnmeasuredObjective},
    evidence::BlindReason,
    gate::Conclusion,
    observe::{PodProblem, Refusal, VersionHealth},
};

/// One thing that a decision says. A message is a list of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Statement {
    /// One version serves all traffic, and nothing is under way.
    Serves { version: String },
    /// The first version's pods are being started.
    FirstStarts { version: String },
    /// The first version serves; with how many pods of how many, where some are missing.
    FirstServes {
        version: String,
        pods: Option<(i32, i32)>,
    },
    /// The first version cannot start through its own fault.
    FirstCannotStart {
        version: String,
        failure: PodProblem,
    },
    /// A new version's pods are being started; it gets no traffic before `pods` of them are Ready.
    Starts {
        version: String,
        stable: String,
        pods: i32,
        attempt: Attempt,
    },
    /// A version that was stable until then gets all traffic once so many pods are Ready.
    GoesBack {
        version: String,
        stable: String,
        pods: i32,
        until: Timestamp,
    },
    /// It has all traffic again; the other one keeps its pods for so long.
    WentBack {
        version: String,
        stable: String,
        delay: Duration,
    },
    /// The API server would refuse a version's Deployment, so it does not begin.
    Denied { version: String, refusal: Refusal },
    /// How many pods of a version are Ready, and what the others wait for.
    Pods {
        version: String,
        health: Box<VersionHealth>,
        replicas: i32,
    },
    /// An object has to be written before any weight is raised.
    Unwritten(Refusal),
    /// The status was lost, and the version in force was found in the history.
    Restored { version: String },
    /// `spec.replicas` is 0; which version waits in the spec, if another one than stable does.
    Asleep { waiting: Option<String> },
    /// `spec.replicas` is no longer 0.
    Waking,
    /// `spec.rollout.paused` became true.
    Paused,
    /// `spec.rollout.paused` became false.
    Resumed,
    /// The spec asks for a version that was rolled back before.
    StaysRefused {
        version: String,
        refused: RefusedVersion,
        stable: String,
    },
    /// A reason that an earlier decision gave, as status keeps it.
    Earlier(String),
    /// When a version is tried again.
    RetriedAt { version: String, at: Timestamp },
    /// The version on trial loses its traffic, and nothing is held against it.
    Withdrawn {
        why: Withdrawal,
        canary: String,
        stable: String,
    },
    /// A version could have its first weight, and the rollout is paused.
    PausedBeforeWeight { version: String },
    /// A version could have its first weight, as far as its pods are concerned.
    IsReady { version: String },
    /// A version gets no traffic, since its objectives cannot be measured.
    NotMeasurable { version: String },
    /// Objectives cannot be measured yet, while pods are starting.
    NotMeasuredYet,
    /// Some objectives cannot be measured yet, and the version gets its first weight all the same.
    NotAllMeasuredYet,
    /// Why one objective cannot be measured.
    Unmeasured(UnmeasuredObjective),
    /// A version gets its first weight, in percent.
    FirstWeight {
        version: String,
        weight: u8,
        why: FirstStepReason,
    },
    /// Stable could not take all traffic back now.
    NoWayBack,
    /// All traffic is back on a version.
    AllTrafficBack { version: String },
    /// All traffic is on stable through no fault of the version on trial.
    Postponed {
        stable: String,
        version: String,
        retry_at: Timestamp,
    },
    /// Even the first declared step is above the weight, in percent.
    StartsOver { weight: u8, version: String },
    /// The weight is no declared step any more, and falls to the next lower one; in percent.
    StepLowered { from: u8, to: u8, version: String },
    /// What the evidence on one objective says.
    Concluded(Box<Conclusion>),
    /// The evidence fails, and a person decides what follows.
    HeldForPerson { weight: u8, policy: HoldPolicy },
    /// A skip that a person asks for does not happen.
    NotSkipped(SkipObjection),
    /// The weight stays, since the metrics cannot be trusted.
    HeldBlind { weight: u8, why: Distrust },
    /// The metrics could not be trusted for longer than `spec.rollout.onMetricsOutage` allows.
    BlindTooLong { hold: Duration, why: Distrust },
    /// The metrics can be trusted again.
    MetricsBack { seconds: i64 },
    /// The weight stays, since the rollout is paused.
    PausedAt { weight: u8 },
    /// A person skips a step.
    Skipped { by: Option<String>, weight: u8 },
    /// The evidence passes, and the step has to last longer.
    StepLasts { until: Timestamp },
    /// The step has had its time and proves nothing.
    NoProof { after: Duration },
    /// The evidence passes, and the step's pause lasts until then, or until a person ends it.
    StepPaused {
        until: Option<Timestamp>,
        version: String,
        revision: Revision,
        weight: u8,
    },
    /// The step is over once a person agrees.
    AwaitsApproval {
        next: Option<u8>,
        version: String,
        revision: Revision,
        weight: u8,
    },
    /// The weight stays.
    Holding { weight: u8 },
    /// The version is promoted.
    Promoted { version: String },
    /// The version gets its next weight, in percent.
    MovesTo { weight: u8 },
    /// Stable answers what the version on trial would.
    StableAnswers,
    /// A version cannot run through its own fault.
    CannotRun {
        version: String,
        failure: PodProblem,
    },
    /// Too few pods of a version were Ready within `spec.rollout.progressDeadline`.
    NotReadyInTime {
        version: String,
        ready: i32,
        wanted: i32,
        deadline: Duration,
        cause: Option<PodTrouble>,
    },
    /// A version had no Ready pod for `spec.rollout.progressDeadline`.
    NoPodForDeadline {
        version: String,
        deadline: Duration,
        cause: Option<PodTrouble>,
    },
    /// A version's pods have been silent for so many seconds.
    SilentFor { version: String, seconds: u64 },
    /// The API server has not confirmed what the cache says against a version.
    Unconfirmed { why: String },
    /// A person ended the trial.
    Aborted {
        by: Option<String>,
        version: String,
        weight: u8,
    },
    /// A person promoted the version without its evidence.
    PromotedInFull {
        by: Option<String>,
        version: String,
        weight: u8,
    },
    /// A person agreed to leaving the step; with or without proof.
    Approved {
        by: Option<String>,
        version: String,
        weight: u8,
        without_proof: bool,
    },
}

/// Which try of a version begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The first one.
    First,
    /// Another one after trouble of the platform; the number of this one.
    AfterTrouble(u32),
    /// Another one of a refused version, since `spec.rollout.retryToken` has changed.
    WithNewToken,
}

/// Why a version on trial loses its traffic though nothing is held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawal {
    /// The spec cannot be used.
    InvalidSpec,
    /// The model is being deleted.
    Deleting,
    /// `spec.replicas` is 0.
    Asleep,
    /// The spec asks for stable again.
    StableAgain,
    /// The spec asks for this version.
    Newer(String),
    /// The token is again that of the time when the version was refused.
    TokenAgain,
}

/// Why a version starts at its first step, or at a later one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FirstStepReason {
    /// It is the first declared one, or stable's traffic was not measured.
    Declared,
    /// It is the first one, since stable's traffic is not known.
    RateUnknown(BlindReason),
    /// The lowest step at which stable's requests a second bring enough within the step's time.
    Enough {
        rate: f64,
        within: Duration,
        needed: u64,
    },
    /// The highest step to start at, since none brings enough.
    Highest { rate: f64 },
}

/// Which setting leaves a failure to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldPolicy {
    /// The objective's `then: Hold`.
    Objective,
    /// `spec.rollout.onFailure: Hold`.
    Rollout,
}

/// Why a step is not skipped though a person asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SkipObjection {
    /// The evidence fails.
    Fails,
    /// The metrics cannot be trusted.
    Blind,
    /// The rollout is paused.
    Paused,
    /// The evidence suspects the version.
    Suspect,
    /// None of the version's pods is Ready.
    NoPods,
}

/// Why what was counted is not believed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Distrust {
    /// The evidence on an objective cannot be read.
    Unmeasured(UnmeasuredObjective),
    /// An objective was not read at all.
    NotRead { objective: String },
    /// What was read for an objective is of another kind than it judges.
    OtherKind { objective: String },
    /// Nothing was counted for one objective, while another one counted many requests.
    Uncounted {
        silent: String,
        busiest: String,
        requests: u64,
    },
    /// The canary's share of the requests in this step does not resemble its weight, in percent.
    ShareOff {
        objective: String,
        share: f64,
        requests: u64,
        weight: u8,
    },
}

/// What keeps pods from being Ready through no fault of the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodTrouble {
    /// What keeps them from serving.
    Problem(PodProblem),
    /// An object of theirs that the API server refuses.
    Unwritten(Refusal),
    /// Their servers have not been started.
    NotStarted,
    /// Their servers were started too late to be Ready in time.
    StartedLate,
}
