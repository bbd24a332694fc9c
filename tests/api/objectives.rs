//! Objectives relative to stable, objectives by queries, and unmeasurable ones, with a real API
//! server and a real Prometheus.

use serde_json::{Value, json};

use crate::{
    objects::world,
    world::{World, canary, stable},
};

/// Applies version 2, held to these objectives.
async fn hold_to(world: &World, objectives: Value) {
    world.change("2", "/spec/objectives", objectives).await;
}

#[tokio::test]
async fn a_version_worse_than_stable_is_rolled_back_though_stable_fails_as_well() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    world.fail("1", 0.02);
    world.fail("2", 0.3);
    let no_worse = json!([{"name": "beside-stable", "noWorseThanStable": {"errorRate": "1%"}}]);
    hold_to(&world, no_worse).await;
    let status = world.until_rolled_back().await;
    assert_eq!(world.weights("2"), [0, 10]);
    let reason = &status.state.refused[0].reason;
    assert!(reason.contains("canary requests failed"), "{reason}");
    assert!(
        reason.contains("worse by more than 1 percentage points")
            || reason.contains("in one scrape"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_query_beyond_its_limit_waits_for_a_person_where_its_then_is_pause() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let query =
        json!([{"name": "five", "query": {"promql": "vector(5)", "max": 3, "then": "Hold"}}]);
    hold_to(&world, query).await;
    let status = world.until_decided("FailureHeld").await;
    assert_eq!(canary(&status), Some(("2", 10)));
    let record = status.state.decisions.last().unwrap();
    assert_eq!(record.evidence[0].value, Some(5.0));
    assert_eq!(record.evidence[0].query, "vector(5)");
    assert!(
        record
            .sentence
            .contains("The value is 5, expected at most 3, for 3 scrapes in a row."),
        "{}",
        record.sentence
    );
}

#[tokio::test]
async fn an_unmeasurable_objective_is_reported_before_traffic_moves_until_the_spec_changes() {
    let world = world!(World::with_metrics()).with_stable("1").await;
    let scalar = json!([{"name": "five", "query": {"promql": "5", "max": 3}}]);
    hold_to(&world, scalar).await;
    let status = world.until_decided("NotMeasurable").await;
    let message = &status.state.message;
    assert!(
        message
            .contains("five: the query gave a scalar where a vector of one value is due: wrap it"),
        "{message}"
    );
    assert_eq!(
        (stable(&status), canary(&status)),
        (Some("1"), Some(("2", 0)))
    );
    assert_eq!(world.weights("2"), [0]);

    let fixed = json!([{"name": "five", "query": {"promql": "vector(2)", "max": 3}}]);
    hold_to(&world, fixed).await;
    world.until_serves("2").await;
    assert_eq!(world.weights("2"), [0, 10, 50, 100]);
}
