//! Rollouts on what a real Prometheus counted.

use std::time::Duration;

use crate::{
    objects::world,
    world::{World, canary},
};

#[tokio::test]
async fn a_good_version_takes_every_step_and_is_promoted() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.roll_out("2").await;
    let status = world.until_serves("2").await;
    assert_eq!(status.state.refused, []);
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
    let status = world
        .until("version 1 is let go", |status| {
            status.state.retiring.is_empty()
        })
        .await;
    assert_eq!(canary(&status), None);
    world.until_reason("Promoted").await;
}

#[tokio::test]
async fn a_version_with_errors_is_rolled_back_with_the_numbers() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.fail("2", 0.2);
    world.roll_out("2").await;
    let status = world.until_rolled_back().await;
    assert_eq!(world.weights("2"), [0, 10]);
    let reason = &status.state.refused[0].reason;
    assert!(reason.contains("canary requests failed"), "{reason}");
    assert!(reason.contains("objective 1 %"), "{reason}");
}

#[tokio::test]
async fn a_version_that_turns_bad_at_half_the_traffic_is_rolled_back_from_there() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.turn_bad_at_half("2").await;
    world.until_rolled_back().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.weights("2").last(), Some(&50), "it never got more");
}
