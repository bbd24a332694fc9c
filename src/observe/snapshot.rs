//! One look at everything that a decision may use, as an owned value: recorded, it replays to the same decision.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::{
    api::{Commands, Revision, State, VersionRef},
    evidence::{BlindReason, Reading},
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
    /// What people ask for, heeded before or not.
    #[serde(default)]
    pub commands: Commands,
    /// The version in force by the history, where the state names none: that status was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_force: Option<VersionRef>,
    /// Why the API server would refuse the Deployment of the version that the spec asks for; a version that is not
    /// recorded yet, and is not begun while this stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_refused: Option<Refusal>,
    /// A router port that no other model has; taken if the state has none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_port: Option<u16>,
    /// What is known of the router.
    #[serde(default)]
    pub router: Report,
    /// What the cluster says of each version that has objects.
    pub versions: BTreeMap<Revision, VersionHealth>,
    /// One reading a gate, in the objectives' order; empty where no canary has weight.
    pub readings: Vec<Result<Reading, BlindReason>>,
    /// Objectives that cannot be measured as things are, while a version waits for its first weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmeasurable: Vec<Unmeasurable>,
    /// Since when looks have followed each other (see [`super::Attention`]). Time before it runs out no patience.
    #[serde(default)]
    pub attentive_since: Timestamp,
    /// Since when this very process has looked without a break: so long routers can have been
    /// served by it.
    #[serde(default)]
    pub here_since: Timestamp,
    /// Objects that the API server refused to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// Requests a second that stable answers, measured where the first step depends on it.
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

impl std::fmt::Display for Unmeasurable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}.", self.objective, self.reason)
    }
}

impl Snapshot {
    /// How long something has lasted under our eyes: what lasted while nobody looked may have ended and begun anew. What
    /// began in the future, by a clock that has been set back since, has lasted as long as anybody has looked.
    pub fn witnessed(&self, since: Timestamp, now: Timestamp) -> SignedDuration {
        let since = if since > now { Timestamp::MIN } else { since };
        now.duration_since(since.max(self.attentive_since))
    }

    /// A refused object without which no weight may be raised: one of the model itself, of stable or of the canary.
    pub fn missing(&self) -> Option<&Refusal> {
        let concerns = |refusal: &&Refusal| refusal.concerns(&self.state);
        self.refused.iter().find(concerns)
    }

    /// What the cluster says of one version; nothing is ready of one that has no objects.
    pub fn health(&self, revision: &Revision) -> VersionHealth {
        self.versions.get(revision).cloned().unwrap_or_default()
    }
}

/// The pods of one version, as the API server tells it.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct VersionHealth {
    /// Pods that the Deployment asks for.
    pub desired: i32,
    /// Pods that are Ready, of the Deployment's newest template.
    pub ready: i32,
    /// The Deployment has just been changed, and its controller has not answered yet: some of these
    /// pods may be about to go.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unanswered: bool,
    /// Endpoints that a router can send to.
    pub endpoints: usize,
    /// The version's own fault, such as a crash loop: no waiting will help.
    pub failure: Option<String>,
    /// What keeps pods from serving through no fault of the version, in the words of the scheduler
    /// or the API server.
    pub trouble: Option<String>,
    /// Pods whose server runs and is not Ready.
    pub unready: i32,
    /// Whether one of these was Ready before: it is not just starting.
    pub lost: bool,
    /// When the server of the first of these began to run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unready_since: Option<Timestamp>,
    /// Why the API server has not confirmed what its cache says against the version, where that would end its trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<String>,
}

impl VersionHealth {
    /// How many pods are ready, and what the others wait for, in words.
    pub fn sentence(&self, version: &str, replicas: i32) -> String {
        format!("Version {version}: {}", self.pods(replicas))
    }

    /// The same, of a version that is named elsewhere.
    pub fn pods(&self, replicas: i32) -> String {
        let all = self.desired.max(replicas);
        let why = self.failure.as_ref().or(self.trouble.as_ref());
        let why = why.map_or_else(String::new, |why| {
            format!(": {}", why.trim_end_matches('.'))
        });
        format!("{} of {all} pods are Ready{why}.", self.ready)
    }

    /// Whether so many pods are ready, reachable by the router, and there to stay.
    pub fn has_capacity(&self, needed: i32) -> bool {
        let endpoints = i32::try_from(self.endpoints).unwrap_or(i32::MAX);
        !self.unanswered && self.ready >= needed && endpoints >= needed
    }

    /// Whether its pods run and only the version itself keeps them from being Ready.
    pub fn is_silent(&self) -> bool {
        self.trouble.is_none() && self.unready > 0
    }
}
