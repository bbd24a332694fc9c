//! The objects of a model, and their repair after edits by others.

use std::{sync::atomic::Ordering, time::Duration};

use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use serin::{
    api::{ModelDeployment, ModelDeploymentStatus, conditions::reasons},
    k8s::service_of,
};

use crate::{
    operator::FIRST,
    server::{Request, TEST},
    world::{MODEL, World, condition, manifest, stable, wait, with},
};

macro_rules! world {
    ($world:expr) => {
        match $world.await {
            Some(world) => world,
            None => return,
        }
    };
}
pub(crate) use world;

#[tokio::test]
async fn the_first_version_gets_its_objects_and_once_ready_all_traffic() {
    let world = world!(World::new());
    world.hold("1");
    world.roll_out("1").await;

    let status = world.until_canary("1", 0).await;
    assert_eq!(condition(&status, "Ready").status, "False");
    assert_eq!(condition(&status, "Reconciling").status, "True");
    let revision = status.state.canary.unwrap().revision;
    let name = format!("{MODEL}-{revision}");
    wait("the version has pods", async || {
        world.get::<Deployment>(&name).await.is_some()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stable(&world.status().await), None, "no pod is Ready");

    world.release("1");
    let status = world.until_serves("1").await;
    let status = if condition(&status, "Ready").status == "True" {
        status
    } else {
        world
            .until("it is Ready", |status| {
                condition(status, "Ready").status == "True"
            })
            .await
    };
    // What kstatus, `kubectl wait`, Argo CD and helm read.
    assert_eq!(condition(&status, "Reconciling").status, "False");
    assert_eq!(condition(&status, "Stalled").status, "False");
    assert_eq!(condition(&status, "Available").status, "True");
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));

    let model: ModelDeployment = world.get(MODEL).await.unwrap();
    assert_eq!(status.observed_generation, model.metadata.generation);
    let deployment: Deployment = world.get(&name).await.unwrap();
    let history: ControllerRevision = world.get(&name).await.unwrap();
    let own: Service = world.get(&name).await.unwrap();
    let service: Service = world.get(MODEL).await.unwrap();
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.namespace);
    let slice = slices.get(&format!("{MODEL}-router")).await.unwrap();
    for owners in [
        deployment.owner_references(),
        history.owner_references(),
        own.owner_references(),
        service.owner_references(),
        slice.owner_references(),
    ] {
        assert_eq!(owners.len(), 1);
        assert_eq!(Some(&owners[0].uid), model.metadata.uid.as_ref());
        assert_eq!(owners[0].controller, Some(true));
    }
    let written = |version: Option<String>| version.unwrap().parse::<u64>().unwrap();
    assert!(
        written(slice.resource_version()) < written(service.resource_version()),
        "kube-proxy never sees the Service without endpoints, and turns no client away"
    );
    assert_eq!(history.data.0["model"]["version"], "1");
    let pod = deployment.spec.template.metadata.unwrap().labels.unwrap();
    assert_eq!(pod["serin.dev/revision"], revision.0);
    let spec = service.spec.unwrap();
    assert_eq!(spec.selector, None, "its endpoints are the routers");
    assert_eq!(spec.ports.unwrap()[0].port, 80);
    assert_eq!(service_of(&slice), Some(MODEL));
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0].addresses,
        ["10.244.9.9"]
    );
    assert_eq!(
        slice.ports.as_ref().unwrap()[0].port,
        status.state.listener_port.map(i32::from)
    );
}

#[tokio::test]
async fn a_model_is_ready_once_its_address_answers_or_after_a_timeout() {
    let world = world!(World::new());
    let is_ready = |status: &ModelDeploymentStatus| condition(status, "Ready").status == "True";
    let is_silent = |status: &ModelDeploymentStatus| {
        condition(status, "Ready").reason == reasons::NOT_ANSWERING
    };
    let waited = |status: &ModelDeploymentStatus| {
        let since = |name| condition(status, name).last_transition_time.0;
        since("Ready").duration_since(since("Available")).as_secs()
    };

    world.routers_answer.store(false, Ordering::Relaxed);
    world.roll_out("1").await;
    let status = world.until("its address is asked", is_silent).await;
    assert_eq!(condition(&status, "Available").status, "True");
    assert_eq!(condition(&status, "Reconciling").status, "True");
    assert_eq!(stable(&status), Some("1"), "routers get it");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!is_ready(&world.status().await));
    world.routers_answer.store(true, Ordering::Relaxed);
    let status = world.until("it is Ready", is_ready).await;
    assert!(waited(&status) < 9, "it is asked again and again");

    let world = world!(World::new());
    world.routers_answer.store(false, Ordering::Relaxed);
    world.roll_out("1").await;
    world.until("its address is asked", is_silent).await;
    let status = world.until("it is Ready all the same", is_ready).await;
    assert!(waited(&status) >= 9, "10 s, but for the rounding");
}

