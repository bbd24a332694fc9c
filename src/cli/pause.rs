//! `pause` and `resume`: `spec.rollout.paused`.

use serde_json::json;

use super::change::Change;
use crate::api::{CanaryVersion, ModelDeployment};
use kube::ResourceExt;

/// Holds the weight.
pub(super) fn pause(model: &ModelDeployment) -> Change {
    let name = model.name_any();
    if model.spec.rollout.paused {
        let sentence = format!("It is paused already; `kubectl serin resume {name}` continues it.");
        return Change::nothing(sentence);
    }
    let sentence = match canary(model) {
        Some(canary) => format!(
            "Version {} stays at {} % until `kubectl serin resume {name}`. If it breaks an \
             objective it is rolled back all the same.",
            canary.version, canary.weight
        ),
        None => format!(
            "Nothing is on trial; the next version will get no traffic until `kubectl serin resume \
             {name}`."
        ),
    };
    Change::spec(json!({"rollout": {"paused": true}}), sentence)
}

/// Lets the weight be raised again.
pub(super) fn resume(model: &ModelDeployment) -> Change {
    if !model.spec.rollout.paused {
        let sentence = "It is not paused: it waits only for its evidence.";
        return Change::nothing(sentence.to_owned());
    }
    let sentence = match canary(model) {
        Some(canary) => format!(
            "Version {} continues from {} % as soon as its evidence passes.",
            canary.version, canary.weight
        ),
        None => {
            "Nothing is on trial; the next version will be rolled out on its evidence.".to_owned()
        }
    };
    Change::spec(json!({"rollout": {"paused": false}}), sentence)
}

/// The version on trial. The first version has no trial: it gets all traffic once its pods are
/// Ready.
fn canary(model: &ModelDeployment) -> Option<&CanaryVersion> {
    let state = &model.status.as_ref()?.state;
    state.canary.as_ref().filter(|_| state.stable.is_some())
}
