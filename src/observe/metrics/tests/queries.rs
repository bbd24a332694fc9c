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
            r#"{__name__=~"envoy_cluster_upstream_rq_xx|envoy_cluster_upstream_rq|"#,
            r#"envoy_cluster_upstream_rq_broken_off|up","#,
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
            r#"pod=~"churn-cccccccc-[a-z0-9]+(-[a-z0-9]+)?"#,
            r#"|churn-55555555-[a-z0-9]+(-[a-z0-9]+)?"}[60s]"#,
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

/// Every source, with a text in each place where the resource can put one.
fn sources(text: &str) -> Vec<Source> {
    let custom = crate::api::CustomEvidence {
        requests: Some(crate::api::CustomRequests {
            metric: text.to_owned(),
            label: text.to_owned(),
            bad: vec![text.to_owned()],
            ignored: vec![text.to_owned()],
        }),
        latency: Some(crate::api::CustomLatency {
            metric: text.to_owned(),
            unit: crate::api::LatencyUnit::Seconds,
        }),
        version: Some(crate::api::CustomVersion {
            label: text.to_owned(),
            value: format!("{text}{{{{revision}}}}"),
        }),
        labels: [(text.to_owned(), text.to_owned())].into(),
    };
    let by_pod = crate::api::CustomEvidence {
        version: None,
        ..custom.clone()
    };
    vec![
        envoy(),
        Source::Serving,
        Source::Istio { waypoint: false },
        Source::Istio { waypoint: true },
        Source::Linkerd,
        Source::IngressNginx,
        Source::Traefik,
        Source::Vllm,
        Source::Triton,
        Source::Custom(custom),
        Source::Custom(by_pod),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// By an independent parser: one selector, whose namespace is exactly the text.
    #[test]
    fn no_text_of_the_resource_changes_what_a_query_selects(
        text in proptest::prelude::any::<String>(),
        pick in 0..4_usize,
    ) {
        let text = ["\"} or vector(0) #", "a|b", "\\", text.as_str()][pick].to_owned();
        // Prometheus refuses an empty name.
        proptest::prop_assume!(!text.is_empty());
        let versions = Versions {
            namespace: text.clone(),
            name: text.clone(),
            canary: text.clone(),
            stable: text.clone(),
        };
        let (latency, snapped) = latency();
        let of_stable = Objective::LatencyOfStable { quantile: 0.99, by: 0.2 };
        let namespaces = ["namespace", "destination_workload_namespace"];
        for source in sources(&text) {
            for objective in [Objective::ErrorRate, latency, of_stable] {
                let question = Question {
                    versions: versions.clone(),
                    ..question(source.clone(), objective)
                };
                let cursors = Cursors::starting_at(ms(0.0));
                for query in plan_queries(&question, &cursors, at(20.0), Some(&snapped)).unwrap() {
                    let selector = only_selector(&query);
                    let of_namespace = selector.iter().find(|matcher| {
                        namespaces.contains(&matcher.name.as_str())
                    });
                    match (&source, of_namespace) {
                        // The router's namespace is the operator's setting; Traefik puts ours into
                        // its service's name.
                        (Source::Envoy { .. }, Some(matcher)) => {
                            proptest::prop_assert_eq!(&matcher.value, "serin-system");
                        }
                        (Source::Traefik, None) => {}
                        (_, Some(matcher)) => proptest::prop_assert_eq!(&matcher.value, &text),
                        (_, None) => proptest::prop_assert!(false, "{query} names no namespace"),
                    }
                }
            }
        }
    }
}

/// The matchers of the one selector in a query.
fn only_selector(query: &str) -> Vec<promql_parser::label::Matcher> {
    use promql_parser::parser::{Expr, parse};
    let mut expression = parse(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    loop {
        expression = match expression {
            Expr::Aggregate(aggregate) => *aggregate.expr,
            Expr::Call(call) => *call.args.args.into_iter().next().unwrap(),
            Expr::MatrixSelector(matrix) => {
                assert!(matrix.vs.matchers.or_matchers.is_empty());
                return matrix.vs.matchers.matchers;
            }
            other => panic!("{query}: {other:?}"),
        };
    }
}
