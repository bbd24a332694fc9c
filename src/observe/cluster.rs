//! What the caches say about one model's versions.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::{ContainerStateTerminated, ContainerStatus, Pod},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;

use super::VersionHealth;
use crate::{
    api::{MODEL_LABEL, ModelDeployment, REVISION_LABEL, Revision, VersionSpec},
    k8s::{ready_addresses, service_of},
    plan::{FETCH, KnownVersion, version_name},
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
/// Exit code of a fetch whose source cannot be reached, or breaks off: it may be back any time.
const SOURCE_AWAY: i32 = 6;

/// The children of one model, as the caches have them.
pub struct Children {
    /// Every version with a ControllerRevision.
    pub known: BTreeMap<Revision, KnownVersion>,
    /// Whether `known` was read live and is all there is.
    pub known_is_all: bool,
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
        .flat_map(|slice| ready_addresses(slice).collect::<Vec<_>>())
        .collect();
    Children {
        known,
        known_is_all: false,
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
    endpoints_of_service(stores, namespace, &version_name(model, revision))
}

/// Addresses that the requests to a Service are sent to.
pub fn endpoints_of_service(
    stores: &Stores,
    namespace: &str,
    service: &str,
) -> BTreeSet<(IpAddr, u16)> {
    let slices = stores.slices.state_filter(|slice| {
        service_of(slice) == Some(service) && slice.metadata.namespace.as_deref() == Some(namespace)
    });
    endpoints_of(slices.iter().map(|slice| &**slice))
}

/// The addresses that a Service's slices hold.
pub(super) fn endpoints_of<'a>(
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> BTreeSet<(IpAddr, u16)> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let port = slice
            .ports
            .iter()
            .flatten()
            .next()
            .and_then(|port| port.port)
            .and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        found.extend(ready_addresses(slice).map(|address| (address, port)));
    }
    found
}

/// The versions that this model's ControllerRevisions keep.
fn known_versions(stores: &Stores, model: &ModelDeployment) -> BTreeMap<Revision, KnownVersion> {
    let cached = stores.history.state();
    cached
        .iter()
        .filter_map(|object| known_version(object, model))
        .collect()
}

/// The version that a ControllerRevision of this model keeps; one that cannot be read is left alone and said.
pub(super) fn known_version(
    object: &ControllerRevision,
    model: &ModelDeployment,
) -> Option<(Revision, KnownVersion)> {
    if !is_child(object, model) {
        return None;
    }
    let revision = revision_of(object)?;
    match serde_json::from_value::<VersionSpec>(object.data.0.clone()) {
        Ok(spec) => {
            let number = object.revision.unwrap_or(0);
            Some((revision, KnownVersion { number, spec }))
        }
        Err(error) => {
            tracing::warn!(name = object.name_any(), %error, "a ControllerRevision holds no version");
            None
        }
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
    health_of(deployment.as_deref(), pods, reachable)
}

/// What a Deployment, its pods and the number of those that a router can reach say of a version.
pub(super) fn health_of(
    deployment: Option<&Deployment>,
    mut pods: Vec<Arc<Pod>>,
    endpoints: usize,
) -> VersionHealth {
    let Some(deployment) = deployment else {
        return VersionHealth::default();
    };
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let updated = status
        .and_then(|status| status.updated_replicas)
        .unwrap_or(0);
    // They come in no order; of several pods that fail it is always the same one that is told.
    pods.sort_by_key(|pod| pod.name_any());
    VersionHealth {
        desired: deployment.spec.replicas.unwrap_or(1),
        ready: if is_answered(deployment) {
            ready.min(updated)
        } else {
            0
        },
        endpoints,
        failure: failure(&pods),
        waiting: waiting(&pods),
        unconfirmed: None,
    }
}

/// Whether the status is of the newest generation: an older one speaks of pods that may be about to go.
pub(super) fn is_answered(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    status.and_then(|status| status.observed_generation) == deployment.metadata.generation
}

/// The first fact that says that a version's pods cannot serve.
fn failure(pods: &[Arc<Pod>]) -> Option<String> {
    pods.iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .find_map(|pod| {
            let found = pod.status.as_ref()?;
            let mut before = found.init_container_statuses.iter().flatten();
            let fetching = before.find_map(|status| fetch_failure(pod, status));
            fetching.or_else(|| {
                let statuses = found.container_statuses.as_ref()?;
                statuses
                    .iter()
                    .find_map(|status| container_failure(pod, status))
            })
        })
}

/// Why the init container that fetches the artefact will never succeed. What may pass is told by [`waiting`] and left to
/// the deadline.
fn fetch_failure(pod: &Pod, status: &ContainerStatus) -> Option<String> {
    if status.name != FETCH {
        return None;
    }
    let Some(ended) = failed_fetch(status) else {
        // It did not run: an image that does not exist, a configuration that cannot be.
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        let hopeless = HOPELESS.contains(&reason) && reason != "CrashLoopBackOff";
        return hopeless.then(|| {
            let message = waiting.message.as_deref().unwrap_or_default();
            format!("pod {} is in {reason}: {message}", pod.name_any())
        });
    };
    (ended.exit_code != SOURCE_AWAY).then(|| {
        format!(
            "pod {} cannot fetch its artefact{}",
            pod.name_any(),
            words_of(ended)
        )
    })
}

/// The last end of a fetch that is not in place yet.
fn failed_fetch(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let last = now.or(status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref()));
    last.filter(|ended| ended.exit_code != 0)
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
    ended.map(words_of).unwrap_or_default()
}

