//! Linkerd's proxies beside the serving pods.
//!
//! Linkerd's scrape job makes a target label `deployment` of each proxy. It classifies answers
//! itself: for HTTP a failure is a 5xx, for gRPC what the route says. Probes of the kubelet pass
//! the proxy as well, on a route of their own, and are no requests of callers.

use super::super::promql::{Matcher, Pattern};
use super::{Contribution, Errors, Labels, Latency, Outcome, Proof, Template};
use crate::evidence::Versions;

/// Series of what the Deployments `<name>-<revision>` answered.
pub(super) fn template(versions: &Versions) -> Template {
    let deployment = |revision: &str| Pattern::Literal(format!("{}-{revision}", versions.name));
    Template {
        targets: vec![Matcher::equal("namespace", versions.namespace.clone())],
        // `up` has no direction.
        series: vec![Matcher::equal_or_absent("direction", "inbound")],
        version_label: "deployment".into(),
        canary: deployment(&versions.canary),
        stable: deployment(&versions.stable),
        proof: Proof::OwnUp,
        errors: Some(Errors {
            metrics: vec!["response_total".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(contribution),
        }),
        latency: Some(Latency {
            buckets: "response_latency_ms_bucket".to_owned(),
            per_second: 1000.0,
        }),
    }
}

fn contribution(labels: &Labels) -> Contribution {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    if label("status_code") == "429" || label("route_name") == "probe" {
        return Contribution::NONE;
    }
    match label("classification") {
        "success" => Contribution::GOOD,
        "failure" => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_as_linkerd_classifies_them() {
        let labels = |pairs: &[(&str, &str)]| -> Labels {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            pairs.iter().map(owned).collect()
        };
        for (pairs, expected) in [
            (&[("classification", "success")][..], Contribution::GOOD),
            (&[("classification", "failure")], Contribution::BAD),
            (
                &[("classification", "success"), ("status_code", "429")],
                Contribution::NONE,
            ),
            (
                &[("classification", "success"), ("route_name", "probe")],
                Contribution::NONE,
            ),
            (&[], Contribution::NONE),
        ] {
            assert_eq!(contribution(&labels(pairs)), expected, "{pairs:?}");
        }
    }
}
