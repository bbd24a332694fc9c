//! Unmeasurable objectives are reported before a version gets traffic.

use std::time::Duration;

use serin::{
    evidence::{BlindReason, Cursors},
    observe::metrics::{
        Objective, Question, Source, preflight, preflight_classes, preflight_query, read,
    },
};

use crate::{
    expect,
    harness::{Prometheus, Recorded, Router, now, question},
    look,
};

fn latency(max: Duration) -> Question {
    Question {
        source: Source::Serving,
        ..question(Objective::Latency { max })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_unmeasurable_objective_is_reported_before_the_trial() {
    // Only stable runs; it exports no class of prediction in this section, and no histogram of
    // linkerd.
    let exporter = Recorded::start(
        "vllm-stable.prom",
        "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
        false,
    )
    .await;
    let Some(prometheus) = Prometheus::start_with(&[exporter.job()]).await else {
        return;
    };
    exporter.scraped_again().await;
    exporter.turn_to("after");
    exporter.scraped_again().await;
    let client = prometheus.client();
    let of = |source: Source, objective| Question {
        source,
        ..question(objective)
    };
    let at_most = |ms| Objective::Latency {
        max: Duration::from_millis(ms),
    };
    for (question, said) in [
        (of(Source::Vllm, Objective::ErrorRate), ""),
        (of(Source::Vllm, at_most(300)), ""),
        (
            of(Source::Vllm, at_most(50)),
            "vllm:time_to_first_token_seconds_bucket has no bucket edge at or below 50ms that all \
             pods share (the smallest is 100ms): raise the objective, or add a bucket at it",
        ),
        (
            of(Source::Triton, at_most(300)),
            "nv_inference_first_response_histogram_ms_bucket counted nothing of the stable version \
             within 600s: if it had requests, export that metric, or name a source that counts \
             them (spec.objectives[].source)",
        ),
        (
            of(Source::Serving, Objective::ErrorRate),
            "model_requests_total counted nothing of the stable version within 600s",
        ),
        (
            of(Source::Linkerd, Objective::ErrorRate),
            "Prometheus has no scraped target for the stable version",
        ),
        (
            of(
                Source::Custom(
                    serde_json::from_str(r#"{"requests": {"metric": "a", "label": "b"}}"#).unwrap(),
                ),
                at_most(300),
            ),
            "the objective's source has no histogram of durations: name one in its custom.latency, \
             name another source, or remove the objective",
        ),
    ] {
        let reported = preflight(&client, &question, now()).await;
        let reported = reported
            .err()
            .map(|reason| reason.to_string())
            .unwrap_or_default();
        assert!(
            reported.contains(said),
            "{question:?}: {reported:?} instead of {said:?}"
        );
        assert_eq!(
            reported.is_empty(),
            said.is_empty(),
            "{question:?}: {reported}"
        );
    }
    let versions = question(Objective::ErrorRate).versions;
    let second = Duration::from_secs(1);
    let classes = preflight_classes(&client, &versions, second, now()).await;
    let classes = classes.unwrap_err().to_string();
    assert!(
        classes.starts_with("model_predictions_total counted nothing"),
        "{classes}"
    );
    for (promql, measurable) in [
        ("up", true),
        ("nothing", true),
        ("1", false),
        ("info(up)", false),
    ] {
        let reported = preflight_query(&client, &versions, promql, second, now()).await;
        assert_eq!(reported.is_ok(), measurable, "{promql}: {reported:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stable_sets_the_limit_of_latency_once_it_has_answered_enough() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(prometheus) = Prometheus::start(&[&router]).await else {
        return;
    };
    let question = question(Objective::LatencyOfStable {
        quantile: 0.99,
        by: 1.0,
    });
    router.time("55555555", 40.0, 10);
    router.scraped_again().await;
    let mut cursors = Cursors::starting_at(now().as_millisecond());
    let few = read(&prometheus.client(), &question, &cursors, None, now())
        .await
        .unwrap();
    assert_eq!((few.threshold, few.look), (None, look((0, 0), (0, 0))));
    assert_eq!(
        few.cursors, cursors,
        "what could not be judged is not counted away"
    );

    // Stable's p99 is at most 50 ms, so the canary's may be 100 ms.
    router.time("55555555", 40.0, 2000);
    router.time("cccccccc", 90.0, 20);
    router.time("cccccccc", 240.0, 3);
    let window = expect(
        &prometheus,
        &question,
        &mut cursors,
        look((23, 3), (2000, 0)),
    )
    .await;
    let threshold = window.threshold.unwrap();
    assert_eq!(
        (threshold.asked, threshold.edge),
        (Duration::from_millis(100), Duration::from_millis(100))
    );

    // Once known it stays, though stable gets slower.
    router.time("55555555", 240.0, 5000);
    router.scraped_again().await;
    let later = read(
        &prometheus.client(),
        &question,
        &cursors,
        Some(&threshold),
        now(),
    )
    .await
    .unwrap();
    assert_eq!(later.threshold, Some(threshold));
    assert_eq!(later.look.stable.bad, 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backtest_and_a_preflight_read_one_version_on_both_sides() {
    let exporter = Recorded::start(
        "serving-stable.prom",
        "namespace: ml, pod: churn-55555555-6d9f7c5b8-aaaaa",
        false,
    )
    .await;
    let Some(prometheus) = Prometheus::start_with(&[exporter.job()]).await else {
        return;
    };
    exporter.scraped_again().await;
    let mut one = latency(Duration::from_millis(250));
    one.versions.canary.clone_from(&one.versions.stable);
    let cursors = Cursors::starting_at(now().as_millisecond());
    exporter.turn_to("after");
    exporter.scraped_again().await;
    let window = read(&prometheus.client(), &one, &cursors, None, now())
        .await
        .unwrap();
    assert_eq!(window.look, look((89, 9), (0, 0)));
    // Only the version on trial has no target yet, and only it is reported.
    let blind = read(
        &prometheus.client(),
        &latency(Duration::from_millis(250)),
        &cursors,
        None,
        now(),
    )
    .await;
    assert!(
        matches!(blind, Err(BlindReason::NoTarget { .. })),
        "{blind:?}"
    );
}
