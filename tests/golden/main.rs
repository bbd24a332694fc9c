//! Golden logs: scripted rollouts with the real decisions, each as a whole log.
//!
//! A change of any sentence, number or moment shows here as a difference to review (`cargo insta
//! review`).
#![allow(clippy::unwrap_used)]

mod release;
mod scenario;

use serde_json::{Value, json};
use serin::{
    api::commands::Command,
    observe::{ContainerEnd, PodProblem},
};

use scenario::{Answers, Scenario};

fn errors() -> Value {
    json!([{"name": "errors", "errorRate": {"max": "1%"}}])
}

fn errors_and_latency() -> Value {
    json!([
        {"name": "errors", "errorRate": {"max": "1%"}},
        {"name": "latency", "latency": {"quantile": 0.99, "max": "250ms"}},
    ])
}

/// Steps of 10, 25, 50 and 100 %, of at least a minute each, merged with `more`.
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
    ($name:ident, $scenario:expr) => {
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(stringify!($name), $scenario.end());
        });
    };
}

#[test]
fn a_good_version() {
    let mut scenario = Scenario::new(
        "A good version takes every step and is promoted.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(3600);
    golden!(a_good_version, scenario);
}

#[test]
fn one_error_in_five() {
    let mut scenario = Scenario::new(
        "A version that fails one request in five is rolled back on the evidence.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    scenario.answer("2", failing(0.2));
    scenario.roll_out("2");
    scenario.play(3600);
    golden!(one_error_in_five, scenario);
}

#[test]
fn every_request_fails() {
    let mut scenario = Scenario::new(
        "A version that fails every request is rolled back after one scrape.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    scenario.answer("2", failing(1.0));
    scenario.roll_out("2");
    scenario.play(3600);
    golden!(every_request_fails, scenario);
}

#[test]
fn too_slow() {
    let mut scenario = Scenario::new(
        "A version that is too slow for one request in twelve is rolled back.",
        &errors_and_latency(),
        rollout(&json!({})),
    );
    let slow = 1.0 / 12.0;
    scenario.answer(
        "2",
        Answers {
            slow,
            ..Answers::default()
        },
    );
    scenario.roll_out("2");
    scenario.play(3600);
    golden!(too_slow, scenario);
}

#[test]
fn bad_under_load() {
    let mut scenario = Scenario::new(
        "A version that fails only under half of the traffic is rolled back from there.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    while scenario.weight() < 50 {
        scenario.play(15);
    }
    scenario.note("From now on, version 2 fails one request in three.");
    scenario.answer("2", failing(1.0 / 3.0));
    scenario.play(3600);
    golden!(bad_under_load, scenario);
}

#[test]
fn bad_like_stable() {
    let mut scenario = Scenario::new(
        "Both versions break the objective: nothing is gained by going back, and nothing is \
         promoted.",
        &errors(),
        rollout(&json!({"onInsufficientData": {"after": "10m", "then": "Hold"}})),
    );
    scenario.answer("1", failing(0.03));
    scenario.answer("2", failing(0.03));
    scenario.roll_out("2");
    scenario.play(1200);
    golden!(bad_like_stable, scenario);
}

#[test]
fn prometheus_is_away_and_comes_back() {
    let mut scenario = Scenario::new(
        "Prometheus is away for five minutes: nothing moves, nothing is lost, and the rollout \
         goes on.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(45);
    scenario.note("Prometheus is away.");
    scenario.prometheus_is_up = false;
    scenario.play(300);
    scenario.note("Prometheus is back.");
    scenario.prometheus_is_up = true;
    scenario.play(3600);
    golden!(prometheus_is_away_and_comes_back, scenario);
}

#[test]
fn prometheus_stays_away() {
    let mut scenario = Scenario::new(
        "Prometheus stays away for longer than the policy holds: all traffic goes back.",
        &errors(),
        rollout(&json!({"onMetricsOutage": {"hold": "5m", "then": "Rollback"}})),
    );
    scenario.roll_out("2");
    scenario.play(45);
    scenario.note("Prometheus is away.");
    scenario.prometheus_is_up = false;
    scenario.play(3600);
    golden!(prometheus_stays_away, scenario);
}

#[test]
fn no_traffic() {
    let mut scenario = Scenario::new(
        "Without traffic nothing can be proven: the rollout waits, and says so.",
        &errors(),
        rollout(&json!({"onInsufficientData": {"after": "30m", "then": "Hold"}})),
    );
    scenario.rate = 0.0;
    scenario.roll_out("2");
    scenario.play(3600);
    golden!(no_traffic, scenario);
}

#[test]
fn little_traffic() {
    let mut scenario = Scenario::new(
        "One request every two seconds: each step takes as long as its proof.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.rate = 0.5;
    scenario.roll_out("2");
    scenario.play(24 * 3600);
    golden!(little_traffic, scenario);
}

#[test]
fn a_newer_version_in_mid_rollout() {
    let mut scenario = Scenario::new(
        "A newer version arrives in mid-rollout: traffic goes back first, then the newest starts.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(75);
    scenario.apply("3");
    scenario.look();
    scenario.pass(30);
    scenario.pods("3", 2);
    scenario.look();
    scenario.play(3600);
    golden!(a_newer_version_in_mid_rollout, scenario);
}

#[test]
fn back_to_stable() {
    let mut scenario = Scenario::new(
        "The user goes back to the version that serves: its traffic is back at once, and nothing \
         is refused.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(75);
    scenario.apply("1");
    scenario.pass(60);
    scenario.look();
    golden!(back_to_stable, scenario);
}

#[test]
fn paused_while_breaching() {
    let mut scenario = Scenario::new(
        "Paused, the weight is not raised; a breach still rolls back.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.note("The user pauses the rollout.");
    scenario.spec.rollout.paused = true;
    scenario.play(300);
    scenario.note("From now on, version 2 fails one request in five.");
    scenario.answer("2", failing(0.2));
    scenario.play(3600);
    golden!(paused_while_breaching, scenario);
}

#[test]
fn a_crash_loop() {
    let mut scenario = Scenario::new(
        "A version whose pods crash never gets traffic.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.apply("2");
    scenario.pass(30);
    scenario.crash(
        "2",
        PodProblem::Waits {
            pod: "churn-5e1d-x7k2p".to_owned(),
            container: None,
            reason: "CrashLoopBackOff".to_owned(),
            words: "back-off 10s".to_owned(),
            last_end: Some(ContainerEnd {
                exit_code: 1,
                words: Some("no such model".to_owned()),
            }),
        },
    );
    scenario.look();
    golden!(a_crash_loop, scenario);
}

#[test]
fn pods_that_do_not_get_ready() {
    let mut scenario = Scenario::new(
        "A version whose pods do not get Ready in time is rolled back.",
        &errors(),
        rollout(&json!({"progressDeadline": "2m"})),
    );
    scenario.apply("2");
    scenario.pods("2", 1);
    scenario.play(3600);
    golden!(pods_that_do_not_get_ready, scenario);
}

#[test]
fn a_cluster_without_room() {
    let mut scenario = Scenario::new(
        "A cluster without room ends two trials, is held against no version, and has room in \
         the end.",
        &errors(),
        rollout(&json!({"progressDeadline": "2m"})),
    );
    scenario.apply("2");
    scenario.trouble(
        "2",
        PodProblem::NotScheduled {
            words: "0/3 nodes are available: 3 Insufficient nvidia.com/gpu".to_owned(),
        },
    );
    scenario.wait(390);
    scenario.note("A node is added.");
    scenario.pods("2", 2);
    scenario.wait(45);
    scenario.play(3600);
    golden!(a_cluster_without_room, scenario);
}

#[test]
fn a_node_is_drained() {
    let mut scenario = Scenario::new(
        "The node of a canary is drained: its weight is held, and its step begins anew.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    while scenario.weight() < 25 {
        scenario.play(15);
    }
    scenario.trouble(
        "2",
        PodProblem::Deleted {
            pod: "churn-5e1d-x7k2p".to_owned(),
            words: Some("Eviction API: evicting".to_owned()),
        },
    );
    scenario.play(300);
    scenario.note("Its pods are Ready on another node.");
    scenario.pods("2", 2);
    scenario.play(3600);
    golden!(a_node_is_drained, scenario);
}

#[test]
fn refused_then_retried() {
    let mut scenario = Scenario::new(
        "A version that was rolled back is not tried again, until its owner asks for it by \
         a token.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.answer("2", failing(1.0));
    scenario.roll_out("2");
    scenario.play(3600);
    scenario.apply("1");
    scenario.pass(60);
    scenario.look();
    scenario.apply("2");
    scenario.pass(600);
    scenario.look();
    scenario.note("What it depends on was fixed; the user sets spec.rollout.retryToken.");
    scenario.answer("2", Answers::default());
    scenario.spec.rollout.retry_token = Some("fixed".to_owned());
    scenario.look();
    scenario.pass(15);
    scenario.look();
    scenario.play(3600);
    golden!(refused_then_retried, scenario);
}

#[test]
fn a_person_aborts() {
    let mut scenario = Scenario::new(
        "A person aborts: traffic is back at once, and the version is refused.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(75);
    scenario.ask("ada", |revision, _| Command::Abort(revision));
    scenario.pass(60);
    scenario.look();
    golden!(a_person_aborts, scenario);
}

#[test]
fn people_agree() {
    let mut rollout = rollout(&json!({"approval": "BeforePromotion"}));
    rollout["steps"][1]["pause"] = json!({});
    let mut scenario = Scenario::new(
        "A step and the promotion wait for people: one agrees before the evidence passes, one \
         long after.",
        &errors(),
        rollout,
    );
    scenario.roll_out("2");
    scenario.play(75);
    scenario.ask("ada", Command::Approve);
    scenario.play(900);
    scenario.ask("grace", Command::Approve);
    scenario.play(900);
    golden!(people_agree, scenario);
}

#[test]
fn back_to_a_promoted_version() {
    let mut scenario = Scenario::new(
        "Version 2 was promoted and answers every request with an error a minute later: a revert \
         to version 1 takes as long as its pods.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(7200);
    scenario.note("Of version 2, every answer is an error.");
    scenario.pass(60);
    scenario.was_stable(1);
    scenario.apply("1");
    scenario.look();
    scenario.look();
    scenario.pass(600);
    scenario.look();
    golden!(back_to_a_promoted_version, scenario);
}

#[test]
fn a_step_has_a_pause() {
    let mut rollout = rollout(&json!({}));
    rollout["steps"][0]["pause"] = json!({"duration": "10m"});
    rollout["steps"][1]["pause"] = json!({"duration": "10m"});
    let mut scenario = Scenario::new(
        "The first two steps pause for 10 minutes; a person ends the second pause.",
        &errors(),
        rollout,
    );
    scenario.roll_out("2");
    scenario.play(1200);
    scenario.ask("ada", Command::Approve);
    scenario.play(3600);
    golden!(a_step_has_a_pause, scenario);
}

#[test]
fn a_step_is_skipped() {
    let mut scenario = Scenario::new(
        "With little traffic, a person skips a step whose proof would take long.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.rate = 0.5;
    scenario.roll_out("2");
    scenario.play(300);
    scenario.ask("ada", Command::Skip);
    scenario.play(7200);
    golden!(a_step_is_skipped, scenario);
}

#[test]
fn promoted_in_full_while_prometheus_is_away() {
    let mut scenario = Scenario::new(
        "A person promotes in full on their own word, while Prometheus is away.",
        &errors(),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(45);
    scenario.note("Prometheus is away.");
    scenario.prometheus_is_up = false;
    scenario.play(60);
    scenario.ask("ada", Command::Skip);
    scenario.play(30);
    scenario.ask("ada", |revision, _| Command::PromoteFull(revision));
    golden!(promoted_in_full_while_prometheus_is_away, scenario);
}

#[test]
fn a_failure_is_held_for_a_person() {
    let mut scenario = Scenario::new(
        "With onFailure: Hold a failing version is held at its weight, until a person decides.",
        &errors(),
        rollout(&json!({"onFailure": "Hold"})),
    );
    scenario.answer("2", failing(0.2));
    scenario.roll_out("2");
    scenario.play(300);
    scenario.ask("ada", |revision, _| Command::Abort(revision));
    golden!(a_failure_is_held_for_a_person, scenario);
}

#[test]
fn starting_where_traffic_suffices() {
    let mut scenario = Scenario::new(
        "With startAt: ByTraffic and two requests a second, a version starts as high as half of \
         the traffic.",
        &errors(),
        rollout(&json!({"startAt": "ByTraffic"})),
    );
    scenario.rate = 2.0;
    scenario.roll_out("2");
    scenario.play(7200);
    golden!(starting_where_traffic_suffices, scenario);
}

#[test]
fn no_worse_than_stable() {
    let mut scenario = Scenario::new(
        "Stable fails 3 % of its requests. A version that fails as many passes beside it; one that \
         fails 6 % does not.",
        &json!([{"name": "beside-stable", "noWorseThanStable": {"errorRate": "1%"}}]),
        rollout(&json!({})),
    );
    scenario.answer("1", failing(0.03));
    scenario.answer("2", failing(0.03));
    scenario.answer("3", failing(0.06));
    scenario.roll_out("2");
    scenario.play(7200);
    scenario.pass(60);
    scenario.roll_out("3");
    scenario.play(7200);
    golden!(no_worse_than_stable, scenario);
}

#[test]
fn predictions_drift() {
    let mut scenario = Scenario::new(
        "A version that predicts half as many churning customers again is held for a person, who \
         finds it right.",
        &json!([
            {"name": "errors", "errorRate": {"max": "1%"}},
            {"name": "drift", "predictionDrift": {"max": 0.1}},
        ]),
        rollout(&json!({})),
    );
    scenario.answer(
        "2",
        Answers {
            churns: 0.45,
            ..Answers::default()
        },
    );
    scenario.roll_out("2");
    scenario.play(1200);
    scenario.ask("ada", |revision, _| Command::PromoteFull(revision));
    golden!(predictions_drift, scenario);
}

#[test]
fn a_query_of_ones_own() {
    let mut scenario = Scenario::new(
        "A version that exceeds the limit of a query of one's own is rolled back after three \
         scrapes.",
        &json!([{"name": "gpu-memory", "query": {"promql": "max(gpu_memory_used_bytes) / 1e9",
                        "max": 3.0}}]),
        rollout(&json!({})),
    );
    scenario.roll_out("2");
    scenario.play(90);
    scenario.note("Version 2 begins to use 3.7 GB.");
    scenario.answer(
        "2",
        Answers {
            value: 3.7,
            ..Answers::default()
        },
    );
    scenario.play(3600);
    golden!(a_query_of_ones_own, scenario);
}