#[tokio::test]
async fn a_change_of_replicas_scales_and_rolls_nothing_out() {
    let world = world!(World::new()).with_stable("1").await;
    let before = world.status().await.state.stable.unwrap();
    world.change("1", "/spec/replicas", json!(3)).await;
    let status = world
        .until("three pods are Ready", |status| status.ready_replicas == 3)
        .await;
    assert_eq!(status.state.stable.unwrap(), before);
    assert_eq!(status.state.canary, None);
    assert_eq!(
        world
            .api::<Deployment>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        1
    );
}

#[tokio::test]
async fn manual_edits_scaling_and_deletion_are_repaired() {
    let world = world!(World::new()).with_stable("1").await;
    let revision = world.status().await.state.stable.unwrap().revision;
    let name = format!("{MODEL}-{revision}");
    let deployments: Api<Deployment> = world.api();
    let by_hand = PatchParams::default();

    let uid = deployments.get(&name).await.unwrap().uid();
    let scaled = Patch::Merge(json!({"spec": {"replicas": 7}}));
    deployments.patch(&name, &by_hand, &scaled).await.unwrap();
    wait("two pods again", async || {
        deployments.get(&name).await.unwrap().spec.replicas == Some(2)
    })
    .await;

    let edited = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [
        {"name": "server", "image": "another/image:1"},
    ]}}}}));
    deployments.patch(&name, &by_hand, &edited).await.unwrap();
    wait("its own image again", async || {
        let pod = deployments
            .get(&name)
            .await
            .unwrap()
            .spec
            .template
            .spec
            .unwrap();
        pod.containers[0].image.as_deref() == Some("localhost/serin-serve:1")
    })
    .await;
    assert_eq!(
        deployments.get(&name).await.unwrap().uid(),
        uid,
        "repaired, not replaced"
    );

    deployments
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    wait("a new Deployment", async || {
        let found = deployments.get_opt(&name).await.unwrap();
        found.is_some_and(|found| found.uid() != uid)
    })
    .await;
    world
        .api::<Service>()
        .delete(MODEL, &DeleteParams::default())
        .await
        .unwrap();
    wait("a new Service", async || {
        world.get::<Service>(MODEL).await.is_some()
    })
    .await;
    world
        .until("all is well", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
}

#[tokio::test]
async fn a_foreign_service_of_the_models_name_is_left_untouched_and_named() {
    let world = world!(World::new());
    let foreign = serde_json::from_value(json!({
        "metadata": {"name": MODEL},
        "spec": {"ports": [{"port": 5432}], "selector": {"app": "database"}},
    }));
    let services: Api<Service> = world.api();
    let foreign = services
        .create(&PostParams::default(), &foreign.unwrap())
        .await
        .unwrap();
    world.roll_out("1").await;
    let status = world
        .until("it is stalled", |status| {
            status
                .conditions
                .iter()
                .any(|c| c.type_ == "Stalled" && c.status == "True")
        })
        .await;
    let ready = condition(&status, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "NameTaken")
    );
    assert!(ready.message.contains("Service iris"), "{}", ready.message);
    let now = services.get(MODEL).await.unwrap();
    assert_eq!(now.resource_version(), foreign.resource_version());
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.namespace);
    let fed = slices.get_opt(&format!("{MODEL}-router")).await.unwrap();
    assert_eq!(fed, None, "a database gets no requests for predictions");
}

#[tokio::test]
async fn fields_of_other_managers_survive_a_repair() {
    let world = world!(World::new()).with_stable("1").await;
    let revision = world.status().await.state.stable.unwrap().revision;
    let name = format!("{MODEL}-{revision}");
    let deployments: Api<Deployment> = world.api();
    let theirs = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "annotations": {"team": "ml"}},
        "spec": {"template": {"metadata": {"annotations": {"sidecar.istio.io/inject": "false"}}}},
    });
    deployments
        .patch(
            &name,
            &PatchParams::apply("another-team"),
            &Patch::Apply(&theirs),
        )
        .await
        .unwrap();
    let drift = Patch::Merge(json!({"spec": {"replicas": 5}}));
    deployments
        .patch(&name, &PatchParams::default(), &drift)
        .await
        .unwrap();
    wait("two pods again", async || {
        deployments.get(&name).await.unwrap().spec.replicas == Some(2)
    })
    .await;
    let deployment = deployments.get(&name).await.unwrap();
    assert_eq!(deployment.annotations()["team"], "ml");
    let pod = deployment
        .spec
        .template
        .metadata
        .unwrap()
        .annotations
        .unwrap();
    assert_eq!(pod["sidecar.istio.io/inject"], "false");
}

