//! One test for each cause: what a pod's status says, and whose fault it is.

use serde_json::{Value, json};

use super::*;

const BEGAN: &str = "2026-11-21T03:00:00Z";
const STARTED: &str = "2026-11-21T03:00:09Z";
const LATER: &str = "2026-11-21T03:08:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn deployment(status: &Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "iris-1", "generation": 1},
        "spec": {"replicas": 1, "selector": {}, "template": {}},
        "status": status,
    }))
    .unwrap()
}

/// What is found of a version with this one pod, whose trial began at [`BEGAN`].
fn found(pod: &Value) -> VersionHealth {
    let deployment = deployment(&json!({"observedGeneration": 1, "replicas": 1}));
    let mut pod = pod.clone();
    pod["metadata"]["name"] = json!("iris-1");
    if pod["metadata"]["creationTimestamp"].is_null() {
        pod["metadata"]["creationTimestamp"] = json!(STARTED);
    }
    let pods = vec![Arc::new(serde_json::from_value(pod).unwrap())];
    health_of(Some(&deployment), pods, 0, Some(at(BEGAN)))
}

fn status(name: &str, state: &Value) -> Value {
    let mut status =
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0});
    for (key, value) in state.as_object().unwrap() {
        status[key] = value.clone();
    }
    status
}

/// What is found where the server's container is in a state.
fn server_in(state: &Value) -> VersionHealth {
    found(&json!({"status": {"phase": "Pending", "containerStatuses": [status("server", state)]}}))
}

/// What is found where the fetch is in a state.
fn fetch_in(state: &Value) -> VersionHealth {
    let initializing = json!({"state": {"waiting": {"reason": "PodInitializing"}}});
    found(&json!({"status": {
        "phase": "Pending",
        "initContainerStatuses": [status("fetch", state)],
        "containerStatuses": [status("server", &initializing)],
    }}))
}

fn waits(reason: &str, message: &str) -> Value {
    json!({"state": {"waiting": {"reason": reason, "message": message}}})
}

fn ended(code: i32, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "message": message}})
}

/// What is found in words, so that each test reads like the status.
fn said(problem: Option<&PodProblem>) -> String {
    problem.unwrap().to_string()
}

#[track_caller]
fn is_own(health: &VersionHealth, words: &str) {
    assert_eq!(
        (&said(health.failure.as_ref())[..], &health.trouble),
        (words, &None)
    );
}

#[track_caller]
fn is_the_platforms(health: &VersionHealth, words: &str) {
    assert_eq!(
        (&health.failure, &said(health.trouble.as_ref())[..]),
        (&None, words)
    );
    assert!(!health.is_silent());
}

#[test]
fn a_server_that_crashes_is_the_versions_fault() {
    let mut crashing = waits("CrashLoopBackOff", "back-off 10s");
    crashing["lastState"] = ended(1, "no such model");
    is_own(
        &server_in(&crashing),
        "pod iris-1 is in CrashLoopBackOff: back-off 10s \
         (it ended with exit code 1: no such model)",
    );
    is_own(
        &server_in(&waits(
            "RunContainerError",
            "exec: \"serve\": not found in $PATH",
        )),
        "pod iris-1 is in RunContainerError: exec: \"serve\": not found in $PATH",
    );
}

#[test]
fn restarts_count_that_the_server_had_during_its_trial() {
    let restarted = |reason: &str| {
        json!({
            "state": {"running": {"startedAt": STARTED}}, "restartCount": 2,
            "lastState": {"terminated": {"exitCode": 137, "reason": reason}},
        })
    };
    is_own(
        &server_in(&restarted("OOMKilled")),
        "pod iris-1 was restarted 2 times (it ended with exit code 137)",
    );
    assert_eq!(
        server_in(&restarted("ContainerStatusUnknown")).failure,
        None,
        "its node was"
    );
    let before = json!({
        "metadata": {"creationTimestamp": "2026-11-20T03:00:00Z"},
        "status": {"containerStatuses": [status("server", &restarted("OOMKilled"))]},
    });
    assert_eq!(
        found(&before).failure,
        None,
        "it was made a day before the trial"
    );
}

