//! The operator dies, or there are two of it.

use std::time::Duration;

use serin::api::Phase;

use crate::{
    objects::world,
    operator::{FIRST, SECOND},
    world::{World, canary, condition, stable, wait},
};

/// Kills the operator as soon as the status is at `phase` and `weight`, starts it again, and expects the usual end.
async fn promoted_although_killed_at(phase: Phase, weight: u8) {
    let mut world = world!(World::with_metrics()).with_stable("1").await;
    world.roll_out("2").await;
    world.until_phase(phase, weight).await;
    world.kill_operator();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.start_operator();
    world.until_serves("2").await;
    world
        .until("version 1 is let go", |status| {
            status.state.retiring.is_empty()
        })
        .await;
    assert_eq!(
        world.weights("2"),
        [0, 10, 50, 100],
        "no step is skipped or repeated"
    );
}

#[tokio::test]
async fn killed_while_preparing_it_promotes_all_the_same() {
    promoted_although_killed_at(Phase::Preparing, 0).await;
}

#[tokio::test]
async fn killed_at_the_first_step_it_promotes_all_the_same() {
    promoted_although_killed_at(Phase::Canary, 10).await;
}

#[tokio::test]
async fn killed_at_the_last_step_it_promotes_all_the_same() {
    promoted_although_killed_at(Phase::Canary, 100).await;
}

#[tokio::test]
async fn killed_after_the_promotion_it_still_lets_the_old_version_go() {
    promoted_although_killed_at(Phase::Promoting, 0).await;
}

#[tokio::test]
async fn killed_in_mid_rollback_it_ends_rolled_back_all_the_same() {
    let mut world = world!(World::with_metrics()).with_stable("1").await;
    world.fail("2", 0.2);
    world.roll_out("2").await;
    world
        .until("it is rolling back", |status| {
            status.state.phase == Phase::RollingBack
        })
        .await;
    world.kill_operator();
    world.start_operator();
    let status = world
        .until("it is over", |status| {
            status.state.phase == Phase::Stable && canary(status).is_none()
        })
        .await;
    assert_eq!(stable(&status), Some("1"));
    assert_eq!(condition(&status, "Ready").reason, "RolledBack");
    assert_eq!(world.weights("2"), [0, 10]);
}

#[tokio::test]
async fn of_two_operators_one_acts_and_the_other_takes_over_when_it_dies() {
    let mut world = world!(World::new()).with_stable("1").await;
    let _second = world.operator_named(SECOND);
    world.roll_out("2").await;
    world.until_canary("2", 10).await;
    assert!(world.writes(FIRST) > 0);
    assert_eq!(world.writes(SECOND), 0, "a follower only watches");
    world.kill_operator();
    world.roll_out("1").await;
    world
        .until("the other took the weight back", |status| {
            canary(status).is_none()
        })
        .await;
    wait("the second acts", async || world.writes(SECOND) > 0).await;
}