#[tokio::test]
async fn nothing_is_read_or_written_while_nothing_changes() {
    let world = world!(World::new()).with_stable("1").await;
    world
        .until("it is Ready", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await; // its own writes come back by the watches
    let requests = || {
        let all = world.server.requests(FIRST, &world.namespace);
        // The lease is renewed; watches end and are opened again after a minute.
        all.into_iter()
            .filter(|request| request.resource != "leases" && request.verb != "watch")
            .collect::<Vec<_>>()
    };
    let before = requests();
    assert!(
        before.iter().any(Request::is_write),
        "the audit log shows the operator"
    );
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(requests()[before.len()..], []);
    assert!(!world.server.requests(TEST, &world.namespace).is_empty());
}

#[tokio::test]
async fn versions_beyond_the_history_limit_go_and_those_within_keep_no_pods() {
    let world = world!(World::new());
    // Refused at once, so that versions come and go without evidence.
    let short = |version: &str| {
        let manifest = with(manifest(version), "/spec/revisionHistoryLimit", json!(1));
        with(manifest, "/spec/rollout/progressDeadline", json!("1s"))
    };
    world.apply(&short("1")).await.unwrap();
    world.until_serves("1").await;
    let mut revisions = Vec::new();
    for version in ["2", "3", "4"] {
        world.hold(version);
        let model = world.apply(&short(version)).await.unwrap();
        revisions.push(serin::api::VersionSpec::of(&model.spec).revision().0);
        world
            .until("it is refused and gone", |status| {
                let refused = status
                    .state
                    .refused
                    .iter()
                    .any(|refused| refused.version == version);
                refused && status.state.retiring.is_empty() && status.state.canary.is_none()
            })
            .await;
    }
    let name = |index: usize| format!("{MODEL}-{}", revisions[index]);
    wait("the oldest versions are gone", async || {
        let two = world.get::<ControllerRevision>(&name(0)).await;
        let three = world.get::<ControllerRevision>(&name(1)).await;
        two.is_none() && three.is_none()
    })
    .await;
    assert_eq!(world.get::<Deployment>(&name(0)).await, None);
    assert_eq!(world.get::<Service>(&name(1)).await, None);
    let kept: Deployment = world.get(&name(2)).await.unwrap();
    assert_eq!(kept.spec.replicas, Some(0));
    assert_eq!(stable(&world.status().await), Some("1"));
}

#[tokio::test]
async fn an_artefact_is_fetched_before_the_server_starts_and_a_refusal_is_reported() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    let mut fetched = manifest("2");
    fetched["spec"]["model"]["uri"] = json!("oci://registry.example.com/iris:2");
    fetched["spec"]["model"]["credentials"] = json!("registry");
    world.apply(&fetched).await.unwrap();
    let status = world.until_canary("2", 0).await;
    let revision = status.state.canary.unwrap().revision;
    let name = format!("{MODEL}-{revision}");
    wait("the version has pods", async || {
        world.get::<Deployment>(&name).await.is_some()
    })
    .await;
    let deployment: Deployment = world.get(&name).await.unwrap();
    let pod = deployment.spec.template.spec.unwrap();
    let fetch = &pod.init_containers.as_ref().unwrap()[0];
    assert_eq!(fetch.image.as_deref(), Some("localhost/serin-serve:1"));
    let args = [
        "fetch",
        "oci://registry.example.com/iris:2",
        "/models/artefact",
    ];
    assert_eq!(fetch.args.as_ref().unwrap()[..], args);
    let secret = pod.volumes.as_ref().unwrap()[1].secret.as_ref().unwrap();
    assert_eq!(secret.secret_name.as_deref(), Some("registry"));
    let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
    assert_eq!(mounts.len(), 1, "the server sees no credentials");
    assert_eq!(
        (mounts[0].name.as_str(), mounts[0].read_only),
        ("model", Some(true))
    );

    // Defaults of the API server have no owner, and are not written again.
    let writes = || {
        let all = world.server.requests(FIRST, &world.namespace);
        let is_it = |request: &Request| request.resource == "deployments" && request.name == name;
        let ours = |request: &Request| request.is_write() && is_it(request);
        all.into_iter().filter(ours).count()
    };
    let before = writes();
    tokio::time::sleep(Duration::from_secs(6)).await; // it looks every 5 s
    assert_eq!(writes(), before);

    // What a kubelet reports.
    let said = "refused: the host of https://registry.example.com is not on the platform's list";
    let pods: Api<Pod> = world.api();
    let labels = json!({"serin.dev/model": MODEL, "serin.dev/revision": revision,
            "app.kubernetes.io/managed-by": "serin"});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{name}-x"), "labels": labels},
        "spec": {"containers": [{"name": "server", "image": "serve:1"}],
            "initContainers": [{"name": "fetch", "image": "serve:1"}]},
    });
    pods.create(
        &PostParams::default(),
        &serde_json::from_value(pod).unwrap(),
    )
    .await
    .unwrap();
    let ended = json!({"terminated": {"exitCode": 3, "reason": "Error", "message": said}});
    let status = json!({"status": {"initContainerStatuses": [{
        "name": "fetch", "image": "serve:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": ended,
    }]}});
    pods.patch_status(
        &format!("{name}-x"),
        &PatchParams::default(),
        &Patch::Merge(&status),
    )
    .await
    .unwrap();
    let status = world.until_rolled_back().await;
    let message = &condition(&status, "Ready").message;
    assert!(
        message.contains("cannot fetch its artefact") && message.contains(said),
        "{message}"
    );
}