#[test]
fn an_image_that_the_registry_does_not_have_is_the_versions_fault() {
    for message in [
        "rpc error: code = NotFound desc = failed to pull and unpack image \"r.example/m:9\": \
         failed to resolve reference \"r.example/m:9\": r.example/m:9: not found",
        "failed to pull and unpack image \"r.example/m:9\": failed to resolve image: unexpected \
         status from HEAD request to https://r.example/v2/m/manifests/9: 404 Not Found",
        "reading manifest 9 in r.example/m: manifest unknown: manifest unknown",
        "initializing source docker://r.example/m:9: reading manifest 9 in r.example/m: \
         name unknown: The repository does not exist",
        "no such manifest: r.example/m:9",
    ] {
        let words = format!("pod iris-1 cannot pull its image: {message}");
        is_own(&server_in(&waits("ErrImagePull", message)), &words);
        let paused = format!("Back-off pulling image \"r.example/m:9\": ErrImagePull: {message}");
        is_own(&server_in(&waits("ImagePullBackOff", &paused)), &words);
    }
    is_own(
        &server_in(&waits("InvalidImageName", "couldn't parse image reference")),
        "pod iris-1 is in InvalidImageName: couldn't parse image reference",
    );
}

#[test]
fn any_other_pull_that_fails_is_the_platforms() {
    for message in [
        "dial tcp: lookup r.example on 10.0.0.10:53: no such host",
        "dial tcp: lookup r.example: name or service not found",
        "dial tcp 192.0.2.1:443: i/o timeout",
        "unexpected status from HEAD request to https://r.example/v2/m/manifests/9: \
         503 Service Unavailable",
        "pull access denied, repository does not exist or may require authorization: \
         server message: insufficient_scope: authorization failed",
        "failed to authorize: failed to fetch anonymous token: unexpected status: 404 Not Found",
        "toomanyrequests: You have reached your pull rate limit",
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    ] {
        let words = format!("pod iris-1 cannot pull its image: {message}");
        is_the_platforms(&server_in(&waits("ErrImagePull", message)), &words);
    }
    let only_the_pause = waits(
        "ImagePullBackOff",
        "Back-off pulling image \"r.example/m:9\"",
    );
    is_the_platforms(
        &server_in(&only_the_pause),
        "pod iris-1 cannot pull its image: Back-off pulling image \"r.example/m:9\"",
    );
    is_the_platforms(
        &server_in(&waits("ErrImageNeverPull", "the image is not present")),
        "pod iris-1 is in ErrImageNeverPull: the image is not present",
    );
}

#[test]
fn a_fetch_that_will_never_succeed_is_the_versions_fault() {
    let refused = "refused: the host of https://evil.example is not on the platform's list";
    for state in [
        json!({"state": ended(3, refused)}),
        json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": ended(3, refused), "restartCount": 7,
        }),
        json!({"state": {"running": {}}, "lastState": ended(3, refused), "restartCount": 1}),
    ] {
        let failure = fetch_in(&state).failure;
        assert_eq!(
            said(failure.as_ref()),
            format!("pod iris-1 cannot fetch its artefact (it ended with exit code 3: {refused})")
        );
    }
    for code in [2, 4, 5] {
        let failure = fetch_in(&json!({"state": ended(code, "")})).failure;
        assert!(failure.is_some(), "exit code {code}");
    }
}

#[test]
fn a_source_that_is_away_and_a_volume_that_is_full_are_the_platforms() {
    let away = json!({
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
        "lastState": ended(6, "https://r.example cannot be connected to"), "restartCount": 9,
    });
    is_the_platforms(
        &fetch_in(&away),
        "the artefact cannot be fetched yet \
         (it ended with exit code 6: https://r.example cannot be connected to)",
    );
    for code in [7, 8, 137] {
        let health = fetch_in(&json!({"state": ended(code, "")}));
        assert_eq!(health.failure, None, "exit code {code}");
        assert!(health.trouble.is_some(), "exit code {code}");
    }
}

#[test]
fn a_fetch_that_is_under_way_or_done_is_no_news() {
    for state in [
        json!({"state": {"running": {}}}),
        json!({"state": ended(0, ""), "lastState": ended(6, "away"), "restartCount": 3}),
    ] {
        let health = fetch_in(&state);
        assert_eq!((health.failure, health.trouble), (None, None));
    }
}

