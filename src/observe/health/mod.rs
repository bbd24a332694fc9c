//! Whose fault it is that a version's pods are not Ready: the version's own, or the platform's.
//!
//! | the version's own | the platform's |
//! |---|---|
//! | its container crashes, or cannot be run | no node has room, a quota or a policy refuses pods |
//! | its image does not exist, or has no valid name | the registry is away, or refuses |
//! | its artefact is not there, not allowed, or another | its source is away, a volume is full |
//! | its container runs and does not get Ready | a Secret is missing, a node is drained |
//!
//! Only the version's own fault rolls it back. A case that could be either counts as the
//! platform's.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{
        ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod, PodCondition,
    },
};
use kube::ResourceExt;

use super::{ContainerEnd, PodProblem, UnmetCondition, VersionHealth};
use crate::api::{FETCH, SERVER};

/// A server that was restarted this often during its trial has failed.
const RESTARTS_THAT_FAIL: i32 = 2;
/// By how much the clocks of the operator and the API server may differ.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_secs(10);
/// Reasons of a waiting server that are the version's own fault.
const OWN: [&str; 3] = ["CrashLoopBackOff", "InvalidImageName", "RunContainerError"];
/// Reasons of a waiting container whose image is not there yet.
const PULLING: [&str; 2] = ["ErrImagePull", "ImagePullBackOff"];
/// Reasons of a container that has not been started yet.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Messages of registries and container runtimes for an image that does not exist.
const NOT_FOUND: [&str; 5] = [
    "not found",
    "code = notfound",
    "manifest unknown",
    "name unknown",
    "no such manifest",
];
/// Messages of a pull that failed for another reason, even if [`NOT_FOUND`] matches as well: a
/// registry that denies access adds that the image may not exist, and a host name that cannot be
/// resolved is "not found" as well.
const NOT_THE_IMAGE: [&str; 5] = [
    "authoriz",
    "denied",
    "forbidden",
    "lookup",
    "host not found",
];
/// Exit codes of a fetch that are the version's own fault: its address is malformed, not allowed or
/// not found, or the artefact has another digest.
const FETCH_FAILS: std::ops::RangeInclusive<i32> = 2..=5;
/// Reasons of a container whose end its node missed, since it restarted.
const NODE_RESTARTED: [&str; 2] = ["ContainerStatusUnknown", "Unknown"];
/// Longest message of others that a status repeats, in characters.
const LONGEST: usize = 400;

/// The health of a version: from its Deployment, its pods, the number of endpoints that a router
/// can reach, and the start of its trial.
pub(super) fn health_of(
    deployment: Option<&Deployment>,
    mut pods: Vec<Arc<Pod>>,
    endpoints: usize,
    since: Option<Timestamp>,
) -> VersionHealth {
    let Some(deployment) = deployment else {
        return VersionHealth::default();
    };
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let updated = status
        .and_then(|status| status.updated_replicas)
        .unwrap_or(0);
    // Sorted, so that of several failing pods the same one is always named.
    pods.sort_by_key(|pod| pod.name_any());
    let silent: Vec<_> = pods.iter().filter_map(|pod| silent_server(pod)).collect();
    let answered = is_answered(deployment);
    let serving = pods.iter().filter(|pod| is_alive(pod) && is_ready(pod));
    let serving = i32::try_from(serving.count()).unwrap_or(i32::MAX);
    VersionHealth {
        desired: deployment.spec.replicas.unwrap_or(1),
        ready: if answered {
            ready.min(updated)
        } else {
            ready.min(updated).min(serving)
        },
        unanswered: !answered,
        endpoints,
        failure: pods.iter().find_map(|pod| failure(pod, since)),
        trouble: trouble(deployment, &pods),
        unready: i32::try_from(silent.len()).unwrap_or(i32::MAX),
        lost: silent.iter().any(|server| server.was_ready),
        unready_since: silent.iter().filter_map(|server| server.since).min(),
        unconfirmed: None,
    }
}

/// Whether the status is of the newest generation. The pods of an older one may be about to go.
pub(super) fn is_answered(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    status.and_then(|status| status.observed_generation) == deployment.metadata.generation
}

/// A server that runs and is not Ready.
struct Silent {
    since: Option<Timestamp>,
    was_ready: bool,
}

