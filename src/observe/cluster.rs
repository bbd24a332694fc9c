//! What the caches say about one model's versions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    apps::v1::ControllerRevision,
    core::v1::{ContainerStatus, Pod},
};
use kube::ResourceExt;

use super::VersionHealth;
use crate::{
    api::{MODEL_LABEL, ModelDeployment, REVISION_LABEL, Revision, VersionSpec},
    plan::{KnownVersion, version_name},
    watch::Stores,
};

/// A container that was restarted this often does not serve.
const RESTARTS_THAT_FAIL: i32 = 2;
/// Reasons of a waiting container that no time will mend.
const HOPELESS: [&str; 4] = [
    "CrashLoopBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
];
/// Reasons that may mend themselves (a registry that is away): told, and left to the deadline.
const WAITING: [&str; 2] = ["ImagePullBackOff", "ErrImagePull"];

/// The children of one model, as the caches have them.
pub struct Children {
    /// Every version with a ControllerRevision.
    pub known: BTreeMap<Revision, KnownVersion>,
    /// What each version's pods are like.
    pub health: BTreeMap<Revision, VersionHealth>,
    /// Addresses of the ready routers.
    pub routers: BTreeSet<IpAddr>,
}

/// Reads the caches for one model.
pub fn children(stores: &Stores, model: &ModelDeployment) -> Children {
    let known = known_versions(stores, model);
    let health = known
        .keys()
        .map(|revision| (revision.clone(), health(stores, model, revision)))
        .collect();
    let routers = stores
        .routers
        .state()
        .iter()
        .flat_map(|slice| slice.ready_addresses().collect::<Vec<_>>())
        .collect();
    Children {
        known,
        health,
        routers,
    }
}

/// Addresses that a router can send a version's requests to.
pub fn endpoints(
    stores: &Stores,
    namespace: &str,
    model: &str,
    revision: &Revision,
) -> BTreeSet<(IpAddr, u16)> {
    let service = version_name(model, revision);
    let mut found = BTreeSet::new();
    for slice in stores.slices.state() {
        if slice.service() != Some(&service)
            || slice.metadata.namespace.as_deref() != Some(namespace)
        {
            continue;
        }
        let port = slice
            .ports
            .first()
            .and_then(|port| port.port)
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        found.extend(slice.ready_addresses().map(|address| (address, port)));
    }
    found
}

/// The versions that this model's ControllerRevisions keep; one that cannot be read is left alone and said.
fn known_versions(stores: &Stores, model: &ModelDeployment) -> BTreeMap<Revision, KnownVersion> {
    let mine = |object: &ControllerRevision| is_child(object, model);
    let mut known = BTreeMap::new();
    for object in stores.history.state_filter(mine) {
        let Some(revision) = revision_of(&*object) else {
            continue;
        };
        match serde_json::from_value::<VersionSpec>(object.data.0.clone()) {
            Ok(spec) => {
                let number = object.revision.unwrap_or(0);
                known.insert(revision, KnownVersion { number, spec });
            }
            Err(error) => {
                tracing::warn!(name = object.name_any(), %error, "a ControllerRevision holds no version");
            }
        }
    }
    known
}

fn health(stores: &Stores, model: &ModelDeployment, revision: &Revision) -> VersionHealth {
    let (name, namespace) = (model.name_any(), model.namespace().unwrap_or_default());
    let deployment_name = version_name(&name, revision);
    let deployment = stores
        .deployments
        .find(|deployment| deployment.name_any() == deployment_name && is_child(deployment, model));
    let Some(deployment) = deployment else {
        return VersionHealth::default();
    };
    let status = deployment.status.as_ref();
    // A status of an older generation speaks of pods that may be about to go.
    let current =
        status.and_then(|status| status.observed_generation) == deployment.metadata.generation;
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let updated = status
        .and_then(|status| status.updated_replicas)
        .unwrap_or(0);
    let mut pods = stores.pods.state_filter(|pod| {
        pod.namespace().as_deref() == Some(&namespace)
            && pod.labels().get(MODEL_LABEL) == Some(&name)
            && pod
                .labels()
                .get(REVISION_LABEL)
                .is_some_and(|label| *label == revision.0)
    });
    // The cache has no order; of several pods that fail it is always the same one that is told.
    pods.sort_by_key(|pod| pod.name_any());
    VersionHealth {
        desired: deployment.spec.replicas.unwrap_or(1),
        ready: if current { ready.min(updated) } else { 0 },
        endpoints: endpoints(stores, &namespace, &name, revision).len(),
        failure: failure(&pods),
        waiting: waiting(&pods),
    }
}

/// The first fact that says that a version's pods cannot serve.
fn failure(pods: &[Arc<Pod>]) -> Option<String> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .find_map(|pod| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            statuses
                .iter()
                .find_map(|status| container_failure(pod, status))
        })
}

fn container_failure(pod: &Pod, status: &ContainerStatus) -> Option<String> {
    let pod_name = pod.name_any();
    let waiting = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    if HOPELESS.contains(&reason) {
        let message = waiting
            .and_then(|waiting| waiting.message.as_deref())
            .unwrap_or_default();
        let last = last_words(status);
        return Some(format!("pod {pod_name} is in {reason}: {message}{last}"));
    }
    if status.restart_count >= RESTARTS_THAT_FAIL {
        return Some(format!(
            "pod {pod_name} was restarted {} times{}",
            status.restart_count,
            last_words(status)
        ));
    }
    None
}

/// How the container ended the last time, in its own words where it left some.
fn last_words(status: &ContainerStatus) -> String {
    let ended = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let Some(ended) = ended else {
        return String::new();
    };
    let message = ended
        .message
        .as_deref()
        .map(str::trim)
        .filter(|message| !message.is_empty());
    let message = message
        .map(|message| format!(": {message}"))
        .unwrap_or_default();
    format!(" (it ended with exit code {}{message})", ended.exit_code)
}

/// Why the version's pods wait, where it may still mend itself.
fn waiting(pods: &[Arc<Pod>]) -> Option<String> {
    pods.iter().find_map(|pod| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses.iter().find_map(|status| {
            let waiting = status.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting
                .reason
                .as_deref()
                .filter(|reason| WAITING.contains(reason))?;
            Some(format!(
                "{reason}: {}",
                waiting.message.as_deref().unwrap_or_default()
            ))
        })
    })
}

/// Whether an object is owned by this very model, not by one of the same name before it.
pub fn is_child<K: ResourceExt>(object: &K, model: &ModelDeployment) -> bool {
    let uid = model.metadata.uid.as_deref().unwrap_or_default();
    object.namespace() == model.namespace()
        && object
            .owner_references()
            .iter()
            .any(|owner| owner.uid == uid)
}

fn revision_of<K: ResourceExt>(object: &K) -> Option<Revision> {
    object
        .labels()
        .get(REVISION_LABEL)
        .map(|label| Revision(label.clone()))
}