#[test]
fn a_pod_that_no_node_takes_is_the_platforms() {
    let message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
    let unschedulable = json!({"status": {"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message},
    ]}});
    let health = found(&unschedulable);
    is_the_platforms(&health, &format!("the scheduler says: {message}"));
}

#[test]
fn pods_that_the_api_server_refuses_are_the_platforms() {
    for (type_, status, reason) in [
        ("ReplicaFailure", "True", "FailedCreate"),
        ("Progressing", "False", "ReplicaSetCreateError"),
    ] {
        let message = r#"pods "iris-1-x" is forbidden: exceeded quota: team, requested: pods=1"#;
        let refused = deployment(&json!({"conditions": [
            {"type": type_, "status": status, "reason": reason, "message": message},
        ]}));
        let health = health_of(Some(&refused), Vec::new(), 0, None);
        is_the_platforms(&health, &format!("the API server says: {message}"));
    }
    let fine = deployment(&json!({"conditions": [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
    ]}));
    assert_eq!(health_of(Some(&fine), Vec::new(), 0, None).trouble, None);
}

#[test]
fn a_secret_that_is_not_there_yet_is_the_platforms() {
    for reason in ["CreateContainerConfigError", "CreateContainerError"] {
        is_the_platforms(
            &server_in(&waits(reason, "secret \"tokens\" not found")),
            &format!("pod iris-1 is in {reason}: secret \"tokens\" not found"),
        );
    }
}

#[test]
fn sidecars_and_injected_init_containers_are_the_platforms() {
    let running = json!({"state": {"running": {"startedAt": STARTED}}, "ready": true});
    let crashing = waits("CrashLoopBackOff", "back-off 10s");
    let health = found(
        &json!({"status": {"phase": "Running", "containerStatuses": [
            status("istio-proxy", &crashing), status("server", &running),
        ]}}),
    );
    // Without a Ready condition the server speaks for its pod.
    assert_eq!((health.failure, health.trouble), (None, None));
    let not_ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": BEGAN}]);
    let health = found(&json!({"status": {
        "phase": "Running", "conditions": not_ready,
        "containerStatuses": [status("istio-proxy", &crashing), status("server", &running)],
    }}));
    is_the_platforms(
        &health,
        "container istio-proxy of pod iris-1 is in CrashLoopBackOff: back-off 10s",
    );
    let initializing = waits("PodInitializing", "");
    let health = found(&json!({"status": {
        "phase": "Pending",
        "initContainerStatuses": [status("istio-init", &crashing)],
        "containerStatuses": [status("server", &initializing)],
    }}));
    is_the_platforms(
        &health,
        "container istio-init of pod iris-1 is in CrashLoopBackOff: back-off 10s",
    );
    let restarted = json!({"state": {"running": {}}, "ready": true, "restartCount": 9});
    let health = found(&json!({"status": {"containerStatuses": [
        status("istio-proxy", &restarted), status("server", &running),
    ]}}));
    assert_eq!((health.failure, health.trouble), (None, None));
}

#[test]
fn a_node_that_is_away_or_a_gate_that_is_closed_is_the_platforms() {
    let ready = json!({"state": {"running": {"startedAt": STARTED}}, "ready": true});
    let pod = |conditions: Value| {
        found(&json!({"status": {
            "phase": "Running", "conditions": conditions,
            "containerStatuses": [status("server", &ready)],
        }}))
    };
    let away = pod(json!([{"type": "Ready", "status": "False", "lastTransitionTime": LATER}]));
    is_the_platforms(
        &away,
        "the server in pod iris-1 is ready, the pod is not: is its node away?",
    );
    let gate = pod(json!([
        {
            "type": "target-health.elbv2.k8s.aws/x", "status": "False",
            "message": "Target is initial",
        },
        {"type": "Ready", "status": "False", "lastTransitionTime": BEGAN},
    ]));
    is_the_platforms(
        &gate,
        "the server in pod iris-1 is ready, the pod is not: \
         target-health.elbv2.k8s.aws/x Target is initial",
    );
}

