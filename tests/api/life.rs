//! Rollouts beyond their steps: start, edits of the spec, end.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, Deployment},
    core::v1::Service,
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::json;
use serin::api::{ModelDeployment, Phase};

use crate::{
    objects::world,
    operator::FIRST,
    world::{A_WHILE, MODEL, World, canary, condition, decision, manifest, wait, with},
};

/// Applies version 2 with these steps, each as short as its time.
async fn roll_out_by(world: &World, weights: &[(u8, &str)]) {
    let steps = weights
        .iter()
        .map(|(weight, time)| json!({"weight": weight, "minDuration": time}))
        .collect();
    world.change("2", "/spec/rollout/steps", steps).await;
}

#[tokio::test]
async fn a_change_of_the_configuration_alone_is_a_version_of_its_own() {
    let world = world!(World::new()).with_stable("1").await;
    let before = world.status().await.state.stable.unwrap();
    let threads = json!([{"name": "server", "env": [{"name": "THREADS", "value": "2"}]}]);
    let template = json!({"template": {"spec": {"containers": threads}}});
    world.change("1", "/spec/serving", template).await;
    let status = world.until_canary("1", 10).await;
    let canary = status.state.canary.unwrap();
    assert_ne!(canary.revision, before.revision);
    assert_eq!(
        status.state.stable,
        Some(before),
        "beside the version of the same name"
    );
}

#[tokio::test]
async fn steps_shortened_below_the_weight_take_it_back_and_never_raise_it() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    roll_out_by(&world, &[(10, "1s"), (50, "1h"), (100, "1s")]).await;
    world.until_canary("2", 50).await;
    roll_out_by(&world, &[(20, "1h"), (100, "1s")]).await;
    let status = world.until_canary("2", 20).await;
    decision(&status, "StepsChanged");
    roll_out_by(&world, &[(60, "1h"), (100, "1s")]).await;
    world.until_canary("2", 60).await;
    assert_eq!(world.weights("2"), [0, 10, 50, 20, 0, 60]);
}

#[tokio::test]
async fn a_new_version_is_watched_with_all_traffic_while_the_old_one_keeps_its_pods() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let old = world.status().await.state.stable.unwrap().revision;
    world
        .change("2", "/spec/rollout/bakeTime", json!("6s"))
        .await;
    let watched = world.until_canary("2", 100).await;
    while canary(&world.status().await) == Some(("2", 100)) {
        let pods = world.replicas(&old).await;
        if canary(&world.status().await) == Some(("2", 100)) {
            assert_eq!(pods, 2, "the way back is warm");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let promoted = world.until_serves("2").await;
    let at_all = decision(&watched, "StepAdvanced").at;
    let watch = decision(&promoted, "Promoted").at.duration_since(at_all);
    assert!(watch.as_secs() >= 6, "{watch:?}");
}

#[tokio::test]
async fn a_breach_under_watch_puts_all_traffic_back() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world
        .change("2", "/spec/rollout/bakeTime", json!("1h"))
        .await;
    world.until_canary("2", 100).await;
    tokio::time::sleep(A_WHILE).await;
    world.fail("2", 0.3);
    world.until_rolled_back().await;
}

#[tokio::test]
async fn the_old_version_keeps_its_pods_for_the_scale_down_delay() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let old = world.status().await.state.stable.unwrap().revision;
    let delay = json!("5s");
    world
        .change("2", "/spec/rollout/scaleDownDelay", delay)
        .await;
    let status = world.until_serves("2").await;
    let promoted = decision(&status, "Promoted").at;
    wait("its pods go", async || {
        let pods = world.replicas(&old).await;
        let kept = Timestamp::now().duration_since(promoted);
        assert!(pods == 2 || kept.as_secs() >= 5, "gone after {kept:?}");
        pods == 0
    })
    .await;
}

#[tokio::test]
async fn no_weight_is_raised_before_stable_can_take_it_all_back() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.hold("2");
    world.roll_out("2").await;
    world.until_canary("2", 0).await;
    // Stable loses its pods: by an eviction, a node or a person.
    world.hold("1");
    world
        .until("stable's pods are gone", |status| {
            condition(status, "Available").status == "False"
        })
        .await;
    world.release("2");
    world
        .until("it is reported", |status| {
            condition(status, "Ready")
                .message
                .contains("take all traffic back")
        })
        .await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 0)));
    world.release("1");
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
}

#[tokio::test]
async fn scaled_down_in_mid_rollout_stable_holds_the_weight_and_still_takes_all_back() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    roll_out_by(&world, &[(10, "1h"), (50, "1s"), (100, "1s")]).await;
    world.until_canary("2", 10).await;
    world.hold("1");
    world
        .until("stable's pods are gone", |status| {
            condition(status, "Available").status == "False"
        })
        .await;
    roll_out_by(&world, &[(10, "1s"), (50, "1s"), (100, "1s")]).await;
    world
        .until("it is held", |status| {
            let message = &condition(status, "Ready").message;
            message.contains("Holding at 10 %") && message.contains("take all traffic back")
        })
        .await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
    world.fail("2", 0.3);
    let status = world.until_rolled_back().await;
    assert_eq!(
        condition(&status, "Available").status,
        "False",
        "the way back waited for nothing"
    );
}

