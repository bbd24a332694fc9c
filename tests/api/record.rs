//! Recovery from the history: a lost status, and a model that is deleted and created again.

use std::fmt::Debug;

use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::{ControllerRevision, Deployment},
        core::v1::Service,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::core::NamespaceResourceScope;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use serin::{
    api::{ModelDeployment, ModelDeploymentStatus, Phase, Revision, conditions::reasons},
    controller::MEMORY_ANNOTATION,
};

use crate::{
    objects::world,
    operator::FIRST,
    server::Request,
    world::{A_WHILE, MODEL, World, canary, condition, stable, wait},
};

/// Empties the status, as `kubectl edit --subresource=status` can.
async fn lose_status(world: &World) {
    let models: Api<ModelDeployment> = world.api();
    let nothing = Patch::Merge(json!({"status": null}));
    let params = PatchParams::default();
    models.patch_status(MODEL, &params, &nothing).await.unwrap();
}

async fn deployment(world: &World, revision: &Revision) -> Deployment {
    world.get(&format!("{MODEL}-{revision}")).await.unwrap()
}

#[tokio::test]
async fn a_status_that_is_lost_in_mid_trial_leaves_all_traffic_on_the_version_in_force() {
    let mut world = world!(World::with_metrics()).with_stable("1").await;
    world.roll_out("2").await;
    let before = world.until_canary("2", 50).await;
    let revision = before.state.stable.clone().unwrap().revision;
    let pods = deployment(&world, &revision).await.metadata.generation;
    lose_status(&world).await;

    let restored = world.until_decided(reasons::PREPARING).await;
    assert_eq!(
        (stable(&restored), canary(&restored)),
        (Some("1"), Some(("2", 0)))
    );
    let decided = &restored.state.decisions;
    assert_eq!(decided[0].action, reasons::RESTORED);
    assert_eq!(restored.state.listener_port, before.state.listener_port);
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 0, 10, 50, 100]);
    let of_one = deployment(&world, &revision).await;
    assert_eq!(
        of_one.metadata.generation, pods,
        "no pod of it was taken away"
    );

    // And where the operator is away meanwhile: version 2 is in force by now.
    world.kill_operator();
    lose_status(&world).await;
    world.start_operator();
    let restored = world.until_serves("2").await;
    assert_eq!(restored.state.decisions[0].action, reasons::RESTORED);
    assert_eq!(restored.state.listener_port, before.state.listener_port);
}

#[tokio::test]
async fn a_first_version_whose_status_is_lost_is_still_the_first_one() {
    let world = world!(World::new());
    world.hold("1");
    world.roll_out("1").await;
    let before = world.until_canary("1", 0).await;
    let name = format!("{MODEL}-{}", before.state.canary.unwrap().revision);
    wait("it is recorded", async || {
        world.get::<ControllerRevision>(&name).await.is_some()
    })
    .await;
    lose_status(&world).await;
    let status = world.until_decided(reasons::FIRST_VERSION).await;
    assert_eq!(stable(&status), None, "it has never been in force");
    world.release("1");
    world.until_serves("1").await;
}

/// The names of the model's objects of one kind. The slices of its pods are the cluster's, not the
/// model's.
async fn children<K>(world: &World) -> Vec<String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    let of_model = ListParams::default().labels(&format!("serin.dev/model={MODEL}"));
    let found = world.api::<K>().list(&of_model).await.unwrap();
    let of_model = found.items.iter().map(ResourceExt::name_any);
    of_model.filter(|name| !name.ends_with("-x1")).collect()
}

/// What the garbage collector does where a model is deleted with `--cascade=orphan`.
async fn orphan<K>(world: &World)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    for name in children::<K>(world).await {
        let without_owner = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
        let params = PatchParams::default();
        world
            .api::<K>()
            .patch(&name, &params, &without_owner)
            .await
            .unwrap();
    }
}

/// What the garbage collector does where a model is deleted.
async fn collect<K>(world: &World)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned,
{
    for name in children::<K>(world).await {
        let params = DeleteParams::default();
        world.api::<K>().delete(&name, &params).await.unwrap();
    }
}

