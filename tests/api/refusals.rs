//! The API server refuses the writes of a rollout, or the spec is invalid: nothing that serves is
//! disturbed, and no rollback is delayed.

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    apps::v1::Deployment,
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    objects::world,
    player,
    world::{MODEL, World, canary, condition, manifest, stable, wait, with},
};

/// An admission policy that denies every write of a Deployment in the world's namespace.
struct Denial {
    name: String,
    policies: Api<ValidatingAdmissionPolicy>,
    bindings: Api<ValidatingAdmissionPolicyBinding>,
}

impl Denial {
    /// Returns once the API server denies.
    async fn begin(world: &World) -> Self {
        let denial = Self {
            name: format!("no-deployments-in-{}", world.namespace),
            policies: Api::all(world.client.clone()),
            bindings: Api::all(world.client.clone()),
        };
        let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": world.namespace}});
        let rule = json!({
            "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
            "operations": ["CREATE", "UPDATE"],
        });
        let policy = json!({
            "metadata": {"name": denial.name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"namespaceSelector": namespace, "resourceRules": [rule]},
                "validations": [{"expression": "false", "message": "the change freeze has begun"}],
            },
        });
        let binding = json!({
            "metadata": {"name": denial.name},
            "spec": {"policyName": denial.name, "validationActions": ["Deny"]},
        });
        let params = PostParams::default();
        let policy = serde_json::from_value(policy).unwrap();
        denial.policies.create(&params, &policy).await.unwrap();
        let binding = serde_json::from_value(binding).unwrap();
        denial.bindings.create(&params, &binding).await.unwrap();
        let deployments: Api<Deployment> = world.api();
        let probe: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "probe"},
            "spec": {
                "selector": {"matchLabels": {"app": "probe"}},
                "template": {
                    "metadata": {"labels": {"app": "probe"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]},
                },
            },
        }))
        .unwrap();
        let dry_run = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        wait("the policy is in force", async || {
            deployments.create(&dry_run, &probe).await.is_err()
        })
        .await;
        denial
    }

    async fn end(&self) {
        let params = DeleteParams::default();
        self.bindings.delete(&self.name, &params).await.unwrap();
        self.policies.delete(&self.name, &params).await.unwrap();
    }
}

#[tokio::test]
async fn a_denied_write_is_reported_and_needs_no_person_to_roll_back_or_recover() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let slow = with(
        manifest("2"),
        "/spec/rollout/steps/0/minDuration",
        json!("1h"),
    );
    world.apply(&slow).await.unwrap();
    world.until_canary("2", 10).await;
    let denial = Denial::begin(&world).await;
    // More pods are asked for, of both versions: both Deployments have to be written, and are
    // denied.
    let more = with(slow, "/spec/replicas", json!(3));
    world.apply(&more).await.unwrap();
    let status = world.until_reason("AdmissionDenied").await;
    let stalled = condition(&status, "Stalled");
    assert_eq!(stalled.status, "True");
    assert!(
        stalled.message.contains("the change freeze has begun"),
        "{}",
        stalled.message
    );
    assert_eq!(canary(&status), Some(("2", 10)));
    let event = world.event("AdmissionDenied").await;
    assert!(event.contains("the change freeze has begun"), "{event}");

    world.fail("2", 0.3);
    let status = world
        .until("it is rolled back", |status| canary(status).is_none())
        .await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(status.state.refused[0].version, "2");

    denial.end().await;
    let status = world
        .until("the denial is over", |status| {
            condition(status, "Ready").reason == "RolledBack"
        })
        .await;
    let revision = status.state.stable.unwrap().revision;
    wait("stable has its pods", async || {
        world.replicas(&revision).await == 3
    })
    .await;
}

#[tokio::test]
async fn reverting_the_spec_ends_the_trial_of_a_denied_version() {
    let world = world!(World::new()).with_stable("1").await;
    let denial = Denial::begin(&world).await;
    world.roll_out("2").await;
    world.until_reason("AdmissionDenied").await;
    world.roll_out("1").await;
    let status = world
        .until("version 1 alone is asked for", |status| {
            canary(status).is_none() && stable(status) == Some("1")
        })
        .await;
    assert!(status.state.refused.is_empty());
    denial.end().await;
    world
        .until("all is well", |status| {
            condition(status, "Ready").status == "True"
                && condition(status, "Stalled").status == "False"
        })
        .await;
}

/// Replaces the routers: one pod, at another address.
async fn replace_routers(world: &World, address: &str) {
    let labels = json!({"kubernetes.io/service-name": "serin-router"});
    let slice = player::slice("serin-router-x1", &labels, &[address.to_owned()]);
    assert!(player::apply_slice(&world.client, &world.namespace, &slice).await);
}

/// Waits until the model's Service leads to the router at this address.
async fn until_led_to(world: &World, address: &str) {
    let slices: Api<EndpointSlice> = world.api();
    wait(
        &format!("the model's name leads to {address}"),
        async || {
            let slice = slices.get(&format!("{MODEL}-router")).await.unwrap();
            let endpoints = slice.endpoints.unwrap_or_default();
            endpoints.len() == 1 && endpoints[0].addresses == [address]
        },
    )
    .await;
}

async fn merge(world: &World, patch: Value) {
    let models: Api<serin::api::ModelDeployment> = world.api();
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    models.patch(MODEL, &params, &patch).await.unwrap();
}

#[tokio::test]
async fn routers_are_followed_while_the_spec_is_invalid_or_paused_or_a_deletion_is_held_up() {
    let world = world!(World::new()).with_stable("1").await;

    // A scheme that the platform does not allow: the schema takes it, the operator does not.
    let hub = json!("hf://owner/iris@main");
    world.change("2", "/spec/model/uri", hub).await;
    world.until_reason("InvalidSpec").await;
    replace_routers(&world, "10.244.9.10").await;
    until_led_to(&world, "10.244.9.10").await;

    world.hold("2");
    world.change("2", "/spec/rollout/paused", json!(true)).await;
    world.until_canary("2", 0).await;
    replace_routers(&world, "10.244.9.11").await;
    until_led_to(&world, "10.244.9.11").await;

    let finalizer = "example.com/another-team";
    merge(&world, json!({"metadata": {"finalizers": [finalizer]}})).await;
    let models: Api<serin::api::ModelDeployment> = world.api();
    models
        .delete(MODEL, &DeleteParams::background())
        .await
        .unwrap();
    wait("the trial is withdrawn", async || {
        let status = world.status().await;
        canary(&status).is_none() && stable(&status) == Some("1")
    })
    .await;
    replace_routers(&world, "10.244.9.12").await;
    until_led_to(&world, "10.244.9.12").await;
    let deleting = models.get(MODEL).await.unwrap();
    assert_eq!(deleting.finalizers(), [finalizer]);
    merge(&world, json!({"metadata": {"finalizers": null}})).await;
}
