//! Everything that a decision may use, as one owned value. A recorded one replays to the same
//! decision.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{PodProblem, Refusal};
use crate::{
    api::{Commands, Revision, State, TrialMemory, VersionRef},
    evidence::{BlindReason, Reading},
    k8s::StableBefore,
    router::Report,
};

/// Everything that [`crate::rollout::decide`] sees.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The version that the spec asks for.
    pub desired: VersionRef,
    /// The persisted state.
    pub state: State,
    /// What the gates of the trial remember; `None` where it was lost, or nothing was counted yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<TrialMemory>,
    /// The commands in annotations, including those that were already carried out.
    #[serde(default)]
    pub commands: Commands,
    /// The version in force by the history, if the state names none: the status was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<VersionRef>,
    /// When the spec's version was the stable one before, if it was and lies behind the present
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_before: Option<StableBefore>,
    /// Why the API server would refuse the Deployment of the spec's version. Such a version is not
    /// recorded and not started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_refused: Option<Refusal>,
    /// A router port that no other model has, for a state without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_port: Option<u16>,
    /// What is known of the router.
    #[serde(default)]
    pub router: Report,
    /// The health of each version that has objects.
    pub versions: BTreeMap<Revision, VersionHealth>,
    /// One reading a gate, in the order of the objectives. Empty if no canary has weight.
    pub readings: Vec<Result<Reading, BlindReason>>,
    /// Objectives that cannot be measured at present, while a version waits for its first weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmeasurable: Vec<Unmeasurable>,
    /// Since when reconciles have followed each other without a break (see
    /// [`super::ReconcileTracker`]). Timeouts count no time before it.
    #[serde(default)]
    pub attentive_since: Timestamp,
    /// Since when this process has reconciled the model without a break. It has served routers at
    /// least as long.
    #[serde(default)]
    pub here_since: Timestamp,
    /// Objects that the API server refused to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// Requests a second that stable answers, measured if the first step depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_rate: Option<Result<f64, BlindReason>>,
}

/// An objective that cannot be measured.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Unmeasurable {
    /// The name of its gate.
    pub objective: String,
    /// Why, and what to do about it.
    pub reason: BlindReason,
}

impl Snapshot {
    /// How long something has lasted without a break in the reconciles: during a break it may have
    /// ended and begun again. If it began in the future, by a clock that was set back since, it has
    /// lasted as long as there was no break.
    pub fn witnessed(&self, since: Timestamp, now: Timestamp) -> SignedDuration {
        let since = if since > now { Timestamp::MIN } else { since };
        now.duration_since(since.max(self.attentive_since))
    }

    /// A refused object that forbids more weight: one of the model itself, of stable or of the
    /// canary.
    pub fn missing(&self) -> Option<&Refusal> {
        let concerns = |refusal: &&Refusal| refusal.concerns(&self.state);
        self.refused.iter().find(concerns)
    }

    /// The health of one version. Nothing is ready of a version without objects.
    pub fn health(&self, revision: &Revision) -> VersionHealth {
        self.versions.get(revision).cloned().unwrap_or_default()
    }
}

/// The pods of one version, by the API server.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionHealth {
    /// Pods that the Deployment asks for.
    pub desired: i32,
    /// Pods that are Ready, of the Deployment's newest template.
    pub ready: i32,
    /// The Deployment has changed and its controller has not observed that yet: some of these pods
    /// may be about to go.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unanswered: bool,
    /// Endpoints that a router can send to.
    pub endpoints: usize,
    /// The version's own fault, such as a crash loop. Waiting does not help.
    pub failure: Option<PodProblem>,
    /// What keeps pods from serving through no fault of the version.
    pub trouble: Option<PodProblem>,
    /// Pods whose server runs and is not Ready.
    pub unready: i32,
    /// Whether one of these was Ready before, so that it is not just starting.
    pub lost: bool,
    /// When the first of their servers started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unready_since: Option<Timestamp>,
    /// Why a failure in the cache, which would end the version's trial, could not be confirmed by a
    /// live read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl VersionHealth {
    /// Whether so many pods are ready, have endpoints, and are not about to go.
    pub fn has_capacity(&self, needed: i32) -> bool {
        let endpoints = i32::try_from(self.endpoints).unwrap_or(i32::MAX);
        !self.unanswered && self.ready >= needed && endpoints >= needed
    }

    /// Whether pods run without getting Ready, and nothing of the platform explains it.
    pub fn is_silent(&self) -> bool {
        self.trouble.is_none() && self.unready > 0
    }
}
