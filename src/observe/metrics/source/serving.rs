//! The serving image's own counters.

use super::{Errors, Labels, Latency, Outcome, Template, by_code};
use crate::evidence::Versions;

/// Series of the pods of the Deployments `<name>-<revision>`.
pub(super) fn template(versions: &Versions) -> Template {
    Template {
        errors: Some(Errors {
            metrics: vec!["model_requests_total".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(|labels: &Labels| {
                by_code(labels.get("code").map_or("", String::as_str))
            }),
        }),
        latency: Some(Latency {
            buckets: "model_request_duration_seconds_bucket".to_owned(),
            per_second: 1.0,
        }),
        ..Template::of_pods(versions)
    }
}
