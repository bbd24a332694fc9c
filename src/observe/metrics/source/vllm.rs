//! vLLM's own counters.
//!
//! `http_requests_total` counts answers by class of status, so a 429 is not distinguished from
//! other 4xx and is a good answer. What a caller of a language model waits for is the first token,
//! so that is the latency; how long a whole answer takes depends on what was asked.

use super::{Contribution, Errors, Labels, Latency, Outcome, Template};
use crate::evidence::Versions;

/// Series of the pods of the Deployments `<name>-<revision>`.
pub(super) fn template(versions: &Versions) -> Template {
    Template {
        errors: Some(Errors {
            metrics: vec!["http_requests_total".to_owned()],
            matchers: Vec::new(),
            outcome: Outcome::Known(contribution),
        }),
        latency: Some(Latency {
            buckets: "vllm:time_to_first_token_seconds_bucket".to_owned(),
            per_second: 1.0,
        }),
        ..Template::of_pods(versions)
    }
}

fn contribution(labels: &Labels) -> Contribution {
    let label = |name: &str| labels.get(name).map_or("", String::as_str);
    let handler = label("handler");
    if !handler.starts_with("/v1/") || handler == "/v1/models" {
        return Contribution::NONE; // not an inference
    }
    match label("status") {
        "2xx" | "3xx" | "4xx" => Contribution::GOOD,
        "5xx" => Contribution::BAD,
        _ => Contribution::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inferences_count_by_class() {
        for (handler, status, expected) in [
            ("/v1/completions", "2xx", Contribution::GOOD),
            ("/v1/chat/completions", "4xx", Contribution::GOOD),
            ("/v1/chat/completions", "5xx", Contribution::BAD),
            ("/v1/embeddings", "5xx", Contribution::BAD),
            ("/v1/chat/completions", "1xx", Contribution::NONE),
            ("/v1/models", "5xx", Contribution::NONE),
            ("/health", "5xx", Contribution::NONE),
            ("none", "4xx", Contribution::NONE),
        ] {
            let labels = Labels::from([
                ("handler".to_owned(), handler.to_owned()),
                ("status".to_owned(), status.to_owned()),
            ]);
            assert_eq!(contribution(&labels), expected, "{handler} {status}");
        }
    }
}