async fn delete_model(world: &World) {
    let models: Api<ModelDeployment> = world.api();
    models
        .delete(MODEL, &DeleteParams::default())
        .await
        .unwrap();
    wait("the model is gone", async || {
        world.get::<ModelDeployment>(MODEL).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_model_made_again_waits_until_the_objects_of_the_earlier_one_are_gone() {
    let world = world!(World::new()).with_stable("1").await;
    let revision = world.status().await.state.stable.unwrap().revision;
    let uid = deployment(&world, &revision).await.uid();
    delete_model(&world).await;
    world.roll_out("1").await;
    let status = world.until_reason(reasons::AWAITING_DELETION).await;
    let message = &condition(&status, "Ready").message;
    assert!(
        message.contains("earlier ModelDeployment") && !message.contains("rename"),
        "{message}"
    );
    tokio::time::sleep(A_WHILE / 2).await;
    assert_eq!(
        deployment(&world, &revision).await.uid(),
        uid,
        "it is left to be collected"
    );

    collect::<Deployment>(&world).await;
    collect::<ControllerRevision>(&world).await;
    collect::<Service>(&world).await;
    collect::<EndpointSlice>(&world).await;
    world.until_serves("1").await;
    assert_ne!(deployment(&world, &revision).await.uid(), uid);
}

#[tokio::test]
async fn a_model_made_again_adopts_what_was_left_of_the_earlier_one_and_serves_on() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let before = world.status().await;
    let revision = before.state.stable.clone().unwrap().revision;
    let pods = deployment(&world, &revision).await;
    delete_model(&world).await;
    orphan::<Deployment>(&world).await;
    orphan::<ControllerRevision>(&world).await;
    orphan::<Service>(&world).await;
    orphan::<EndpointSlice>(&world).await;

    world.roll_out("2").await;
    let status = world.until_canary("2", 10).await;
    assert_eq!(stable(&status), Some("1"), "it serves on");
    assert_eq!(status.state.decisions[0].action, reasons::RESTORED);
    assert_eq!(status.state.listener_port, before.state.listener_port);
    let now = deployment(&world, &revision).await;
    assert_eq!(now.uid(), pods.uid());
    assert_eq!(
        now.metadata.generation, pods.metadata.generation,
        "its pods run on"
    );
    let model: ModelDeployment = world.get(MODEL).await.unwrap();
    let owner = |owners: &[OwnerReference]| owners.first().map(|owner| owner.uid.clone());
    let name = format!("{MODEL}-{revision}");
    let history: ControllerRevision = world.get(&name).await.unwrap();
    let service: Service = world.get(MODEL).await.unwrap();
    let slice: EndpointSlice = world.get(&format!("{MODEL}-router")).await.unwrap();
    for owners in [
        now.owner_references(),
        history.owner_references(),
        service.owner_references(),
        slice.owner_references(),
    ] {
        assert_eq!(owner(owners), model.uid());
    }
    world.until_serves("2").await;
}

#[tokio::test]
async fn a_spec_that_no_deployment_can_have_becomes_no_version() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.roll_out("2").await;
    world.until_canary("2", 10).await;
    // Huge pages go with cpu or memory only: a rule of the API server that the schema does not
    // repeat.
    let pages = json!({"limits": {"hugepages-2Mi": "2Mi"}});
    let server = json!({"name": "server", "resources": pages});
    world
        .change(
            "3",
            "/spec/serving",
            json!({"template": {"spec": {"containers": [server]}}}),
        )
        .await;
    let status = world.until_reason(reasons::INVALID_SPEC).await;
    assert_eq!(
        (stable(&status), canary(&status)),
        (Some("1"), None),
        "version 2 is withdrawn"
    );
    let message = &condition(&status, "Ready").message;
    assert!(
        message.starts_with("spec.serving.template.spec.containers[server].resources"),
        "{message}"
    );
    assert!(
        message.ends_with("Version 1 serves on, untouched."),
        "{message}"
    );
    assert_eq!(condition(&status, "Stalled").status, "True");
    let history = world.api::<ControllerRevision>();
    let kept = async || {
        history
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len()
    };
    assert_eq!(kept().await, 2, "it is not recorded");
    world
        .until("version 2 has no pods", |status| {
            status.state.phase == Phase::Stable
        })
        .await;

    // It is asked once.
    let is_try = |request: &Request| request.verb == "patch" && request.resource == "deployments";
    let tries = || {
        let all = world.server.requests(FIRST, &world.namespace);
        all.into_iter().filter(is_try).count()
    };
    tokio::time::sleep(A_WHILE).await;
    let before = tries();
    world.annotate(json!({"any": "change"})).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(tries(), before);

    world.roll_out("2").await;
    world.until_serves("2").await;
}

/// Makes the API server deny the Deployments of one namespace, or not any more.
async fn deny_deployments(world: &World, denies: bool) {
    let name = format!("deny-{}", world.namespace);
    let rule = json!({"apiGroups": ["apps"], "apiVersions": ["*"], "operations": ["CREATE"],
            "resources": ["deployments"]});
    let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": world.namespace}});
    let matches = json!({"resourceRules": [rule], "namespaceSelector": namespace});
    let policy = json!({
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail", "matchConstraints": matches,
            "validations": [{"expression": "false", "message": "no cost centre"}],
        },
    });
    let binding = json!({
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    });
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.client.clone());
    if denies {
        let policy = serde_json::from_value(policy).unwrap();
        policies
            .create(&PostParams::default(), &policy)
            .await
            .unwrap();
        let binding = serde_json::from_value(binding).unwrap();
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
    } else {
        bindings
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
        policies
            .delete(&name, &DeleteParams::default())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_version_whose_deployment_is_denied_does_not_begin_until_it_is_allowed() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    deny_deployments(&world, true).await;
    let tried = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "tried", "annotations": {"serin.dev/version": "0"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i:1"}]},
        }},
    });
    let deployments: Api<Deployment> = world.api();
    wait("the policy is in force", async || {
        let params = PatchParams::apply("test").dry_run();
        deployments
            .patch("tried", &params, &Patch::Apply(&tried))
            .await
            .is_err()
    })
    .await;
    world.roll_out("2").await;
    let status = world.until_reason(reasons::ADMISSION_DENIED).await;
    assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
    assert_eq!(condition(&status, "Stalled").status, "True");
    let message = &condition(&status, "Ready").message;
    assert!(message.contains("no cost centre"), "{message}");
    assert!(
        world
            .event(reasons::ADMISSION_DENIED)
            .await
            .contains("no cost centre")
    );
    let history = world.api::<ControllerRevision>();
    let kept = history.list(&ListParams::default()).await.unwrap();
    assert_eq!(kept.items.len(), 1, "it is not recorded");
    deny_deployments(&world, false).await;
    world.until_serves("2").await;
}

