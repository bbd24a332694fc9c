//! The way of a second version that needs no evidence: readiness, withdrawal, refusal.

use std::time::Duration;

use serde_json::json;

use crate::{
    objects::world,
    world::{World, canary, condition, manifest, stable, with},
};

#[tokio::test]
async fn a_second_version_gets_weight_only_once_its_pods_are_ready() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    world.roll_out("2").await;
    world
        .until("version 2 is prepared", |status| {
            canary(status) == Some(("2", 0))
        })
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(canary(&world.status().await), Some(("2", 0)));
    world.release("2");
    let status = world
        .until("version 2 gets a tenth", |status| {
            canary(status) == Some(("2", 10))
        })
        .await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(world.weights("2"), [0, 10]);
}

#[tokio::test]
async fn without_metrics_nothing_advances_and_after_the_hold_it_is_rolled_back() {
    let world = world!(World::new()).with_stable("1").await;
    let hold = json!({"hold": "4s", "then": "Rollback"});
    world
        .apply(&with(manifest("2"), "/spec/rollout/onMetricsOutage", hold))
        .await
        .unwrap();
    world
        .until("the outage is told", |status| {
            condition(status, "Ready").reason == "MetricsOutage"
        })
        .await;
    let status = world
        .until("it is rolled back", |status| {
            condition(status, "Ready").reason == "RolledBack"
        })
        .await;
    assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
    assert_eq!(world.weights("2"), [0, 10], "blind evidence never promotes");
    assert_eq!(condition(&status, "Stalled").status, "True");
}

#[tokio::test]
async fn without_metrics_the_policy_may_also_hold_for_ever() {
    let world = world!(World::new()).with_stable("1").await;
    let hold = json!({"hold": "1s", "then": "Pause"});
    world
        .apply(&with(manifest("2"), "/spec/rollout/onMetricsOutage", hold))
        .await
        .unwrap();
    world
        .until("the outage is told", |status| {
            condition(status, "Ready").reason == "MetricsOutage"
        })
        .await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
    assert_eq!(world.weights("2"), [0, 10]);
}

#[tokio::test]
async fn the_spec_back_at_stable_takes_the_weight_back_at_once() {
    let world = world!(World::new()).with_stable("1").await;
    world.roll_out("2").await;
    world
        .until("version 2 has weight", |status| {
            canary(status) == Some(("2", 10))
        })
        .await;
    world.roll_out("1").await;
    let status = world
        .until("all is back", |status| canary(status).is_none())
        .await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(
        status.state.refused,
        [],
        "nobody said that version 2 is bad"
    );
    world
        .until("it is Ready", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
}

#[tokio::test]
async fn a_newer_version_supersedes_the_one_on_trial() {
    let world = world!(World::new()).with_stable("1").await;
    world.roll_out("2").await;
    world
        .until("version 2 has weight", |status| {
            canary(status) == Some(("2", 10))
        })
        .await;
    world.hold("3");
    world.roll_out("3").await;
    let status = world
        .until("version 3 is prepared", |status| {
            canary(status) == Some(("3", 0))
        })
        .await;
    assert_eq!(stable(&status), Some("1"));
    let history = world.history();
    let of_two = history
        .iter()
        .rposition(|moment| moment.canary == Some(("2".to_owned(), 10)));
    let after = &history[of_two.unwrap() + 1];
    assert_eq!(
        after.canary, None,
        "stable has it all in between: {history:#?}"
    );
    world.release("3");
    world
        .until("version 3 has weight", |status| {
            canary(status) == Some(("3", 10))
        })
        .await;
}

#[tokio::test]
async fn a_refused_version_is_tried_again_only_with_another_token() {
    let world = world!(World::new()).with_stable("1").await;
    let hurried = |version: &str| {
        with(
            manifest(version),
            "/spec/rollout/progressDeadline",
            json!("1s"),
        )
    };
    world.hold("2");
    world.apply(&hurried("2")).await.unwrap();
    world
        .until("version 2 is refused", |status| {
            condition(status, "Ready").reason == "RolledBack"
        })
        .await;
    world.release("2");
    world.apply(&hurried("1")).await.unwrap();
    world
        .until("version 1 is asked for", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
    world.apply(&hurried("2")).await.unwrap();
    let status = world
        .until("the refusal is told", |status| {
            condition(status, "Ready").reason == "VersionRefused"
        })
        .await;
    assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
    let message = &condition(&status, "Ready").message;
    assert!(message.contains("spec.rollout.retryToken"), "{message}");
    let again = with(
        manifest("2"),
        "/spec/rollout/retryToken",
        json!("once-more"),
    );
    world.apply(&again).await.unwrap();
    world
        .until("version 2 is tried again", |status| {
            canary(status) == Some(("2", 10))
        })
        .await;
}
