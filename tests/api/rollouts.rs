//! The way of a second version that needs no evidence: readiness, withdrawal, refusal.

use std::time::Duration;

use serde_json::json;

use crate::{
    objects::world,
    world::{World, canary, condition, stable},
};

#[tokio::test]
async fn a_second_version_gets_weight_only_once_its_pods_are_ready() {
    let world = world!(World::new()).with_stable("1").await;
    world.hold("2");
    world.roll_out("2").await;
    world.until_canary("2", 0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(canary(&world.status().await), Some(("2", 0)));
    world.release("2");
    let status = world.until_canary("2", 10).await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(world.weights("2"), [0, 10]);
}

#[tokio::test]
async fn without_metrics_nothing_advances_and_after_the_hold_it_is_rolled_back() {
    let world = world!(World::new()).with_stable("1").await;
    let hold = json!({"hold": "4s", "then": "Rollback"});
    world
        .change("2", "/spec/rollout/onMetricsOutage", hold)
        .await;
    world.until_reason("MetricsOutage").await;
    let status = world.until_rolled_back().await;
    assert_eq!(world.weights("2"), [0, 10], "blind evidence never promotes");
    assert_eq!(condition(&status, "Stalled").status, "True");
}

#[tokio::test]
async fn without_metrics_the_policy_may_hold_without_limit() {
    let world = world!(World::new()).with_stable("1").await;
    let hold = json!({"hold": "1s", "then": "Hold"});
    world
        .change("2", "/spec/rollout/onMetricsOutage", hold)
        .await;
    world.until_reason("MetricsOutage").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(canary(&world.status().await), Some(("2", 10)));
    assert_eq!(world.weights("2"), [0, 10]);
}

#[tokio::test]
async fn the_spec_back_at_stable_takes_the_weight_back_at_once() {
    let world = world!(World::new()).with_stable("1").await;
    world.roll_out("2").await;
    world.until_canary("2", 10).await;
    world.roll_out("1").await;
    let status = world
        .until("all is back", |status| canary(status).is_none())
        .await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(status.state.refused, [], "version 2 is not refused");
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
    world.until_canary("2", 10).await;
    world.hold("3");
    world.roll_out("3").await;
    let status = world.until_canary("3", 0).await;
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
    world.until_canary("3", 10).await;
}

#[tokio::test]
async fn a_refused_version_is_tried_again_only_with_another_token() {
    let world = world!(World::new()).with_stable("1").await;
    let hurried = async |version: &str| {
        let deadline = json!("1s");
        let pointer = "/spec/rollout/progressDeadline";
        world.change(version, pointer, deadline).await;
    };
    world.hold("2");
    hurried("2").await;
    world.until_reason("RolledBack").await;
    world.release("2");
    hurried("1").await;
    world
        .until("version 1 is asked for", |status| {
            condition(status, "Ready").status == "True"
        })
        .await;
    hurried("2").await;
    let status = world.until_reason("VersionRefused").await;
    assert_eq!((stable(&status), canary(&status)), (Some("1"), None));
    let message = &condition(&status, "Ready").message;
    assert!(message.contains("spec.rollout.retryToken"), "{message}");
    let again = json!("once-more"); // without hurry
    world.change("2", "/spec/rollout/retryToken", again).await;
    world.until_canary("2", 10).await;
}