#[tokio::test]
async fn a_template_reaches_the_deployment_and_is_not_written_again() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    let pod = json!({
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "containers": [
            {"name": "proxy", "image": "proxy:1"},
            {"name": "server", "resources": {"claims": [{"name": "gpu"}]},
                "env": [{"name": "A", "value": "1"}]},
        ],
    });
    let template = json!({"metadata": {"labels": {"team": "ml"}}, "spec": pod});
    world
        .change("2", "/spec/serving", json!({"template": template}))
        .await;
    let status = world.until_canary("2", 0).await;
    let name = format!("{MODEL}-{}", status.state.canary.unwrap().revision);
    wait("the version has pods", async || {
        world.get::<Deployment>(&name).await.is_some()
    })
    .await;
    let deployment: Deployment = world.get(&name).await.unwrap();
    let template = deployment.spec.template;
    let labels = template.metadata.unwrap().labels.unwrap();
    assert_eq!(
        (labels["team"].as_str(), labels["serin.dev/model"].as_str()),
        ("ml", MODEL)
    );
    let pod = template.spec.unwrap();
    let names: Vec<_> = pod.containers.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["server", "proxy"]);
    assert_eq!(pod.resource_claims.unwrap()[0].name, "gpu");
    let server = &pod.containers[0];
    let claims = server.resources.as_ref().unwrap().claims.as_ref().unwrap();
    assert_eq!(claims[0].name, "gpu");
    assert_eq!(server.image.as_deref(), Some("localhost/serin-serve:1"));
    let generation = deployment.metadata.generation;
    tokio::time::sleep(Duration::from_secs(6)).await; // it looks every 5 s
    let later: Deployment = world.get(&name).await.unwrap();
    assert_eq!(later.metadata.generation, generation);
}

#[tokio::test]
async fn an_image_that_holds_its_model_is_a_version_and_status_says_what_was_verified() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    let image = format!("registry.example.com/car:2@sha256:{}", "0".repeat(64));
    let manifest = with(manifest("2"), "/spec/model", Value::Null);
    let manifest = with(manifest, "/spec/serving", json!({"image": image}));
    world.apply(&manifest).await.unwrap();
    let status = world.until_canary("2", 0).await;
    let name = format!("{MODEL}-{}", status.state.canary.unwrap().revision);
    wait("the version has pods", async || {
        world.get::<Deployment>(&name).await.is_some()
    })
    .await;
    let deployment: Deployment = world.get(&name).await.unwrap();
    let pod = deployment.spec.template.spec.unwrap();
    assert!(pod.init_containers.is_none() && pod.volumes.is_none());
    assert_eq!(pod.containers[0].image.as_deref(), Some(image.as_str()));
    let verified = serde_json::to_value(status.verified).unwrap();
    assert_eq!(
        verified,
        json!({
            "stable": {"model": "ModelDigest", "image": "Tag"},
            "canary": {"model": "ImageDigest", "image": "Digest"},
        })
    );
}