/// Requests of the canary that its first gate has counted in this rollout.
fn counted(status: &ModelDeploymentStatus) -> u64 {
    let canary = status.state.canary.as_ref();
    let progress = canary.and_then(|canary| canary.progress.as_ref());
    let gate = progress.and_then(|progress| progress.gates.first());
    let counts = gate.and_then(|gate| gate.rollout.as_ref());
    counts.map_or(0, |counts| counts.canary.requests)
}

/// What the history keeps of the trial of a version.
async fn remembered(world: &World, revision: &Revision) -> Option<String> {
    let object: ControllerRevision = world.get(&format!("{MODEL}-{revision}")).await.unwrap();
    object.annotations().get(MEMORY_ANNOTATION).cloned()
}

#[tokio::test]
async fn what_gates_remember_outlives_the_operator_and_is_no_part_of_the_status() {
    let mut world = world!(World::with_metrics()).with_stable("1").await;
    let stays = json!("1h");
    world
        .change("2", "/spec/rollout/steps/1/minDuration", stays)
        .await;
    let before = world.until_canary("2", 50).await;
    let revision = before.state.canary.clone().unwrap().revision;
    let kept = remembered(&world, &revision).await.unwrap();
    assert!(kept.contains("cursors"), "{kept}");
    let text = serde_json::to_string(&before).unwrap();
    assert!(!text.contains("cursors"), "{text}");

    // What the step at 10 % has counted is not counted again, and not lost.
    let at_10 = counted(&before);
    assert!(at_10 > 0);
    world.kill_operator();
    world.start_operator();
    tokio::time::sleep(A_WHILE).await;
    // Figures alone are written once a minute, and with anything else at once.
    world.kubectl_serin(&["pause", MODEL]).await.unwrap();
    let later = world
        .until("more is counted", |status| counted(status) > at_10)
        .await;
    assert!(later.state.paused);
    assert_eq!(later.state.canary.unwrap().weight, 50);

    world.roll_out("1").await;
    world
        .until("the trial is over", |status| canary(status).is_none())
        .await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while remembered(&world, &revision).await.is_some() {
        assert!(
            std::time::Instant::now() < deadline,
            "it outlives its trial"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}
