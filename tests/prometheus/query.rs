//! Queries that users write, asked of a real Prometheus.

use std::time::Duration;

use serin::{
    evidence::{BlindReason, Versions},
    observe::metrics::{Objective, read_value},
};

use crate::harness::{Prometheus, Router, now, question};

#[tokio::test(flavor = "multi_thread")]
async fn a_query_sees_its_own_namespace_and_gives_one_value_or_none() {
    let router = Router::start("serin-router-5d8f-aaaaa").await;
    let Some(prometheus) = Prometheus::start(&[&router]).await else {
        return;
    };
    router.count("cccccccc", "5", 3);
    router.count("55555555", "2", 39);
    router.scraped_again().await;
    let own = Versions {
        namespace: "serin-system".to_owned(),
        ..question(Objective::ErrorRate).versions
    };
    let client = prometheus.client();
    let ask = async |versions: &Versions, promql: &str| {
        let value = read_value(&client, versions, promql, Duration::from_secs(1), now()).await;
        value.map(|value| value.value)
    };
    for (promql, value) in [
        ("sum(envoy_cluster_upstream_rq_xx)", 42.0),
        (
            r#"envoy_cluster_upstream_rq_xx{envoy_cluster_name="ml/{{name}}/{{canary}}"}"#,
            3.0,
        ),
        (
            concat!(
                "sum by (pod) (envoy_cluster_upstream_rq_xx",
                r#"{envoy_cluster_name=~".+/{{ stable }}"}) / 2"#,
            ),
            19.5,
        ),
        (
            "max(topk(scalar(count(up)), envoy_cluster_upstream_rq_xx))",
            39.0,
        ),
        ("vector(0)", 0.0),
    ] {
        assert_eq!(ask(&own, promql).await, Ok(value), "{promql}");
    }
    for (promql, reason) in [
        (
            "envoy_cluster_upstream_rq_xx",
            BlindReason::QueryGaveSeveral { count: 2 },
        ),
        (
            "envoy_cluster_upstream_rq_xy",
            BlindReason::QueryGaveNothing,
        ),
        (
            "sum(envoy_cluster_upstream_rq_xx) / 0",
            BlindReason::QueryGaveNotFinite {
                value: "inf".to_owned(),
            },
        ),
        (
            "sum(up - up) / 0",
            BlindReason::QueryGaveNotFinite {
                value: "NaN".to_owned(),
            },
        ),
        (
            "1",
            BlindReason::QueryGaveType {
                found: "scalar".to_owned(),
            },
        ),
        (
            "up[5m]",
            BlindReason::QueryGaveType {
                found: "matrix".to_owned(),
            },
        ),
        (
            "\"a\"",
            BlindReason::QueryGaveType {
                found: "string".to_owned(),
            },
        ),
    ] {
        assert_eq!(ask(&own, promql).await, Err(reason), "{promql}");
    }

    // Nothing of another namespace, however it is asked for.
    let other = question(Objective::ErrorRate).versions;
    for promql in [
        "sum(envoy_cluster_upstream_rq_xx)",
        r#"sum(envoy_cluster_upstream_rq_xx{namespace="serin-system"})"#,
        r#"sum(envoy_cluster_upstream_rq_xx{namespace=~".*"})"#,
        r#"sum({__name__=~"envoy.*|up"})"#,
        "sum(max_over_time(envoy_cluster_upstream_rq_xx[1m:1s]))",
        "max(topk(1, up))",
        r#"sum(label_replace(up, "namespace", "ml", "", ""))"#,
    ] {
        assert_eq!(
            ask(&other, promql).await,
            Err(BlindReason::QueryGaveNothing),
            "{promql}"
        );
    }
    // scalar() of nothing is NaN: not even whether something exists can be seen.
    let hidden = ask(&other, "vector(scalar(sum(up)))").await;
    assert_eq!(
        hidden,
        Err(BlindReason::QueryGaveNotFinite {
            value: "NaN".to_owned()
        })
    );
    let refused = ask(&other, r#"{"up", "x} or up{y"="z"}"#).await;
    assert!(
        matches!(refused, Err(BlindReason::QueryRefused { .. })),
        "{refused:?}"
    );
}