fn words_of(ended: &ContainerStateTerminated) -> String {
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
        let found = pod.status.as_ref()?;
        let before = found.init_container_statuses.as_deref().unwrap_or_default();
        let statuses = found.container_statuses.as_deref().unwrap_or_default();
        let away = before
            .iter()
            .filter(|status| status.name == FETCH)
            .find_map(failed_fetch);
        if let Some(away) = away {
            return Some(format!(
                "the artefact cannot be fetched yet{}",
                words_of(away)
            ));
        }
        before.iter().chain(statuses).find_map(|status| {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn told(init: &Value, main: &Value) -> (Option<String>, Option<String>) {
        let status = |name: &str, told: &Value| {
            let mut status = json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0});
            for (key, value) in told.as_object().unwrap() {
                status[key] = value.clone();
            }
            status
        };
        let pod = json!({
            "metadata": {"name": "iris-1"},
            "status": {
                "initContainerStatuses": [status("fetch", init)],
                "containerStatuses": [status("model", main)],
            },
        });
        let pods = [Arc::new(serde_json::from_value::<Pod>(pod).unwrap())];
        (failure(&pods), waiting(&pods))
    }

    fn ended(code: i32, message: &str) -> Value {
        json!({"terminated": {"exitCode": code, "message": message}})
    }

    #[test]
    fn a_fetch_that_will_never_succeed_is_told_at_once_in_its_own_words() {
        let initializing = json!({"state": {"waiting": {"reason": "PodInitializing"}}});
        let refused = "refused: the host of https://evil.example is not on the platform's list";
        for state in [
            json!({"state": ended(3, refused)}),
            json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": ended(3, refused), "restartCount": 7}),
            json!({"state": {"running": {}}, "lastState": ended(3, refused), "restartCount": 1}),
        ] {
            let (failure, _) = told(&state, &initializing);
            assert_eq!(
                failure.unwrap(),
                format!(
                    "pod iris-1 cannot fetch its artefact (it ended with exit code 3: {refused})"
                )
            );
        }
        let (failure, _) = told(
            &json!({"state": {"waiting": {"reason": "InvalidImageName", "message": "no such name"}}}),
            &initializing,
        );
        assert_eq!(
            failure.unwrap(),
            "pod iris-1 is in InvalidImageName: no such name"
        );
    }

    #[test]
    fn a_source_that_is_away_is_waited_for() {
        let initializing = json!({"state": {"waiting": {"reason": "PodInitializing"}}});
        let away = json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": ended(6, "https://r.example cannot be connected to"), "restartCount": 9,
        });
        let (failure, waiting) = told(&away, &initializing);
        assert_eq!(failure, None);
        assert_eq!(
            waiting.unwrap(),
            "the artefact cannot be fetched yet (it ended with exit code 6: https://r.example cannot be connected to)"
        );
        let pulling =
            json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "no route"}}});
        assert_eq!(
            told(&pulling, &initializing),
            (None, Some("ErrImagePull: no route".to_owned()))
        );
    }

    #[test]
    fn a_fetch_that_is_under_way_or_done_is_no_news() {
        let fine = json!({"state": {"running": {}}});
        assert_eq!(
            told(&json!({"state": {"running": {}}}), &fine),
            (None, None)
        );
        let done = json!({"state": ended(0, ""), "lastState": ended(6, "away"), "restartCount": 3});
        assert_eq!(told(&done, &fine), (None, None));
    }
}