/// The end of a step without sufficient evidence, by policy.
async fn without_evidence(then: &str) -> Option<World> {
    let world = World::with_metrics().await?.with_stable("1").await;
    let policy = json!({"after": "2s", "then": then});
    let unproven = with(manifest("2"), "/spec/rollout/onInsufficientData", policy);
    let never = json!(1_000_000_000);
    let unproven = with(unproven, "/spec/rollout/steps/0/minRequests", never);
    world.apply(&unproven).await.unwrap();
    Some(world)
}

#[tokio::test]
async fn without_enough_data_hold_waits_and_reports_it() {
    let world = world!(without_evidence("Hold"));
    world.until_reason("InsufficientData").await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
}

#[tokio::test]
async fn without_enough_data_advance_takes_the_next_step() {
    let world = world!(without_evidence("Advance"));
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
}

#[tokio::test]
async fn without_enough_data_rollback_takes_the_traffic_back() {
    let world = world!(without_evidence("Rollback"));
    world.until_rolled_back().await;
}

#[tokio::test]
async fn pods_that_never_get_ready_are_given_up_at_the_deadline() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    let start = Instant::now();
    let deadline = json!("3s");
    world
        .change("2", "/spec/rollout/progressDeadline", deadline)
        .await;
    let status = world.until_reason("RolledBack").await;
    assert!(start.elapsed() >= Duration::from_secs(3));
    let reason = &status.state.refused[0].reason;
    assert!(reason.contains("progressDeadline"), "{reason}");
    assert_eq!(world.weights("2"), [0]);
}

#[tokio::test]
async fn an_adaptive_start_is_chosen_by_stables_traffic() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.metrics.as_ref().unwrap().scraped().await;
    let adaptive = json!("ByTraffic");
    world.change("2", "/spec/rollout/startAt", adaptive).await;
    let status = world
        .until("it has weight", |status| {
            canary(status).is_some_and(|(_, weight)| weight > 0)
        })
        .await;
    // Some seconds of traffic in five minutes are too little for steps of one second.
    let sentence = &decision(&status, "CanaryStarted").sentence;
    assert!(sentence.contains("requests/s"), "{sentence}");
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 50, 100]);
}

/// Deletes the model as soon as version 2 is at a phase and weight; its name is then free for
/// another.
async fn deleted_at(phase: Phase, weight: u8) {
    let world = world!(World::with_metrics()).with_stable("1").await;
    if phase == Phase::Preparing {
        world.hold("2");
    }
    world.roll_out("2").await;
    world.until_phase(phase, weight).await;
    let model: ModelDeployment = world.get(MODEL).await.unwrap();
    let models: Api<ModelDeployment> = world.api();
    models
        .delete(MODEL, &DeleteParams::default())
        .await
        .unwrap();
    // No operator works for a model that is gone.
    wait("nothing is written any more", async || {
        let before = world.writes(FIRST);
        tokio::time::sleep(A_WHILE).await;
        world.writes(FIRST) == before
    })
    .await;

    // What the garbage collector does; none runs here.
    let uid = model.uid().unwrap();
    collect::<Deployment>(&world, &uid).await;
    collect::<Service>(&world, &uid).await;
    collect::<ControllerRevision>(&world, &uid).await;
    let slices: Api<EndpointSlice> = Api::namespaced(world.client.clone(), &world.namespace);
    let name = format!("{MODEL}-router");
    slices
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();

    world.release("2");
    world.roll_out("2").await;
    let status = world.until_serves("2").await;
    assert_eq!(
        status.state.refused,
        [],
        "it knows nothing of the one before"
    );
}

/// Deletes the objects that a model owned; each names it as their owner.
async fn collect<K>(world: &World, owner: &str)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = world.api();
    let ours = ListParams::default().labels(&format!("serin.dev/model={MODEL}"));
    for object in api.list(&ours).await.unwrap() {
        let owners = object.owner_references();
        assert!(owners.iter().any(|found| found.uid == owner), "{object:?}");
        let name = object.name_any();
        api.delete(&name, &DeleteParams::background())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn deleted_while_a_version_is_prepared_nothing_is_left_to_do() {
    deleted_at(Phase::Preparing, 0).await;
}

#[tokio::test]
async fn deleted_at_the_first_step_nothing_is_left_to_do() {
    deleted_at(Phase::Canary, 10).await;
}

#[tokio::test]
async fn deleted_at_the_last_step_nothing_is_left_to_do() {
    deleted_at(Phase::Canary, 100).await;
}

#[tokio::test]
async fn deleted_after_the_promotion_nothing_is_left_to_do() {
    deleted_at(Phase::Promoting, 0).await;
}