fn silent_server(pod: &Pod) -> Option<Silent> {
    let status = server(pod).filter(|status| is_alive(pod) && !status.ready)?;
    let running = status.state.as_ref()?.running.as_ref()?;
    let since = running.started_at.as_ref().map(|at| at.0);
    // A pod is not Ready before its container starts. If `Ready` changed later, it was True
    // between.
    let changed = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let was_ready = !matches!((since, changed), (Some(since), Some(changed)) if changed.0 <= since);
    Some(Silent { since, was_ready })
}

/// The version's own fault, as one pod shows it.
fn failure(pod: &Pod, since: Option<Timestamp>) -> Option<PodProblem> {
    if !is_alive(pod) {
        return None;
    }
    let fetching = containers(pod).find(|status| status.name == FETCH);
    if let Some(ended) = fetching.and_then(failed_fetch)
        && FETCH_FAILS.contains(&ended.exit_code)
    {
        return Some(PodProblem::CannotFetch {
            pod: pod.name_any(),
            end: end_of_container(ended),
        });
    }
    let server = server(pod)?;
    if let Some((reason, waiting)) = waiting(server) {
        if PULLING.contains(&reason) && is_own(reason, waiting) {
            return Some(unpulled(pod, waiting));
        }
        if is_own(reason, waiting) {
            return Some(PodProblem::Waits {
                pod: pod.name_any(),
                container: None,
                reason: reason.to_owned(),
                words: waiting_words(waiting),
                last_end: last_end(server).map(end_of_container),
            });
        }
    }
    let restarts = server.restart_count;
    let counts = since.is_some_and(|since| was_made_after(pod, since - CLOCK_TOLERANCE));
    let rebooted = last_end(server)
        .and_then(|ended| ended.reason.as_deref())
        .is_some_and(|reason| NODE_RESTARTED.contains(&reason));
    (counts && restarts >= RESTARTS_THAT_FAIL && !rebooted).then(|| PodProblem::Restarted {
        pod: pod.name_any(),
        times: restarts,
        last_end: last_end(server).map(end_of_container),
    })
}

/// What keeps pods from serving that is not the version's fault.
fn trouble(deployment: &Deployment, pods: &[Arc<Pod>]) -> Option<PodProblem> {
    let alive = || pods.iter().filter(|pod| is_alive(pod));
    let gone = || pods.iter().filter(|pod| !is_alive(pod));
    let missing = || {
        let wanted = usize::try_from(deployment.spec.replicas.unwrap_or(1)).unwrap_or(0);
        alive().filter(|pod| is_ready(pod)).count() < wanted
    };
    refused_pods(deployment)
        .or_else(|| alive().find_map(|pod| trouble_of(pod)))
        .or_else(|| missing().then(|| gone().find_map(|pod| end_of(pod)))?)
}

/// Why the API server takes no pods, or no ReplicaSet.
fn refused_pods(deployment: &Deployment) -> Option<PodProblem> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let refused = conditions.iter().find(|condition| {
        let (type_, status) = (condition.type_.as_deref(), condition.status.as_deref());
        (type_ == Some("ReplicaFailure") && status == Some("True"))
            || condition.reason.as_deref() == Some("ReplicaSetCreateError")
    })?;
    let message = refused.message.as_deref().unwrap_or_default();
    let words = shortened(message);
    Some(PodProblem::NotCreated { words })
}

/// What keeps one pod from serving.
fn trouble_of(pod: &Pod) -> Option<PodProblem> {
    if is_ready(pod) {
        return None;
    }
    let unscheduled = condition(pod, "PodScheduled").filter(|it| it.status == "False");
    if let Some(message) = unscheduled.and_then(|scheduled| scheduled.message.as_deref()) {
        let words = shortened(message);
        return Some(PodProblem::NotScheduled { words });
    }
    let fetching = containers(pod).filter(|status| status.name == FETCH);
    if let Some(away) = { fetching }.find_map(failed_fetch) {
        let end = end_of_container(away);
        return Some(PodProblem::NotFetchedYet { end });
    }
    if let Some(trouble) = containers(pod).find_map(|status| container_trouble(pod, status)) {
        return Some(trouble);
    }
    // A node that is away, a sidecar, or a load balancer that the pod waits for.
    server(pod).filter(|server| server.ready)?;
    let mut others = pod.status.as_ref()?.conditions.iter().flatten();
    let unmet = others.find(|it| it.status == "False" && it.type_ != "Ready");
    Some(PodProblem::ServerAloneIsReady {
        pod: pod.name_any(),
        condition: unmet.map(|unmet| UnmetCondition {
            name: unmet.type_.clone(),
            words: unmet.message.as_deref().map(|words| {
                // With the type and a space before it, it has the usual length.
                let before = unmet.type_.chars().count() + 1;
                shortened_to(words, LONGEST.saturating_sub(before))
            }),
        }),
    })
}