#[test]
fn a_pod_that_is_drained_evicted_or_preempted_is_the_platforms() {
    // It may crash on its way out.
    let crashing = [status("server", &waits("CrashLoopBackOff", "back-off"))];
    let drained = json!({
        "metadata": {"deletionTimestamp": LATER},
        "status": {"phase": "Running", "containerStatuses": crashing, "conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        }]},
    });
    is_the_platforms(
        &found(&drained),
        "pod iris-1 is being deleted (Eviction API: evicting)",
    );
    for reason in ["Evicted", "Preempting", "NodeShutdown"] {
        let ended = json!({"status": {
            "phase": "Failed", "reason": reason, "message": "The node was low on resource: memory.",
            "containerStatuses": crashing,
        }});
        is_the_platforms(
            &found(&ended),
            &format!("pod iris-1 has ended: {reason} (The node was low on resource: memory.)"),
        );
    }
    let lost = json!({"status": {"phase": "Unknown", "reason": "NodeLost"}});
    is_the_platforms(&found(&lost), "pod iris-1 has ended: NodeLost");
}

#[test]
fn a_server_that_runs_and_is_not_ready_is_silent_and_was_ready_or_not() {
    let running = json!({"state": {"running": {"startedAt": STARTED}}});
    let pod = |changed: &str| {
        found(&json!({"status": {
            "phase": "Running", "containerStatuses": [status("server", &running)],
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "False", "lastTransitionTime": changed},
            ],
        }}))
    };
    let starting = pod(BEGAN);
    assert!(starting.is_silent() && !starting.lost);
    assert_eq!(
        (starting.unready, starting.unready_since),
        (1, Some(at(STARTED)))
    );
    let fallen_silent = pod(LATER);
    assert!(fallen_silent.is_silent() && fallen_silent.lost);
    let creating = server_in(&waits("ContainerCreating", ""));
    assert!(!creating.is_silent());
    assert_eq!((creating.failure, creating.trouble), (None, None));
}

#[test]
fn pods_that_are_gone_are_no_trouble_once_others_serve() {
    let ready = |name: &str| {
        json!({
            "metadata": {"name": name},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    let evicted = json!({
        "metadata": {"name": "iris-0"}, "status": {"phase": "Failed", "reason": "Evicted"},
    });
    let deployment = deployment(&json!({}));
    let found = |pods: &[Value]| {
        let pods = pods
            .iter()
            .map(|pod| Arc::new(serde_json::from_value(pod.clone()).unwrap()));
        health_of(Some(&deployment), pods.collect(), 0, None).trouble
    };
    assert!(found(std::slice::from_ref(&evicted)).is_some());
    assert_eq!(found(&[evicted, ready("iris-1")]), None);
}

#[test]
fn the_words_of_others_are_repeated_up_to_a_length() {
    let long = "é".repeat(1000);
    let trouble = said(
        server_in(&waits("CreateContainerError", &long))
            .trouble
            .as_ref(),
    );
    assert!(trouble.ends_with("é…"));
    assert!(trouble.chars().count() < 500);
}

/// An autoscaler asks for more: those that serve keep serving. What is asked for fewer, or for
/// none, has pods that may be about to go.
#[test]
fn pods_serve_on_while_the_deployments_controller_has_not_answered_yet() {
    let mut deployment = deployment(&json!({
        "observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "updatedReplicas": 2,
    }));
    let pod = |change: &Value| {
        let mut pod = json!({"metadata": {"name": "iris-1"}, "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
        }});
        for (key, value) in change.as_object().unwrap() {
            pod["metadata"][key] = value.clone();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    let (stays, goes) = (pod(&json!({})), pod(&json!({"deletionTimestamp": LATER})));
    let of = |deployment: &Deployment, pods: [&Arc<Pod>; 2]| {
        let pods = pods.into_iter().cloned().collect();
        let health = health_of(Some(deployment), pods, 2, None);
        (health.ready, health.has_capacity(1))
    };
    assert_eq!(of(&deployment, [&stays, &stays]), (2, true));
    deployment.metadata.generation = Some(2);
    assert_eq!(of(&deployment, [&stays, &stays]), (2, false));
    assert_eq!(of(&deployment, [&stays, &goes]), (1, false));
    assert_eq!(of(&deployment, [&goes, &goes]), (0, false));
}
