//! Counters that the user names.
//!
//! Metric names and labels come from the resource, but the namespace does not: every query matches
//! the target label `namespace` with that of the ModelDeployment.

use super::super::promql::{LabelName, Matcher, Pattern};
use super::{Contribution, Errors, Labels, Latency, Outcome, Proof, Template};
use crate::{
    api::{CustomEvidence, CustomRequests, variables},
    evidence::Versions,
};

/// Series as the resource declares them. Without a label, versions are distinguished by pod.
pub(super) fn template(custom: &CustomEvidence, versions: &Versions) -> Template {
    let mut template = Template::of_pods(versions);
    if let Some(version) = &custom.version {
        let value = |revision: &str| {
            Pattern::Literal(variables::filled(
                &version.value,
                &[
                    ("name", versions.name.as_str()),
                    ("namespace", versions.namespace.as_str()),
                    ("revision", revision),
                ],
            ))
        };
        template.canary = value(&versions.canary);
        template.stable = value(&versions.stable);
        template.version_label = LabelName::of(&version.label);
        template.proof = Proof::Samples;
    }
    template.series = custom
        .labels
        .iter()
        // `up` does not carry them.
        .map(|(label, value)| Matcher::equal_or_absent(LabelName::of(label), value.clone()))
        .collect();
    template.errors = custom.requests.as_ref().map(|requests| Errors {
        metrics: vec![requests.metric.clone()],
        matchers: Vec::new(),
        outcome: Outcome::Declared(Rules(requests.clone())),
    });
    template.latency = custom.latency.as_ref().map(|latency| Latency {
        buckets: format!("{}_bucket", latency.metric),
        per_second: latency.unit.per_second(),
    });
    template
}

/// What the user says becomes of a request.
#[derive(Clone, Debug)]
pub(in super::super) struct Rules(CustomRequests);

impl Rules {
    pub(super) fn contribution(&self, labels: &Labels) -> Contribution {
        let status = labels.get(&self.0.label).map_or("", String::as_str);
        if is_any_of(status, &self.0.ignored) {
            Contribution::NONE
        } else if is_any_of(status, &self.0.bad) {
            Contribution::BAD
        } else {
            Contribution::GOOD
        }
    }
}

/// Whether `value` is one of `values`, of which each may end in a `*` that stands for any end.
fn is_any_of(value: &str, values: &[String]) -> bool {
    values
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => value.starts_with(start),
            None => value == pattern,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_says_what_is_bad_and_what_says_nothing() {
        let rules = Rules(CustomRequests {
            metric: "http_requests_total".to_owned(),
            label: "status".to_owned(),
            bad: vec!["5*".to_owned(), "timeout".to_owned()],
            ignored: vec!["429".to_owned()],
        });
        for (status, expected) in [
            ("200", Contribution::GOOD),
            ("404", Contribution::GOOD),
            ("", Contribution::GOOD),
            ("503", Contribution::BAD),
            ("timeout", Contribution::BAD),
            ("timeouts", Contribution::GOOD),
            ("429", Contribution::NONE),
        ] {
            let labels = Labels::from([("status".to_owned(), status.to_owned())]);
            assert_eq!(rules.contribution(&labels), expected, "{status}");
        }
    }
}
