//! Rollouts that a person can read from beginning to end: scripted worlds, the real decisions, and the whole log of each.
//!
//! A change of any sentence, number or moment shows here as a difference to review (`cargo insta review`).
#![allow(clippy::unwrap_used)]

mod release;
mod story;

use serde_json::{Value, json};
use serin::api::commands::Command;

use story::{Answers, Story};

fn errors() -> Value {
    json!([{"errorRate": {"max": "1%"}}])
}

fn errors_and_latency() -> Value {
    json!([{"errorRate": {"max": "1%"}}, {"latency": {"quantile": 0.99, "max": "250ms"}}])
}

/// Steps of 10, 25, 50 and 100 %, of at least a minute each, and whatever else is said.
fn rollout(more: &Value) -> Value {
    let steps = [10, 25, 50, 100].map(|weight| json!({"weight": weight, "minDuration": "1m"}));
    let mut rollout = json!({"steps": steps});
    for (field, value) in more.as_object().unwrap() {
        rollout[field] = value.clone();
    }
    rollout
}

fn failing(errors: f64) -> Answers {
    Answers {
        errors,
        ..Answers::default()
    }
}

macro_rules! golden {
    ($name:ident, $story:expr) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(stringify!($name), $story.end());
        });
    };
}

#[test]
fn a_good_version() {
    let mut story = Story::new(
        "A good version takes every step and is promoted.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(3600);
    golden!(a_good_version, story);
}

#[test]
fn one_error_in_five() {
    let mut story = Story::new(
        "A version that fails one request in five is rolled back on the evidence.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    story.answer("2", failing(0.2));
    story.roll_out("2");
    story.play(3600);
    golden!(one_error_in_five, story);
}

#[test]
fn every_request_fails() {
    let mut story = Story::new(
        "A version that fails every request is rolled back after one scrape.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    story.answer("2", failing(1.0));
    story.roll_out("2");
    story.play(3600);
    golden!(every_request_fails, story);
}

#[test]
fn too_slow() {
    let mut story = Story::new(
        "A version that is too slow for one request in twelve is rolled back.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    let slow = 1.0 / 12.0;
    story.answer(
        "2",
        Answers {
            slow,
            ..Answers::default()
        },
    );
    story.roll_out("2");
    story.play(3600);
    golden!(too_slow, story);
}

#[test]
fn bad_under_load() {
    let mut story = Story::new(
        "A version that fails only under half of the traffic is rolled back from there.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    while story.weight() < 50 {
        story.play(15);
    }
    story.tell("From now on, version 2 fails one request in three.");
    story.answer("2", failing(1.0 / 3.0));
    story.play(3600);
    golden!(bad_under_load, story);
}

#[test]
fn bad_like_stable() {
    let mut story = Story::new(
        "Both versions break the objective: nothing is gained by going back, and nothing is promoted.",
        &errors(),
        rollout(&json!({"onInsufficientData": {"after": "10m", "then": "Pause"}})),
    );
    story.answer("1", failing(0.03));
    story.answer("2", failing(0.03));
    story.roll_out("2");
    story.play(1200);
    golden!(bad_like_stable, story);
}

#[test]
fn prometheus_is_away_and_comes_back() {
    let mut story = Story::new(
        "Prometheus is away for five minutes: nothing moves, nothing is lost, and the rollout goes on.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(45);
    story.tell("Prometheus is away.");
    story.prometheus_is_up = false;
    story.play(300);
    story.tell("Prometheus is back.");
    story.prometheus_is_up = true;
    story.play(3600);
    golden!(prometheus_is_away_and_comes_back, story);
}

#[test]
fn prometheus_stays_away() {
    let mut story = Story::new(
        "Prometheus stays away for longer than the policy holds: all traffic goes back.",
        &errors(),
        rollout(&json!({"onMetricsOutage": {"hold": "5m", "then": "Rollback"}})),
    );
    story.roll_out("2");
    story.play(45);
    story.tell("Prometheus is away.");
    story.prometheus_is_up = false;
    story.play(3600);
    golden!(prometheus_stays_away, story);
}

#[test]
fn no_traffic() {
    let mut story = Story::new(
        "Without traffic nothing can be proven: the rollout waits, and says so.",
        &errors(),
        rollout(&json!({"onInsufficientData": {"after": "30m", "then": "Pause"}})),
    );
    story.rate = 0.0;
    story.roll_out("2");
    story.play(3600);
    golden!(no_traffic, story);
}

#[test]
fn little_traffic() {
    let mut story = Story::new(
        "One request every two seconds: each step takes as long as its proof.",
        &errors(),
        rollout(&json!({})),
    );
    story.rate = 0.5;
    story.roll_out("2");
    story.play(24 * 3600);
    golden!(little_traffic, story);
}

#[test]
fn a_newer_version_in_mid_rollout() {
    let mut story = Story::new(
        "A newer version arrives in mid-rollout: traffic goes back first, then the newest starts.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(75);
    story.apply("3");
    story.look();
    story.pass(30);
    story.pods("3", 2);
    story.look();
    story.play(3600);
    golden!(a_newer_version_in_mid_rollout, story);
}

#[test]
fn back_to_stable() {
    let mut story = Story::new(
        "The user goes back to the version that serves: its traffic is back at once, and nothing is refused.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(75);
    story.apply("1");
    story.pass(60);
    story.look();
    golden!(back_to_stable, story);
}

#[test]
fn paused_while_breaching() {
    let mut story = Story::new(
        "Paused, the weight is not raised; a breach still rolls back.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.tell("The user pauses the rollout.");
    story.spec.rollout.paused = true;
    story.play(300);
    story.tell("From now on, version 2 fails one request in five.");
    story.answer("2", failing(0.2));
    story.play(3600);
    golden!(paused_while_breaching, story);
}

#[test]
fn a_crash_loop() {
    let mut story = Story::new(
        "A version whose pods crash never gets traffic.",
        &errors(),
        rollout(&json!({})),
    );
    story.apply("2");
    story.pass(30);
    story.crash("2", "pod churn-5e1d-x7k2p is in CrashLoopBackOff: back-off 10s (it ended with exit code 1: no such model)");
    story.look();
    golden!(a_crash_loop, story);
}

#[test]
fn pods_that_do_not_get_ready() {
    let mut story = Story::new(
        "A version whose pods do not get Ready in time is rolled back.",
        &errors(),
        rollout(&json!({"progressDeadline": "2m"})),
    );
    story.apply("2");
    story.pods("2", 1);
    story.play(3600);
    golden!(pods_that_do_not_get_ready, story);
}

#[test]
fn a_cluster_without_room() {
    let mut story = Story::new(
        "A cluster without room ends two trials, is held against no version, and has room in the end.",
        &errors(),
        rollout(&json!({"progressDeadline": "2m"})),
    );
    story.apply("2");
    story.trouble(
        "2",
        "the scheduler says: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
    );
    story.wait(390);
    story.tell("A node is added.");
    story.pods("2", 2);
    story.wait(45);
    story.play(3600);
    golden!(a_cluster_without_room, story);
}

#[test]
fn a_node_is_drained() {
    let mut story = Story::new(
        "The node of a canary is drained: its weight is held, and its step begins anew.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    while story.weight() < 25 {
        story.play(15);
    }
    story.trouble(
        "2",
        "pod churn-5e1d-x7k2p is being deleted (Eviction API: evicting)",
    );
    story.play(300);
    story.tell("Its pods are Ready on another node.");
    story.pods("2", 2);
    story.play(3600);
    golden!(a_node_is_drained, story);
}

#[test]
fn refused_then_retried() {
    let mut story = Story::new(
        "A version that was rolled back is not tried again, until its owner asks for it by a token.",
        &errors(),
        rollout(&json!({})),
    );
    story.answer("2", failing(1.0));
    story.roll_out("2");
    story.play(3600);
    story.apply("1");
    story.pass(60);
    story.look();
    story.apply("2");
    story.pass(600);
    story.look();
    story.tell("What it depends on was mended; the user sets spec.rollout.retryToken.");
    story.answer("2", Answers::default());
    story.spec.rollout.retry_token = Some("mended".to_owned());
    story.look();
    story.pass(15);
    story.look();
    story.play(3600);
    golden!(refused_then_retried, story);
}

#[test]
fn a_person_aborts() {
    let mut story = Story::new(
        "A person aborts: traffic is back at once, and the version is refused.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(75);
    story.ask("ada", |revision, _| Command::Abort(revision));
    story.pass(60);
    story.look();
    golden!(a_person_aborts, story);
}

#[test]
fn people_agree() {
    let mut rollout = rollout(&json!({"approval": "BeforePromotion"}));
    rollout["steps"][1]["pause"] = json!(true);
    let mut story = Story::new(
        "A step and the promotion wait for people: one agrees before the evidence passes, one long after.",
        &errors(),
        rollout,
    );
    story.roll_out("2");
    story.play(75);
    story.ask("ada", Command::Approve);
    story.play(900);
    story.ask("grace", Command::Approve);
    story.play(900);
    golden!(people_agree, story);
}

#[test]
fn a_step_is_skipped() {
    let mut story = Story::new(
        "With little traffic, a person skips a step whose proof would take long.",
        &errors(),
        rollout(&json!({})),
    );
    story.rate = 0.5;
    story.roll_out("2");
    story.play(300);
    story.ask("ada", Command::Skip);
    story.play(7200);
    golden!(a_step_is_skipped, story);
}

#[test]
fn promoted_in_full_while_prometheus_is_away() {
    let mut story = Story::new(
        "A person promotes in full on their own word, while Prometheus is away.",
        &errors(),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(45);
    story.tell("Prometheus is away.");
    story.prometheus_is_up = false;
    story.play(60);
    story.ask("ada", Command::Skip);
    story.play(30);
    story.ask("ada", |revision, _| Command::PromoteFull(revision));
    golden!(promoted_in_full_while_prometheus_is_away, story);
}

#[test]
fn a_failure_is_held_for_a_person() {
    let mut story = Story::new(
        "With onFailure: Pause a failing version is held at its weight, until a person decides.",
        &errors(),
        rollout(&json!({"onFailure": "Pause"})),
    );
    story.answer("2", failing(0.2));
    story.roll_out("2");
    story.play(300);
    story.ask("ada", |revision, _| Command::Abort(revision));
    golden!(a_failure_is_held_for_a_person, story);
}

#[test]
fn starting_where_traffic_suffices() {
    let mut story = Story::new(
        "With firstStep: Adaptive and two requests a second, a version starts as high as half of the traffic.",
        &errors(),
        rollout(&json!({"firstStep": "Adaptive"})),
    );
    story.rate = 2.0;
    story.roll_out("2");
    story.play(7200);
    golden!(starting_where_traffic_suffices, story);
}

#[test]
fn no_worse_than_stable() {
    let mut story = Story::new(
        "Stable fails 3 % of its requests. A version that fails as many passes beside it; one that fails 6 % does not.",
        &json!([{"noWorseThanStable": {"errorRate": "1%"}}]),
        rollout(&json!({})),
    );
    story.answer("1", failing(0.03));
    story.answer("2", failing(0.03));
    story.answer("3", failing(0.06));
    story.roll_out("2");
    story.play(7200);
    story.pass(60);
    story.roll_out("3");
    story.play(7200);
    golden!(no_worse_than_stable, story);
}

#[test]
fn predictions_drift() {
    let mut story = Story::new(
        "A version that predicts half as many churning customers again is held for a person, who finds it right.",
        &json!([{"errorRate": {"max": "1%"}}, {"predictionDrift": {"max": 0.1}}]),
        rollout(&json!({})),
    );
    story.answer(
        "2",
        Answers {
            churns: 0.45,
            ..Answers::default()
        },
    );
    story.roll_out("2");
    story.play(1200);
    story.ask("ada", |revision, _| Command::PromoteFull(revision));
    golden!(predictions_drift, story);
}

#[test]
fn a_query_of_ones_own() {
    let mut story = Story::new(
        "A version that exceeds the limit of a query of one's own is rolled back after three scrapes.",
        &json!([{"query": {"name": "gpu-memory", "promql": "max(gpu_memory_used_bytes) / 1e9", "max": 3.0}}]),
        rollout(&json!({})),
    );
    story.roll_out("2");
    story.play(90);
    story.tell("Version 2 begins to use 3.7 GB.");
    story.answer(
        "2",
        Answers {
            value: 3.7,
            ..Answers::default()
        },
    );
    story.play(3600);
    golden!(a_query_of_ones_own, story);
}
