//! One model's versions, by the caches.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{VersionHealth, health::health_of};
use crate::{
    api::{MODEL_LABEL, ModelDeployment, REVISION_LABEL, Revision, State},
    k8s::{KnownVersion, Stores, endpoints, is_child, known_versions, version_name},
};

/// The children of one model, as the caches have them.
pub struct Children {
    /// Every version with a ControllerRevision.
    pub known: BTreeMap<Revision, KnownVersion>,
    /// Whether `known` was read live, and so is complete.
    pub known_is_all: bool,
    /// The health of each version's pods.
    pub health: BTreeMap<Revision, VersionHealth>,
}

/// Reads the caches for one model.
pub fn children(stores: &Stores, model: &ModelDeployment) -> Children {
    let known = known_versions(stores, model);
    // A version in use is included even if its ControllerRevision was deleted.
    let state = model.status.as_ref().map(|status| &status.state);
    let in_use = state.map(State::in_use).unwrap_or_default();
    let revisions: BTreeSet<&Revision> = known.keys().chain(&in_use).collect();
    let health = revisions
        .into_iter()
        .map(|revision| (revision.clone(), health(stores, model, revision)))
        .collect();
    Children {
        known,
        known_is_all: false,
        health,
    }
}

fn health(stores: &Stores, model: &ModelDeployment, revision: &Revision) -> VersionHealth {
    let (name, namespace) = (model.name_any(), model.namespace().unwrap_or_default());
    let deployment_name = version_name(&name, revision);
    let deployment = stores
        .deployments
        .find(|deployment| deployment.name_any() == deployment_name && is_child(deployment, model));
    let pods = stores.pods.state_filter(|pod| {
        pod.namespace().as_deref() == Some(&namespace)
            && pod.labels().get(MODEL_LABEL) == Some(&name)
            && pod
                .labels()
                .get(REVISION_LABEL)
                .is_some_and(|label| *label == revision.0)
    });
    let reachable = endpoints(stores, &namespace, &name, revision).len();
    let since = trial_since(model, revision);
    health_of(deployment.as_deref(), pods, reachable, since)
}

/// When the version's trial began. `None` if it is not on trial.
pub(super) fn trial_since(model: &ModelDeployment, revision: &Revision) -> Option<Timestamp> {
    let canary = model.status.as_ref()?.state.canary.as_ref()?;
    (canary.revision == *revision).then_some(canary.since)
}