/// What keeps a container from running through no fault of the version.
fn container_trouble(pod: &Pod, status: &ContainerStatus) -> Option<PodProblem> {
    let (reason, waiting) = waiting(status)?;
    if STARTING.contains(&reason) {
        return None;
    }
    let is_ours = status.name == SERVER;
    if is_ours && is_own(reason, waiting) {
        return None;
    }
    if PULLING.contains(&reason) {
        return Some(unpulled(pod, waiting));
    }
    Some(PodProblem::Waits {
        pod: pod.name_any(),
        container: (!is_ours).then(|| status.name.clone()),
        reason: reason.to_owned(),
        words: waiting_words(waiting),
        last_end: None,
    })
}

/// How a pod ended or is about to end, so that another one has to replace it.
fn end_of(pod: &Pod) -> Option<PodProblem> {
    let status = pod.status.as_ref()?;
    let disrupted = condition(pod, "DisruptionTarget").filter(|it| it.status == "True");
    let message = disrupted
        .and_then(|it| it.message.as_deref())
        .or(status.message.as_deref());
    let words = message.map(shortened);
    let pod_name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(PodProblem::Deleted {
            pod: pod_name,
            words,
        });
    }
    let reason = status.reason.as_deref().or(status.phase.as_deref());
    Some(PodProblem::Ended {
        pod: pod_name,
        reason: reason.unwrap_or("Failed").to_owned(),
        words,
    })
}

/// Whether a pod may still serve: it has not ended, is not being deleted, and its node answers.
fn is_alive(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase, Some("Failed" | "Succeeded" | "Unknown"))
}

fn is_ready(pod: &Pod) -> bool {
    match condition(pod, "Ready") {
        Some(ready) => ready.status == "True",
        None => server(pod).is_some_and(|server| server.ready),
    }
}

fn condition<'a>(pod: &'a Pod, wanted: &str) -> Option<&'a PodCondition> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == wanted)
}

fn was_made_after(pod: &Pod, since: Timestamp) -> bool {
    let made = pod.metadata.creation_timestamp.as_ref();
    made.is_some_and(|made| made.0 >= since)
}

/// All containers of a pod, those that prepare it first.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let before = status.init_container_statuses.iter().flatten();
        before.chain(status.container_statuses.iter().flatten())
    })
}

fn server(pod: &Pod) -> Option<&ContainerStatus> {
    let mut statuses = pod.status.as_ref()?.container_statuses.iter().flatten();
    statuses.find(|status| status.name == SERVER)
}

fn waiting(status: &ContainerStatus) -> Option<(&str, &ContainerStateWaiting)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting))
}

/// The last end of a fetch that is not in place yet.
fn failed_fetch(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = status
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    now.or_else(|| last_end(status))
        .filter(|ended| ended.exit_code != 0)
}

fn last_end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

/// How a container ended, with its termination message if it left one.
fn end_of_container(ended: &ContainerStateTerminated) -> ContainerEnd {
    let message = ended.message.as_deref().map(str::trim);
    let message = message.filter(|message| !message.is_empty());
    ContainerEnd {
        exit_code: ended.exit_code,
        words: message.map(shortened),
    }
}

fn waiting_words(waiting: &ContainerStateWaiting) -> String {
    shortened(waiting.message.as_deref().unwrap_or_default())
}

/// A pull that failed. During the pause before the next try, the message of the last one follows
/// that of the pause.
fn unpulled(pod: &Pod, waiting: &ContainerStateWaiting) -> PodProblem {
    let message = waiting.message.as_deref().unwrap_or_default();
    let last = message
        .split_once("ErrImagePull: ")
        .map_or(message, |(_, last)| last);
    PodProblem::NotPulled {
        pod: pod.name_any(),
        words: shortened(last),
    }
}

/// Whether the server waits through the version's own fault.
fn is_own(reason: &str, waiting: &ContainerStateWaiting) -> bool {
    let message = waiting.message.as_deref().unwrap_or_default();
    OWN.contains(&reason) || (PULLING.contains(&reason) && is_not_found(message))
}

/// Whether the registry answered that the image does not exist.
fn is_not_found(message: &str) -> bool {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    says(&NOT_FOUND) && !says(&NOT_THE_IMAGE)
}

fn shortened(message: &str) -> String {
    shortened_to(message, LONGEST)
}

fn shortened_to(message: &str, longest: usize) -> String {
    match message.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
