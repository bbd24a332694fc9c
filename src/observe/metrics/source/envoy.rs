//! The bundled router, Envoy.
//!
//! `envoy_cluster_upstream_rq_xx` counts answers by class and includes those that Envoy gives
//! itself for want of a version's: 503 for no healthy or no reachable upstream, 504 for a timeout.
//! Classes do not show a 429, so `envoy_cluster_upstream_rq` of that code is read along and taken
//! out again. Nor do they show that an answer broke off: its class counts it when its headers
//! arrive, so `envoy_cluster_upstream_rq_broken_off`, a counter of our own (`router/envoy`), says
//! when its end fails that it was bad.

use super::super::promql::{Matcher, Pattern};
use super::{Contribution, Errors, Labels, Latency, Outcome, Proof, Template};
use crate::evidence::Versions;

const XX: &str = "envoy_cluster_upstream_rq_xx";
const BY_CODE: &str = "envoy_cluster_upstream_rq";
const BROKEN_OFF: &str = "envoy_cluster_upstream_rq_broken_off";
const CODE: &str = "envoy_response_code";
const CLASS: &str = "envoy_response_code_class";

/// Series of the clusters `<namespace>/<name>/<revision>` on the router's pods.
pub(super) fn template(namespace: &str, deployment: &str, versions: &Versions) -> Template {
    let cluster = |revision: &str| {
        Pattern::Literal(format!(
            "{}/{}/{revision}",
            versions.namespace, versions.name
        ))
    };
    Template {
        targets: vec![
            Matcher::equal("namespace", namespace),
            Matcher::AnyOf("pod".into(), vec![Pattern::PodsOf(deployment.to_owned())]),
        ],
        series: Vec::new(),
        version_label: "envoy_cluster_name".into(),
        canary: cluster(&versions.canary),
        stable: cluster(&versions.stable),
        proof: Proof::RouterUp,
        errors: Some(Errors {
            metrics: [XX, BY_CODE, BROKEN_OFF].map(str::to_owned).to_vec(),
            // Only one of them carries a code.
            matchers: vec![Matcher::equal_or_absent(CODE, "429")],
            outcome: Outcome::Known(contribution),
        }),
        latency: Some(Latency {
            buckets: "envoy_cluster_upstream_rq_time_bucket".to_owned(),
            per_second: 1000.0,
        }),
    }
}

fn contribution(labels: &Labels) -> Contribution {
    if labels
        .get("__name__")
        .is_some_and(|name| name == BROKEN_OFF)
    {
        return Contribution::BAD_AFTER_ALL;
    }
    if labels.contains_key(CODE) {
        return Contribution::NOT_COUNTED_AFTER_ALL;
    }
    match labels.get(CLASS).map(String::as_str) {
        Some("2" | "3" | "4") => Contribution::GOOD,
        Some("5") => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_by_class_and_shed_load_is_taken_out_again() {
        let labels = |name: &str, value: &str| Labels::from([(name.into(), value.into())]);
        for (labels, expected) in [
            (labels(CLASS, "1"), Contribution::NONE),
            (labels(CLASS, "2"), Contribution::GOOD),
            (labels(CLASS, "3"), Contribution::GOOD),
            (labels(CLASS, "4"), Contribution::GOOD),
            (labels(CLASS, "5"), Contribution::BAD),
            (labels(CODE, "429"), Contribution::NOT_COUNTED_AFTER_ALL),
            (labels("__name__", BROKEN_OFF), Contribution::BAD_AFTER_ALL),
            (Labels::new(), Contribution::NONE),
        ] {
            assert_eq!(contribution(&labels), expected, "{labels:?}");
        }
    }
}
