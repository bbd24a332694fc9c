//! The operator dies, or two operators run.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use serin::api::Phase;

use crate::{
    objects::world,
    operator::{FIRST, SECOND},
    world::{A_WHILE, World, canary, condition, stable, wait},
};

/// The operators' lease.
const LEASE: &str = "serin-operator";

/// Kills the operator as soon as the status is at `phase` and `weight`, starts it again, and
/// expects the usual end.
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
async fn killed_while_preparing_it_still_promotes() {
    promoted_although_killed_at(Phase::Preparing, 0).await;
}

#[tokio::test]
async fn killed_at_the_first_step_it_still_promotes() {
    promoted_although_killed_at(Phase::Canary, 10).await;
}

#[tokio::test]
async fn killed_at_the_last_step_it_still_promotes() {
    promoted_although_killed_at(Phase::Canary, 100).await;
}

#[tokio::test]
async fn killed_after_the_promotion_it_still_removes_the_old_version() {
    promoted_although_killed_at(Phase::Promoting, 0).await;
}

#[tokio::test]
async fn killed_during_a_rollback_it_still_ends_rolled_back() {
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
async fn the_second_operator_takes_over_when_the_leader_dies() {
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

/// Writes the lease as a leader does whose clock is off by so much.
async fn renewed_by_another(leases: &Api<Lease>, clock_off: SignedDuration, lasts: i32) {
    let now = (Timestamp::now() + clock_off).strftime("%Y-%m-%dT%H:%M:%S%.6fZ");
    let spec = json!({
        "holderIdentity": "another", "leaseDurationSeconds": lasts,
        "acquireTime": now.to_string(), "renewTime": now.to_string(),
    });
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": LEASE}, "spec": spec});
    let params = PatchParams::apply("another").force();
    leases
        .patch(LEASE, &params, &Patch::Apply(lease))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dead_leader_with_a_clock_an_hour_ahead_is_replaced() {
    let mut world = world!(World::without_operator());
    renewed_by_another(&world.api(), SignedDuration::from_hours(1), 5).await;
    world.start_operator();
    world.with_stable("1").await;
}

#[tokio::test]
async fn a_living_leader_whose_clock_is_an_hour_behind_keeps_its_lease() {
    let mut world = world!(World::without_operator());
    let leases: Api<Lease> = world.api();
    let renew = async || renewed_by_another(&leases, SignedDuration::from_hours(-1), 20).await;
    renew().await;
    world.start_operator();
    world.roll_out("1").await;
    for _ in 0..16 {
        tokio::time::sleep(A_WHILE / 8).await;
        renew().await;
    }
    assert_eq!(world.writes(FIRST), 0, "a follower only watches");
    world.until_serves("1").await; // now that it is silent
}

#[tokio::test]
async fn a_leader_recreates_its_deleted_lease() {
    let world = world!(World::new()).with_stable("1").await;
    let leases: Api<Lease> = world.api();
    leases
        .delete(LEASE, &DeleteParams::default())
        .await
        .unwrap();
    wait("the lease is there again", async || {
        let lease = leases.get_opt(LEASE).await.unwrap();
        let holder = lease.and_then(|lease| lease.spec?.holder_identity);
        holder.as_deref() == Some(FIRST)
    })
    .await;
    world.roll_out("2").await;
    world.until_canary("2", 10).await;
}
