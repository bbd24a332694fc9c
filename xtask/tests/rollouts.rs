//! Whole rollouts on a real cluster: the demo, and the faults that a rollout must survive.
//! Ignored by default, since they start a cluster; `cargo xtask test` runs them one after the
//! other.
#![allow(clippy::unwrap_used)]

use std::process::Command;

/// The test's cluster is `cargo xtask cluster up`'s; the first test sets the stage, the others find
/// it.
fn play(scenario: &str) {
    let status = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["play", scenario])
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{scenario}: {status}; its own words are above"
    );
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn a_good_version_is_promoted_and_two_bad_ones_are_rolled_back() {
    play("demo");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn the_operator_killed_in_mid_canary_changes_nothing() {
    play("operator-killed-in-canary");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn the_leader_killed_as_it_rolls_back_changes_nothing() {
    play("leader-killed-in-rollback");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn without_prometheus_nothing_moves_and_nothing_is_lost() {
    play("prometheus-stopped");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn replacing_every_router_in_mid_canary_fails_no_request() {
    play("routers-replaced");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn models_are_fetched_from_a_registry_and_restarts_fail_no_request() {
    play("models-fetched");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn what_people_say_is_done_and_recorded() {
    play("commands");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn the_version_before_takes_over_from_a_wedged_one_as_soon_as_its_pods_are_ready() {
    play("stable-wedged");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn a_policy_that_denies_every_deployment_delays_no_rollback() {
    play("policy-denies");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn an_invalid_spec_and_then_new_routers_fail_no_request() {
    play("invalid-and-routers-replaced");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn a_quota_without_room_holds_a_version_up_and_blames_it_for_nothing() {
    play("quota-denies");
}

#[test]
#[ignore = "starts a cluster: cargo xtask test --only cluster"]
fn a_drained_node_holds_a_version_up_and_blames_it_for_nothing() {
    play("node-drained");
}
