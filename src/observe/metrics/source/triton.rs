//! Triton's own counters.
//!
//! A request that its caller cancelled says nothing, nor does one that a full queue rejected: that
//! is shed load. Triton has a histogram only where it is started with
//! `--metrics-config histogram_latencies=true`, and only of the time to the first response.

use super::{Contribution, Errors, Labels, Latency, Outcome, Template};
use crate::evidence::Versions;

const SUCCESS: &str = "nv_inference_request_success";
const FAILURE: &str = "nv_inference_request_failure";

/// Series of the pods of the Deployments `<name>-<revision>`.
pub(super) fn template(versions: &Versions) -> Template {
    Template {
        errors: Some(Errors {
            metrics: [SUCCESS, FAILURE].map(str::to_owned).to_vec(),
            matchers: Vec::new(),
            outcome: Outcome::Known(contribution),
        }),
        latency: Some(Latency {
            buckets: "nv_inference_first_response_histogram_ms_bucket".to_owned(),
            per_second: 1000.0,
        }),
        ..Template::of_pods(versions)
    }
}

fn contribution(labels: &Labels) -> Contribution {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    match (label("__name__"), label("reason")) {
        (SUCCESS, _) => Contribution::GOOD,
        (FAILURE, "CANCELED" | "REJECTED") => Contribution::NONE,
        (FAILURE, _) => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_unless_nobody_waited_for_them() {
        for (name, reason, expected) in [
            (SUCCESS, "", Contribution::GOOD),
            (FAILURE, "BACKEND", Contribution::BAD),
            (FAILURE, "OTHER", Contribution::BAD),
            (FAILURE, "", Contribution::BAD), // Triton before 24.05 gives no reason
            (FAILURE, "CANCELED", Contribution::NONE),
            (FAILURE, "REJECTED", Contribution::NONE),
            ("nv_inference_count", "", Contribution::NONE),
        ] {
            let labels = Labels::from([
                ("__name__".to_owned(), name.to_owned()),
                ("reason".to_owned(), reason.to_owned()),
            ]);
            assert_eq!(contribution(&labels), expected, "{name} {reason}");
        }
    }
}
