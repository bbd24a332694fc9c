//! One decision, with all that it was taken from: taken again, it is the same on any machine.

use jiff::Timestamp;
use kube::core::Duration;
use serde::{Deserialize, Serialize};

use super::{
    decide::{decide, withdraw_trial},
    decision::{Decision, Unfit},
};
use crate::{
    api::{ModelDeploymentSpec, Serving},
    observe::Snapshot,
};

/// All that one decision was taken from, and the decision.
///
/// No Secret is in it, nor any value of `spec.serving`, which may hold credentials: a decision
/// depends on it only by the revision that it makes, which the snapshot has.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// The model: `<namespace>/<name>`.
    #[serde(default)]
    pub model: String,
    /// When it was decided.
    pub now: Timestamp,
    /// Time between two looks at the metrics, such as `15s`.
    pub interval: Duration,
    /// Why no version could be on trial, where none could: then all that was decided is whether one
    /// is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfit: Option<Unfit>,
    /// What was asked for; `serving` is left out.
    pub spec: ModelDeploymentSpec,
    /// What was seen.
    pub snapshot: Snapshot,
    /// What was decided; absent in a recording written by hand to see what would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

impl Recording {
    /// The part of a spec that is recorded.
    pub fn spec(spec: &ModelDeploymentSpec) -> ModelDeploymentSpec {
        ModelDeploymentSpec {
            serving: Serving::default(),
            ..spec.clone()
        }
    }

    /// Decides again.
    pub fn replay(&self) -> Decision {
        match self.unfit {
            Some(why) => withdraw_trial(&self.spec, &self.snapshot, self.now, why),
            None => decide(&self.spec, &self.snapshot, self.now, self.interval.into()),
        }
    }
}
