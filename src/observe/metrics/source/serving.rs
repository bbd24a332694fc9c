//! The serving image's own counters.

use super::super::promql::{Matcher, Pattern};
use super::{Contribution, Errors, Labels, Latency, Template, Versions};

/// Series of the pods of the Deployments `<name>-<revision>`.
pub(super) fn template(versions: &Versions) -> Template {
    let pods = |revision: &str| Pattern::PodsOf(format!("{}-{revision}", versions.name));
    Template {
        targets: vec![Matcher::Equal("namespace", versions.namespace.clone())],
        version_label: "pod",
        canary: pods(&versions.canary),
        stable: pods(&versions.stable),
        version_is_target: true,
        errors: Errors {
            metrics: &["model_requests_total"],
            matchers: Vec::new(),
            contribution,
        },
        latency: Latency {
            buckets: "model_request_duration_seconds_bucket",
            per_second: 1.0,
        },
    }
}

fn contribution(labels: &Labels) -> Contribution {
    let code = labels.get("code").map_or("", String::as_str);
    match code.as_bytes() {
        b"429" => Contribution::NONE,
        [b'2'..=b'4', _, _] => Contribution::GOOD,
        [b'5', _, _] => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_by_code() {
        for (code, expected) in [
            ("100", Contribution::NONE),
            ("200", Contribution::GOOD),
            ("302", Contribution::GOOD),
            ("404", Contribution::GOOD),
            ("429", Contribution::NONE),
            ("500", Contribution::BAD),
            ("504", Contribution::BAD),
            ("5", Contribution::NONE),
            ("", Contribution::NONE),
        ] {
            let labels = Labels::from([("code".into(), code.into())]);
            assert_eq!(contribution(&labels), expected, "{code}");
        }
    }
}
