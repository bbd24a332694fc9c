//! The PromQL that is sent, word for word.

use super::*;

fn planned(source: Source, objective: Objective, threshold: Option<&Snapped>) -> Vec<String> {
    let cursors = Cursors::starting_at(ms(0.0));
    plan_queries(&question(source, objective), &cursors, at(20.0), threshold).unwrap()
}

fn latency() -> (Objective, Snapped) {
    let max = Duration::from_millis(300);
    let snapped = Snapped {
        asked: max,
        edge: Duration::from_millis(250),
        spellings: vec!["0.25".into()],
    };
    (Objective::Latency { max }, snapped)
}

#[test]
fn errors_at_the_router() {
    assert_eq!(
        planned(envoy(), Objective::ErrorRate, None),
        [concat!(
            r#"{__name__=~"envoy_cluster_upstream_rq_xx|envoy_cluster_upstream_rq|up","#,
            r#"namespace="serin-system",pod=~"serin-router-[a-z0-9]+(-[a-z0-9]+)?","#,
            r#"envoy_cluster_name=~"|ml/churn/cccccccc|ml/churn/55555555","#,
            r#"envoy_response_code=~"|429"}[60s]"#,
        )]
    );
}

#[test]
fn errors_at_the_serving_pods() {
    assert_eq!(
        planned(Source::Serving, Objective::ErrorRate, None),
        [concat!(
            r#"{__name__=~"model_requests_total|up",namespace="ml","#,
            r#"pod=~"churn-cccccccc-[a-z0-9]+(-[a-z0-9]+)?|churn-55555555-[a-z0-9]+(-[a-z0-9]+)?"}[60s]"#,
        )]
    );
}

#[test]
fn latency_asks_for_the_edges_and_then_for_two_buckets() {
    let (objective, snapped) = latency();
    assert_eq!(
        planned(envoy(), objective, Some(&snapped)),
        [
            concat!(
                "count by (le,envoy_cluster_name) (last_over_time(",
                r#"{__name__=~"envoy_cluster_upstream_rq_time_bucket","#,
                r#"namespace="serin-system",pod=~"serin-router-[a-z0-9]+(-[a-z0-9]+)?","#,
                r#"envoy_cluster_name=~"ml/churn/cccccccc|ml/churn/55555555"}[60s]))"#,
            ),
            concat!(
                r#"{__name__=~"envoy_cluster_upstream_rq_time_bucket|up","#,
                r#"namespace="serin-system",pod=~"serin-router-[a-z0-9]+(-[a-z0-9]+)?","#,
                r#"envoy_cluster_name=~"|ml/churn/cccccccc|ml/churn/55555555","#,
                r#"le=~"|0\\.25|\\+Inf"}[60s]"#,
            ),
        ]
    );
    assert_eq!(planned(envoy(), objective, None).len(), 1);
}

#[test]
fn an_outage_widens_the_range() {
    let cursors = Cursors::starting_at(ms(0.0));
    let question = question(Source::Serving, Objective::ErrorRate);
    let queries = plan_queries(&question, &cursors, at(1000.0), None).unwrap();
    assert!(queries[0].ends_with("}[1030s]"), "{queries:?}");
}
