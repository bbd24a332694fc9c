//! Reads evidence from a real Prometheus that scrapes exporters under our control.
//!
//! Needs Prometheus 2.42 or later: `SERIN_PROMETHEUS`, else `/usr/bin/prometheus`. Without it these
//! tests print why and pass.
#![allow(clippy::unwrap_used)]

mod backtest;
mod faults;
mod harness;
mod measurable;
mod query;
mod recorded;
mod replicas;

use std::time::Duration;

use serin::{
    evidence::{Cursors, Observation, Tally, Window},
    observe::metrics::{Objective, Question, Source, read},
};

use harness::{Prometheus, Router, now, question};

/// Reads until the sum of all looks is `expected`, then twice more to see that it stays.
///
/// Each reading continues from the cursors of the one before, as in a rollout.
async fn expect(
    prometheus: &Prometheus,
    question: &Question,
    cursors: &mut Cursors,
    expected: Observation,
) -> Window {
    let mut sum = Observation::default();
    let mut settled = 0;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let result = read(&prometheus.client(), question, cursors, None, now()).await;
        if let Ok(window) = &result {
            sum.canary.requests += window.look.canary.requests;
            sum.canary.bad += window.look.canary.bad;
            sum.stable.requests += window.look.stable.requests;
            sum.stable.bad += window.look.stable.bad;
            *cursors = window.cursors.clone();
        }
        settled = if sum == expected { settled + 1 } else { 0 };
        match result {
            Ok(window) if settled == 3 => return window,
            result => assert!(
                tokio::time::Instant::now() < deadline,
                "counted {sum:?} instead of {expected:?}; last reading: {result:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

fn look(canary: (u64, u64), stable: (u64, u64)) -> Observation {
    let tally = |(requests, bad)| Tally { requests, bad };
    Observation {
        canary: tally(canary),
        stable: tally(stable),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_equal_the_truth_from_the_first_error_to_a_restarted_prometheus() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(mut prometheus) = Prometheus::start(&[&router]).await else {
        return;
    };
    let question = question(Objective::ErrorRate);
    router.count("55555555", "2", 1000);
    router.scraped_again().await;
    let mut cursors = Cursors::starting_at(now().as_millisecond());

    // Series that are born after the start, an error first.
    router.count("cccccccc", "5", 1);
    router.count("55555555", "2", 50);
    expect(&prometheus, &question, &mut cursors, look((1, 1), (50, 0))).await;
    router.count("cccccccc", "2", 7);
    router.count("55555555", "4", 3);
    expect(&prometheus, &question, &mut cursors, look((7, 0), (3, 0))).await;

    // 429s are among class 4, and taken out again.
    router.count("cccccccc", "4", 9);
    router.count("cccccccc", "429", 5);
    expect(&prometheus, &question, &mut cursors, look((4, 0), (0, 0))).await;

    // The process restarts: its counters begin at 0.
    router.scraped_again().await;
    router.reset();
    router.count("55555555", "2", 20);
    expect(&prometheus, &question, &mut cursors, look((0, 0), (20, 0))).await;

    // Prometheus is away for 6 s: the outage is replayed.
    prometheus.stop().await;
    router.count("cccccccc", "5", 2);
    router.count("55555555", "2", 30);
    let blind = read(&prometheus.client(), &question, &cursors, None, now())
        .await
        .unwrap_err();
    assert!(blind.to_string().contains("cannot be reached"), "{blind}");
    tokio::time::sleep(Duration::from_secs(6)).await;
    prometheus.start_again().await;
    expect(&prometheus, &question, &mut cursors, look((2, 2), (30, 0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_pod_that_comes_and_goes_neither_repeats_nor_loses_requests() {
    let first = Router::start("serin-router-5d8f-aaaaa").await;
    let mut second = Router::start("serin-router-5d8f-bbbbb").await;
    let Some(prometheus) = Prometheus::start(&[&first, &second]).await else {
        return;
    };
    let question = question(Objective::ErrorRate);
    second.count("55555555", "2", 5000);
    first.scraped_again().await;
    second.scraped_again().await;
    let mut cursors = Cursors::starting_at(now().as_millisecond());

    first.count("cccccccc", "2", 10);
    second.count("cccccccc", "2", 20);
    expect(&prometheus, &question, &mut cursors, look((30, 0), (0, 0))).await;

    // Requests just before its end still count; what it counted never counts again.
    second.count("55555555", "5", 4);
    second.scraped_again().await;
    second.stop().await;
    first.count("cccccccc", "2", 1);
    expect(&prometheus, &question, &mut cursors, look((1, 0), (4, 4))).await;

    // The same address comes back with the same counters, as after a network partition: the gap
    // counts, once.
    second.count("cccccccc", "5", 6);
    second.start_again().await;
    expect(&prometheus, &question, &mut cursors, look((6, 6), (0, 0))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_is_counted_at_the_edge_below_the_objective() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(prometheus) = Prometheus::start(&[&router]).await else {
        return;
    };
    let question = question(Objective::Latency {
        max: Duration::from_millis(300),
    });
    router.scraped_again().await;
    let mut cursors = Cursors::starting_at(now().as_millisecond());
    let before = read(&prometheus.client(), &question, &cursors, None, now())
        .await
        .unwrap();
    assert_eq!(
        (before.look, before.threshold),
        (Observation::default(), None)
    );

    router.time("cccccccc", 40.0, 30);
    router.time("cccccccc", 260.0, 2);
    router.time("55555555", 90.0, 100);
    let window = expect(
        &prometheus,
        &question,
        &mut cursors,
        look((32, 2), (100, 0)),
    )
    .await;
    let threshold = window.threshold.unwrap();
    assert_eq!(threshold.edge, Duration::from_millis(250));
    assert_eq!(threshold.asked, Duration::from_millis(300));

    let strict = Question {
        objective: Objective::Latency {
            max: Duration::from_micros(100),
        },
        ..question
    };
    let blind = read(&prometheus.client(), &strict, &cursors, None, now())
        .await
        .unwrap_err();
    assert!(
        blind.to_string().contains("the smallest is 500µs"),
        "{blind}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_cannot_change_a_query() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(prometheus) = Prometheus::start(&[&router]).await else {
        return;
    };
    router.count("cccccccc", "5", 3);
    router.scraped_again().await;
    let cursors = Cursors::starting_at(now().as_millisecond() - 10_000);
    for hostile in [
        r#""} or vector(0) #"#,
        r#"\"} or up{pod=~".+"#,
        ".*",
        "cccccccc|.+",
        "(",
        "a\nb\u{0}\t\\",
        "\u{7f}\u{85}é漢🐦",
    ] {
        let mut question = question(Objective::ErrorRate);
        question.versions.canary = hostile.to_owned();
        question.versions.name = hostile.to_owned();
        let window = read(&prometheus.client(), &question, &cursors, None, now()).await;
        assert_eq!(
            window.map(|w| w.look),
            Ok(Observation::default()),
            "{hostile:?}"
        );

        // Here the name must match targets, and none has it: an answer of none, not a refusal to
        // parse.
        question.source = Source::Serving;
        let blind = read(&prometheus.client(), &question, &cursors, None, now())
            .await
            .unwrap_err();
        assert!(
            blind.to_string().contains("no scraped target"),
            "{hostile:?}: {blind}"
        );
    }
}
